"""DINO: a student learns to say of crops what its moving average says of an image."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.data.multicrop import MultiCrop, ViewsConfig
from kerobust.losses.dino import (
    entropy,
    moved_centre,
    teacher_probabilities,
    view_cross_entropies,
)
from kerobust.losses.similarity import effective_rank, spread
from kerobust.methods.base import Batch, Method
from kerobust.methods.collapse import RANK, SPREAD, entropy_monitor
from kerobust.methods.start import Length, new_encoder
from kerobust.methods.teacher import average_pairs, frozen_copy, move_averages
from kerobust.models.projector import DinoHead
from kerobust.models.weights import copy_weights
from kerobust.randomness import fold_in
from kerobust.training.schedules import PerEpoch, WarmupCosine

_GLOBALS = ("global_1", "global_2")


@dataclasses.dataclass(frozen=True)
class DinoConfig(Config):
    """Head, temperatures and teacher; the defaults are those of DINO for ImageNet."""

    SECTION = "dino"

    prototypes: int = setting(65536, "Outputs of the head.", low=2)
    hidden: int = setting(2048, "Width of the hidden layers of the head.", low=1)
    bottleneck: int = setting(256, "Width of the head before the prototypes.", low=1)
    train_scale: bool = setting(
        False, "Whether the scales of the prototypes are trained (norm_last_layer off)."
    )
    student_temperature: float = setting(
        0.1, "Temperature of the student.", low=0, open_low=True
    )
    teacher_temperature: float = setting(
        0.04, "Temperature of the teacher after its warm-up.", low=0, open_low=True
    )
    first_temperature: float = setting(
        0.04, "Temperature of the teacher in the first epoch.", low=0, open_low=True
    )
    temperature_epochs: int = setting(
        0, "Epochs from the first temperature to the last one.", low=0
    )
    centre_momentum: float = setting(0.9, "Momentum of the centre.", low=0, high=1)
    teacher_momentum: float = setting(
        0.996, "Momentum of the teacher at the start; 1 at the end.", low=0, high=1
    )
    frozen_epochs: float = setting(
        1.0, "Epochs before the student's prototypes are trained.", low=0
    )
    drop_path: float = setting(
        0.1, "Drop-path rate of the student.", low=0, high=1, open_high=True
    )
    smallest_batch: int = setting(
        32, "Batches below this are refused: the centre needs many images.", low=1
    )


class Dino(Method):
    """Self-distillation: cross-entropy between views, without labels.

    The student sees all views, the teacher the two global crops; every pair of
    different views counts the same. The teacher is the moving average of the student.

    Args:
        encoder: Student's encoder, whose class token is trained.
        head: `DinoHead`.
        config: `DinoConfig`.
        view_maker: `MultiCrop`.
        length: `Length` of the training, for the schedules.

    References:
        Caron et al., 2021, arXiv:2104.14294, sections 3.1 and 3.2.

    Differences:
        The gradient of each tensor is scaled by c / max(norm, c) (`clip_norm`), in the
        original by c / (norm + 1e-6).
    """

    TERMS: tuple[str, ...] = ("natural",)
    MEASURES: tuple[str, ...] = (
        "teacher_entropy",
        "divergence",
        "feature_spread",
        "feature_rank",
    )
    view_maker: MultiCrop

    def __init__(self, encoder, head, config: DinoConfig, view_maker, length, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.head = encoder, head
        changes = {"drop_path": 0.0} if "drop_path" in encoder.get_config() else {}
        self.teacher = frozen_copy(encoder, **changes)
        self.teacher_head = frozen_copy(head)
        self.config = config
        self.view_maker = view_maker
        self.centre = self.add_weight(
            "centre",
            [config.prototypes],
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.MEAN,
        )
        self.monitors = (entropy_monitor(config.prototypes), SPREAD, RANK)
        self._pairs = [
            *average_pairs(self.teacher, encoder),
            *average_pairs(self.teacher_head, head),
        ]
        self._temperature = PerEpoch(
            WarmupCosine(
                config.teacher_temperature,
                min(config.temperature_epochs, length.epochs),
                length.epochs,
                config.teacher_temperature,
                config.first_temperature,
                inclusive=True,
            ),
            length.steps_per_epoch,
        )
        self._share = WarmupCosine(1 - config.teacher_momentum, 0, length.steps, 0.0)

    @classmethod
    def from_experiment(cls, experiment, image_shape, length: Length, start=None):
        """Returns the method with new networks, or with those of a bundle.

        Args:
            experiment: `ExperimentConfig`.
            image_shape: (height, width, channels).
            length: `Length` of the training.
            start: Loaded bundle: an encoder, or a dict with it and perhaps `head`, as
                `exports` names them; None = new weights.

        Raises:
            UserError: If the batch is too small or the crops do not fit the patches.
        """
        config, settings = experiment.dino, experiment.pretrain
        settings.require(
            settings.batch_size >= config.smallest_batch,
            "batch_size",
            f"must be at least `--dino.smallest_batch` ({config.smallest_batch})",
            "Raise it: the centre of DINO needs many images per update.",
        )
        side, (*size, channels) = experiment.views.global_size, image_shape
        shape = (*(size if side is None else (side, side)), channels)
        encoder = new_encoder(experiment, shape, start, config.drop_path)
        head = _make_head(config, encoder.width, start)
        maker = MultiCrop(cls._view_settings(experiment))
        _check_crops(encoder, maker.config, shape)
        more = cls._settings(experiment)
        return cls(encoder, head, config, maker, length, *more)

    @staticmethod
    def _view_settings(experiment):
        return experiment.views

    @staticmethod
    def _settings(experiment) -> tuple:
        return ()

    @property
    def exports(self):
        return {
            "encoder": self.teacher,
            "head": self.teacher_head,
            "student": self.encoder,
        }

    def trained_variables(self):
        return self.encoder.trainable_variables + self.head.trainable_variables

    def rate_groups(self):
        *groups, last = self.encoder.layer_groups()
        return [*groups, last + self.head.trainable_variables]

    def late_variables(self):
        return [(self.config.frozen_epochs, self.head.last.trainable_variables)]

    def guide(self, batch: Batch) -> Batch:
        tokens, logits = self._forward(
            self.teacher, self.teacher_head, tf.unstack(batch["global_views"], axis=1)
        )
        self.measure("feature_spread", spread(tokens))
        self.measure("feature_rank", effective_rank(tokens))
        return {**batch, "teacher_logits": tf.transpose(logits, [1, 0, 2])}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        config, epoch_step = self.config, self.optimizer.iterations
        probabilities = teacher_probabilities(
            batch["teacher_logits"], self.centre, self._temperature(epoch_step)
        )
        tokens, logits = self._forward(
            self.encoder, self.head, self._seen(batch), training, batch["keys"]
        )
        self.observe(batch, tokens)
        pairs = view_cross_entropies(probabilities, logits, config.student_temperature)
        weights = self._pair_weights()
        terms = {
            term: tf.reduce_sum(pairs * tf.constant(weights * mask, pairs.dtype))
            for term, mask in self._term_masks().items()
        }
        uncertain = tf.reduce_mean(entropy(probabilities))
        self.measure("teacher_entropy", uncertain)
        self.measure("divergence", tf.add_n(list(terms.values())) - uncertain)
        return terms

    def observe(self, batch: Batch, tokens: tf.Tensor) -> None:
        """Logs what the student's class tokens float32 [V * B, D] say."""

    def after_update(self, batch: Batch) -> None:
        # The rate of the update just made: iterations have moved on.
        move_averages(self._pairs, self._share(self.optimizer.iterations - 1))
        moved = moved_centre(
            self.centre, batch["teacher_logits"], self.config.centre_momentum
        )
        self.centre.assign(moved)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the student's views in order."""
        locals_ = (f"local_{i + 1}" for i in range(self.view_maker.config.local_count))
        return (*_GLOBALS, *locals_)

    def _seen(self, batch: Batch) -> list[tf.Tensor]:
        """Returns the student's views, each [B, H, W, C], in the order of `views`."""
        seen = tf.unstack(batch["global_views"], axis=1)
        if "local_views" in batch:
            seen += tf.unstack(batch["local_views"], axis=1)
        return seen

    def _pair_weights(self) -> np.ndarray:
        """Returns the weight of each pair, [T, S]: equal, none for the same view."""
        different = [[float(s != t) for s in self.views] for t in _GLOBALS]
        return np.array(different) / np.sum(different)

    def _term_masks(self) -> dict[str, np.ndarray]:
        """Returns for each loss term the student's views that it covers, [S]."""
        return {"natural": np.ones(len(self.views))}

    def _forward(self, encoder, head, views, training=False, keys=None):
        """Returns class tokens [V * B, D] and logits [V, B, K] of V views.

        Neighbours of one size pass the encoder together, all views the head.
        """
        tokens, number = [], 0
        for _, group in itertools.groupby(views, lambda view: view.shape[1:]):
            together = list(group)
            images = tf.concat(together, axis=0)
            if keys is not None:
                numbers = range(number, number + len(together))
                own = [fold_in(keys, index) for index in numbers]
                found = encoder(images, training=training, keys=tf.concat(own, axis=0))
            else:
                found = encoder(images, training=training)
            tokens.append(found.cls)
            number += len(together)
        tokens = tf.concat(tokens, axis=0)
        logits = head(tokens)
        return tokens, tf.reshape(logits, [len(views), -1, logits.shape[-1]])


def _make_head(config: DinoConfig, width: int, start) -> DinoHead:
    head = DinoHead(
        width,
        config.prototypes,
        hidden=config.hidden,
        bottleneck=config.bottleneck,
        train_scale=config.train_scale,
    )
    known = start.get("head") if isinstance(start, dict) else None
    if known is not None and known.get_config() == head.get_config():
        copy_weights(known, head)
    return head


def _check_crops(encoder, views: ViewsConfig, image_shape) -> None:
    patch = encoder.get_config().get("patch_size", 1)
    sides = {"global_size": views.global_size or image_shape[0]}
    if views.local_count:
        sides["local_size"] = views.local_size
    for name, side in sides.items():
        views.require(
            side % patch == 0,
            name,
            f"must be a multiple of the patch, {patch} pixels",
            f"Use {max(side // patch, 1) * patch}.",
        )
