"""Section 'data' of params.yaml: which images, and what becomes of them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.core.params import flag, number, one_of, rule, text, whole

TORCHVISION = "torchvision:"
MOST_PIXELS = 1024  # a side
OFFICIAL_TRAINING_IMAGES = 50_000  # of CIFAR-10


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
    split_seed: int = whole(at_least=0)
    sampling: str = one_of("natural", "balanced")
    flip: bool = flag()
    train_images: int = whole(at_least=1)
    validation_images: int = whole(at_least=1)

    def provenance(self) -> dict:
        """For a checkpoint; of CIFAR-10 the keys that its checkpoints have always had."""
        values = dataclasses.asdict(self)
        if self.source != "cifar10":
            return values
        usual = {"flip": True, "sampling": "natural"}
        kept = ["train_images", "validation_images"]
        kept += [key for key, value in usual.items() if values[key] != value]
        return {key: values[key] for key in kept}


def refuse_data_contradictions(params: DataParams) -> None:
    """Raise ``InputError`` for the first two keys that contradict each other."""
    if params.image_size != [32, 32]:
        raise InputError(
            f"data.image_size is {params.image_size}; the network (a chain of convolutions with "
            "three poolings) takes [32, 32]"
        )
    if params.validation_share + params.test_share > 0.8:
        raise InputError(
            "data.validation_share and data.test_share leave less than a fifth for training"
        )
    if params.source == "folder" and not Path(params.path).is_dir():
        raise InputError(
            f"data.path is {params.path!r}, which is no folder; expected one with a folder of "
            "images for each class"
        )
