"""Any of torchvision's datasets of labelled images, by its name: torchvision:FashionMNIST.

A dataset is fetched into a folder of its own, beside its place until it is whole.
"""

import difflib
import http.client
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.cli import InputError, is_disk_full
from stages.common.data.params import TORCHVISION, DataParams
from stages.common.sources.archives import DAMAGED
from stages.common.sources.cifar10 import TIMEOUT_S, socket_timeout
from stages.common.sources.photos import digest_of, resized
from stages.common.sources.splits import Collection, Photo

# What constructors call the splits; a dataset that knows none of them is one whole.
SPLIT_ARGUMENTS = {
    "train": ("train", "trainval"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
NOT_OPENED = (  # what constructors raise; TypeError where they take more arguments
    *DAMAGED, OSError, http.client.HTTPException, ImportError, TypeError, ValueError,
    AssertionError,
)  # fmt: skip
REMEDY = (
    "try again with a network, or put its images into class folders and set data.source: folder"
)


def collect(params: DataParams, downloads: Path) -> Collection:
    """Every picture of the dataset, which is fetched into a folder below ``downloads`` where it is
    not there.

    Raises ``InputError`` when torchvision has none of that name, it cannot be fetched, or its
    targets are no classes.
    """
    name = params.source.removeprefix(TORCHVISION)
    kind = dataset_class(name)
    root = downloads / name
    if not root.is_dir():
        fetch(kind, name, root)
    parts = opened(kind, name, root, f"delete {root}, so that it is fetched anew")
    classes = names_of(parts, name)
    splits = {split: photos_of(part, split, params) for split, part in parts.items()}
    return Collection(classes, splits, published=True)


def dataset_class(name: str) -> Any:
    """Raises ``InputError`` with the nearest name when torchvision has none of this name."""
    from torchvision import datasets  # takes seconds; the other sources do not need it

    if name not in datasets.__all__ or not isinstance(getattr(datasets, name), type):
        near = difflib.get_close_matches(name, datasets.__all__, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"torchvision has no dataset {name!r}{hint}")
    kind = getattr(datasets, name)
    if "download" not in inspect.signature(kind).parameters:
        raise InputError(
            f"torchvision does not fetch {name}; put its images into class folders and set "
            "data.source: folder"
        )
    return kind


def fetch(kind: Any, name: str, root: Path) -> None:
    """Leave a whole dataset in ``root``, or nothing; what a killed run left is removed first."""
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        opened(kind, name, part, REMEDY)
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def opened(kind: Any, name: str, root: Path, remedy: str) -> dict[str, Any]:
    """The dataset's own splits, or all of it as 'train'; what is not in ``root`` is fetched.

    Raises ``InputError`` with the reason and the remedy when it cannot be fetched or is damaged.
    """
    known = inspect.signature(kind).parameters
    choices: dict[str, list[dict]]
    if "train" in known:
        choices = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in known:
        choices = {
            split: [{"split": word} for word in words] for split, words in SPLIT_ARGUMENTS.items()
        }
    else:
        choices = {"train": [{}]}
    found, refused = {}, ""
    for split, arguments in choices.items():
        for chosen in arguments:
            try:
                with socket_timeout(TIMEOUT_S):
                    found[split] = kind(root=str(root), download=True, **chosen)
                break
            except NOT_OPENED as error:
                if is_disk_full(error):
                    raise
                reason = " ".join(str(error).split()) or repr(error)
                if isinstance(error, ValueError) and "split" in chosen:  # it has no such split
                    refused = reason
                    continue
                raise InputError(
                    f"torchvision could not fetch or open {name}: {reason}; {remedy}"
                ) from None
    if "train" not in found:
        raise InputError(f"torchvision's {name} has no split 'train' ({refused})")
    return found


def names_of(parts: dict[str, Any], name: str) -> tuple[str, ...]:
    """The dataset's own names; numbers where it has none.

    Raises ``InputError`` when the targets are not whole numbers, as of a detection dataset.
    """
    target = parts["train"][0][1]
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        raise InputError(f"torchvision's {name} gives {type(target).__name__}, no class, per image")
    names = getattr(parts["train"], "classes", None) or getattr(parts["train"], "categories", None)
    if names:  # Imagenette has several for each class
        return tuple(each if isinstance(each, str) else str(each[0]) for each in names)
    highest = max(int(label) for part in parts.values() for _, label in part)
    return tuple(str(number) for number in range(highest + 1))


def photos_of(part: Any, split: str, params: DataParams) -> list[Photo]:
    height, width = params.image_size
    photos = []
    for index in range(len(part)):
        picture, label = part[index]
        pixels = np.asarray(picture.convert("RGB"))  # (H, W, 3) uint8
        photos.append(
            Photo(
                f"{split} {index}",
                resized(pixels, (height, width), params.resize),
                int(label),
                digest_of(pixels),
            )
        )
    return photos
