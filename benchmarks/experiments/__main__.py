"""`make experiments`: the digits table over five seeds, written to docs/results.md.

Every arm of every seed is a run folder of its own under runs/experiments, so that the
command can be interrupted and repeated: finished parts are read, the rest continues.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ROOT / "runs" / "experiments"
PRETRAININGS = {
    "mimir": (),
    "adversarial_mae": ("--mimir.weight=0",),
    "mae": ("--method=mae",),
}
PROBE_LABELS = 50


def workdir(arm: str, seed: int) -> pathlib.Path:
    """Returns the run folder of one arm of one seed."""
    return RUNS / f"seed-{seed}" / arm


def run_arm(arm: str, seed: int, extra: list[str]) -> None:
    """Runs one arm through the command line that users type, in its own process."""
    stages = "pretrain,finetune,evaluate"
    if arm == "mimir":
        stages = "pretrain,finetune,baselines,evaluate"
    command = [
        sys.executable,
        "-m",
        "kerobust.train",
        "--flagfile=configs/mimir.flags",
        f"--run.workdir={workdir(arm, seed)}",
        f"--run.seed={seed}",
        f"--data.label_seed={seed}",
        f"--run.stages={stages}",
        *PRETRAININGS[arm],
        *extra,
    ]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def results_of(seed: int) -> dict[str, dict]:
    """Returns row name -> results.json of the seed: settings and flags per image."""
    found = {}
    for arm in PRETRAININGS:
        for path in sorted((workdir(arm, seed) / "evaluate").glob("*/results.json")):
            own = "_and_" in path.parent.name
            name = arm if own else path.parent.name
            found[name] = json.loads(path.read_text())
    return found


def probe_flags(seed: int) -> dict[str, np.ndarray]:
    """Returns which test images a 50-label linear probe gets right, by encoder."""
    import tensorflow as tf

    from kerobust.data.datasets import DataConfig, labelled_subset, load
    from kerobust.models.vit import VitConfig
    from kerobust.workflows.evaluating import linear_probe, pixel_probe
    from kerobust.workflows.training import read_encoder

    source = load(DataConfig())
    train, test = source.splits["train"], source.splits["test"]
    labelled = labelled_subset(train, PROBE_LABELS / train.size, seed)
    images, labels = test.arrays()
    pretrained = read_encoder(workdir("mimir", seed) / "encoder")
    tf.keras.utils.set_random_seed(seed)
    shape = VitConfig(
        width=pretrained.width,
        depth=pretrained.depth,
        heads=pretrained.heads,
        patch_size=pretrained.patch_size,
    )
    untrained = shape.build(source.image_shape)
    probes = {
        "mimir": linear_probe(pretrained, labelled, source.num_classes),
        "random_init": linear_probe(untrained, labelled, source.num_classes),
        "pixels": pixel_probe(labelled, source.num_classes),
    }
    return {
        name: np.argmax(probe(tf.constant(images)), axis=1) == labels
        for name, probe in probes.items()
    }


def main() -> None:
    """Runs what is missing and rewrites docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report_only", action="store_true")
    options, extra = parser.parse_known_args()
    seeds = range(options.seeds)
    if not options.report_only:
        for seed in seeds:
            for arm in PRETRAININGS:
                run_arm(arm, seed, extra)
    from benchmarks.experiments.results import write

    write(
        ROOT / "docs" / "results.md",
        [results_of(seed) for seed in seeds],
        [probe_flags(seed) for seed in seeds],
        machine=f"{platform.machine()}, 2 CPU cores, no GPU",
    )


if __name__ == "__main__":
    main()
