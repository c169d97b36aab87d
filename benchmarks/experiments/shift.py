"""Does a whitened shift of tokens predict the harm to tasks better than a plain one?

    python -m benchmarks.experiments.shift

The kill test before `multi` may use whitened distances: no training. Attacked images of
several kinds are shown to the encoders and heads of the table `tasks_scenes`; the rank
correlation over images of a task's harm with the squared shift of the tokens that its
head reads says which distance predicts it.
"""

import argparse
import datetime

import numpy as np
import tensorflow as tf
from tabulate import tabulate

from benchmarks import _measure
from benchmarks._pages import ROOT, replace_section
from benchmarks.experiments.tasks import TASKS
from kerobust.attacks import PGD, EmbedAttack, TokenDistance, whitening_of
from kerobust.attacks.objectives import infer
from kerobust.data import DataConfig, load
from kerobust.losses.pixels import pixel_cross_entropy
from kerobust.models.bundle import load_bundle
from kerobust.randomness import example_keys
from kerobust.tasks import Classification, Depth, Effort, Segmentation

TABLE = TASKS["tasks_scenes"]
EPSILON, STEPS, COUNT, CLEAN = 8 / 255, 20, 100, 1000
SHRINKAGE = (0.01, 0.1, 1.0)
_DRAWS = 1000
_ARMS = ("mae", "deacl", "fare", "multi")
TASK_OF = {
    "classification": Classification(6),
    "segmentation": Segmentation(8),
    "depth": Depth(bins=64),
}


def main() -> None:
    """Prints the table and rewrites its section in docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the encoders")
    seed = parser.parse_args().seed
    source = load(DataConfig(name="scenes"))
    test = source.splits["test"].thinned(COUNT)
    batch = test.read(tf.range(test.size), ("masks", "depths"))
    batch["labels"] = tf.constant(test.labels)
    clean = source.splits["train"].thinned(CLEAN).arrays()[0]
    found = {arm: _pairs(arm, seed, batch, clean) for arm in _ARMS}
    rows = []
    for task in TASK_OF:
        for arm in _ARMS:
            rows.append(_row(task, arm, *found[arm][task]))
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    print(table)
    text = (
        f"Command: `python -m benchmarks.experiments.shift`. Machine: "
        f"{_measure.place()}; encoders of seed {seed}; {datetime.date.today()}. "
        "Spearman correlation over "
        f"{COUNT} test images x 8 attacks (the attack on class token, patches and both "
        "and the three attacks on tasks at 8/255, noise of 8/255, and the attack on "
        "both at 2/255) of the rise of a task's loss with the squared shift of the "
        "tokens that its head reads. Last column: best of the three whitened ones, "
        "which favours them, minus Euclidean, with 95 % of 1,000 draws of images."
    )
    replace_section(
        ROOT / "docs" / "results.md",
        "Kill test: whitened against Euclidean shift",
        f"{text}\n\n{table}",
    )


def _pairs(arm: str, seed: int, batch, clean) -> dict[str, tuple]:
    """Returns task -> (harm float [A, N], distance -> shift float [A, N])."""
    folder = TABLE.workdir("benchmark", seed) / "benchmark" / "scenes" / arm
    models = {name: load_bundle(folder / name) for name in TASK_OF}
    encoder = models["segmentation"].encoder
    maps = _whitenings(encoder, clean)
    images = batch["images"]
    attacked = _attacked(models, encoder, batch)
    before = {name: _loss(name, models[name], images, batch) for name in TASK_OF}
    tokens = _tokens(encoder, images)
    harm: dict[str, list] = {name: [] for name in TASK_OF}
    shifts: dict[str, dict[str, list]] = {name: {} for name in TASK_OF}
    for each in attacked:
        moved = _tokens(encoder, each)
        for name in TASK_OF:
            harm[name].append(_loss(name, models[name], each, batch) - before[name])
            for distance, values in _shifts(name, tokens, moved, maps).items():
                shifts[name].setdefault(distance, []).append(values)
    return {
        name: (
            np.stack(harm[name]),
            {key: np.stack(values) for key, values in shifts[name].items()},
        )
        for name in TASK_OF
    }


def _attacked(models, encoder, batch) -> list[tf.Tensor]:
    images = batch["images"]
    keys = example_keys(0, 0, tf.range(len(images)))
    embed = EmbedAttack(EPSILON, steps=STEPS)
    found = [
        embed(images, None, TokenDistance(encoder, part=part), keys=keys)
        for part in ("cls", "patches", "both")
    ]
    both = TokenDistance(encoder, part="both")
    found.append(embed(images, None, both, keys=keys, epsilon=EPSILON / 4))
    for name, task in TASK_OF.items():
        attack = task.attack(Effort(EPSILON, steps=STEPS)).attack
        target = batch[task.TARGET]
        found.append(attack(images, target, task.OBJECTIVE(models[name]), keys=keys))
    noise = PGD(EPSILON, steps=1, step_size=1e-9, random_start=True)
    found.append(noise(images, None, both, keys=keys))
    return found


def _whitenings(encoder, clean) -> dict[str, dict[float, np.ndarray]]:
    tokens = _tokens(encoder, clean)
    flat = {"cls": tokens[0], "patches": tokens[1].reshape(-1, tokens[1].shape[2])}
    return {
        part: {g: whitening_of(values, g).numpy() for g in SHRINKAGE}
        for part, values in flat.items()
    }


def _tokens(encoder, images) -> tuple[np.ndarray, np.ndarray]:
    parts = [infer(encoder, images[i : i + 100]) for i in range(0, len(images), 100)]
    return tuple(np.concatenate([part[i] for part in parts]) for i in (0, 1))


def _shifts(task: str, before, after, maps) -> dict[str, np.ndarray]:
    """Returns distance -> mean square per image, of what the head of a task reads."""
    cls, patches = (new - old for old, new in zip(before, after, strict=True))

    def joined(of_cls, of_patches):
        parts = {
            "classification": np.mean(of_cls**2, axis=1),
            "segmentation": np.mean(of_patches**2, axis=(1, 2)),
        }
        parts["depth"] = 0.5 * (parts["classification"] + parts["segmentation"])
        return parts[task]

    found = {"Euclidean": joined(cls, patches)}
    for g in SHRINKAGE:
        whitened = joined(cls @ maps["cls"][g], patches @ maps["patches"][g])
        found[f"whitened, g {g:g}"] = whitened
    return found


def _loss(task: str, model, images, batch) -> np.ndarray:
    """Returns the loss of every image: cross-entropies, or the RMSE in metres."""
    outputs, target = infer(model, images), batch[TASK_OF[task].TARGET]
    if task == "segmentation":
        return pixel_cross_entropy(outputs, target).numpy()
    if task == "depth":
        squares = tf.reduce_mean(tf.square(outputs - target), axis=[1, 2])
        return tf.sqrt(squares).numpy()
    return tf.nn.sparse_softmax_cross_entropy_with_logits(target, outputs).numpy()


def _row(task: str, arm: str, harm, shifts) -> dict[str, str]:
    found = {name: _spearman(harm, values) for name, values in shifts.items()}
    best = max((name for name in found if name != "Euclidean"), key=found.get)
    random = np.random.default_rng(0)
    gaps = []
    for _ in range(_DRAWS):
        rows = random.integers(0, harm.shape[1], harm.shape[1])
        pair = (shifts[best][:, rows], shifts["Euclidean"][:, rows])
        gaps.append(np.subtract(*(_spearman(harm[:, rows], each) for each in pair)))
    low, high = np.quantile(gaps, [0.025, 0.975])
    gap = found[best] - found["Euclidean"]
    return {
        "task": task,
        "encoder": arm,
        **{name: f"{value:.3f}" for name, value in found.items()},
        "whitened - Euclidean": f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]",
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(each.ravel())) for each in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
