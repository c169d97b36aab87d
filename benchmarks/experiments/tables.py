"""What `make experiments` runs: one table of docs/results.md per data set."""

import dataclasses
import json
import pathlib

import numpy as np

from benchmarks.experiments.running import Folders, run

MAIN = "mimir"
_PRETRAININGS = {
    MAIN: (),
    "adversarial_mae": ("--mimir.weight=0",),
    "mae": ("--method=mae",),
}


@dataclasses.dataclass(frozen=True)
class Table(Folders):
    """One table: every pretraining and every baseline, for some seeds.

    Attributes:
        name: Of its run folders.
        title: Of its section.
        flagfile: Settings of every run.
        arms: Networks without pretraining, as in `--baselines.arms`.
        seeds: How many seeds the published table has.
        labels_follow_seed: Whether the seed also chooses the labelled images.
        probe_labels: Labels of the linear probe that is added; 0 = no probe.
        beside: What others report, and what a reader must know.
    """

    flagfile: str
    arms: tuple[str, ...]
    seeds: int
    labels_follow_seed: bool
    probe_labels: int
    beside: str

    def workdirs(self, seeds: range) -> list[pathlib.Path]:
        """Returns all run folders."""
        return [self.workdir(arm, seed) for seed in seeds for arm in _PRETRAININGS]

    def run(self, seed: int, extra: list[str]) -> None:
        """Runs what one seed lacks; the baselines belong to the first pretraining."""
        flags = [f"--run.seed={seed}", f"--baselines.arms={','.join(self.arms)}"]
        if self.labels_follow_seed:
            flags.append(f"--data.label_seed={seed}")
        for arm, own in _PRETRAININGS.items():
            middle = "finetune,baselines" if arm == MAIN else "finetune"
            stages = f"pretrain,{middle},evaluate"
            run(self.workdir(arm, seed), self.flagfile, stages, *flags, *own, *extra)

    def write(self, seeds: range, machine: str, extra: list[str]) -> None:
        """Rewrites the section of this table in docs/results.md."""
        from benchmarks.experiments.results import write

        write(self, seeds, machine, extra)

    def results(self, seed: int) -> dict[str, dict]:
        """Returns row name -> results.json: settings and flags per image."""
        found = {}
        for arm in _PRETRAININGS:
            folder = self.workdir(arm, seed) / "evaluate"
            for path in sorted(folder.glob("*/results.json")):
                own = "_and_" in path.parent.name
                found[arm if own else path.parent.name] = json.loads(path.read_text())
        return found

    def probes(self, seed: int) -> dict[str, np.ndarray]:
        """Returns which test images a linear probe on few labels gets right."""
        import tensorflow as tf

        from kerobust.data.datasets import DataConfig, labelled_subset, load
        from kerobust.evaluation.probes import linear_probe
        from kerobust.models.vit import VisionTransformer
        from kerobust.workflows.contenders import pixel_probe
        from kerobust.workflows.training import read_encoder

        source = load(DataConfig(name=self.name))
        train, test = source.splits["train"], source.splits["test"]
        labelled = labelled_subset(train, self.probe_labels / train.size, seed)
        images, labels = test.arrays()
        pretrained = read_encoder(self.workdir(MAIN, seed) / "encoder")
        tf.keras.utils.set_random_seed(seed)
        untrained = VisionTransformer.from_config(pretrained.get_config())
        probes = {
            MAIN: linear_probe(pretrained, labelled, source.num_classes),
            "random_init": linear_probe(untrained, labelled, source.num_classes),
            "pixels": pixel_probe(labelled, source.num_classes),
        }
        return {
            name: np.argmax(probe(tf.constant(images)), axis=1) == labels
            for name, probe in probes.items()
        }


TABLES = {
    "digits": Table(
        name="digits",
        title="Results on the embedded digits",
        flagfile="configs/mimir.flags",
        arms=("scratch", "scratch_equal_compute", "natural", "random_init", "pixels"),
        seeds=5,
        labels_follow_seed=True,
        probe_labels=50,
        beside="No paper reports numbers on this set.",
    ),
    "cifar10": Table(
        name="cifar10",
        title="Results on CIFAR-10, small network",
        flagfile="configs/mimir_cifar10_small.flags",
        arms=("scratch", "scratch_equal_compute"),
        seeds=1,
        labels_follow_seed=False,
        probe_labels=0,
        beside="Beside it, what the paper reports (arXiv:2312.04960, natural / "
        "robust %, 8/255): ViT-S 88.1 / 56.6 under PGD-20 and 53.2 under AutoAttack; "
        "ViT-T 84.8 / 53.0 and ViT-B 89.3 / 54.6 under AutoAttack, after 800 epochs of "
        "pretraining and 100 epochs of PGD-10 on all 50,000 labels on four GPUs. The "
        "numbers here come from minutes on two cores, a network with a twelfth of the "
        "weights of ViT-T, a fifth of the labels and one-step training: they compare "
        "the arms with each other, not with the paper.",
    ),
}
