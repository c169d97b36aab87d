"""What the stored values of well-known masks mean: classes, names, void.

There are two conventions. `standard` is that of published numbers: void has no label.
`repo` is that of the cross-task robustness benchmark's code, where class 0 is "void"
in every set; its numbers need `--benchmark.void=0`, which leaves class 0 out.

| | stored | standard | repo |
|---|---|---|---|
| VOC 2012 | 0 background, 1..20, 255 void | 0..20, void -1 | void is 0 too |
| ADE20K | 0 other, 1..150 | 0..149, other -1 | 0..150 |
| Cityscapes | ids 0..33 | 0..18, the other ids -1 | 1..19, the other ids 0 |

So with `repo` VOC's mean has no background, which the usual 21-class mean counts.

References:
    VOC: Everingham et al., 2010, "The Pascal Visual Object Classes Challenge".
    ADE20K: Zhou et al., 2017, "Scene Parsing through ADE20K Dataset"; names shortened
    from its objectInfo150. Leaving out 0 is what others call `reduce_zero_label`.
    Cityscapes: Cordts et al., 2016, arXiv:1604.01685, table 1; train ids as in its
    scripts' labels.py.
"""

from typing import NamedTuple

import numpy as np

from kerobust.data.splits import UNLABELLED

UNKNOWN = -2  # A stored value that must not occur.

_VOC = """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
    diningtable, dog, horse, motorbike, person, pottedplant, sheep, sofa, train,
    tvmonitor"""

_ADE = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
    sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water,
    painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk,
    rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest
    of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand,
    path, stairs, runway, case, pool table, pillow, screen door, stairway, river,
    bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
    machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
    escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer
    belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
    pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce,
    vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin
    board, shower, radiator, glass, clock, flag"""

VOC_NAMES, ADE_NAMES = (
    tuple(" ".join(name.split()) for name in text.split(",")) for text in (_VOC, _ADE)
)

# Category of ADE20K's instance challenge, 1 to 100 -> class of scene parsing, 1 to 150.
ADE_OBJECTS = (
    *(8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38),
    *(39, 40, 42, 43, 44, 45, 46, 48, 50, 51, 54, 56, 57, 58, 59, 63, 65, 66, 67, 68),
    *(70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90, 91, 93),
    *(94, 96, 98, 99, 103, 104, 105, 108, 109, 111, 112, 113, 116, 117, 119, 120, 121),
    *(122, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136, 137, 138, 139, 140),
    *(143, 144, 145, 147, 148, 149, 150),
)

# Id in the files -> class.
CITYSCAPES_CLASSES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole"},
    **{19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain"},
    **{23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus"},
    **{31: "train", 32: "motorcycle", 33: "bicycle"},
}


class LabelMap(NamedTuple):
    """What the stored values of masks mean.

    Attributes:
        table: int16 [256], class of every value; -1 = no label, -2 = must not occur.
        names: Name of each class; empty = whatever occurs, by number.
    """

    table: np.ndarray
    names: tuple[str, ...]


def voc(convention: str) -> LabelMap:
    """Returns the classes of VOC 2012 by "standard" or "repo"."""
    if convention == "repo":
        return _map(range(21), 0, {255: 0}, ("background or void", *VOC_NAMES[1:]))
    return _map(range(21), 0, {255: UNLABELLED}, VOC_NAMES)


def ade20k(convention: str) -> LabelMap:
    """Returns the classes of ADE20K's scene parsing by "standard" or "repo"."""
    return _from_one(ADE_NAMES, convention)


def ade20k_objects(convention: str) -> LabelMap:
    """Returns the 100 categories of ADE20K's instance challenge, 0 = anything else."""
    return _from_one(tuple(ADE_NAMES[n - 1] for n in ADE_OBJECTS), convention)


def cityscapes(convention: str) -> LabelMap:
    """Returns the 19 classes of Cityscapes by "standard" or "repo"."""
    names = tuple(CITYSCAPES_CLASSES.values())
    # The licence plate's id is -1, which is 255 in an 8-bit file.
    values = (*range(34), 255)
    if convention == "repo":
        void = dict.fromkeys(set(values) - set(CITYSCAPES_CLASSES), 0)
        return _map(CITYSCAPES_CLASSES, 1, void, ("void", *names))
    void = dict.fromkeys(set(values) - set(CITYSCAPES_CLASSES), UNLABELLED)
    return _map(CITYSCAPES_CLASSES, 0, void, names)


def _from_one(names: tuple[str, ...], convention: str) -> LabelMap:
    """Returns the map of values from 1, where 0 is anything else."""
    values = range(1, len(names) + 1)
    if convention == "repo":
        return _map(values, 1, {0: 0}, ("other", *names))
    return _map(values, 0, {0: UNLABELLED}, names)


def _map(values, first: int, others: dict[int, int], names) -> LabelMap:
    """Returns the map of `values` to first, first + 1, ... and of some others."""
    table = np.full([256], UNKNOWN, np.int16)
    for label, value in enumerate(values, first):
        table[value] = label
    for value, label in others.items():
        table[value] = label
    return LabelMap(table, tuple(names))
