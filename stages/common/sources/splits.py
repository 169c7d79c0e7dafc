"""The pictures that a source collects, and how they become three splits that share no picture."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stages.common.core.cli import InputError
from stages.common.data.dataset import SPLITS, DatasetInfo, Images, colour_statistics
from stages.common.data.params import DataParams

NAMED = 5  # of many like lines, so many are printed


@dataclass(frozen=True)
class Photo:
    """One picture, brought to size: pixels (3, H, W) uint8 RGB; ``digest`` is of the picture as it
    was before, so that copies are found.
    """

    name: str
    pixels: np.ndarray
    label: int
    digest: bytes


@dataclass
class Collection:
    """The pictures of a source, by the split that it gives them, and lines for the user.

    ``published``: others report figures on these splits, and their owner cannot mend them.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[Photo]]
    notes: list[str] = field(default_factory=list)
    published: bool = False


class Source(Protocol):
    """Reads all pictures. Raises ``InputError`` with one line for what the user can mend."""

    def __call__(self, params: DataParams) -> Collection: ...


def complete(collection: Collection, params: DataParams) -> dict[str, Images]:
    """The three splits, in a seeded order that mixes the classes; notes are added.

    Copies of a picture are kept once, and a split that the source lacks is taken from its training
    images: the same share of every class, by ``data.split_seed``. Raises ``InputError`` for fewer
    than two classes, a class without training images, one too small to be split, or a
    ``data.test_split`` that the source lacks.
    """
    refuse_one_class(collection)
    if params.test_split == "validation":
        test_on_validation(collection)
    drop_copies(collection)
    drop_empty_splits(collection)
    refuse_missing_classes(collection)
    shares = {"test": params.test_share, "validation": params.validation_share}
    for split, share in shares.items():
        if split not in collection.splits:
            take_split(collection, split, share, params.split_seed)
    notes_on_classes(collection)
    arrays = {
        split: as_arrays(shuffled(collection.splits[split], params.split_seed, split))
        for split in SPLITS
    }
    mean, std = colour_statistics(arrays["train"][0])
    info = DatasetInfo(collection.classes, mean, std, params.resize)
    return {split: Images(pixels, labels, info) for split, (pixels, labels) in arrays.items()}


def refuse_one_class(collection: Collection) -> None:
    if len(collection.classes) < 2:
        found = f"only {collection.classes[0]!r}" if collection.classes else "none"
        raise InputError(f"a classifier needs two classes or more; found: {found}")


def test_on_validation(collection: Collection) -> None:
    """Make the validation split the test split, whether or not there is one."""
    if "validation" not in collection.splits:
        raise InputError(
            "data.test_split is 'validation', but the source has no validation split; found: "
            f"{', '.join(collection.splits)}"
        )
    left_out = len(collection.splits.get("test", []))
    collection.splits["test"] = collection.splits.pop("validation")
    note = f"the validation split, {len(collection.splits['test'])} pictures, is the test split"
    if left_out:
        note += f"; the {left_out} pictures of the source's own are left out"
    collection.notes.append(note)


def drop_copies(collection: Collection) -> None:
    """Keep every picture once: in test before validation before train.

    A published split loses what is in an earlier one, and keeps the copies within it. Raises
    ``InputError`` for a picture that is of two classes, unless it is published so.
    """
    first: dict[bytes, Photo] = {}
    lines = []
    for split in [each for each in reversed(SPLITS) if each in collection.splits]:
        kept = []
        earlier = set(first)
        for photo in collection.splits[split]:
            other = first.setdefault(photo.digest, photo)
            if other is photo or (collection.published and photo.digest not in earlier):
                kept.append(photo)
                continue
            if other.label != photo.label and not collection.published:
                names = [collection.classes[each.label] for each in (other, photo)]
                raise InputError(
                    f"{other.name} ({names[0]}) and {photo.name} ({names[1]}) are the same "
                    "picture in two classes; remove the wrong one"
                )
            lines.append(f"{photo.name} left out: a copy of {other.name}")
        collection.splits[split] = kept
    collection.notes += shortened(lines)


def drop_empty_splits(collection: Collection) -> None:
    """A split whose pictures are all copies of another's is as good as none."""
    for split in ("test", "validation"):
        if collection.splits.get(split) == []:
            del collection.splits[split]
            collection.notes.append(f"no picture is left in the {split} split")


def take_split(collection: Collection, split: str, share: float, seed: int) -> None:
    """Move this share of each class, at least one picture, from train into a new split."""
    train = collection.splits["train"]
    still_to_take = sum(each not in collection.splits for each in SPLITS)
    chosen: set[int] = set()
    for label, name in enumerate(collection.classes):
        indices = [index for index, photo in enumerate(train) if photo.label == label]
        if len(indices) <= still_to_take:
            raise InputError(
                f"class {name!r} has {len(indices)} training pictures; expected at least "
                f"{still_to_take + 1}, since a {split} split is made of them"
            )
        count = min(max(1, round(share * len(indices))), len(indices) - still_to_take)
        order = np.random.default_rng([seed, SPLITS.index(split), label]).permutation(indices)
        chosen.update(order[:count].tolist())
    collection.splits[split] = [train[index] for index in sorted(chosen)]
    collection.splits["train"] = [photo for index, photo in enumerate(train) if index not in chosen]
    collection.notes.append(
        f"there is no {split} split: {len(chosen)} training pictures, {share:.0%} of each class, "
        "are made one"
    )


def refuse_missing_classes(collection: Collection) -> None:
    trained = {photo.label for photo in collection.splits["train"]}
    for label, name in enumerate(collection.classes):
        if label not in trained:
            elsewhere = [
                split
                for split, photos in collection.splits.items()
                if any(photo.label == label for photo in photos)
            ]
            where = f", only in {' and '.join(elsewhere)}" if elsewhere else ""
            raise InputError(
                f"class {name!r} has no training picture{where}; add some or remove the class"
            )


def notes_on_classes(collection: Collection) -> None:
    """Say which classes a split lacks, and how uneven they are."""
    for split in ("validation", "test"):
        present = {photo.label for photo in collection.splits[split]}
        collection.notes += shortened(
            [
                f"class {name!r} has no {split} picture"
                for label, name in enumerate(collection.classes)
                if label not in present
            ]
        )
    counts = Counter(photo.label for photo in collection.splits["train"])
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many > 3 * few:
        collection.notes.append(
            f"the classes are uneven: {many} training pictures of {collection.classes[most]!r}, "
            f"{few} of {collection.classes[least]!r}"
        )


def shuffled(photos: list[Photo], seed: int, split: str) -> list[Photo]:
    order = np.random.default_rng([seed, len(SPLITS) + SPLITS.index(split)])
    return [photos[index] for index in order.permutation(len(photos))]


def as_arrays(photos: list[Photo]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, H, W) uint8 and labels (N,) int64."""
    labels = np.array([photo.label for photo in photos], dtype=np.int64)
    return np.stack([photo.pixels for photo in photos]), labels


def shortened(lines: list[str]) -> Iterator[str]:
    """The first few lines, and how many more there are."""
    yield from lines[:NAMED]
    if len(lines) > NAMED:
        yield f"... and {len(lines) - NAMED} more like the last one"
