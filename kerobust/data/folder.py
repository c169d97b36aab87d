"""Data sets made of picture files in folders: where the files are expected."""

import pathlib

from kerobust.config import UserError
from kerobust.data.config import DataConfig
from kerobust.data.listing import (
    Listing,
    find_pictures,
    load_listing,
    problem,
    shorten,
)
from kerobust.data.splits import DataSource

# Where Tiny-ImageNet, as downloaded, keeps the labels of val/images/.
_ANNOTATIONS = "val_annotations.txt"


def load_folder(config: DataConfig, root: pathlib.Path) -> DataSource:
    """Returns the pictures of a folder.

    It holds train/ and perhaps val/ (or validation/) and test/, each with a folder per
    class; or the class folders themselves; or pictures only, which have no labels; or
    it is Tiny-ImageNet as downloaded, whose test/ has no labels and is left out.
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
    if start == train and _is_tiny_imagenet(root):
        _add_annotated(listing, root / "val")
        listing.not_used += ["test"] if (root / "test").is_dir() else []
    elif start == train:
        for name in ("validation", "val", "test"):
            _check_classes(config, root / name, classes)
            split = "validation" if name == "val" else name
            listing.add_classes(split, root / name)
    return load_listing(listing)


def load_imagenet_subset(config: DataConfig, path: pathlib.Path) -> DataSource:
    """Returns some classes of an ImageNet folder with train/ and val/.

    Args:
        config: Settings; `dir` is the ImageNet folder.
        path: Text file with a class folder's name (wnid) at the start of each line,
            empty lines and lines from `#` aside; labels follow the sorted names, as in
            torchvision's `ImageFolder`.

    Raises:
        UserError: If a folder, the file or one of the listed classes is missing.
    """
    root = pathlib.Path(config.dir or "").expanduser()
    if config.dir is None or not (root / "train").is_dir():
        raise UserError(
            "`--data.dir` must name ImageNet's folder, with train/ and val/ inside, "
            f"for imagenet_subset. Received: dir={config.dir}."
        )
    wnids = _read_list(config, path)
    for split in ("train", "val"):
        missing = [name for name in wnids if not (root / split / name).is_dir()]
        if missing:
            raise _list_problem(
                config,
                f"must list folders below {root / split}, but {len(missing)} of "
                f"{len(wnids)} are missing: {shorten(missing)}",
            )
    listing = Listing(config, root, class_names=tuple(wnids))
    listing.add_classes("train", root / "train")
    listing.add_classes("validation", root / "val")
    return load_listing(listing)


def _read_list(config: DataConfig, path: pathlib.Path) -> list[str]:
    """Returns the sorted names at the starts of a text file's lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _list_problem(
            config, f"must name a text file that can be read ({error})"
        ) from error
    words = {line.split()[0] for line in lines if line.strip()}
    names = sorted(word for word in words if not word.startswith("#"))
    if len(names) < 2:
        raise _list_problem(
            config, f"must list at least two class folders, found {names}"
        )
    return names


def _list_problem(config: DataConfig, expectation: str) -> UserError:
    return UserError(
        f"`--data.name` {expectation}. Received: name={config.name}, "
        f"dir={config.dir}. Expected imagenet_subset:FILE, with the name of one class "
        "folder at the start of each line of FILE."
    )


def _is_tiny_imagenet(root: pathlib.Path) -> bool:
    pictures = root / "val" / "images"
    return (root / "val" / _ANNOTATIONS).is_file() and bool(find_pictures(pictures))


def _add_annotated(listing: Listing, folder: pathlib.Path) -> None:
    """Adds the pictures of images/ with the labels that the annotations give them."""
    labels = {name: label for label, name in enumerate(listing.class_names)}
    lines = (folder / _ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    named = dict(line.split()[:2] for line in lines if len(line.split()) > 1)
    pictures = find_pictures(folder / "images")
    lost = [path.name for path in pictures if named.get(path.name) not in labels]
    if lost:
        raise problem(
            listing.config,
            f"must have pictures in val/images/ to which {_ANNOTATIONS} gives a class "
            f"of train/, but {len(lost)} have none: {shorten(lost)}",
        )
    found = [labels[named[path.name]] for path in pictures]
    listing.add_files("validation", pictures, found)


def _check_classes(config: DataConfig, folder: pathlib.Path, classes) -> None:
    """Refuses a split whose pictures would be left out, as they have no class."""
    unknown = sorted(set(_subfolders(folder)) - set(classes))
    unknown = [name for name in unknown if find_pictures(folder / name)]
    if unknown:
        raise problem(
            config,
            f"must have the classes of train/ in {folder.name}/ too, found others: "
            f"{shorten(unknown)}",
        )
    loose = [path.name for path in find_pictures(folder) if path.parent == folder]
    if loose:
        raise problem(
            config,
            f"must have class folders in {folder.name}/ as in train/, found "
            f"{len(loose)} pictures outside of them: {shorten(loose)}",
        )


def _subfolders(folder: pathlib.Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        item.name
        for item in folder.iterdir()
        if item.is_dir() and not item.name.startswith(".")
    )
