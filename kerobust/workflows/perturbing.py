"""The stage that attacks a data set and keeps the images, as TFRecord examples."""

import functools
import json
import pathlib
import shutil

import numpy as np
import tensorflow as tf

import kerobust
from kerobust.attacks import ATTACKS
from kerobust.attacks.victim import Victim
from kerobust.batch_state import BatchState, write_atomically
from kerobust.config import UserError
from kerobust.data.examples import FILE, write_examples
from kerobust.data.splits import UNLABELLED
from kerobust.experiment import ExperimentConfig
from kerobust.progress import Clock, shown_line
from kerobust.randomness import example_keys
from kerobust.workflows.contenders import contenders, provenance
from kerobust.workflows.preparing import Experiment

FOLDER, REPORT = "adversarial", "perturb.json"


def perturb(experiment: Experiment) -> pathlib.Path:
    """Attacks the images of `--perturb.splits` in the model of the experiment.

    The folder can be named as data: `--data.name=examples:FOLDER`. Images of other
    splits, labels and ids stay what they are. Images without a label move away from
    what the model says of them. What was done before a kill is read, not done again.

    Returns:
        The folder of the examples; `perturb.json` in it says how often the model was
        right before and after; for images without a label that is agreement with its
        answer to the clean image.
    """
    folder, state = experiment.workdir / FOLDER, experiment.workdir / "perturb"
    perturbation = _Perturbation(experiment, state)
    if not perturbation.is_done(folder):
        (folder / REPORT).unlink(missing_ok=True)
        attack = {"attack": perturbation.about}
        digest = write_examples(experiment.source, folder, perturbation, attack)
        found = {**attack, "splits": perturbation.shares(), "digest": digest}
        found["identity"] = perturbation.identity
        write_atomically(folder / REPORT, json.dumps(found, indent=1).encode())
        shutil.rmtree(state)
    found = json.loads((folder / REPORT).read_text())
    for name, share in found["splits"].items():
        before, after = share["clean"], share["adversarial"]
        print(f"{name}: {before:.1%} right before the attack, {after:.1%} under it")
    print(f"adversarial images: {folder}", flush=True)
    return folder


class _Perturbation:
    """Attacks images chunk by chunk and counts what the model makes of them."""

    def __init__(self, experiment: Experiment, state: pathlib.Path):
        config, source = experiment.config, experiment.source
        self._config = config.perturb
        self._victim = Victim(next(contenders(experiment)).model)
        self._attack = make_attack(config)
        self.about = {
            "name": self._config.attack,
            "epsilon": config.attack.epsilon,
            "norm": config.attack.norm,
            "steps": self._config.steps,
        }
        self.identity = {
            "version": kerobust.__version__,
            **provenance(experiment),
            "attack": json.dumps(self.about),
            "splits": ",".join(self._config.splits),
            "seed": str(self._config.seed),
        }
        self._folder = state
        self._some = source.splits[self._config.splits[0]].thinned(8)
        work = sum(source.splits[name].size for name in self._config.splits)
        self._clock = Clock(work, shown_line())
        self._right: dict[str, list[np.ndarray]] = {}

    def is_done(self, folder: pathlib.Path) -> bool:
        """Returns whether `folder` holds what this perturbation would make."""
        try:
            found = json.loads((folder / REPORT).read_text())
            written = json.loads((folder / FILE).read_text())["digest"]
            return (found["identity"], found["digest"]) == (self.identity, written)
        except (OSError, ValueError, KeyError):
            return False

    @functools.cached_property
    def _state(self) -> BatchState:
        probe = self._victim.logits(self._some.arrays()[0]).numpy()
        return BatchState(self._folder, self.identity, probe, print)

    def __call__(self, name: str, images, labels, ids) -> np.ndarray:
        """Returns what becomes of a chunk of the images of a split."""
        if name not in self._config.splits:
            return images
        parts = self._right.setdefault(name, [])
        work = functools.partial(self._made, images, labels, ids)
        made, fresh = self._state.get(name, len(parts), work)
        text = f"perturb: {name}, chunk {len(parts) + 1}"
        self._clock.advance(len(images), len(parts), text, fresh)
        parts.append(made["right"])
        return made["images"]

    def _made(self, images, labels, ids) -> dict[str, np.ndarray]:
        logits = self._victim.logits(images)
        if labels.max() >= logits.shape[1]:
            raise UserError(
                "`--run.init_from` must name a model that knows every class of the "
                f"data. Received: a model of {logits.shape[1]} classes and label "
                f"{labels.max()}. Train one on these data."
            )
        before = tf.argmax(logits, 1, output_type=tf.int32).numpy()
        targets = np.where(labels == UNLABELLED, before, labels)
        keys = example_keys(self._config.seed, 0, tf.constant(ids))
        moved = self._attack(images, targets, self._victim, keys=keys)
        after = self._victim.predictions(moved)
        right = np.stack([before == targets, after == targets])
        return {"images": moved.numpy(), "right": right}

    def shares(self) -> dict[str, dict[str, float]]:
        """Returns split -> shares of right answers before and under the attack."""
        found = {}
        for name, parts in self._right.items():
            clean, adversarial = np.concatenate(parts, axis=1).mean(axis=1)
            found[name] = {"clean": float(clean), "adversarial": float(adversarial)}
        return found


def make_attack(config: ExperimentConfig):
    """Returns the attack that `--perturb` describes, on the threat of `--attack`."""
    chosen, threat = config.perturb, config.attack
    steps = {} if chosen.attack == "fgsm" else {"steps": chosen.steps}
    return ATTACKS[chosen.attack](threat.epsilon, norm=threat.norm, **steps)
