"""AutoAttack beside PGD on CIFAR-10 networks, for docs/results.md.

Networks are bundles of this library, named on the command line, and the published
Vision Transformers that the tests read. Evaluations are kept batch by batch under
runs/experiments/autoattack, so that the command can be interrupted and repeated:

    python -m benchmarks.experiments.published DATA [NAME=BUNDLE ...]

DATA is the folder that KEROBUST_DATA names.
"""

import argparse
import datetime
import pathlib
import sys

import numpy as np
from tabulate import tabulate

from benchmarks import _measure
from benchmarks._pages import ROOT, replace_section
from benchmarks.experiments.running import RUNS
from kerobust.attacks import AttackConfig
from kerobust.config import format_number
from kerobust.data import Split
from kerobust.data.arrays import Memory
from kerobust.evaluation import EvaluateConfig
from kerobust.evaluation.evaluator import Evaluator
from kerobust.evaluation.report import row
from kerobust.evaluation.results import Evaluation
from kerobust.models.bundle import load_bundle
from tests.models.published import cifar10_test, vit

TITLE = "AutoAttack on CIFAR-10"
# Name -> (arguments of `vit`, radii).
PUBLISHED = {
    "published ViT, PGD-trained": (("pgd_2_3_16", 16, 2), (2 / 255, 8 / 255)),
    "published ViT, IBP-trained": (("ibp_3_3_8", 8, 3), (8 / 255,)),
}


def main() -> None:
    """Evaluates what is missing and rewrites the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path, help="folder of KEROBUST_DATA")
    parser.add_argument("bundles", nargs="*", metavar="NAME=BUNDLE")
    parser.add_argument("--images", type=int, default=500, help="of the test set")
    parser.add_argument("--batch", type=int, default=100, help="images at once")
    options = parser.parse_args()
    images, labels = cifar10_test(options.data)
    rows = np.arange(options.images)
    split = Split(Memory(images[rows]), rows, labels[rows])
    lines = []
    for name, model, epsilon in _networks(options):
        found = _evaluate(name, model, epsilon, split, options.batch)
        lines.append(_line(name, epsilon, found))
        print(lines[-1], *found.notes, sep="\n", flush=True)
    replace_section(ROOT / "docs" / "results.md", TITLE, _text(options, lines))


def _networks(options):
    """Yields (name, images -> logits, epsilon)."""
    for name, ((file, patch, depth), radii) in PUBLISHED.items():
        model = vit(options.data, file, patch_size=patch, depth=depth)
        for epsilon in radii:
            yield name, model, epsilon
    for pair in options.bundles:
        name, _, folder = pair.partition("=")
        yield name, load_bundle(folder), 8 / 255


def _evaluate(name, model, epsilon, split, batch) -> Evaluation:
    config = EvaluateConfig(
        attacks=("pgd", "autoattack"),
        steps=20,
        restarts=2,
        batch_size=batch,
        curve=False,
    )
    evaluator = Evaluator(AttackConfig(epsilon=epsilon), config)
    folder = f"{name}-{round(255 * epsilon)}-{split.size}".replace(" ", "_")
    return evaluator(
        model,
        split,
        state_dir=RUNS / "autoattack" / folder.replace(",", ""),
        progress=lambda text: print(f"{name}: {text}", flush=True),
    )


def _line(name: str, epsilon: float, found: Evaluation) -> dict[str, str]:
    shown = row(name, found)
    suite = found.suites["autoattack"]
    line = {"network": name, "epsilon": format_number(epsilon)}
    for title, share in {
        "natural %": shown["natural"],
        "PGD-20 x 2 %": shown["robust"]["pgd"],
        "AutoAttack %": shown["robust"]["autoattack"],
    }.items():
        low, high = 100 * share["low"], 100 * share["high"]
        line[title] = f"{100 * share['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
    for member, part in suite.members.items():
        line[f"{member} breaks"] = str(part["broken"])
    line["findings"] = ", ".join(each.code for each in found.findings) or "none"
    line["minutes"] = f"{suite.seconds / 60:.1f}"
    return line


def _text(options, lines: list[dict[str, str]]) -> str:
    shown = " ".join(pair.partition("=")[0] for pair in options.bundles)
    words = [word for word in sys.argv[1:] if word.startswith("--")]
    named = f" {shown} (NAME=BUNDLE each)" if shown else ""
    command = " ".join(["python -m benchmarks.experiments.published DATA", *words])
    return "\n\n".join(
        [
            f"Command: `{command}`{named}. Machine: {_measure.place()}; "
            f"{datetime.date.today().isoformat()}. The first {options.images} test "
            "images, linf, standard AutoAttack (100 steps, 5,000 queries, seed 0), "
            "with 95 % Wilson intervals. A member attacks what the earlier ones left.",
            tabulate(lines, "keys", tablefmt="github", disable_numparse=True),
        ]
    )


if __name__ == "__main__":
    main()
