"""Chooses the settings of configs/mimir.flags on the validation images.

`python -m benchmarks.experiments.tune` tries fine-tuning settings from MIMIR encoders
with and without normalised targets, and the same settings without pretraining, with a
seed that the reported table does not use, and writes docs/tuning.md. Test images are
never read.
"""

import itertools
import json
import subprocess
import sys

from tabulate import tabulate

from benchmarks.experiments.__main__ import ROOT, RUNS

SEED = 1000
ENCODERS = {"norm_pix": "true", "plain_pix": "false"}
RATES_AND_DECAYS = (("1e-3", "1.0"), ("3e-3", "1.0"), ("3e-3", "0.75"))


def run(name: str, stages: str, *flags: str) -> dict | None:
    """Runs stages in a folder of their own; returns the report's first row, if any."""
    workdir = RUNS.parent / "tuning" / name
    command = [sys.executable, "-m", "kerobust.train", "--flagfile=configs/mimir.flags"]
    command += [f"--run.workdir={workdir}", f"--run.seed={SEED}"]
    command += [f"--run.stages={stages}", *flags]
    command += ["--evaluate.split=validation", "--evaluate.attacks=pgd"]
    command += ["--evaluate.curve=false", f"--data.label_seed={SEED}"]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    report = workdir / "report.json"
    return json.loads(report.read_text())["rows"][0] if report.exists() else None


def tuned_flags(rate: str, decay: str) -> list[str]:
    """Returns the flags of one candidate; the base rate is per 256 images."""
    base = float(rate) * 256 / 99
    return [f"--finetune.base_rate={base!r}", f"--finetune.layer_decay={decay}"]


def main() -> None:
    """Tries every candidate and writes docs/tuning.md."""
    rows = []
    for encoder, norm_pix in ENCODERS.items():
        run(encoder, "pretrain", f"--mae.norm_pix={norm_pix}")
    starts = [*ENCODERS, "untrained"]
    for start, (rate, decay) in itertools.product(starts, RATES_AND_DECAYS):
        flags = tuned_flags(rate, decay)
        bundle = RUNS.parent / "tuning" / start / "encoder"
        if start == "untrained":
            none = ("--pretrain.epochs=1", "--pretrain.warmup_epochs=0")
            run("untrained", "pretrain", "--pretrain.base_rate=0", *none)
        name = f"{start}-{rate}-{decay}"
        row = run(name, "finetune,evaluate", f"--run.init_from={bundle}", *flags)
        natural, worst = (100 * row[kind]["accuracy"] for kind in ("natural", "worst"))
        rows.append([start, rate, decay, f"{natural:.1f}", f"{worst:.1f}"])
    headers = ["start", "peak rate", "layer decay", "natural %", "PGD-20 x 2 %"]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    text = (
        "# How the settings of configs/mimir.flags were chosen\n\n"
        "`python -m benchmarks.experiments.tune`; 200 validation images, seed "
        f"{SEED} (not among the reported ones), one run each. Every candidate was run "
        "from both encoders and without pretraining, so that the arm without "
        "pretraining is tuned as well as the one with it.\n\n"
    )
    (ROOT / "docs" / "tuning.md").write_text(text + table + "\n")


if __name__ == "__main__":
    main()
