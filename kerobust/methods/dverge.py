"""DVERGE: members of an ensemble learn not to share each other's weaknesses."""

import dataclasses
import functools

import tensorflow as tf

from kerobust.attacks import AttackConfig, FeatureMatch, MomentumPGD
from kerobust.config import Config, UserError, setting
from kerobust.methods.base import Batch
from kerobust.methods.ensemble import (
    EnsembleConfig,
    EnsembleTraining,
    new_ensemble,
)
from kerobust.methods.start import Length
from kerobust.models.ensemble import Ensemble
from kerobust.randomness import example_keys, fold_in, uniform


@dataclasses.dataclass(frozen=True)
class DvergeConfig(Config):
    """How images are distilled and how much of the loss they are."""

    SECTION = "dverge"

    epsilon: float = setting(
        0.07,
        "Largest change of a pixel of a distilled image, images in [0, 1].",
        low=0,
        high=1,
        hint="Images lie in [0, 1]: did you mean 18/255?",
    )
    step_size: float = setting(0.007, "Step of distillation, pixel units.", low=0)
    steps: int = setting(10, "Steps of distillation.", low=1)
    momentum: float = setting(
        1.0, "Weight of past gradients in a step of distillation; 0 = none.", low=0
    )
    layer: int | None = setting(
        None, "Layer whose features are distilled, from 1; empty = drawn.", low=1
    )
    layer_per: str = setting(
        "epoch", "How long a drawn layer stays.", choices=("epoch", "step")
    )
    weight: float = setting(1.0, "Weight of the loss on distilled images.", low=0)
    clean_weight: float = setting(
        0.0, "Weight of the loss on clean images; the original has none.", low=0
    )


class Dverge(EnsembleTraining):
    """Trains every member on images that fool the features of the others.

    For each member j and layer l, x'_j is within epsilon of x and has, in layer l of
    f_j, features like those of an unrelated image. Then, for a batch,
    L = weight * sum_i sum_{j != i} CE(f_i(x'_j), y) + clean_weight * sum_i CE(f_i(x),
    y), and with `EnsembleConfig.attack` the loss on attacked images too (DVERGE + AdvT
    is `members`). x'_j is constant in L, so members are updated at once and their order
    changes no weight; random starts of PGD and the running statistics of batch norm
    follow it. Batches need `partners`, the unrelated images.

    Args:
        ensemble: `Ensemble` of two `Classifier`s or more.
        config: `EnsembleConfig`.
        threat: `AttackConfig`, the ball of adversarial training.
        dverge: `DvergeConfig`.
        steps_per_epoch: Updates between draws of a layer.
        seed: Of the draws.

    Raises:
        UserError: If there are fewer than two members, an encoder shows no layers
            (`layer_outputs`), or the layer does not exist.

    References:
        Yang et al., 2020, arXiv:2009.14720, algorithm 1, and its code, which has no
        term on clean images although algorithm 1 starts from one.

    Differences:
        Attacks see batch norm frozen unless `bn_in_attack` is train. One optimizer
        updates all members, each variable by itself.
    """

    SECTION = "dverge"
    PARTNERS = True
    TERMS = ("distillation", "clean", "adversarial")
    MEASURES = ("accuracy", "perturbation", "layer")

    def __init__(
        self,
        ensemble: Ensemble,
        config: EnsembleConfig,
        threat: AttackConfig,
        dverge: DvergeConfig,
        *,
        steps_per_epoch: int = 1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(ensemble, config, threat, **kwargs)
        if len(self.members) < 2:
            raise UserError(
                "`--ensemble.members` must be at least 2: DVERGE teaches each member "
                f"what fools the others. Received: members={len(self.members)}."
            )
        self.dverge = dverge
        self.choices = self._layers()
        self.period = steps_per_epoch if dverge.layer_per == "epoch" else 1
        self.seed = seed
        self.distillation = MomentumPGD(
            dverge.epsilon,
            decay=dverge.momentum,
            steps=dverge.steps,
            step_size=dverge.step_size,
        )
        self.matches = [
            [self._match(member, layer) for member in self.members]
            for layer in self.choices
        ]

    @classmethod
    def from_experiment(
        cls, experiment, image_shape, length: Length, start=None, num_classes: int = 0
    ):
        """Returns the method; see `EnsembleTraining.from_experiment`."""
        return cls(
            new_ensemble(experiment, image_shape, num_classes, start),
            experiment.ensemble,
            experiment.attack,
            experiment.dverge,
            steps_per_epoch=length.steps_per_epoch,
            seed=experiment.run.seed,
        )

    def perturb(self, batch: Batch) -> Batch:
        """Returns the batch with `distilled`, see `distil`, and what attacks add."""
        index = self.layer_index(self.optimizer.iterations)
        indices = range(len(self.choices))
        branches = [functools.partial(self.distil, batch, each) for each in indices]
        distilled = tf.switch_case(index, branches)
        self.measure("layer", tf.gather(tf.constant(self.choices), index))
        batch = super().perturb(batch)
        return {**batch, "distilled": distilled}

    def distil(self, batch: Batch, index: int) -> tuple[tf.Tensor, ...]:
        """Returns the images distilled from each member, N times float32 [B, H, W, C].

        Args:
            batch: With `images`, `partners` and `keys`.
            index: Of the layer in `choices`.
        """
        return tuple(
            self.distillation(
                batch["images"],
                match.references(batch["partners"]),
                match,
                keys=batch["keys"],
            )
            for match in self.matches[index]
        )

    def layer_index(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the position in `choices` of the layer of an update, int32 scalar."""
        epoch = tf.cast(step // self.period, tf.int32)
        keys = fold_in(example_keys(self.seed, epoch, tf.zeros([1])), "layer")
        share = uniform(keys, [])[0]
        return tf.cast(share * len(self.choices), tf.int32)

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        none = tf.constant(0.0)
        attacked = self.config.attack != "natural"
        terms = {"clean": none, "adversarial": none}
        if self.dverge.clean_weight:
            clean = self.clean_loss(batch, training)
            terms["clean"] = self.dverge.clean_weight * clean
        if attacked:
            terms["adversarial"] = self.adversarial_loss(batch, training)
        losses = [
            self.member_loss(member, images, batch, training)
            for own, member in enumerate(self.members)
            for other, images in enumerate(batch["distilled"])
            if other != own
        ]
        return {**terms, "distillation": self.dverge.weight * tf.add_n(losses)}

    def _layers(self) -> list[int]:
        """Returns the layers that may be drawn."""
        for member in self.members:
            if not hasattr(member.encoder, "layer_outputs"):
                raise UserError(
                    "`ensemble` must have encoders that show their layers "
                    "(`layer_outputs`): DVERGE distils features of single layers. "
                    f"Received: {type(member.encoder).__name__}."
                )
        count = min(member.layer_count for member in self.members)
        chosen = self.dverge.layer
        self.dverge.require(
            chosen is None or chosen <= count,
            "layer",
            f"must lie in [1, {count}], the layers of a member",
        )
        return list(range(1, count + 1)) if chosen is None else [chosen]

    def _match(self, member, layer: int) -> "LayerMatch":
        if self.config.bn_in_attack == "train":
            return TrainingLayerMatch(member, layer)
        return LayerMatch(member, layer)


class LayerMatch(FeatureMatch):
    """Features of one layer of a classifier, compared with those of other images.

    Args:
        member: `Classifier`.
        layer: Number of the layer, from 1.
    """

    def __init__(self, member, layer: int):
        super().__init__(functools.partial(member.layer, number=layer))

    def references(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the targets that stand for images float32 [B, H, W, C]."""
        return self.outputs(images)


class TrainingLayerMatch(LayerMatch):
    """`LayerMatch` with batch norm in training mode, as in DVERGE's code.

    There, every step sends the images and then the others through the network, and both
    passes record statistics. Targets are the other images.
    """

    def outputs(self, images):
        return self.victim(images, training=True)

    def references(self, images):
        return images

    def values(self, outputs, targets):
        return super().values(outputs, tf.stop_gradient(self.outputs(targets)))
