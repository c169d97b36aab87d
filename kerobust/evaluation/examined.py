"""What a report says about representations and members: sentences and tables."""

from kerobust.config import format_number
from kerobust.evaluation.parts import Grid, Section, percent

_ATTACK = (
    "The attack maximises the mean squared distance of the class token from its clean "
    "one, from a random start, in {steps} steps of 2.5 epsilon / steps, on {images} "
    "images, right or wrong; it knows neither labels nor head, and moves the class "
    "token even if the head reads other features. Cosine = 1 - cosine of attacked and "
    "clean class token, l2 = their Euclidean distance, q90 = what nine tenths of the "
    "images do not exceed. Embed %: right without attack and under it, judged by the "
    "classifier."
)
_NEIGHBOURS = (
    "Weighted vote of the k labelled training images, never attacked, with the nearest "
    "class tokens. First line of a model: without attack; then right without attack "
    "and under the attack on the representation."
)
_NORMALISATION = (
    "The same classifier on the same clean images, once as trained and once with the "
    "encoder's channel normalisation undone, so that its first layer meets raw pixels "
    "in [0, 1]: an encoder that has seen such pixels in training (an attacked view "
    "that bypasses the normalisation, say) keeps its accuracy for that reason alone, "
    "which must not be taken for robustness."
)
_TRANSFER = (
    "Images that all members have right, attacked in one of them by PGD (linf, "
    "epsilon {epsilon}, {steps} steps, {restarts} random starts) and shown to the "
    "others and to the ensemble: the share that any of the starts fools."
)
_DISTILLED = (
    "d(i, j) = the mean loss of member j on images that one layer of member i takes "
    "for other images (linf, epsilon {epsilon}, {steps} steps), with the labels of "
    "these, and the other way round. Larger = less is shared."
)
_SURROGATES = (
    "Right in %, under images that were made on ensembles which share nothing with "
    "those of this run (linf, epsilon {epsilon}, {steps} steps, {restarts} random "
    "starts; an image counts only if it withstands all of them): momentum PGD, and "
    "the same through changing frames, on cross-entropy (CE) and on the margin. all = "
    "under every one of these attacks."
)
_ATTENTION = (
    "What the class token takes from each patch in the last block: per image a row "
    "without attack and below it one under attack; first the image, then every head, "
    "white = largest of both rows."
)


def examined_sections(found: dict[str, dict]) -> list[Section]:
    """Returns the parts of a report about representations, none if there are none.

    Args:
        found: Row name -> what `Representation` returns.
    """
    if not found:
        return []
    first = next(iter(found.values()))
    attack = _ATTACK.format(steps=first["steps"], images=first["images"])
    shown = any(item["attention"] is not None for item in found.values())
    return [
        Section("Attack on the representation", [attack], *_drift_grid(found), "drift"),
        Section("Nearest neighbours", [_NEIGHBOURS], *_knn_grid(found)),
        Section("Control: normalisation", [_NORMALISATION], *_control_grid(found)),
        *[Section("Attention", [_ATTENTION], figure="attention")] * shown,
    ]


def shared_sections(found: dict[str, dict]) -> list[Section]:
    """Returns the parts of a report about what members share, none if there are none.

    Args:
        found: Row name -> what `Diversity` returns.
    """
    if not found:
        return []
    used = next(iter(found.values()))["attack"]
    transfer = _TRANSFER.format(
        epsilon=format_number(used["epsilon"]),
        steps=used["steps"],
        restarts=used["restarts"],
    )
    distilled = _DISTILLED.format(
        epsilon=format_number(used["distil_epsilon"]), steps=used["distil_steps"]
    )
    cells = [
        [name, str(item["images"]), f"{item['diversity']['mean']:.3f}"]
        for name, item in found.items()
    ]
    headers = ["model", "images", "mean d(i, j)"]
    return [
        Section("Transfer between members", [transfer], *_carried(found), "transfer"),
        Section("Diversity of vulnerabilities", [distilled], headers, cells),
        Section("Attacks made on other ensembles", *_surrogate_part(found, used)),
    ]


def _surrogate_part(found: dict[str, dict], used: dict) -> tuple:
    """Returns sentence, headers and rows about surrogates; empty without any."""
    kinds = next(iter(found.values()))["black_box"]
    if kinds is None:
        return [], [], []
    text = _SURROGATES.format(
        epsilon=format_number(used["epsilon"]),
        steps=used["surrogate_steps"],
        restarts=used["surrogate_restarts"],
    )
    cells = [
        [kind, *(percent(item["black_box"][kind]) for item in found.values())]
        for kind in kinds
    ]
    return [text], ["made on", *(f"{name} %" for name in found)], cells


def _carried(found: dict[str, dict]) -> Grid:
    """Returns the success rate of every pair of every ensemble."""
    shown = list(next(iter(next(iter(found.values()))["transfer"]["success"].values())))
    cells = []
    for name, item in found.items():
        for made, line in item["transfer"]["success"].items():
            rates = [line.get(victim) for victim in shown]
            texts = ["-" if rate is None else f"{100 * rate:.1f}" for rate in rates]
            cells.append([name, made, *texts])
    return ["model", "made on", *(f"{victim} %" for victim in shown)], cells


def _drift_grid(found: dict[str, dict]) -> Grid:
    parts = ("mean", "median", "q90")
    headers = ["model", "norm", "epsilon", *(f"cosine {part}" for part in parts)]
    headers += [*(f"l2 {part}" for part in parts), "embed %"]
    cells = [
        [
            *(name, entry["norm"], format_number(entry["epsilon"])),
            *(f"{entry['cosine'][part]:.4g}" for part in parts),
            *(f"{entry['distance'][part]:.4g}" for part in parts),
            percent(entry["correct"]),
        ]
        for name, item in found.items()
        for entry in item["drift"]
    ]
    return headers, cells


def _knn_grid(found: dict[str, dict]) -> Grid:
    counts = sorted({entry["k"] for item in found.values() for entry in item["knn"]})
    lines: dict[tuple, dict] = {}  # (model, norm, epsilon) -> k -> accuracy
    for name, item in found.items():
        for entry in item["knn"]:
            clean, attacked = (name, "-", 0.0), (name, entry["norm"], entry["epsilon"])
            for key, kind in ((clean, "clean"), (attacked, "robust")):
                lines.setdefault(key, {})[entry["k"]] = percent(entry[kind])
    cells = [
        [name, norm, format_number(epsilon), *(line.get(k, "-") for k in counts)]
        for (name, norm, epsilon), line in lines.items()
    ]
    return ["model", "norm", "epsilon", *(f"k = {k} %" for k in counts)], cells


def _control_grid(found: dict[str, dict]) -> Grid:
    cells = []
    for name, item in found.items():
        control = item["normalisation"]
        undone = percent(control["without"])
        undone = undone if control["inside"] else "there is none to undo"
        cells.append([name, percent(control["with"]), undone])
    return ["model", "natural %", "without normalisation %"], cells
