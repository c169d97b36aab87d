"""How far the members of an ensemble share weaknesses."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from kerobust.attacks import (
    PGD,
    Attack,
    CrossEntropy,
    DiversePGD,
    FeatureMatch,
    LogitMargin,
    MomentumPGD,
)
from kerobust.attacks.checks import check_count
from kerobust.attacks.victim import Victim
from kerobust.config import Config, setting
from kerobust.data.splits import Split
from kerobust.evaluation.results import share
from kerobust.evaluation.transfer import transfer_matrix
from kerobust.models.ensemble import Ensemble

_BATCH = 256  # Images that are attacked at once.


@dataclasses.dataclass(frozen=True)
class DiversityConfig(Config):
    """How ensembles are examined: transfer between members, distilled features."""

    SECTION = "diversity"

    epsilon: float = setting(
        0.03, "Radius of the attacks that are carried over, linf.", low=0, high=1
    )
    steps: int = setting(50, "Steps of these attacks.", low=1)
    step_size: float | None = setting(
        None, "Their step, pixel units; empty = epsilon / 5.", low=0
    )
    restarts: int = setting(5, "Random starts of each of these attacks.", low=1)
    limit: int = setting(
        1000, "Most images; they are such as every member has right.", low=1
    )
    distil_epsilon: float = setting(
        0.07, "Largest change of a pixel in distillation.", low=0, high=1
    )
    distil_steps: int = setting(
        10, "Steps of distillation, each of epsilon / steps.", low=1
    )
    surrogates: tuple[str, ...] = setting(
        (),
        "Bundles of independent ensembles, on which attacks are made for the ensembles"
        " of the run: momentum PGD from random starts and through changing frames, each"
        " on cross-entropy and on the margin.",
    )
    surrogate_steps: int = setting(100, "Steps of the attacks on surrogates.", low=1)
    surrogate_restarts: int = setting(3, "Random starts on surrogates.", low=1)
    seed: int = setting(0, "Seed of starts, layers and pairs.", low=0)


@dataclasses.dataclass(frozen=True)
class VulnerabilityDiversity:
    """How little the members share of what moves their features.

    Attributes:
        losses: float64 [N, N], mean cross-entropy of member j with the labels of the
            targets, on images distilled from member i.
    """

    losses: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        """d(i, j) = (losses[i, j] + losses[j, i]) / 2, float64 [N, N]."""
        return (self.losses + self.losses.T) / 2

    @property
    def mean(self) -> float:
        """Mean of d(i, j) over i < j; larger = less is shared."""
        rows, columns = np.triu_indices(len(self.losses), 1)
        return float(self.pairs[rows, columns].mean())


def vulnerability_diversity(
    members: Sequence[tf.keras.Model],
    images,
    labels,
    *,
    epsilon: float = 0.07,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 10,
) -> VulnerabilityDiversity:
    """Returns how little classifiers share of what moves their features.

    Each image is moved, inside the ball, until a layer of member i sees in it what it
    sees in another image of the set; the loss of member j with the label of that other
    image tells how much j was moved too. The layer is drawn for every batch.

    Args:
        members: At least two `Classifier`s; the layers that all of them have are drawn.
        images: float [N, H, W, C] in [0, 1], at least two.
        labels: int [N].
        epsilon: Largest change of a pixel.
        steps: Steps of epsilon / steps.
        seed: Of layers and pairs.
        batch_size: Images that share a layer.

    Raises:
        ValueError: If there are fewer than two members or images.

    References:
        Yang et al., 2020, arXiv:2009.14720, equations 2 and 3, and its code.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    for name, each in (("members", members), ("images", images)):
        if len(each) < 2:
            raise ValueError(f"`{name}` must be at least two. Received: {len(each)}.")
    check_count("batch_size", batch_size)
    layers = range(1, 1 + min(member.layer_count for member in members))
    draws = np.random.default_rng(seed)
    others = draws.permutation(len(images))
    attack = MomentumPGD(epsilon, steps=steps, step_size=epsilon / steps, seed=seed)
    matches = {
        layer: [
            FeatureMatch(functools.partial(each.layer, number=layer))
            for each in members
        ]
        for layer in layers
    }
    judges = [CrossEntropy(member) for member in members]
    total = np.zeros([len(members), len(members)])
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        layer = int(draws.integers(layers.start, layers.stop))
        targets, wanted = images[others[rows]], tf.constant(labels[others[rows]])
        given = (images[rows], targets, wanted)
        total += distilled_losses(attack, matches[layer], judges, *given)
    return VulnerabilityDiversity(total / len(images))


def distilled_losses(
    attack: Attack,
    matches: Sequence[FeatureMatch],
    judges: Sequence[CrossEntropy],
    images,
    targets,
    labels,
) -> np.ndarray:
    """Returns the loss of every member on what is distilled from every member.

    Args:
        attack: Moves images.
        matches: Features of member i that are to become those of the targets.
        judges: Cross-entropy of member j.
        images: float [B, H, W, C] in [0, 1].
        targets: float [B, H, W, C], the images to look like.
        labels: int [B], of the targets.

    Returns:
        float64 [i, j], the sums over images.
    """
    moved = [attack(images, match.outputs(targets), match) for match in matches]
    return np.array([[np.sum(judge(x, labels)) for judge in judges] for x in moved])


class Diversity:
    """Examines what the members of ensembles share.

    Args:
        config: `DiversityConfig`.
        surrogates: Name -> model, on which attacks are made for the ensembles.
    """

    def __init__(
        self,
        config: DiversityConfig,
        surrogates: Mapping[str, tf.keras.Model] | None = None,
    ):
        self.config = config
        self.surrogates = surrogates or {}
        step = config.epsilon / 5 if config.step_size is None else config.step_size
        self._attack = PGD(config.epsilon, steps=config.steps, step_size=step)
        given = {"steps": config.surrogate_steps, "step_size": step}
        self._carried = {
            "momentum": MomentumPGD(config.epsilon, random_start=True, **given),
            "diverse": DiversePGD(config.epsilon, random_start=True, **given),
        }

    def __call__(self, ensemble: Ensemble, split: Split) -> dict | None:
        """Returns what was found, as values that JSON can hold.

        None if the members have fewer than two images right together.

        Args:
            ensemble: With two members or more.
            split: Labelled images.

        Returns:
            {"images": number of images, "attack": its settings, "transfer":
            `TransferMatrix.to_dict` from every member to every member and the ensemble,
            "diversity": {"losses", "pairs": [N, N], "mean"}, "black_box": attack ->
            `share` of images that withstand it, "clean" before and "all" after them;
            None without surrogates}.
        """
        config = self.config
        members = {
            f"member {index}": member
            for index, member in enumerate(ensemble.members, start=1)
        }
        shared = self._shared(members, split)
        if shared.size < 2:
            return None
        images, labels = shared.arrays()
        matrix = transfer_matrix(
            self._attack,
            members,
            {**members, "ensemble": ensemble},
            images,
            labels,
            batch_size=_BATCH,
            seed=config.seed,
            restarts=config.restarts,
        )
        diversity = vulnerability_diversity(
            ensemble.members,
            images,
            labels,
            epsilon=config.distil_epsilon,
            steps=config.distil_steps,
            seed=config.seed,
        )
        return {
            "images": len(images),
            "attack": dataclasses.asdict(config)
            | {"surrogates": list(self.surrogates)},
            "transfer": matrix.to_dict(),
            "diversity": {
                "losses": diversity.losses.tolist(),
                "pairs": diversity.pairs.tolist(),
                "mean": diversity.mean,
            },
            "black_box": self._black_box(ensemble, split),
        }

    def _black_box(self, ensemble, split: Split) -> dict | None:
        """Returns how the ensemble fares against what was made on surrogates."""
        if not self.surrogates:
            return None
        images, labels = split.thinned(self.config.limit).arrays()
        sources = {
            f"{name}, {loss}": objective(model)
            for name, model in self.surrogates.items()
            for loss, objective in (("CE", CrossEntropy), ("margin", LogitMargin))
        }
        found, everything = {}, np.ones(len(labels), bool)
        for kind, attack in self._carried.items():
            matrix = transfer_matrix(
                attack,
                sources,
                {"ensemble": ensemble},
                images,
                labels,
                batch_size=_BATCH,
                seed=self.config.seed,
                restarts=self.config.surrogate_restarts,
            )
            found["clean"] = share(matrix.clean[0])
            for name, flags in zip(sources, matrix.robust[:, 0], strict=True):
                found[f"{name}, {kind}"] = share(flags)
                everything &= flags
        return found | {"all": share(everything)}

    def _shared(self, members: Mapping[str, tf.keras.Model], split: Split) -> Split:
        """Returns the images that every member has right, at most so many."""
        images, labels = split.arrays()
        right = np.ones(split.size, bool)
        for judge in map(Victim, members.values()):
            for start in range(0, split.size, _BATCH):
                rows = slice(start, start + _BATCH)
                right[rows] &= judge.predictions(images[rows]) == labels[rows]
        return split.subset(right).thinned(self.config.limit)
