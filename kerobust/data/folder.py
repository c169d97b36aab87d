"""Data sets made of picture files in folders: where the files are expected."""

import pathlib

from kerobust.config import UserError
from kerobust.data.config import DataConfig
from kerobust.data.listing import Listing, load_listing, problem, shorten
from kerobust.data.splits import DataSource


def load_folder(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns the pictures of a folder.

    It holds train/ and perhaps val/ (or validation/) and test/, each with a folder per
    class; or the class folders themselves; or pictures only, which have no labels.
    Splits that are absent are carved from the training pictures, stratified by
    `--data.label_seed` (see `complete_splits`).

    Raises:
        UserError: If the folder is missing, empty, of one class or too damaged.
    """
    if not root.is_dir():
        raise problem(config, "must name a folder that exists")
    listing = Listing(config, root)
    train = root / "train"
    start = train if train.is_dir() else root
    classes = _subfolders(start)
    if not classes:
        listing.add("train", start)
        return load_listing(listing)
    if len(classes) == 1:
        raise problem(
            config, f"must have at least two classes, found only {classes[0]}"
        )
    listing.class_names = tuple(classes)
    listing.add_classes("train", start)
    if start == train:
        for name in ("validation", "val", "test"):
            _check_classes(config, root / name, classes)
            split = "validation" if name == "val" else name
            listing.add_classes(split, root / name)
    return load_listing(listing)


def load_imagenet_subset(config: DataConfig, path: pathlib.Path) -> DataSource:
    """Returns some classes of an ImageNet folder with train/ and val/.

    Args:
        config: Settings; `dir` is the ImageNet folder.
        path: Text file with a class folder's name (wnid) at the start of each line;
            labels follow the sorted names, as in torchvision's `ImageFolder`.

    Raises:
        UserError: If a folder, the file or one of the listed classes is missing.
    """
    root = pathlib.Path(config.dir or "").expanduser()
    if config.dir is None or not (root / "train").is_dir():
        raise UserError(
            "`--data.dir` must name ImageNet's folder, with train/ and val/ inside, "
            f"for imagenet_subset. Received: dir={config.dir}."
        )
    if not path.is_file():
        raise problem(config, "must name a text file that lists class folders")
    lines = path.read_text(encoding="utf-8").splitlines()
    wnids = sorted({line.split()[0] for line in lines if line.strip()})
    if len(wnids) < 2:
        raise problem(config, f"must list at least two class folders, found {wnids}")
    for split in ("train", "val"):
        missing = [name for name in wnids if not (root / split / name).is_dir()]
        if missing:
            raise problem(
                config,
                f"must list folders below {root / split}, but {len(missing)} of "
                f"{len(wnids)} are missing: {shorten(missing)}",
            )
    listing = Listing(config, root, class_names=tuple(wnids))
    listing.add_classes("train", root / "train")
    listing.add_classes("validation", root / "val")
    return load_listing(listing)


def _check_classes(config: DataConfig, folder: pathlib.Path, classes) -> None:
    unknown = sorted(set(_subfolders(folder)) - set(classes))
    if unknown:
        raise problem(
            config,
            f"must have the classes of train/ in {folder.name}/ too, found others: "
            f"{shorten(unknown)}",
        )


def _subfolders(folder: pathlib.Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        item.name
        for item in folder.iterdir()
        if item.is_dir() and not item.name.startswith(".")
    )
