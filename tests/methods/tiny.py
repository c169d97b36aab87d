"""Networks small enough for tests, on the embedded digits' shape."""

import functools

from kerobust.attacks import AttackConfig
from kerobust.data import datasets
from kerobust.data.multicrop import MultiCrop, ViewsConfig
from kerobust.data.views import training_batches
from kerobust.experiment import ExperimentConfig
from kerobust.methods import METHODS
from kerobust.methods.deacl import DeaclConfig
from kerobust.methods.dino import DinoConfig
from kerobust.methods.dverge import DvergeConfig
from kerobust.methods.ensemble import EnsembleConfig
from kerobust.methods.fare import FareConfig
from kerobust.methods.mae import MaeConfig
from kerobust.methods.mimir import MimirConfig
from kerobust.methods.multi_config import MultiConfig
from kerobust.methods.rodino import RodinoConfig
from kerobust.methods.start import Length
from kerobust.models.convnet import ConvConfig
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.vit import VisionTransformer, VitConfig

SHAPE = (8, 8, 3)
DINO = {
    "prototypes": 12,
    "hidden": 16,
    "bottleneck": 8,
    "frozen_epochs": 0.0,
    "drop_path": 0.5,
}
ENSEMBLE = {"members": 3, "attack_steps": 2}
DVERGE = {"epsilon": 0.2, "step_size": 0.05, "steps": 3}
MULTI = {
    "epsilon": 0.2,
    "steps": 2,
    "dual_width": 8,
    "dual_every": 1,
}
VIEWS = {"local_count": 2, "local_size": 4}
LENGTH = Length(epochs=10, steps_per_epoch=10)


def tiny_experiment(
    mae=None,
    dino=None,
    views=None,
    rodino=None,
    deacl=None,
    ensemble=None,
    dverge=None,
    multi=None,
    **mimir,
) -> ExperimentConfig:
    """Returns an experiment whose networks are 16 wide and 1 deep."""
    return ExperimentConfig(
        model=VitConfig(
            size="free",
            width=16,
            depth=1,
            heads=2,
            patch_size=2,
            mean=(0.3,),
            std=(0.4,),
        ),
        mae=MaeConfig(
            decoder_width=16, decoder_depth=1, decoder_heads=2, **(mae or {})
        ),
        mimir=MimirConfig(**mimir),
        dino=DinoConfig(**{**DINO, **(dino or {})}),
        rodino=RodinoConfig(**(rodino or {})),
        deacl=DeaclConfig(**(deacl or {})),
        fare=FareConfig(epsilon=0.2, steps=2, step_size=0.1),
        multi=MultiConfig(**{**MULTI, **(multi or {})}),
        conv=ConvConfig(widths=(4, 6), hidden=(12, 8), kernel_size=3, padding="same"),
        ensemble=EnsembleConfig(**{**ENSEMBLE, **(ensemble or {})}),
        dverge=DvergeConfig(**{**DVERGE, **(dverge or {})}),
        attack=AttackConfig(epsilon=0.1),
        views=ViewsConfig(**{**VIEWS, **(views or {})}),
    )


def tiny_pretraining(name: str, **settings):
    """Returns pretraining method `name` with new networks; teachers are untrained."""
    experiment = tiny_experiment(**settings)
    start = None
    if name in ("deacl", "fare", "multi"):
        start = experiment.model.build(SHAPE)
    more = {"num_classes": 10} if METHODS[name].SUPERVISED else {}
    return METHODS[name].from_experiment(experiment, SHAPE, LENGTH, start, **more)


def first_batch(
    size: int = 16, views: MultiCrop | None = None, partners: bool = False
) -> dict:
    """Returns a batch of digits with what `views` and partners add."""
    return dict(_first_batch(size, None if views is None else views.config, partners))


@functools.cache
def _first_batch(size: int, config: ViewsConfig | None, partners: bool) -> dict:
    views = None if config is None else MultiCrop(config)
    split = datasets.load(datasets.DataConfig()).splits["train"]
    given = {"views": views, "partners": partners}
    batches = training_batches(split, batch_size=size, steps=1, seed=1, **given)
    return next(iter(batches))


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
