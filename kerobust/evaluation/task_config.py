"""What the benchmark across tasks does: encoders, probes, attacks."""

import dataclasses

from kerobust.config import Config, setting
from kerobust.models.heads import POOLINGS
from kerobust.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Config):
    """Frozen encoders, linear heads on every task, attacks on embedding and output."""

    SECTION = "benchmark"

    encoders: tuple[str, ...] = setting(
        (),
        "Bundles of the encoders to compare, NAME=FOLDER or FOLDER; the flag"
        " --evaluation.encoders is the same.",
    )
    tasks: tuple[str, ...] = setting(
        tuple(TASKS),
        "Tasks; those for which a data set has no labels, masks or depths are left"
        " out.",
        choices=tuple(TASKS),
    )
    data: tuple[str, ...] = setting(
        (),
        "Data sets on which heads are fitted and attacked, as --data.name writes them;"
        " empty = --data.name.",
    )
    steps: int = setting(20, "Steps of the benchmark's attacks.", low=1)
    suite_steps: int = setting(
        100, "Steps of each attack of the suites; 0 = without suites.", low=0
    )
    step_size: float | None = setting(
        None,
        "Step of the benchmark's attacks, pixel units (the paper's: 2/255); empty ="
        " 2.5 epsilon / steps.",
        low=0,
        open_low=True,
    )
    curve: bool = setting(
        True, "Whether the benchmark's attacks are also made at other radii."
    )
    epsilons: tuple[float, ...] = setting(
        (), "Radii of the curve; empty = 1/4, 1/2 and 2 times epsilon.", low=0
    )
    whitened: bool = setting(True, "Whether the suites attack whitened tokens as well.")
    diagnose: bool = setting(
        True,
        "Whether signs of masked gradients are looked for, on 64 of the images.",
    )
    limit: int | None = setting(
        None,
        "Attack this many of the test images, evenly spread; clean metrics are of all.",
        low=1,
    )
    batch_size: int = setting(64, "Images attacked at once.", low=1)
    seed: int = setting(0, "Seed of heads and of random starts.", low=0)
    features: str = setting(
        "cls", "What the classifier's head reads.", choices=POOLINGS
    )
    head_epochs: int = setting(20, "Passes over the images for a dense head.", low=1)
    head_batch_size: int = setting(16, "Windows per step of a dense head.", low=1)
    head_rate: float = setting(
        1e-3, "Learning rate of dense heads (AdamW).", low=0, open_low=True
    )
    head_decay: float = setting(1e-4, "Weight decay of dense heads.", low=0)
    depth_bins: int = setting(
        256, "Bins of the depth head; 1 = plain regression.", low=1
    )
    depth_most: float = setting(
        10.0, "Largest depth that counts, metres.", low=0, open_low=True
    )
    void: int | None = setting(
        None,
        "Mask class that does not count (0: the convention of the paper's code); empty"
        " = every class counts.",
        low=0,
    )
    window: int | None = setting(
        None,
        "Side of the windows into which larger images are cut for masks and depths;"
        " empty = what the encoder takes.",
        low=1,
    )
    stride: int | None = setting(
        None, "Pixels between windows; empty = three quarters of a window.", low=1
    )
    windows_at_once: int = setting(
        16,
        "Windows of an image that pass the encoder together; fewer = less memory.",
        low=1,
    )
    average: str = setting(
        "logits",
        "What is averaged where windows meet; of depths always the depths.",
        choices=("logits", "probabilities"),
    )
    tokens_gigabytes: float = setting(
        4.0,
        "Tokens of the training images, on which dense heads are fitted, may take this"
        " much memory (10^9 bytes), twice that while they are put together.",
        low=0,
        open_low=True,
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(bool(self.tasks), "tasks", "must name a task", "Add segmentation.")
