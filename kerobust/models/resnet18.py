"""The ResNet-18 for small images, with projections as shortcuts."""

import tensorflow as tf

from kerobust.config import UserError
from kerobust.models.normalisation import per_channel
from kerobust.models.resnet import (
    ProjectionBlock,
    ResidualNetwork,
    batch_norm,
    convolution,
)


@tf.keras.saving.register_keras_serializable("kerobust")
class ResNet18(ResidualNetwork):
    """Encodes images of any size with four stages of two residual blocks.

    The ResNet-18 with a first convolution of 3 x 3 at stride 1 and no pooling after it;
    stages 2 to 4 halve height and width. All variables exist after construction.
    Tokens and feature maps are float32 under every precision policy, and pixels stay
    float32 up to the first convolution. Batch norm is synchronised: with several
    replicas its statistics are those of the global batch.

    Args:
        mean, std: Channel normalisation (images - mean) / std, one number or one per
            channel.
        channels: Channels of the images.
        stem_padding: Zeros around the normalised images for the first convolution, at
            least 1. With 2, as solo-learn and DeACL have it, maps are two pixels larger
            than images: 32 x 32 pixels make maps of sides 34, 17, 9 and 5.
        widths: Channels of the four stages; the usual ones make 11,168,832 parameters
            of 3 channels.

    Call arguments:
        images: float32 [B, H, W, C] in [0, 1].
        training: Python bool; it changes nothing but batch norm.
        keys: Not used, as in `ResNet`.

    Returns:
        `Tokens`: patches float32 [B, N, D], the pixels of the last map in row-major
        order, D = the last of `widths`; cls float32 [B, D], their mean.

    Raises:
        UserError: If the images have other channels, or a setting is impossible.

    References:
        He et al., 2016, arXiv:1512.03385; Zhang et al., 2022, arXiv:2207.10899 (DeACL),
        and its code.

    Differences:
        Initial values are normal with variance 2 over the inputs of a kernel; those of
        torchvision take the outputs. The running variance is that of the batch divided
        by B H W; PyTorch divides by B H W - 1.
    """

    def __init__(
        self,
        *,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        channels: int = 3,
        stem_padding: int = 2,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if stem_padding < 1:
            raise UserError(
                "`stem_padding` must be at least 1: 2 as in DeACL, or 1, which keeps "
                f"the size of the images. Received: stem_padding={stem_padding}."
            )
        self.channels, self.stem_padding = channels, stem_padding
        self.widths = tuple(int(width) for width in widths)
        self.width = self.widths[-1]
        self._mean = per_channel("mean", mean, channels)
        self._std = per_channel("std", std, channels)
        self.conv1 = convolution(self.widths[0], 1, "conv1", padding="valid")
        self.norm1 = batch_norm("norm1")
        self.stages = [self._stage(index) for index in range(len(self.widths))]
        self._make_variables()

    def _stage(self, stage: int) -> list[ProjectionBlock]:
        width, before = self.widths[stage], self.widths[max(stage - 1, 0)]
        stride = 1 if stage == 0 else 2
        first = ProjectionBlock(
            width,
            stride,
            projects=stride > 1 or width != before,
            name=f"stage_{stage}_block_0",
        )
        second = ProjectionBlock(width, projects=False, name=f"stage_{stage}_block_1")
        return [first, second]

    def _padded(self, images):
        around = [self.stem_padding, self.stem_padding]
        return tf.pad(images, [[0, 0], around, around, [0, 0]])

    def get_config(self):
        return {
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "channels": self.channels,
            "stem_padding": self.stem_padding,
            "widths": list(self.widths),
        }
