"""Transfer: adversarial images made on one model, shown to others."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tabulate import tabulate

from kerobust.attacks import Attack
from kerobust.attacks.checks import check_count
from kerobust.attacks.objectives import Objective
from kerobust.attacks.victim import Victim
from kerobust.evaluation.results import share
from kerobust.randomness import example_keys

Model = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class TransferMatrix:
    """Which victims withstand what was made on which surrogate, example by example.

    Attributes:
        surrogates: S names of the models that were attacked.
        victims: V names of the models that were shown the results.
        clean: bool [V, N], right without attack.
        robust: bool [S, V, N], right without and under attack.
        white_box: bool [S, V], whether surrogate and victim are the same model.
    """

    surrogates: tuple[str, ...]
    victims: tuple[str, ...]
    clean: np.ndarray
    robust: np.ndarray
    white_box: np.ndarray

    @property
    def clean_accuracy(self) -> np.ndarray:
        """Accuracy without attack, float64 [V]."""
        return self.clean.mean(axis=1)

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy under attack, float64 [S, V]."""
        return self.robust.mean(axis=2)

    @property
    def success(self) -> np.ndarray:
        """Share fooled of what the victim has right without attack, float64 [S, V].

        NaN for a victim that is always wrong.
        """
        right = np.maximum(self.clean.sum(axis=1), 1)
        rate = 1.0 - self.robust.sum(axis=2) / right
        return np.where(self.clean.any(axis=1), rate, np.nan)

    def to_dict(self) -> dict:
        """Returns everything as values that JSON can hold; None stands for NaN."""

        def pairs(value: Callable) -> dict:
            return {
                surrogate: {
                    victim: value(row, column)
                    for column, victim in enumerate(self.victims)
                }
                for row, surrogate in enumerate(self.surrogates)
            }

        def digits(row, column):
            return self.robust[row, column].astype(int).tolist()

        def rate(row, column):
            found = float(self.success[row, column])
            return None if np.isnan(found) else found

        clean = dict(zip(self.victims, self.clean, strict=True))
        return {
            "natural": {name: share(flags) for name, flags in clean.items()},
            "robust": pairs(lambda row, column: share(self.robust[row, column])),
            "success": pairs(rate),
            "white_box": pairs(lambda row, column: bool(self.white_box[row, column])),
            "examples": {
                "clean": {
                    name: flags.astype(int).tolist() for name, flags in clean.items()
                },
                "robust": pairs(digits),
            },
        }

    def table(self) -> str:
        """Returns a Markdown table, a row per surrogate, that also reads on a console.

        Cells hold the accuracy in % and, in brackets, the success rate; a star marks
        white-box attacks.
        """
        headers = ["made on", *(f"{name} %" for name in self.victims)]
        cells = [["(clean)", *(f"{100 * each:.1f}" for each in self.clean_accuracy)]]
        for row, surrogate in enumerate(self.surrogates):
            found = zip(
                self.accuracy[row], self.success[row], self.white_box[row], strict=True
            )
            cells.append([surrogate, *(_cell(*each) for each in found)])
        cells = [[line[0].replace("|", "\\|"), *line[1:]] for line in cells]
        headers = [header.replace("|", "\\|") for header in headers]
        return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def transfer_matrix(
    attack: Attack,
    surrogates: Mapping[str, Model | Objective],
    victims: Mapping[str, Model],
    images,
    labels,
    *,
    batch_size: int = 256,
    seed: int = 0,
    restarts: int = 1,
) -> TransferMatrix:
    """Returns how adversarial images of some models fare against others.

    Each surrogate is attacked, and what was made is shown to all victims. In restart r,
    row i has the random key `example_keys(seed, r, i)` on every surrogate, so that the
    batch size changes nothing.

    Args:
        attack: Any attack. Leave `stop_when_fooled` off: a point that has just crossed
            the border of the surrogate transfers badly.
        surrogates: Name -> model, images float32 [B, H, W, C] -> logits [B, K], or an
            `Objective` on one.
        victims: Name -> model. One that is the same object as a surrogate, or has its
            name, is under a white-box attack there.
        images: float [N, H, W, C] in [0, 1].
        labels: int [N].
        batch_size: Images per batch.
        seed: Seed of the attack's noise.
        restarts: How many times each image is attacked; a victim must withstand all
            that was made. The attack's own restarts keep what fools the surrogate best.

    Raises:
        ValueError: If there are no images, surrogates or victims.
        UserError: If a victim's output cannot be evaluated.

    References:
        Papernot et al., 2016, arXiv:1605.07277.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    every = {"images": images, "surrogates": surrogates, "victims": victims}
    for name, each in every.items():
        if not len(each):
            raise ValueError(f"`{name}` must hold at least one. Received: none.")
    check_count("batch_size", batch_size)
    check_count("restarts", restarts)
    judges = [Victim(model) for model in victims.values()]
    clean, robust = [], []
    for start in range(0, len(images), int(batch_size)):
        rows = np.arange(start, min(start + int(batch_size), len(images)))
        given = (images[rows], labels[rows])
        right = _right(judges, *given)
        under = np.stack([right] * len(surrogates))
        for restart in range(restarts):
            keys = example_keys(seed, restart, rows)
            made = (attack(*given, model, keys=keys) for model in surrogates.values())
            under &= [_right(judges, adversarial, labels[rows]) for adversarial in made]
        clean.append(right)
        robust.append(under)
    return TransferMatrix(
        tuple(surrogates),
        tuple(victims),
        np.concatenate(clean, axis=1),
        np.concatenate(robust, axis=2),
        _same(surrogates, victims),
    )


def _same(surrogates: Mapping, victims: Mapping) -> np.ndarray:
    """Returns whether surrogate and victim are one model, bool [S, V]."""
    return np.array(
        [
            [own is other or name == also for also, other in victims.items()]
            for name, own in surrogates.items()
        ]
    )


def _right(judges: list[Victim], images, labels: np.ndarray) -> np.ndarray:
    """Returns what each victim has right, bool [V, B]."""
    images = tf.convert_to_tensor(images)
    return np.stack([judge.predictions(images) == labels for judge in judges])


def _cell(accuracy: float, success: float, white_box: bool) -> str:
    rate = "-" if np.isnan(success) else f"{100 * success:.1f}"
    return f"{100 * accuracy:.1f} ({rate}){' *' if white_box else ''}"
