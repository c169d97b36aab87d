"""Pictures: image panels in NumPy, charts drawn by matplotlib without a display."""

import io
from collections.abc import Mapping

import numpy as np

_GAP = 2  # White pixels between images.
_SMALLEST = 64  # Images are enlarged by a whole factor to at least this many pixels.


def amplify(clean, adversarial) -> np.ndarray:
    """Returns the perturbation of each image, stretched to [0, 1] around grey.

    Args:
        clean: float [P, H, W, C].
        adversarial: float [P, H, W, C].

    Returns:
        float32 [P, H, W, C]: 0.5 = unchanged; the largest change of an image is 0 or 1.
    """
    change = np.asarray(adversarial, np.float32) - np.asarray(clean, np.float32)
    largest = np.abs(change).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * change / np.maximum(largest, 1e-12)


def panel(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns one picture with a row of images per entry, columns aligned.

    Args:
        rows: Name -> float [P, H, W, C] in [0, 1] (clipped; NaN is black) or uint8, for
            example clean, adversarial, `amplify` of both, masked, reconstruction.
            P, H and W agree; C is 1 or 3.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: If there is no row or the shapes do not fit.
    """
    shapes = {name: np.shape(images) for name, images in rows.items()}
    fit = all(len(shape) == 4 and shape[3] in (1, 3) for shape in shapes.values())
    if not fit or len({shape[:3] for shape in shapes.values()}) != 1:
        raise ValueError(
            "`rows` must hold images [P, H, W, 1 or 3] of one number and size. "
            f"Received: rows={shapes}."
        )
    return np.concatenate([_strip(np.asarray(images)) for images in rows.values()])


def bars(rows: list[dict]) -> bytes:
    """Returns a PNG of natural and robust accuracy with 95 % intervals.

    Args:
        rows: The `rows` of a report.
    """
    figure, axes = _figure(2 + 1.6 * len(rows))
    names = list(dict.fromkeys(name for row in rows for name in row["robust"]))
    series = {"natural": [row["natural"] for row in rows]}
    series |= {name: [row["robust"].get(name) for row in rows] for name in names}
    series["worst case"] = [row["worst"] for row in rows]
    width = 0.8 / len(series)
    for index, (name, shares) in enumerate(series.items()):
        known = {place: share for place, share in enumerate(shares) if share}
        places = [place - 0.4 + width * (index + 0.5) for place in known]
        heights, lows, highs = (
            [100 * share[key] for share in known.values()]
            for key in ("accuracy", "low", "high")
        )
        axes.bar(places, heights, width, label=name)
        axes.vlines(places, lows, highs, color="black")
    axes.set_xticks(range(len(rows)))
    axes.set_xticklabels([row["name"] for row in rows], parse_math=False)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8)
    return _png(figure)


def curves(
    points: Mapping[str, list[dict]], embed: Mapping[str, list[dict]] | None = None
) -> bytes:
    """Returns a PNG of robust accuracy against epsilon with 95 % intervals.

    Args:
        points: Row name -> `Evaluation.curve`.
        embed: Row name -> `Evaluation.embed_curve`, dashed in the colour of the row.
    """
    figure, axes = _figure(6)
    lines = [(name, name, "-", curve) for name, curve in points.items()]
    for name, curve in (embed or {}).items():
        lines.append((name, f"{name}, embed", "--", curve))
    names = dict.fromkeys(name for name, *_ in lines)
    colours = {name: f"C{place}" for place, name in enumerate(names)}
    for name, label, style, curve in lines:
        epsilons = [point["epsilon"] for point in curve]
        accuracy = [100 * point["robust_accuracy"] for point in curve]
        options = {"color": colours[name], "linestyle": style, "label": label}
        axes.plot(epsilons, accuracy, marker="o", **options)
        bounds = 100 * np.array([point["interval"] for point in curve])
        axes.fill_between(epsilons, *bounds.T, alpha=0.2, color=colours[name])
    # The last point lies far out: a linear scale would squeeze all others together.
    positive = [point["epsilon"] for *_, curve in lines for point in curve]
    smallest = min((value for value in positive if value > 0), default=1.0)
    axes.set_xscale("symlog", linthresh=smallest)
    axes.set_xlabel("epsilon (pixel units, linear up to the first point)")
    axes.set_ylabel("robust accuracy (%)")
    axes.set_ylim(0, 100)
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return _png(figure)


def lines(points: Mapping[str, list[dict]], label: str, factor: float = 1.0) -> bytes:
    """Returns a PNG of a metric against epsilon with its intervals.

    Args:
        points: Name -> [{"epsilon", "value", "low", "high"}], growing.
        label: Of the metric's axis.
        factor: Of the metric.
    """
    figure, axes = _figure(7)
    for place, (name, curve) in enumerate(points.items()):
        epsilons = [point["epsilon"] for point in curve]
        value, low, high = (
            [factor * point[each] for point in curve]
            for each in ("value", "low", "high")
        )
        colour = f"C{place % 10}"
        axes.plot(epsilons, value, marker="o", color=colour, label=name)
        axes.fill_between(epsilons, low, high, alpha=0.15, color=colour)
    axes.set_xlabel("epsilon (pixel units)")
    axes.set_ylabel(label)
    for text in axes.legend(fontsize=7).get_texts():
        text.set_parse_math(False)
    return _png(figure)


def drift(values: Mapping[str, list[float]]) -> bytes:
    """Returns a PNG of the distribution of cosine distances of several models.

    Args:
        values: Model -> distance of every image; all models share 100 bins.
    """
    figure, axes = _figure(7)
    largest = max(max(each, default=0.0) for each in values.values())
    bins = np.linspace(0.0, max(largest, 1e-6), 101)
    for name, each in values.items():
        axes.hist(each, bins, alpha=0.5, histtype="stepfilled", label=name)
    axes.set_xlabel("1 - cosine of attacked and clean class token")
    axes.set_ylabel("images")
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return _png(figure)


def heat_map(success: Mapping[str, Mapping[str, float | None]]) -> bytes:
    """Returns a PNG of the success rates of attacks that are carried over.

    Args:
        success: Made on -> shown to -> rate in [0, 1], None where nothing was right.
    """
    columns = list(next(iter(success.values())))
    values = [[line[name] for name in columns] for line in success.values()]
    rates = 100 * np.array(values, float)
    figure, axes = _figure(2 + 0.9 * len(columns))
    image = axes.imshow(rates, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for (row, column), rate in np.ndenumerate(rates):
        text = "-" if np.isnan(rate) else f"{rate:.0f}"
        shade = "white" if rate < 60 else "black"
        axes.text(column, row, text, ha="center", va="center", color=shade)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(success)), list(success))
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.set_xlabel("shown to")
    axes.set_ylabel("made on")
    figure.colorbar(image, label="fooled (%)")
    return _png(figure)


def encode(image: np.ndarray) -> bytes:
    """Returns the PNG of an image uint8 [H, W, 3]."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return buffer.getvalue()


def _strip(images: np.ndarray) -> np.ndarray:
    """Returns images [P, H, W, C] side by side on white, uint8 [H', W', 3]."""
    if images.dtype != np.uint8:
        clipped = np.clip(np.nan_to_num(images.astype(np.float32)), 0.0, 1.0)
        images = np.round(255 * clipped).astype(np.uint8)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    factor = -(-_SMALLEST // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    gaps = ((0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0))
    return np.concatenate(list(np.pad(images, gaps, constant_values=255)), axis=1)


def _figure(width: float):
    from matplotlib.figure import Figure  # Draws with Agg; pyplot stays untouched.

    figure = Figure(figsize=(width, 3.6), layout="tight")
    return figure, figure.subplots()


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
