"""Supervised training of a classifier, natural or adversarial."""

import dataclasses

import tensorflow as tf

from kerobust.attacks import FGSM, PGD, AttackConfig, SoftCrossEntropy
from kerobust.config import setting
from kerobust.methods.base import Batch, Method, linear_ramp
from kerobust.methods.optimisation import OptimisationConfig
from kerobust.models.heads import Classifier
from kerobust.randomness import fold_in
from kerobust.tasks import Classification


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(OptimisationConfig):
    """How a classifier is trained on labels."""

    SECTION = "finetune"
    NO_DECAY = ("bias", "positions", "cls_token")

    epochs: int = setting(100, "Passes over the labelled images.", low=1)
    base_rate: float = setting(
        5e-2, "Peak rate at a batch of 256; scaled by batch/256.", low=0
    )
    warmup_epochs: float = setting(10.0, "Epochs of linear warm-up from 0.", low=0)
    final_rate: float = setting(1e-6, "Rate at the end of the cosine.", low=0)
    beta_2: float = setting(
        0.999, "AdamW's second beta.", low=0, high=1, open_high=True
    )
    layer_decay: float = setting(
        0.65, "Factor on the rate per layer below the head.", low=0, high=1
    )
    attack: str = setting(
        "pgd",
        "natural, fast (one step from a random start), pgd, or trades.",
        choices=("natural", "fast", "pgd", "trades"),
    )
    attack_steps: int = setting(10, "Steps of pgd and trades.", low=1)
    attack_step_size: float | None = setting(
        None, "Step of pgd and trades, pixel units; empty = 2.5 epsilon / steps.", low=0
    )
    epsilon_ramp: float = setting(
        0.0, "Share of training over which epsilon rises from 0.", low=0, high=1
    )
    trades_beta: float = setting(6.0, "Weight of the TRADES divergence.", low=0)
    label_smoothing: float = setting(
        0.1, "Label smoothing of the loss.", low=0, high=1, open_high=True
    )
    drop_path: float = setting(
        0.1, "Drop-path rate of the last block.", low=0, high=1, open_high=True
    )
    encoder: str = setting(
        "full",
        "full: train everything; frozen: the head alone.",
        choices=("full", "frozen"),
    )
    pooling: str = setting("mean", "What the head reads.", choices=("mean", "cls"))


class Finetune(Method):
    """Trains a classifier on clean or attacked images.

    natural: cross-entropy on clean images. fast and pgd: cross-entropy on attacked
    images. trades: cross-entropy on clean images + beta * KL(clean || attacked).
    The attack sees the network in inference mode and hard labels; the update sees it
    in training mode and smoothed labels.

    Args:
        model: `Classifier`.
        task: `Classification`.
        config: `FinetuneConfig`.
        threat: `AttackConfig`, the ball of the attack.
        total_steps: Length of the training, for the epsilon ramp.

    References:
        Madry et al., 2018, arXiv:1706.06083 (pgd); Wong et al., 2020,
        arXiv:2001.03994 (fast); Zhang et al., 2019, arXiv:1901.08573, equation 3
        (trades).

    Differences:
        TRADES starts its attack uniformly in the ball instead of at x + 0.001 N(0, 1).
    """

    TERMS = ("classification", "divergence")
    MEASURES = ("accuracy", "perturbation", "epsilon")

    def __init__(
        self,
        model: Classifier,
        task: Classification,
        config: FinetuneConfig,
        threat: AttackConfig,
        total_steps: int,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model = model
        self.task = task
        self.config = config
        self.threat = threat
        self.ramp_steps = round(config.epsilon_ramp * total_steps)
        self.attack = self._make_attack()
        trades = config.attack == "trades"
        self.objective = SoftCrossEntropy(model) if trades else task.OBJECTIVE(model)

    @property
    def exports(self):
        return {"model": self.model}

    def trained_variables(self):
        if self.config.encoder == "frozen":
            return self.model.head.trainable_variables
        return self.model.trainable_variables

    def rate_groups(self):
        if self.config.encoder == "frozen":
            return [self.trained_variables()]
        return self.model.layer_groups()

    def perturb(self, batch: Batch) -> Batch:
        if self.attack is None:
            return batch
        images = batch["images"]
        ramp = linear_ramp(self.optimizer.iterations, self.ramp_steps)
        step_size = self.config.attack_step_size
        adversarial = self.attack(
            images,
            self._attack_targets(batch),
            self.objective,
            epsilon=ramp * self.threat.epsilon,
            step_size=None if step_size is None else ramp * step_size,
            keys=fold_in(batch["keys"], "attack"),
        )
        self.measure("epsilon", ramp * self.threat.epsilon)
        self.measure("perturbation", self.attack.ball.norm(adversarial - images))
        return {**batch, "adversarial": adversarial}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        divergence = tf.constant(0.0)
        trades = self.config.attack == "trades"
        seen = batch["images"] if trades else batch.get("adversarial", batch["images"])
        logits = self._logits(seen, batch, training)
        if trades:
            attacked = self._logits(batch["adversarial"], batch, training)
            divergence = self.config.trades_beta * tf.reduce_mean(
                _divergence(logits, attacked)
            )
        correct = self.task.correct(logits, batch["labels"])
        self.measure("accuracy", tf.cast(correct, tf.float32))
        return {
            "classification": self.task.loss(logits, batch["labels"]),
            "divergence": divergence,
        }

    def _logits(self, images, batch, training):
        training = training and self.config.encoder == "full"
        keys = fold_in(batch["keys"], "drop path")
        return self.model(images, training=training, keys=keys)

    def _attack_targets(self, batch):
        if self.config.attack == "trades":
            return tf.nn.softmax(self.model(batch["images"], training=False))
        return batch["labels"]

    def _make_attack(self):
        config, threat = self.config, self.threat
        if config.attack == "natural":
            return None
        if config.attack == "fast":
            return FGSM(threat.epsilon, norm=threat.norm, random_start=True)
        return PGD(threat.epsilon, norm=threat.norm, steps=config.attack_steps)


def _divergence(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns KL(softmax(first) || softmax(second)) per example, float32 [B]."""
    log_first, log_second = tf.nn.log_softmax(first), tf.nn.log_softmax(second)
    return tf.reduce_sum(tf.exp(log_first) * (log_first - log_second), axis=-1)
