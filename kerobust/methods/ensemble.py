"""Supervised training of several classifiers side by side."""

import dataclasses
import functools

import tensorflow as tf

from kerobust.attacks import PGD, AttackConfig, CrossEntropy
from kerobust.config import Config, UserError, setting
from kerobust.methods.base import Batch, Method
from kerobust.methods.start import Length
from kerobust.models.ensemble import COMBINATIONS, Ensemble
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.resnet import ResNet
from kerobust.models.resnet18 import ResNet18
from kerobust.models.weights import copy_weights
from kerobust.randomness import fold_in
from kerobust.tasks import Classification

# A normal spread of 1 / sqrt(3 inputs) is that of PyTorch's uniform kernels.
_HEAD_STDDEV = 0.06
NETWORKS = ("conv", "resnet20", "resnet18", "vit")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(Config):
    """Which classifiers, how they answer together, and what attacks their training."""

    SECTION = "ensemble"

    members: int = setting(3, "Number of classifiers.", low=1)
    network: str = setting(
        "conv",
        "conv: a small convolutional network (--conv); resnet20: with projections;"
        " resnet18; vit: a vision transformer (--model).",
        choices=NETWORKS,
    )
    combine: str | None = setting(
        None,
        "How members answer together: probabilities (their mean), logits (their mean)"
        " or votes; empty = as in the bundle, new ones by probabilities.",
        choices=tuple(COMBINATIONS),
    )
    attack: str = setting(
        "natural",
        "Images of the classification loss: natural; members: each member sees PGD on"
        " itself; ensemble: all see PGD on the ensemble. The ball is --attack.",
        choices=("natural", "members", "ensemble"),
    )
    attack_steps: int = setting(10, "Steps of that attack.", low=1)
    attack_step_size: float | None = setting(
        None, "Step of that attack, pixel units; empty = 2.5 epsilon / steps.", low=0
    )
    bn_in_attack: str = setting(
        "frozen",
        "Batch norm inside attacks: frozen (running statistics, not changed) or train"
        " (those of the batch, recorded), as in DVERGE's code; one device only.",
        choices=("frozen", "train"),
    )


class EnsembleTraining(Method):
    """Trains every member by cross-entropy, all on the same batches.

    L = sum over members of their cross-entropy on clean images (`natural`), or on
    attacked ones. Members share nothing but the data: one update of the sum is one
    update of each by itself, for every optimizer that treats variables one by one.

    Args:
        ensemble: `Ensemble` of `Classifier`s.
        config: `EnsembleConfig`.
        threat: `AttackConfig`, the ball of the attack.

    Raises:
        UserError: If the attack is to go through an ensemble whose members vote.

    References:
        Yang et al., 2020, arXiv:2009.14720, and its code (`train_baseline`,
        `train_adv`, which attacks the ensemble).
    """

    SUPERVISED = True
    EXPORT = "ensemble"
    STARTS_FROM = "ensemble"
    TERMS: tuple[str, ...] = ("clean", "adversarial")
    MEASURES: tuple[str, ...] = ("accuracy", "perturbation")

    def __init__(
        self, ensemble: Ensemble, config: EnsembleConfig, threat: AttackConfig, **kwargs
    ):
        super().__init__(**kwargs)
        config.require(
            config.attack != "ensemble" or ensemble.combine != "votes",
            "attack",
            "must be members or natural where members vote: votes let no gradient pass",
            "Or use --ensemble.combine=probabilities.",
        )
        self.ensemble, self.config = ensemble, config
        self.task = Classification(ensemble.members[0].head.num_classes)
        self.attack = PGD(
            threat.epsilon,
            norm=threat.norm,
            steps=config.attack_steps,
            step_size=config.attack_step_size,
        )
        victims = ensemble.members
        if config.attack == "ensemble":
            victims = [ensemble]
        self.objectives = [CrossEntropy(self.in_attack(each)) for each in victims]

    @classmethod
    def from_experiment(
        cls, experiment, image_shape, length: Length, start=None, num_classes: int = 0
    ):
        """Returns the method with new members, or with those of a bundle.

        Args:
            experiment: `ExperimentConfig`.
            image_shape: (height, width, channels).
            length: Not used: nothing here depends on it.
            start: Loaded bundle of an ensemble; its members are taken over.
            num_classes: Number of classes.

        Raises:
            UserError: If the start is no ensemble for these images and classes.
        """
        del length
        ensemble = new_ensemble(experiment, image_shape, num_classes, start)
        return cls(ensemble, experiment.ensemble, experiment.attack)

    @property
    def exports(self):
        return {"ensemble": self.ensemble}

    @property
    def members(self) -> list[Classifier]:
        """The classifiers."""
        return self.ensemble.members

    def trained_variables(self):
        return self.ensemble.trainable_variables

    def in_attack(self, victim):
        """Returns what attacks call: images -> outputs, batch norm as configured."""
        training = self.config.bn_in_attack == "train"
        return functools.partial(victim, training=True) if training else victim

    def perturb(self, batch: Batch) -> Batch:
        if self.config.attack == "natural":
            return batch
        images, keys = batch["images"], fold_in(batch["keys"], "attack")
        adversarial = [
            self.attack(images, batch["labels"], objective, keys=fold_in(keys, index))
            for index, objective in enumerate(self.objectives)
        ]
        self.measure("perturbation", self.attack.ball.norm(adversarial[0] - images))
        return {**batch, "adversarial": tf.stack(adversarial, axis=1)}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        adversarial = tf.constant(0.0)
        if self.config.attack != "natural":
            adversarial = self.adversarial_loss(batch, training)
        clean = tf.constant(0.0)
        if self.config.attack == "natural":
            clean = self.clean_loss(batch, training)
        return {"clean": clean, "adversarial": adversarial}

    def clean_loss(self, batch: Batch, training: bool) -> tf.Tensor:
        """Returns the sum over members of their loss on the images."""
        seen = [batch["images"]] * len(self.members)
        return self._classification(seen, batch, training)

    def adversarial_loss(self, batch: Batch, training: bool) -> tf.Tensor:
        """Returns the sum over members of their loss on the attacked images."""
        seen = tf.unstack(batch["adversarial"], axis=1)
        if len(seen) == 1:  # Of the whole ensemble.
            seen = seen * len(self.members)
        return self._classification(seen, batch, training)

    def member_loss(self, member, images, batch: Batch, training: bool) -> tf.Tensor:
        """Returns a member's loss on images with the labels of the batch."""
        logits = member(images, training=training, keys=drop_keys(batch))
        correct = self.task.correct(logits, batch["labels"])
        self.measure("accuracy", tf.cast(correct, tf.float32))
        return self.task.loss(logits, batch["labels"])

    def _classification(self, seen, batch: Batch, training: bool) -> tf.Tensor:
        return tf.add_n(
            [
                self.member_loss(member, images, batch, training)
                for member, images in zip(self.members, seen, strict=True)
            ]
        )


def drop_keys(batch: Batch) -> tf.Tensor:
    """Returns the keys of drop path, int32 [B, 2]."""
    return fold_in(batch["keys"], "drop path")


def new_ensemble(experiment, image_shape, num_classes: int, start) -> Ensemble:
    """Returns an ensemble to train.

    Args:
        experiment: `ExperimentConfig`.
        image_shape: (height, width, channels).
        num_classes: Number of classes.
        start: Loaded bundle whose members are taken over; None = new members.

    Raises:
        UserError: If the start is no ensemble for these images and classes, or batch
            norm would have to talk between devices inside an attack.
    """
    config = experiment.ensemble
    config.require(
        config.bn_in_attack == "frozen" or experiment.run.devices == 1,
        "bn_in_attack",
        "must be frozen on several devices",
        "Use --run.devices=1.",
    )
    if start is None:
        members = [
            _member(experiment, image_shape, num_classes) for _ in range(config.members)
        ]
        return Ensemble(members, combine=config.combine or "probabilities")
    known = _started(start, image_shape, num_classes)
    combine = config.combine or known.combine
    ensemble = Ensemble.from_config({**known.get_config(), "combine": combine})
    copy_weights(known, ensemble)
    return ensemble


def _started(start, image_shape, num_classes: int) -> Ensemble:
    """Returns the ensemble of a bundle, if it is one for these images and classes."""
    known = start.get("ensemble") if isinstance(start, dict) else start
    if not isinstance(known, Ensemble):
        raise UserError(
            "`--run.init_from` must hold an ensemble. "
            f"Received: init_from with {type(known).__name__}."
        )
    classes = known.members[0].head.num_classes
    if classes != num_classes:
        raise UserError(
            f"`--run.init_from` must hold an ensemble for {num_classes} classes. "
            f"Received: one for {classes}."
        )
    try:
        known.members[0].encoder.call(tf.zeros([1, *image_shape]))
    except UserError as error:
        raise UserError(
            "`--run.init_from` must hold an ensemble for the images of `--data.name`, "
            f"shape {tuple(image_shape)}. Received: one that refuses them. {error}"
        ) from error
    return known


def _member(experiment, image_shape, num_classes: int) -> Classifier:
    conv = experiment.ensemble.network == "conv"
    head = ClassifierHead(
        num_classes,
        pooling="cls" if conv else "mean",
        kernel_stddev=_HEAD_STDDEV,
        norm=False,
    )
    return Classifier(_encoder(experiment, image_shape), head)


def _encoder(experiment, image_shape) -> tf.keras.Model:
    network, model = experiment.ensemble.network, experiment.model
    if network == "conv":
        return experiment.conv.build(image_shape, model.mean, model.std)
    given = {"mean": model.mean, "std": model.std, "channels": image_shape[-1]}
    if network == "resnet20":
        return ResNet(20, shortcut="projection", **given)
    if network == "resnet18":
        return ResNet18(stem_padding=1, **given)
    return model.build(image_shape)
