"""What attacks on tasks found: records of images, values with intervals."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kerobust.attacks import Finding
from kerobust.attacks.attempts import Attempt
from kerobust.tasks import Task

ENCODER = "encoder"  # In place of a task: attacks that are blind to all of them.
_DRAWS = 1000  # Of the bootstrap.


class Probed(NamedTuple):
    """A task and what solves it.

    Attributes:
        task: The task.
        model: Maps images to the outputs that the task expects; has an `encoder`.
    """

    task: Task
    model: Any


class Job(NamedTuple):
    """One attack on one task, or on the `ENCODER`, at one radius."""

    task: str
    attempt: Attempt
    epsilon: float

    @property
    def key(self) -> str:
        """Name under which results are kept."""
        return f"{self.task}.{self.attempt.name}@{self.epsilon!r}"


@dataclasses.dataclass
class TaskResults:
    """What was found about one encoder on one data set.

    Attributes:
        tasks: Task by name.
        epsilon: Radius of the threat.
        clean: Task -> records [N, ...] of the attacked images without attack.
        everything: Task -> sum of the records of all images without attack.
        records: Job's key -> judging task -> records [N, ...].
        jobs: All jobs.
        norms: Job's key -> largest size of a perturbation.
        seconds: Job's key -> wall time.
        pictures: Task -> {"images", "attacked", "targets", "clean", "adversarial"} of
            the benchmark's attack on its output.
        diagnosis: Task -> what `diagnose` found, for tasks that were diagnosed.
    """

    tasks: dict[str, Task]
    epsilon: float
    clean: dict[str, np.ndarray]
    everything: dict[str, np.ndarray]
    records: dict[str, dict[str, np.ndarray]]
    jobs: list[Job]
    norms: dict[str, float]
    seconds: dict[str, float]
    pictures: dict[str, dict]
    diagnosis: dict[str, list[Finding]] = dataclasses.field(default_factory=dict)

    def under(self, task: str, attack: str, judge: str | None = None, epsilon=None):
        """Returns the records of one attack, [N, ...].

        Args:
            task: Whom it attacks.
            attack: Its name.
            judge: Who is asked; None = the same task.
            epsilon: Radius; None = that of the threat.
        """
        epsilon = self.epsilon if epsilon is None else epsilon
        return self.records[f"{task}.{attack}@{epsilon!r}"][judge or task]

    def worst(self, task: str, only: Callable[[str], bool] | None = None):
        """Returns the worst case over attacks within the radius of the threat.

        Args:
            task: Who is asked.
            only: Which attacks on this task and on the encoder count, by name, at that
                radius; None = all perturbations in the ball, whatever task they were
                made for.
        """
        tried = [self.clean[task]]
        for job in self.jobs:
            meant = job.epsilon <= self.epsilon
            if only is not None:
                meant = job.task in (task, ENCODER) and job.epsilon == self.epsilon
                meant = meant and only(job.attempt.name)
            if meant:
                tried.append(self.records[job.key][task])
        return self.tasks[task].worst(tried)

    def value(self, task: str, records: np.ndarray) -> dict:
        """Returns {"value", "low", "high", "metrics"} of records [N, ...].

        The interval holds 95 % of the main metric over images drawn with replacement.
        """
        kind = self.tasks[task]
        found = kind.metrics(records.sum(axis=0))
        low, high = np.nanquantile(bootstrap(kind, records), [0.025, 0.975])
        return {
            "value": found[kind.MAIN],
            "low": float(low),
            "high": float(high),
            "metrics": found,
        }


def bootstrap(task: Task, records: np.ndarray, draws: int = _DRAWS) -> np.ndarray:
    """Returns a task's main metric over images drawn with replacement, [draws].

    The draws depend on the number of images only, so that two models on the same
    images are paired.
    """
    weights = _weights(len(records), draws)
    return task.main(np.tensordot(weights, records.astype(float), axes=1))


@functools.lru_cache(maxsize=4)
def _weights(count: int, draws: int) -> np.ndarray:
    """Returns how often each image is drawn, float64 [draws, count]."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn.astype(float)
