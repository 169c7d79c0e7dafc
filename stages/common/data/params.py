"""Section 'data' of params.yaml: which images, and what becomes of them."""

from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.core.params import flag, number, one_of, recorded, rule, text, whole

TORCHVISION = "torchvision:"
MOST_PIXELS = 1024  # a side
OFFICIAL_TRAINING_IMAGES = 50_000  # of CIFAR-10
BATCH_SIZES = ("teach.batch_size", "train.batch_size", "prune.batch_size")


@dataclass(frozen=True)
class DataParams:
    """Which images there are, how they are brought to one size, and how they are split."""

    source: str = rule(
        lambda value: (
            isinstance(value, str)
            and (
                value in ("cifar10", "folder")
                or (value.startswith(TORCHVISION) and value[len(TORCHVISION) :].isidentifier())
            )
        ),
        "cifar10 or folder or torchvision:NAME, such as torchvision:FashionMNIST",
    )
    path: str = text()
    image_size: list[int] = rule(
        lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and all(type(side) is int and 8 <= side <= MOST_PIXELS for side in value)
        ),
        f"[height, width], whole numbers in [8, {MOST_PIXELS}]",
    )
    resize: str = one_of("crop", "stretch")
    bad_files: str = one_of("refuse", "skip")
    validation_share: float = number(at_least=0.01, at_most=0.5)
    test_share: float = number(at_least=0.01, at_most=0.5)
    test_split: str = one_of("test", "validation", usual="test")
    split_seed: int = whole(at_least=0)
    sampling: str = one_of("natural", "balanced")
    flip: bool = flag()
    train_images: int = whole(at_least=1)
    validation_images: int = whole(at_least=1)

    def provenance(self) -> dict:
        """For a checkpoint; of CIFAR-10 the keys that its checkpoints have always had."""
        values = recorded(self)
        if self.source != "cifar10":
            return values
        usual = {"flip": True, "sampling": "natural"}
        kept = ["train_images", "validation_images"]
        kept += [key for key, value in usual.items() if values[key] != value]
        return {key: values[key] for key in kept}


def refuse_data_contradictions(params: DataParams) -> None:
    """Raise ``InputError`` for the first two keys that contradict each other."""
    if params.source == "cifar10" and params.image_size != [32, 32]:
        raise InputError(
            f"data.image_size is {params.image_size}; the images of CIFAR-10 are [32, 32]; with "
            "data.source torchvision:CIFAR10 they are brought to any size"
        )
    if params.source == "cifar10" and params.test_split != "test":
        raise InputError("data.test_split is 'validation', but CIFAR-10 has a test split only")
    if params.validation_share + params.test_share > 0.8:
        raise InputError(
            "data.validation_share and data.test_share leave less than a fifth for training"
        )
    if params.source == "folder" and not Path(params.path).is_dir():
        raise InputError(
            f"data.path is {params.path!r}, which is no folder; expected one with a folder of "
            "images for each class"
        )


def refuse_image_size(size: list[int], blocks: dict[str, int]) -> None:
    """Raise ``InputError`` for images that the chain of convolutions cannot take.

    ``blocks``: how many it has, by the params key of its widths. A 2x2 convolution without padding
    takes a pixel off each side, every block halves what is left (rounded down), and at least one
    pixel must remain. The maximum over the last ones is exported as a square.
    """
    key, most = max(blocks.items(), key=lambda each: each[1])
    least = 2**most + 1
    if size[0] != size[1] or size[0] < least:
        raise InputError(
            f"data.image_size is {size}; the chain of {most} blocks ({key}) takes squares of at "
            f"least [{least}, {least}]"
        )


def batch_sizes(teacher: str) -> tuple[str, ...]:
    """The keys that count, by ``teach.factory``: without a teacher there are no batches of it."""
    return BATCH_SIZES[1:] if teacher == "none" else BATCH_SIZES


def refuse_large_batches(sizes: dict[str, int], images: int, what: str) -> None:
    """Raise ``InputError`` naming every key whose batches are larger than the training split.

    ``sizes``: by params key; ``what`` says of what the number of images is.
    """
    large = [f"{key} is {size}" for key, size in sizes.items() if size > images]
    if large:
        raise InputError(f"{', '.join(large)}; allowed: at most {images}, which is {what}")
