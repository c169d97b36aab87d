"""Networks small enough for tests, on the embedded digits' shape."""

from kerobust.experiment import ExperimentConfig
from kerobust.methods import METHODS
from kerobust.methods.mae import MaeConfig
from kerobust.methods.mimir import MimirConfig
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VisionTransformer, VitConfig

SHAPE = (8, 8, 3)


def tiny_experiment(mae=None, **mimir) -> ExperimentConfig:
    """Returns an experiment whose networks are 16 wide and 1 deep."""
    return ExperimentConfig(
        model=VitConfig(size="free", width=16, depth=1, heads=2, patch_size=2),
        mae=MaeConfig(
            decoder_width=16, decoder_depth=1, decoder_heads=2, **(mae or {})
        ),
        mimir=MimirConfig(**mimir),
    )


def tiny_pretraining(name: str, mae=None, **mimir):
    """Returns pretraining method `name` with new networks."""
    return METHODS[name].from_experiment(tiny_experiment(mae, **mimir), SHAPE)


def tiny_classifier(drop_path: float = 0.0, num_classes: int = 10) -> Classifier:
    """Returns a classifier with new weights."""
    encoder = VisionTransformer(
        SHAPE[:2],
        patch_size=2,
        width=16,
        depth=2,
        heads=2,
        drop_path=drop_path,
        final_norm=False,
        train_positions=True,
    )
    return Classifier(encoder, ClassifierHead(num_classes))
