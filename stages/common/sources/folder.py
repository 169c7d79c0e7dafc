"""Class folders: PATH/CLASS/* or PATH/{train,val,validation,test}/CLASS/*.

What lies in folders within a class's folder is of that class. Hidden files and those that systems
leave behind are passed over; links are followed, each folder once.
"""

import os
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.classify import printable
from stages.common.core.cli import InputError
from stages.common.data.params import DataParams
from stages.common.sources.photos import digest_of, read_photo, resized
from stages.common.sources.splits import Collection, Photo, shortened

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
MOST_CLASSES = 1000


def collect(params: DataParams) -> Collection:
    """Every picture below ``data.path``, brought to size.

    Raises ``InputError`` for folders that are laid out otherwise, for too many classes, and, with
    data.bad_files 'refuse', for the files that are no photos.
    """
    root = Path(params.path)
    folders, notes = split_folders(root)
    classes = class_names(folders)
    collection = Collection(classes, {split: [] for split in folders}, notes)
    bad: list[str] = []
    for split, split_folder in folders.items():
        for folder in subfolders(split_folder):
            label = classes.index(name_of(folder))
            photos = photos_in(folder, root, label, params, bad)
            if not photos:
                bad_or_none = "no picture that can be read" if any(folder.iterdir()) else "empty"
                raise InputError(
                    f"{shown(folder)} is a class without pictures ({bad_or_none}); add some or "
                    "remove the folder"
                )
            collection.splits[split] += photos
    if bad and params.bad_files == "refuse":
        lines = list(shortened(bad))
        raise InputError(
            "\n  ".join(["not every file is a photo:", *lines])
            + "\nRemove them, or leave them out by data.bad_files: skip"
        )
    collection.notes += shortened([f"left out: {line}" for line in bad])
    return collection


def split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, 'train' alone where there are none, and lines on what is ignored.

    A folder of a split holds folders of classes: 'train' may also be a class, beside 'bus'. Raises
    ``InputError`` where there are splits but no training images.
    """
    if not root.is_dir():
        raise InputError(f"data.path is {str(root)!r}, which is no folder")
    notes = stray_files(root)
    found = subfolders(root)
    named = {folder: SPLIT_NAMES.get(folder.name.lower()) for folder in found}
    if not any(split and subfolders(folder) for folder, split in named.items()):
        return {"train": root}, notes
    splits: dict[str, Path] = {}
    for folder, split in named.items():
        if split is None:
            notes.append(f"{shown(folder)} is passed over: it stands beside the splits")
        elif not subfolders(folder):
            notes.append(f"{shown(folder)} is passed over: it holds no folders of classes")
        elif split in splits:
            raise InputError(f"{shown(splits[split])} and {shown(folder)} are the same split")
        else:
            splits[split] = folder
            notes += stray_files(folder)
    if "train" not in splits:
        raise InputError(
            f"{shown(root)} has {', '.join(folder.name for folder in splits.values())} but no "
            "folder 'train'"
        )
    return splits, notes


def class_names(folders: dict[str, Path]) -> tuple[str, ...]:
    """The names of the classes of all splits, sorted.

    Raises ``InputError`` for a name that cannot be printed, fewer than two classes, or too many.
    """
    names = sorted({name_of(each) for folder in folders.values() for each in subfolders(folder)})
    root = folders["train"]
    if len(names) < 2:
        inner = [each for each in subfolders(root) if len(subfolders(each)) > 1]
        hint = f"; set data.path to {shown(inner[0])}?" if inner else ""
        found = f"one, {names[0]!r}" if names else "none"
        raise InputError(
            f"{shown(root)} must hold a folder for each of two classes or more; found: "
            f"{found}{hint}"
        )
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"{shown(root)} has {len(names)} folders; allowed: at most {MOST_CLASSES} classes"
        )
    return tuple(names)


def name_of(folder: Path) -> str:
    """The class's name: composed letters, since a Mac stores an umlaut as two."""
    name = unicodedata.normalize("NFC", folder.name)
    if shown(Path(name)) != name:
        raise InputError(f"{shown(folder)}: the name cannot be printed; rename the folder")
    return name


def photos_in(
    folder: Path, root: Path, label: int, params: DataParams, bad: list[str]
) -> list[Photo]:
    """The pictures of one class in one split; a line for each other file goes into ``bad``."""
    height, width = params.image_size

    def read(path: Path) -> Photo | str:
        name = shown(path.relative_to(root))
        try:
            photo = read_photo(path)
        except (InputError, OSError) as error:
            return f"{name}: {error}"
        return Photo(name, resized(photo, (height, width), params.resize), label, digest_of(photo))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV decodes outside the GIL
        results = list(pool.map(read, files_below(folder)))
    bad += [result for result in results if isinstance(result, str)]
    return [result for result in results if isinstance(result, Photo)]


def files_below(folder: Path) -> Iterator[Path]:
    """All files, sorted by their path; a folder that a link leads to twice is read once."""
    seen, found = set(), []
    for here, names, files in os.walk(folder, followlinks=True):
        names[:] = [name for name in names if not is_left_behind(name)]
        if (real := os.path.realpath(here)) in seen:
            names.clear()
            continue
        seen.add(real)
        found += [Path(here) / name for name in files if not is_left_behind(name)]
    yield from sorted(found)


def subfolders(folder: Path) -> list[Path]:
    return sorted(
        each for each in folder.iterdir() if each.is_dir() and not is_left_behind(each.name)
    )


def stray_files(folder: Path) -> list[str]:
    """A line for the files that lie beside folders of classes, and so have no class."""
    names = [shown(Path(each.name)) for each in sorted(folder.iterdir()) if each.is_file()]
    names = [name for name in names if not is_left_behind(name) and name != "README.md"]
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{shown(folder)}: {names[0]}{more} lies in no class's folder, and is passed over"]


def is_left_behind(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def shown(path: Path) -> str:
    """A name that can be printed on a line, whatever its bytes."""
    return printable(path)
