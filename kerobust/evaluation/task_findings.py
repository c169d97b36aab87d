"""Looks for reasons not to believe what attacks on tasks found."""

import numpy as np

from kerobust.attacks import AttackConfig, Finding, diagnose
from kerobust.attacks.masking.findings import mean, too_many, worst_first
from kerobust.evaluation.task_results import Probed, TaskResults
from kerobust.tasks.base import EMBED, TASK

# Honest networks lose a little harm to rounding and to other hills. A quarter of it, or
# more than a twentieth of the clean value, for so many images is another matter.
SHARE = 0.05
_QUARTER, _SLACK = 0.25, 0.05
_FEWEST = 2  # One image is luck.


def diagnosed(probed: Probed, batch: dict, threat: AttackConfig, seed: int) -> list:
    """Returns what `diagnose` finds about the gradients of a model.

    Masks are asked for at one pixel, which makes the model a classifier; of depths
    nothing is known but `contradictions`.

    Args:
        probed: Task and model.
        batch: "images" float32 [B, H, W, C] and what the task predicts; at most 64
            images are used.
        threat: Norm and epsilon.
        seed: Of noise.
    """
    task, model = probed
    found = task.as_classifier(model, batch["images"], batch[task.TARGET])
    if found is None or not len(found[1]):
        return []
    model, images, labels = found
    return diagnose(model, images, labels, threat.epsilon, threat.norm, seed=seed)


def contradictions(results: TaskResults, task: str) -> list[Finding]:
    """Returns what attacks on a task say against each other, image by image.

    Costs no further attack. "harm-not-growing": the attack on the output does less in a
    larger ball. "foreign-attack-stronger": what does not look at the task's loss does
    more than everything that climbs it.
    """
    return worst_first([_not_growing(results, task), _foreign(results, task)])


def _not_growing(results: TaskResults, task: str) -> Finding | None:
    """Compares the attack on the output with itself in the next larger ball."""
    jobs = [j for j in results.jobs if (j.task, j.attempt.name) == (task, TASK)]
    jobs.sort(key=lambda job: job.epsilon)
    harms = [_harm(results, task, results.records[job.key][task]) for job in jobs]
    found = []
    for i in range(len(jobs) - 1):
        flags = _clearly_more(results, task, harms[i], harms[i + 1])
        if too_many(flags, SHARE, _FEWEST):
            text = (
                f"Within {jobs[i].epsilon:.3g} the attack on {task} harms "
                f"{mean(flags):.1%} of the images clearly more than within "
                f"{jobs[i + 1].epsilon:.3g}, though the larger ball holds the smaller "
                "one: it misses what exists. Use more steps and the suites."
            )
            found.append(_finding("harm-not-growing", flags, text))
    return max(found, key=lambda finding: finding.value, default=None)


def _foreign(results: TaskResults, task: str) -> Finding | None:
    """Compares what climbs a loss of this task with everything else in the ball."""
    own, others = [], []
    for job in results.jobs:
        harm = _harm(results, task, results.records[job.key][task])
        if job.task != task or job.attempt.name.startswith(EMBED):
            if job.epsilon <= results.epsilon:
                others.append(harm)
        elif job.epsilon == results.epsilon:
            own.append(harm)
    flags = _clearly_more(results, task, np.max(others, axis=0), np.max(own, axis=0))
    if not too_many(flags, SHARE, _FEWEST):
        return None
    text = (
        f"Attacks that do not look at the loss of {task} harm {mean(flags):.1%} of the "
        "images clearly more than all that climb it: its gradients are masked, or its "
        "losses are not what is measured. Believe the worst case alone, and try other "
        "losses, more steps and the suites."
    )
    return _finding("foreign-attack-stronger", flags, text)


def _finding(code: str, flags: np.ndarray, text: str) -> Finding:
    return Finding(code, "warning", mean(flags), SHARE, text)


def _harm(results: TaskResults, task: str, records: np.ndarray) -> np.ndarray:
    """Returns how much worse than without attack the metric of each image is, [N]."""
    kind = results.tasks[task]
    gap = kind.main(results.clean[task]) - kind.main(records)
    return gap if kind.HIGHER else -gap


def _clearly_more(results, task: str, first: np.ndarray, second: np.ndarray):
    """Returns bool: the first harm is larger by more than honest networks show.

    Images of which nothing is known are left out.
    """
    clean = results.tasks[task].main(results.clean[task])
    known = ~np.isnan(clean)
    slack = _SLACK * np.abs(clean) + _QUARTER * np.abs(second)
    return (first > second + slack)[known]
