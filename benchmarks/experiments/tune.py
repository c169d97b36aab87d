"""Chooses the settings of configs/mimir.flags on the validation images.

`python -m benchmarks.experiments.tune` pretrains with every mask ratio and target,
fine-tunes each encoder, and a new network, with every rate and layer decay, with a seed
that the reported table does not use, and writes docs/tuning.md. Test images are never
read. Finished runs are read, so that an interrupted search continues.
"""

import itertools
import json
import pathlib
import subprocess
import sys

from tabulate import tabulate

from benchmarks.experiments.__main__ import ROOT, RUNS

SEED = 1000
ENCODERS = {
    f"mask {ratio}, {target}": (
        f"--mae.mask_ratio={ratio}",
        f"--mae.norm_pix={flag}",
    )
    for ratio in ("0.5", "0.75")
    for target, flag in (("normalised target", "true"), ("plain target", "false"))
}
BATCH = 66
RATES_AND_DECAYS = (
    ("3e-3", "1.0"),
    ("6e-3", "1.0"),
    ("12e-3", "1.0"),
    ("6e-3", "0.75"),
)
UNTRAINED = "no pretraining"
NO_STEPS = (
    "--pretrain.epochs=1",
    "--pretrain.warmup_epochs=0",
    "--pretrain.base_rate=0",
)
ABOUT = f"""# How the settings of configs/mimir.flags were chosen

`python -m benchmarks.experiments.tune`: 200 validation images, seed {SEED} (not among
the reported ones), one run each. Every rate and decay was tried from every encoder and
without pretraining, so that the arm without pretraining is tuned as well as the one
with it. The length of training fits the five minutes of `make quickstart`;
architecture, labels, normalisation and attack were not searched this way.

"""


def run(name: str, stages: str, *flags: str) -> pathlib.Path:
    """Runs stages in a folder of their own, which it returns."""
    workdir = RUNS.parent / "tuning" / name
    command = [sys.executable, "-m", "kerobust.train", "--flagfile=configs/mimir.flags"]
    command += [f"--run.workdir={workdir}", f"--run.seed={SEED}"]
    command += [f"--run.stages={stages}", *flags]
    command += ["--evaluate.split=validation", "--evaluate.attacks=pgd"]
    command += ["--evaluate.curve=false", f"--data.label_seed={SEED}"]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    return workdir


def finetune_flags(rate: str, decay: str) -> list[str]:
    """Returns the flags of one candidate; the base rate is per 256 images."""
    return [
        f"--finetune.batch_size={BATCH}",
        f"--finetune.base_rate={float(rate) * 256 / BATCH!r}",
        f"--finetune.layer_decay={decay}",
    ]


def main() -> None:
    """Tries every candidate and writes docs/tuning.md."""
    rows = []
    for start, (rate, decay) in itertools.product(
        [*ENCODERS, UNTRAINED], RATES_AND_DECAYS
    ):
        folder = start.replace(",", "").replace(" ", "_")
        flags = ENCODERS.get(start, NO_STEPS)
        encoder = run(f"{folder}/pretrain", "pretrain", *flags) / "encoder"
        workdir = run(
            f"{folder}/{rate}-{decay}",
            "finetune,evaluate",
            f"--run.init_from={encoder}",
            *finetune_flags(rate, decay),
        )
        row = json.loads((workdir / "report.json").read_text())["rows"][0]
        natural, worst = (100 * row[kind]["accuracy"] for kind in ("natural", "worst"))
        rows.append([start, rate, decay, f"{natural:.1f}", f"{worst:.1f}"])
    headers = ["start", "peak rate", "layer decay", "natural %", "PGD-20 x 2 %"]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    (ROOT / "docs" / "tuning.md").write_text(f"{ABOUT}{table}\n")


if __name__ == "__main__":
    main()
