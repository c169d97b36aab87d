"""Settings of a vision transformer."""

import dataclasses

from kerobust.config import Config, setting
from kerobust.models.blocks import MLPS
from kerobust.models.positions import INTERPOLATIONS
from kerobust.models.transformer import POSITIONS, VisionTransformer

SIZES = {  # name: (width, depth, heads)
    "free": (64, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


@dataclasses.dataclass(frozen=True)
class VitConfig(Config):
    """Shape of a vision transformer."""

    SECTION = "model"

    size: str = setting(
        "free",
        "Sets width, depth and heads together: free (64, 4, 4), tiny (192, 12, 3), "
        "small (384, 12, 6), base (768, 12, 12), large (1024, 24, 16).",
        choices=tuple(SIZES),
    )
    width: int | None = setting(None, "Token width; empty = that of the size.", low=1)
    depth: int | None = setting(None, "Blocks; empty = that of the size.", low=1)
    heads: int | None = setting(None, "Heads; empty = that of the size.", low=1)
    patch_size: int = setting(2, "Side of a patch in pixels; divides the image.", low=1)
    positions: str = setting(
        "sincos", "Position embedding: fixed sine-cosine or learned.", choices=POSITIONS
    )
    interpolation: str | None = setting(
        None,
        "How positions are fitted to images of another size, by the source of the "
        "weights; empty = other sizes are refused.",
        choices=INTERPOLATIONS,
    )
    registers: int = setting(
        0, "Learned tokens beside the class token that no result holds.", low=0
    )
    layer_scale: float | None = setting(
        None,
        "First value of the learned weight per channel of every residual branch, in "
        "(0, 1]; empty = no such weights.",
        low=0,
        high=1,
        open_low=True,
    )
    mlp: str = setting(
        "gelu", "MLP of a block: two layers with GELU, or SwiGLU.", choices=tuple(MLPS)
    )
    mlp_ratio: float = setting(
        4.0, "Hidden width of the MLPs over the width.", low=0, open_low=True
    )
    qkv_bias: bool = setting(True, "Whether queries, keys and values have a bias.")
    mean: tuple[float, ...] = setting(
        (0.0,), "Subtracted from the pixels: one number, or one per channel."
    )
    std: tuple[float, ...] = setting(
        (1.0,),
        "Then divides the pixels: one number, or one per channel.",
        low=0,
        open_low=True,
    )

    def build(
        self,
        image_shape: tuple[int, int, int],
        drop_path: float = 0.0,
        *,
        final_norm: bool = True,
        train_positions: bool = False,
    ) -> VisionTransformer:
        """Returns a new encoder for images of (height, width, channels)."""
        width, depth, heads = SIZES[self.size]
        height, image_width, channels = image_shape
        return VisionTransformer(
            (height, image_width),
            self.patch_size,
            self.width or width,
            self.depth or depth,
            self.heads or heads,
            positions=self.positions,
            interpolation=self.interpolation,
            registers=self.registers,
            layer_scale=self.layer_scale,
            mlp=self.mlp,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            drop_path=drop_path,
            mean=self.mean,
            std=self.std,
            channels=channels,
            final_norm=final_norm,
            train_positions=train_positions,
        )

    def shaped_like(self, encoder: VisionTransformer) -> "VitConfig":
        """Returns the settings that build an encoder as that one is, for any images."""
        built = encoder.get_config()
        names = {field.name for field in dataclasses.fields(self)} & built.keys()
        values = {name: built[name] for name in names}
        values |= {name: tuple(built[name]) for name in ("mean", "std")}
        return self.replace(**values)
