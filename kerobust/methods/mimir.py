"""MIMIR: adversarial masked autoencoding with a mutual-information penalty."""

import dataclasses

import tensorflow as tf

from kerobust.attacks import PGD, Objective
from kerobust.config import Config, setting
from kerobust.losses.dependence import ESTIMATORS, chunk_mean
from kerobust.losses.reconstruction import reconstruction_error
from kerobust.methods.base import Batch
from kerobust.methods.mae import Mae, MaeConfig
from kerobust.models.mae import Mask, pixel_mask
from kerobust.randomness import fold_in


@dataclasses.dataclass(frozen=True)
class MimirConfig(Config):
    """The attack and the penalty of MIMIR."""

    SECTION = "mimir"

    preset: str = setting(
        "paper",
        "paper: clean target, one mask for attack and loss, visible patches perturbed;"
        " repo: what the authors' code runs (the attacked image is its own target,"
        " masks drawn independently, all pixels perturbed).",
        choices=("paper", "repo"),
    )
    epsilon: float = setting(
        8 / 255,
        "Linf radius of the pretraining attack, pixel units in [0, 1].",
        low=0,
        high=1,
        hint="Images lie in [0, 1]: did you mean 8/255?",
    )
    step_size: float = setting(
        10 / 255, "Step of the pretraining attack, pixel units.", low=0, high=1
    )
    steps: int = setting(1, "Steps of the pretraining attack.", low=1)
    weight: float = setting(
        1e-5, "Weight of the penalty; 0 gives an adversarial autoencoder.", low=0
    )
    estimator: str = setting(
        "nhsic", "Dependence measure of the penalty.", choices=tuple(ESTIMATORS)
    )
    mi_batch: int = setting(
        128,
        "Examples that enter one kernel matrix; the weight is tuned for 128.",
        low=2,
    )


class MaskedReconstruction(Objective):
    """Reconstruction error per example; the mask and the target travel in `targets`.

    Targets are a dict with the fields of `Mask` and `target` float32 [B, N, P]; without
    `target` the attacked image is its own target, with gradient (preset `repo`).
    """

    def __init__(self, mae: Mae):
        super().__init__()
        self._mae = mae

    def outputs(self, images):
        return images  # The forward needs the mask, which only `values` is given.

    def values(self, outputs, targets):
        mask = Mask(targets["visible"], targets["restore"], targets["removed"])
        target = targets.get("target")
        if target is None:
            target = self._mae.target(outputs)
        _, predictions = self._mae.reconstruct(outputs, mask)
        return reconstruction_error(predictions, target, mask.removed)


class Mimir(Mae):
    """Reconstructs the clean image from an attacked one, and forgets the attack.

    Loss = masked reconstruction of the CLEAN image from the adversarial one
    + weight * dependence(adversarial pixels, visible tokens).

    References:
        Xu et al., MIMIR, arXiv:2312.04960, sections 3-4 and appendix.

    Differences:
        The penalty is the normalised HSIC of the authors' code by default, not the
        plain HSIC of the paper's appendix; it averages over chunks of `mi_batch`.
        In the default preset hidden pixels equal the clean ones.
    """

    TERMS: tuple[str, ...] = ("reconstruction", "dependence")
    MEASURES = ("perturbation", "dependence_value", "dependence_skipped")

    def __init__(
        self,
        encoder,
        decoder,
        config: MaeConfig,
        mimir: MimirConfig,
        **kwargs,
    ):
        super().__init__(encoder, decoder, config, **kwargs)
        self.mimir = mimir
        self.estimator = ESTIMATORS[mimir.estimator]()
        self.objective = MaskedReconstruction(self)
        self.attack = PGD(mimir.epsilon, steps=mimir.steps, step_size=mimir.step_size)

    @staticmethod
    def _settings(experiment):
        return (experiment.mae, experiment.mimir)

    def perturb(self, batch: Batch) -> Batch:
        images, keys = batch["images"], batch["keys"]
        paper = self.mimir.preset == "paper"
        mask = self.draw_mask(keys, "mask" if paper else "attack mask")
        targets = mask._asdict() | ({"target": self.target(images)} if paper else {})
        adversarial = self.attack(
            images, targets, self.objective, keys=fold_in(keys, "attack")
        )
        if paper:  # Only the random start ever reaches hidden pixels: take it back.
            visible = pixel_mask(
                1.0 - mask.removed, self.encoder.grid, self.encoder.patch_size
            )
            adversarial = tf.where(visible > 0, adversarial, images)
        return {**batch, "adversarial": adversarial}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        adversarial = batch["adversarial"]
        mask = self.draw_mask(batch["keys"])
        tokens, predictions = self.reconstruct(adversarial, mask, training)
        error = reconstruction_error(
            predictions, self.target(batch["images"]), mask.removed
        )
        value, skipped = self._dependence(adversarial, tokens)
        change = tf.abs(adversarial - batch["images"])
        self.measure("perturbation", tf.reduce_max(change, axis=[1, 2, 3]))
        self.measure("dependence_value", value)
        self.measure("dependence_skipped", skipped)
        return {
            "reconstruction": tf.reduce_mean(error),
            "dependence": self.mimir.weight * value,
        }

    def _dependence(self, adversarial, tokens):
        """Returns the dependence of pixels and visible tokens, and skipped chunks."""
        if self.mimir.weight == 0:
            return tf.constant(0.0), tf.constant(0.0)
        latent = tf.concat([tokens.cls[:, tf.newaxis], tokens.patches], axis=1)
        rows = tf.shape(adversarial)[0]
        return chunk_mean(
            self.estimator,
            tf.reshape(adversarial, [rows, -1]),
            tf.reshape(latent, [rows, -1]),
            self.mimir.mi_batch,
        )
