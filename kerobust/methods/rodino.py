"""RoDINO: DINO whose student also sees an attacked view."""

import dataclasses

import numpy as np
import tensorflow as tf

from kerobust.attacks import Objective
from kerobust.config import setting
from kerobust.losses.dino import teacher_probabilities
from kerobust.losses.similarity import cosine_similarity
from kerobust.methods.base import Batch
from kerobust.methods.dino import Dino
from kerobust.methods.inner_attack import InnerAttackConfig
from kerobust.randomness import fold_in

ADVERSARIAL = "adversarial"
_VARIANTS = {"v1": (ADVERSARIAL,), "v2": ("global_1", "global_2", ADVERSARIAL)}


@dataclasses.dataclass(frozen=True)
class RodinoConfig(InnerAttackConfig):
    """The attacked view of RoDINO; its code takes 50 steps of 0.01."""

    SECTION = "rodino"

    variant: str = setting(
        "v2",
        "v1: the student sees the attacked view alone; v2: both global crops too.",
        choices=tuple(_VARIANTS),
    )
    student_views: tuple[str, ...] = setting(
        (),
        "Views of the student, instead of those of the variant; local = all local"
        " crops.",
        choices=("global_1", "global_2", "local", ADVERSARIAL),
    )
    adversarial_weight: float | None = setting(
        None,
        "Share of the loss for the pairs with the attacked view; empty = every pair"
        " counts the same.",
        low=0,
        high=1,
    )
    adversarial_source: str = setting(
        "center_crop",
        "View that is attacked: center_crop (the image as the data set gives it) or"
        " global_1.",
        choices=("center_crop", "global_1"),
    )
    attack_loss: str = setting(
        "embed_mse",
        "What the attack raises: embed_mse (squared distance to the student's own"
        " clean class token), embed_cosine, or soft_ce (cross-entropy to the teacher).",
        choices=("embed_mse", "embed_cosine", "soft_ce"),
    )
    epsilon: float = setting(0.03, "Radius of the attack, pixel units.", low=0)
    normalisation: str = setting(
        "inside",
        "inside: every view is normalised by the encoder; raw_adversarial: the attacked"
        " view is not, as in the authors' code.",
        choices=("inside", "raw_adversarial"),
    )
    train_mode_attack: bool = setting(
        False,
        "Whether the attack sees the student with drop path, as in the authors' code.",
    )


class ClassTokenDistance(Objective):
    """How far an attack moves the student's class token; targets are a dict.

    Targets: `clean` float32 [B, D], or for soft_ce `probabilities` float32 [B, K]; and
    `keys` int32 [B, 2] for drop path.
    """

    def __init__(self, method: "Rodino"):
        super().__init__()
        self._method = method

    def outputs(self, images):
        return images  # The forward needs the keys, which only `values` is given.

    def values(self, outputs, targets):
        method = self._method
        tokens = method.adversarial_tokens(outputs, targets["keys"])
        if "probabilities" in targets:
            temperature = method.config.student_temperature
            logits = method.head(tokens) / temperature
            return tf.nn.softmax_cross_entropy_with_logits(
                targets["probabilities"], logits
            )
        if method.rodino.attack_loss == "embed_cosine":
            return -cosine_similarity(tokens, targets["clean"])
        distance = tf.math.squared_difference(tokens, targets["clean"])
        return tf.reduce_mean(distance, axis=1)


class Rodino(Dino):
    """DINO with an attacked view: the teacher's clean answer is the target.

    v1 = [H(t1, adv) + H(t2, adv)] / 2; v2 = [H(t1, s2) + H(t1, adv) + H(t2, s1) +
    H(t2, adv)] / 4, with H the cross-entropy of DINO.

    References:
        Ghazanfari et al., RoDINO, and the code of its authors (v1 of 2023-12-10, v2).

    Differences:
        The defaults normalise every view, attack without drop path and take fewer,
        larger steps; `normalisation`, `train_mode_attack`, `steps` and `step_size`
        restore what the code did. The attack starts at a point of the ball that is
        clipped to [0, 1].
    """

    TERMS = ("natural", "adversarial")
    MEASURES = (*Dino.MEASURES, "perturbation", "token_change")

    def __init__(
        self, encoder, head, config, view_maker, length, rodino: RodinoConfig, **kwargs
    ):
        super().__init__(encoder, head, config, view_maker, length, **kwargs)
        self.rodino = rodino
        self.objective = ClassTokenDistance(self)
        self.attack = rodino.attack()

    @staticmethod
    def _view_settings(experiment):
        if "local" in experiment.rodino.student_views:
            return experiment.views
        return experiment.views.replace(local_count=0)

    @staticmethod
    def _settings(experiment):
        return (experiment.rodino,)

    def adversarial_tokens(self, images, keys) -> tf.Tensor:
        """Returns the student's class tokens float32 [B, D] as the attack sees them.

        Args:
            images: float32 [B, H, W, C] in [0, 1].
            keys: int32 [B, 2].
        """
        images, training = self._bypassed(images), self.rodino.train_mode_attack
        return self.encoder(images, training=training, keys=keys).cls

    def perturb(self, batch: Batch) -> Batch:
        images, keys = batch["images"], batch["keys"]
        if self.rodino.adversarial_source == "global_1":
            images = batch["global_views"][:, 0]
        drop_keys = fold_in(keys, "attack drop path")
        targets = {"keys": drop_keys}
        clean = self.adversarial_tokens(images, drop_keys)
        if self.rodino.attack_loss == "soft_ce":
            targets["probabilities"] = self._mean_probabilities(batch)
        else:
            targets["clean"] = clean
        adversarial = self.attack(
            images, targets, self.objective, keys=fold_in(keys, "attack")
        )
        self.measure("perturbation", self.attack.ball.norm(adversarial - images))
        return {**batch, "adversarial": adversarial, "clean_tokens": clean}

    def observe(self, batch, tokens):
        if ADVERSARIAL in self.views:
            attacked = tf.split(tokens, len(self.views))[self.views.index(ADVERSARIAL)]
            similarity = cosine_similarity(attacked, batch["clean_tokens"])
            self.measure("token_change", 1.0 - similarity)

    def _mean_probabilities(self, batch):
        temperature = self._temperature(self.optimizer.iterations)
        logits = batch["teacher_logits"]
        probabilities = teacher_probabilities(logits, self.centre, temperature)
        return tf.reduce_mean(probabilities, axis=1)

    def _bypassed(self, images):
        """Returns the images such that the encoder's normalisation does nothing."""
        if self.rodino.normalisation == "inside":
            return images
        config = self.encoder.get_config()
        mean, std = (tf.constant(config[x], tf.float32) for x in ("mean", "std"))
        return images * std + mean

    @property
    def views(self):
        names = self.rodino.student_views or _VARIANTS[self.rodino.variant]
        count = self.view_maker.config.local_count
        locals_ = [f"local_{index + 1}" for index in range(count)]
        views = [locals_ if name == "local" else [name] for name in names]
        return tuple(name for group in views for name in group)

    def _seen(self, batch):
        known = {
            f"{kind}_{index + 1}": view
            for kind in ("global", "local")
            if f"{kind}_views" in batch
            for index, view in enumerate(tf.unstack(batch[f"{kind}_views"], axis=1))
        }
        known[ADVERSARIAL] = self._bypassed(batch["adversarial"])
        return [known[name] for name in self.views]

    def _pair_weights(self):
        weights, share = super()._pair_weights(), self.rodino.adversarial_weight
        if share is None:
            return weights
        scaled = np.zeros_like(weights)
        for mask, part in zip(
            self._term_masks().values(), (1 - share, share), strict=True
        ):
            total = np.sum(weights * mask)
            scaled += weights * mask * (part / total if total else 0.0)
        return scaled

    def _term_masks(self):
        attacked = np.array([name == ADVERSARIAL for name in self.views], np.float64)
        return {"natural": 1.0 - attacked, "adversarial": attacked}
