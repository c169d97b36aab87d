"""`make experiments`: the tables of docs/results.md.

Every arm of every seed is a run folder of its own under runs/experiments, so that the
command can be interrupted and repeated: finished parts are read, the rest continues.
Flags that are not listed here go to `kerobust.train`, such as --data.dir=DIR.
"""

import argparse

from benchmarks import _measure
from benchmarks.experiments.encoders import ENCODERS
from benchmarks.experiments.ensembles import ENSEMBLES
from benchmarks.experiments.tables import TABLES
from benchmarks.experiments.tasks import ELSEWHERE, TASKS


def main() -> None:
    """Runs what is missing and rewrites the sections of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["digits"], metavar="TABLE")
    parser.add_argument("--seeds", type=int, help="how many, from 0; default: as shown")
    parser.add_argument("--report_only", action="store_true", help="run nothing")
    options, extra = parser.parse_known_args()
    known = {**TABLES, **ENCODERS, **ENSEMBLES, **TASKS, **ELSEWHERE}
    unknown = [name for name in options.tables if name not in known]
    if unknown:
        parser.error(f"TABLE must be one of {', '.join(known)}, not {unknown[0]}")
    for name in options.tables:
        table = known[name]
        seeds = range(options.seeds or table.seeds)
        for seed in seeds if not options.report_only else ():
            table.run(seed, extra)
        table.write(seeds, _measure.place(), extra)


if __name__ == "__main__":
    main()
