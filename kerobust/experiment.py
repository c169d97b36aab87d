"""All settings of one experiment under one roof."""

import dataclasses

from kerobust.attacks import AttackConfig
from kerobust.config import Config, UserError, check_name, format_number, setting
from kerobust.data.datasets import DataConfig
from kerobust.data.multicrop import ViewsConfig
from kerobust.evaluation.blessing import ValidateConfig
from kerobust.evaluation.config import EvaluateConfig, RepresentConfig
from kerobust.evaluation.diversity import DiversityConfig
from kerobust.evaluation.task_config import BenchmarkConfig
from kerobust.methods import METHODS
from kerobust.methods.deacl import DeaclConfig
from kerobust.methods.dino import DinoConfig
from kerobust.methods.dverge import DvergeConfig
from kerobust.methods.ensemble import EnsembleConfig
from kerobust.methods.fare import FareConfig
from kerobust.methods.finetune import FinetuneConfig
from kerobust.methods.mae import MaeConfig
from kerobust.methods.mimir import MimirConfig
from kerobust.methods.multi_config import MultiConfig
from kerobust.methods.optimisation import PretrainConfig, StartConfig
from kerobust.methods.rodino import RodinoConfig
from kerobust.models.convnet import ConvConfig
from kerobust.models.vit import VitConfig
from kerobust.training.fit import RunConfig

STAGES = (
    *("start", "pretrain", "finetune", "baselines"),
    *("perturb", "evaluate", "benchmark", "validate", "push"),
)
# Class 0 of the usual masks of data sets in which the paper's code takes 0 for nothing.
_FIRST_CLASS = {"scene_parse150": "wall", "cityscapes": "road"}


@dataclasses.dataclass(frozen=True)
class BaselinesConfig(Config):
    """What the result is compared with, each trained on the same labelled images."""

    SECTION = "baselines"

    arms: tuple[str, ...] = setting(
        ("scratch", "scratch_equal_compute", "natural", "random_init", "pixels"),
        "scratch: the same fine-tuning without pretraining; scratch_equal_compute: that"
        " for longer, until it has cost as much as pretraining and fine-tuning;"
        " natural: scratch without attacks; random_init: a linear probe on an"
        " untrained encoder; pixels: a linear classifier on raw pixels.",
        choices=(
            "scratch",
            "scratch_equal_compute",
            "natural",
            "random_init",
            "pixels",
        ),
    )
    compute_factor: float | None = setting(
        None,
        "How many fine-tunings pretraining and fine-tuning cost together; empty ="
        " from the seconds they took, which vary: set it to repeat a run exactly.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class PerturbConfig(Config):
    """Which images the stage `perturb` attacks, and how."""

    SECTION = "perturb"

    splits: tuple[str, ...] = setting(
        ("test",),
        "Splits whose images are attacked; the others are copied.",
        choices=("train", "validation", "test"),
    )
    attack: str = setting(
        "pgd",
        "Attack, on cross-entropy, within --attack.",
        choices=("fgsm", "pgd", "momentum_pgd", "autopgd"),
    )
    steps: int = setting(20, "Steps of the attack.", low=1)
    seed: int = setting(0, "Seed of random starts.", low=0)

    def __post_init__(self):
        super().__post_init__()
        self.require(bool(self.splits), "splits", "must name a split", "Try test.")


@dataclasses.dataclass(frozen=True)
class PushConfig(Config):
    """Where the stage `push` puts a blessed model."""

    SECTION = "push"

    dir: str | None = setting(
        None, "Folder of pushed models; versions are DIR/NAME/1, 2, ..."
    )
    name: str = setting("model", "Name of the model.")
    license: str = setting(
        "unknown",
        "Licence of the weights, for the model card: a word of the Hugging Face list.",
    )

    def __post_init__(self):
        super().__post_init__()
        plain = self.name.replace("-", "_").isidentifier()
        expectation = "must be letters, digits, - and _, no digit first"
        self.require(plain, "name", expectation, "It becomes the name of a folder.")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: a method name and a settings object per section."""

    method: str = "mimir"
    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: VitConfig = VitConfig()
    conv: ConvConfig = ConvConfig()
    attack: AttackConfig = AttackConfig()
    start: StartConfig = StartConfig()
    pretrain: PretrainConfig = PretrainConfig()
    views: ViewsConfig = ViewsConfig()
    dino: DinoConfig = DinoConfig()
    rodino: RodinoConfig = RodinoConfig()
    deacl: DeaclConfig = DeaclConfig()
    fare: FareConfig = FareConfig()
    multi: MultiConfig = MultiConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    dverge: DvergeConfig = DvergeConfig()
    mae: MaeConfig = MaeConfig()
    mimir: MimirConfig = MimirConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    represent: RepresentConfig = RepresentConfig()
    diversity: DiversityConfig = DiversityConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    perturb: PerturbConfig = PerturbConfig()
    validate: ValidateConfig = ValidateConfig()
    push: PushConfig = PushConfig()

    def __post_init__(self):
        check_name("--method", self.method, METHODS)
        for stage in self.run.stages:
            check_name("--run.stages", stage, STAGES)
        tuned = {"finetune", "baselines"} & set(self.run.stages)
        if METHODS[self.method].SUPERVISED and tuned:
            raise UserError(
                "`--run.stages` must not hold finetune or baselines with a method that "
                f"trains classifiers. Received: method={self.method}, stages="
                f"{','.join(self.run.stages)}. Use start,pretrain,evaluate."
            )
        if "benchmark" in self.run.stages and "segmentation" in self.benchmark.tasks:
            self.benchmark.require(
                self.data.labels != "repo" or self.benchmark.void == 0,
                "void",
                "must be 0 with --data.labels=repo, whose class 0 means nothing",
                "For other masks than those of VOC, ADE20K and Cityscapes leave "
                "--data.labels at standard.",
            )
            first = _FIRST_CLASS.get(self.data.name, "")
            self.benchmark.require(
                self.data.labels == "repo" or self.benchmark.void != 0 or not first,
                "void",
                f"must be empty with --data.labels=standard, whose class 0 is {first}",
                "Or use --data.labels=repo, the masks of the paper's code.",
            )

    def to_flags(self) -> dict[str, str]:
        """Returns every setting as flag name (without dashes) -> text."""
        flags = {"method": self.method}
        for section, settings in self.sections().items():
            for field in dataclasses.fields(settings):
                value = getattr(settings, field.name)
                flags[f"{section}.{field.name}"] = to_text(value)
        return flags

    def sections(self) -> dict[str, Config]:
        """Returns section name -> settings."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "method"
        }


def to_text(value) -> str:
    """Returns the text of a setting's value as a flag file holds it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(to_text(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return format_number(value) if isinstance(value, float) else str(value)
