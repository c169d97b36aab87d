"""The same ensemble of attacks from several libraries.

To add a contender write a function from (`Problem`, suite) to a `Contender`, name it in
`CONTENDERS`, and in `NEEDED` what it imports. Suites:

- "standard": what each library calls standard AutoAttack, at equal budgets. kerobust
  and torchattacks have the same four members; torchattacks' own `AutoAttack` leaves
  Auto-PGD and FAB at 10 steps, so its members are put together here. ART has neither
  FAB nor the targeted DLR: its `AutoAttack(targeted=True)` makes about the same number
  of searches from Auto-PGD on cross-entropy and DLR alone (2 + 9 + 9, and Square,
  instead of 1 + 9 + 9, and Square). Its Auto-PGD spends two forwards per step and
  judges the last point only, its Square draws one square for the whole batch.
- "common": Auto-PGD on cross-entropy, Auto-PGD on DLR and Square; all have these.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks._twins import in_torch
from kerobust.attacks import AutoAttack
from kerobust.attacks.victim import Victim

OWN, ART, TORCH = "kerobust", "ART", "torchattacks"
COMMON = ("apgd-ce", "apgd-dlr", "square")
SUITES = ("standard", "common")
# Contender -> (module, distribution, how to get it). ART does not say that it imports
# `multiprocess`.
NEEDED = {
    ART: [
        ("art", "adversarial-robustness-toolbox", "pip install -e '.[bench]'"),
        ("multiprocess", "multiprocess", "pip install multiprocess"),
    ],
    TORCH: [
        ("torch", "torch", "pip install torch"),
        ("torchattacks", "torchattacks", "pip install --no-deps torchattacks"),
    ],
}
_TWINS = 1e-3  # Most that logits of the network in PyTorch may differ by.

Passes = dict[str, tuple[int, int]]  # Member -> images forwards, gradients backwards.


@dataclasses.dataclass(frozen=True)
class Problem:
    """What every contender attacks, and with which budget.

    Attributes:
        network: Keras model, images to logits; a plain chain of layers.
        images: float32 [N, H, W, C] in [0, 1].
        labels: int32 [N].
        epsilon: Linf radius, pixel units.
        steps: Gradient steps of Auto-PGD and FAB.
        queries: Queries of Square.
        seed: Of all that is random.
    """

    network: tf.keras.Model
    images: np.ndarray
    labels: np.ndarray
    epsilon: float
    steps: int = 100
    queries: int = 5000
    seed: int = 0


class Count(NamedTuple):
    """What a suite did, counted.

    Attributes:
        adversarial: float32 [N, H, W, C].
        passes: Of each member.
        full: What `passes` had been if no image had left a search early, if known.
    """

    adversarial: np.ndarray
    passes: Passes
    full: Passes


class Contender(NamedTuple):
    """A suite that is ready to run.

    Attributes:
        run: Returns the attacked images, float32 [N, H, W, C].
        counted: The same with a count; slower. Leaves everything compiled.
    """

    run: Callable[[], np.ndarray]
    counted: Callable[[], Count]


def lacking(names: list[str]) -> dict[str, str]:
    """Returns contender -> how to get it, of those whose packages are not here."""
    found = {}
    for name in names:
        absent = [
            hint
            for module, _, hint in NEEDED.get(name, [])
            if importlib.util.find_spec(module) is None
        ]
        if absent:
            found[name] = "; ".join(absent)
    return found


def kerobust(problem: Problem, suite: str) -> Contender:
    """Makes the suite of this library, without its diagnosis, which others lack."""
    standard = suite == "standard"
    attack = AutoAttack(
        problem.epsilon,
        version="standard" if standard else "custom",
        attacks=None if standard else COMMON,
        steps=problem.steps,
        queries=problem.queries,
        seed=problem.seed,
    )

    def evaluate():
        return attack.evaluate(
            problem.network,
            problem.images,
            problem.labels,
            batch_size=len(problem.images),
            diagnose=False,
            return_adversarial=True,
        )

    def counted():
        report = evaluate()
        passes = {
            name: (member["forwards"], member["backwards"])
            for name, member in report.members.items()
        }
        attempts = attack.attempts(report.classes)
        full = full_budget(
            [attempt.name for attempt in attempts],
            report.broken_by,
            problem.steps,
            problem.queries,
        )
        return Count(report.adversarial, passes, full)

    return Contender(lambda: evaluate().adversarial, counted)


def art(problem: Problem, suite: str) -> Contender:
    """Makes the nearest that ART has, from and to arrays."""

    def generate(attack):
        with _quiet():
            return attack.generate(problem.images, problem.labels)

    attack = _art_suite(problem, suite, problem.network)

    def counted():
        victim = Victim(problem.network)
        watched = _art_suite(
            problem, suite, lambda images, training=False: victim(images)
        )
        passes: Passes = {}
        for name, member in zip(COMMON, watched.attacks, strict=True):
            member.generate = _counted_member(member, name, victim, passes)
        adversarial = generate(watched)
        for member in attack.attacks:  # Compiles what the timed runs use.
            member.max_iter = 2
        generate(attack)
        for member in attack.attacks:
            member.max_iter = _budget(problem, member)
        return Count(adversarial, passes, {})

    return Contender(lambda: generate(attack), counted)


def torchattacks(problem: Problem, suite: str) -> Contender:
    """Makes the suite of torchattacks on the same network in PyTorch."""
    import torch
    import torchattacks as library

    network = in_torch(problem.network)
    images = torch.tensor(problem.images.transpose(0, 3, 1, 2)).contiguous()
    labels = torch.tensor(problem.labels.astype(np.int64))
    apart = network(images).numpy() - problem.network(problem.images).numpy()
    if np.abs(apart).max() > _TWINS:
        raise RuntimeError(
            f"The network in PyTorch must have equal logits. Received: "
            f"{np.abs(apart).max():g} apart."
        )
    members = _torch_members(library, network, problem, suite)
    attack = library.MultiAttack(list(members.values()))

    def run():
        return attack(images, labels).detach().numpy().transpose(0, 2, 3, 1)

    def counted():
        passes: Passes = {}
        counts, remove = _watch(network)
        try:
            for name, member in members.items():
                member.forward = _between(member.forward, name, counts, passes)
            return Count(run(), passes, {})
        finally:
            remove()
            for member in members.values():
                del member.forward  # The method of the class shows again.

    return Contender(run, counted)


def full_budget(
    attempts: Sequence[str], broken_by: np.ndarray, steps: int, queries: int
) -> Passes:
    """Returns the passes if every image that is attacked used up the whole search.

    Auto-PGD on N steps makes N + 1 passes both ways, targeted FAB 2 N forwards and N
    backwards, Square as many forwards as it has queries.

    Args:
        attempts: Member of each search, in order.
        broken_by: int [N], index of the search that fooled the network; -1: none; -2:
            not attacked at all.
        steps: Of Auto-PGD and FAB.
        queries: Of Square.
    """
    costs = {"fab-t": (2 * steps, steps), "square": (queries, 0)}
    passes: Passes = {}
    for index, name in enumerate(attempts):
        attacked = int(np.sum((broken_by == -1) | (broken_by >= index)))
        forwards, backwards = costs.get(name, (steps + 1, steps + 1))
        known = passes.get(name, (0, 0))
        passes[name] = (
            known[0] + attacked * forwards,
            known[1] + attacked * backwards,
        )
    return passes


CONTENDERS: dict[str, Callable[[Problem, str], Contender]] = {
    OWN: kerobust,
    ART: art,
    TORCH: torchattacks,
}


def _art_suite(problem: Problem, suite: str, network):
    """Returns ART's AutoAttack with one restart per member, on a Keras callable."""
    with _quiet():
        from art.attacks import evasion
        from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        model=network,
        nb_classes=int(problem.network.output_shape[-1]),
        input_shape=problem.images.shape[1:],
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
    shared = {"estimator": classifier, "norm": np.inf, "eps": problem.epsilon}
    usual = {"batch_size": len(problem.images), "verbose": False}
    members = [
        evasion.AutoProjectedGradientDescent(
            **shared,
            **usual,
            eps_step=2 * problem.epsilon,
            max_iter=problem.steps,
            nb_random_init=1,
            loss_type=loss,
        )
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    members.append(
        evasion.SquareAttack(**shared, **usual, max_iter=problem.queries, p_init=0.8)
    )
    return evasion.AutoAttack(
        **shared,
        eps_step=2 * problem.epsilon,
        attacks=members,
        batch_size=len(problem.images),
        targeted=suite == "standard",
    )


def _budget(problem: Problem, member) -> int:
    gradient = hasattr(member, "loss_type")
    return problem.steps if gradient else problem.queries


def _counted_member(member, name: str, victim: Victim, passes: Passes) -> Callable:
    """Returns `generate` of an ART attack, which adds to `passes` what it spent."""
    generate = member.generate

    def counted(*args, **kwargs):
        aim = f"{name} targeted" if member.targeted else name
        return _between(generate, aim, victim.passes, passes)(*args, **kwargs)

    return counted


def _torch_members(library, network, problem: Problem, suite: str) -> dict:
    given = {"norm": "Linf", "eps": problem.epsilon, "seed": problem.seed}
    steps = {"steps": problem.steps}
    classes = {"n_classes": int(problem.network.output_shape[-1])}
    every = {
        "apgd-ce": lambda: library.APGD(network, loss="ce", **steps, **given),
        "apgd-dlr": lambda: library.APGD(network, loss="dlr", **steps, **given),
        "apgd-t": lambda: library.APGDT(network, **steps, **classes, **given),
        "fab-t": lambda: library.FAB(
            network, multi_targeted=True, **steps, **classes, **given
        ),
        "square": lambda: library.Square(network, n_queries=problem.queries, **given),
    }
    standard = ("apgd-ce", "apgd-t", "fab-t", "square")
    names = standard if suite == "standard" else COMMON
    return {name: every[name]() for name in names}


def _watch(network) -> tuple[Callable[[], tuple[int, int]], Callable[[], None]]:
    """Returns (passes so far, how to stop counting) of a PyTorch module."""
    counts = [0, 0]

    def backward(gradient):
        counts[1] += len(gradient)

    def forward(module, inputs, outputs):
        counts[0] += len(outputs)
        if outputs.requires_grad:
            outputs.register_hook(backward)

    handle = network.register_forward_hook(forward)
    return lambda: (counts[0], counts[1]), handle.remove


def _between(run: Callable, name: str, count: Callable, passes: Passes) -> Callable:
    """Returns `run`, which adds what `count` grows by to `passes[name]`."""

    def counted(*args, **kwargs):
        before = count()
        result = run(*args, **kwargs)
        known = passes.get(name, (0, 0))
        forwards, backwards = np.add(known, np.subtract(count(), before)).tolist()
        passes[name] = (forwards, backwards)
        return result

    return counted


@contextlib.contextmanager
def _quiet():
    """Ignores what ART warns of: imports, and that Square has no targets."""
    logger = logging.getLogger("art.attacks.evasion.auto_attack")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
