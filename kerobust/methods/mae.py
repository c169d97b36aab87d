"""Masked autoencoding: reconstruct hidden patches from the visible ones."""

import dataclasses

import tensorflow as tf

from kerobust.config import Config, setting
from kerobust.losses.reconstruction import (
    normalise_patches,
    reconstruction_error,
    restore_patches,
)
from kerobust.methods.base import Batch, Method
from kerobust.methods.start import encoder_of
from kerobust.models.mae import MaeDecoder, Mask, pixel_mask, random_mask
from kerobust.models.vit import VisionTransformer
from kerobust.models.weights import copy_encoder_weights
from kerobust.patches import patchify, unpatchify
from kerobust.randomness import fold_in, uniform
from kerobust.types import Tokens


@dataclasses.dataclass(frozen=True)
class MaeConfig(Config):
    """Masking, decoder and target of a masked autoencoder."""

    SECTION = "mae"

    mask_ratio: float = setting(
        0.75,
        "Share of patches that are hidden, in (0, 1).",
        low=0,
        high=1,
        open_low=True,
        open_high=True,
    )
    decoder_width: int = setting(128, "Width of the decoder.", low=4)
    decoder_depth: int = setting(2, "Blocks of the decoder.", low=1)
    decoder_heads: int = setting(16, "Attention heads of the decoder.", low=1)
    norm_pix: bool = setting(
        True, "Whether each target patch is normalised to mean 0 and variance 1."
    )

    def decoder_for(self, encoder: VisionTransformer) -> MaeDecoder:
        """Returns a new decoder that fits `encoder`."""
        return MaeDecoder(
            encoder.grid,
            encoder.patch_size,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            channels=encoder.channels,
            input_width=encoder.width,
        )


class Mae(Method):
    """Masked autoencoder: mean squared error on the hidden patches.

    Args:
        encoder: Encoder with visible-patch masking.
        decoder: `MaeDecoder` of the same grid.
        config: `MaeConfig`.

    References:
        He et al., 2022, arXiv:2111.06377, section 3.
    """

    TERMS: tuple[str, ...] = ("reconstruction",)

    def __init__(self, encoder, decoder, config: MaeConfig, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.config = config
        rows, columns = encoder.grid
        self.patches = rows * columns
        self.kept = int(self.patches * (1 - config.mask_ratio))
        config.require(
            self.kept >= 1,
            "mask_ratio",
            f"must leave at least one of the {self.patches} patches visible",
            "Lower it or use smaller patches.",
        )

    @classmethod
    def from_experiment(cls, experiment, image_shape, length=None, start=None):
        """Returns the method with new networks, as an `ExperimentConfig` says.

        Args:
            experiment: `ExperimentConfig`.
            image_shape: (height, width, channels).
            length: Not used: nothing here depends on it.
            start: Loaded bundle whose encoder gives the first weights; None = new ones.
        """
        del length
        encoder = experiment.model.build(image_shape)
        if start is not None:
            copy_encoder_weights(encoder_of(start), encoder)
        decoder = experiment.mae.decoder_for(encoder)
        return cls(encoder, decoder, *cls._settings(experiment))

    @staticmethod
    def _settings(experiment) -> tuple:
        return (experiment.mae,)

    @property
    def exports(self):
        return {"encoder": self.encoder, "decoder": self.decoder}

    def draw_mask(self, keys: tf.Tensor, purpose: str = "mask") -> Mask:
        """Returns one random mask per example, a function of its key alone."""
        return random_mask(uniform(fold_in(keys, purpose), [self.patches]), self.kept)

    def target(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what the decoder must predict, float32 [B, N, P]."""
        patches = patchify(images, self.encoder.patch_size)
        return normalise_patches(patches) if self.config.norm_pix else patches

    def reconstruct(
        self, images: tf.Tensor, mask: Mask, training: bool = False
    ) -> tuple[Tokens, tf.Tensor]:
        """Returns the visible tokens and the predictions float32 [B, N, P]."""
        tokens = self.encoder(images, visible=mask.visible, training=training)
        return tokens, self.decoder(tokens, mask.restore)

    def pictures(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns what the method sees and does as images [B, H, W, C] in [0, 1].

        Visible patches are pasted into the reconstruction; a normalised prediction is
        scaled back with the mean and deviation of the patch it stands for.
        """
        batch = self.perturb(batch)
        clean, seen = batch["images"], batch.get("adversarial", batch["images"])
        mask = self.draw_mask(batch["keys"])
        _, predictions = self.reconstruct(seen, mask)
        size = self.encoder.patch_size
        removed = pixel_mask(mask.removed, self.encoder.grid, size)
        if self.config.norm_pix:
            predictions = restore_patches(predictions, patchify(clean, size))
        drawn = unpatchify(predictions, clean.shape[1], clean.shape[2], size)
        pictures = {"clean": clean}
        if "adversarial" in batch:
            change = seen - clean
            scale = tf.maximum(tf.reduce_max(tf.abs(change)), 1e-6)
            pictures |= {"adversarial": seen, "perturbation": 0.5 + change / scale / 2}
        masked = tf.where(removed > 0, 0.5 * tf.ones_like(seen), seen)
        drawn = tf.where(removed > 0, drawn, seen)
        pictures |= {"masked": masked, "reconstruction": drawn}
        return {name: tf.clip_by_value(x, 0.0, 1.0) for name, x in pictures.items()}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        mask = self.draw_mask(batch["keys"])
        _, predictions = self.reconstruct(batch["images"], mask, training)
        error = reconstruction_error(
            predictions, self.target(batch["images"]), mask.removed
        )
        return {"reconstruction": tf.reduce_mean(error)}
