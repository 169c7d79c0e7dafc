"""Small data that the tests make themselves, images whose class can be seen in their colour, and
a repository in which the pipeline has run on them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from stages.common.data.cifar10 import CLASSES, TEST_FILE, TRAIN_FILES
from stages.common.data.dataset import CIFAR10, Images
from stages.common.data.params import DataParams
from tests.browser import Browser, served
from tests.pipelines import FIRST_OUTPUT, TINY, Repository, copy_working_tree, set_params

DATA = {
    "source": "cifar10",
    "path": "examples/photos",
    "image_size": [32, 32],
    "resize": "crop",
    "bad_files": "refuse",
    "validation_share": 0.2,
    "test_share": 0.2,
    "split_seed": 0,
    "test_split": "test",
    "sampling": "natural",
    "flip": True,
    "train_images": 400,
    "validation_images": 100,
}


def data_params(train_images: int, validation_images: int, **changes: object) -> DataParams:
    counts = {"train_images": train_images, "validation_images": validation_images}
    return DataParams(**{**DATA, **counts, **changes})


def make_images(count: int, seed: int = 0) -> Images:
    """Noise around a mean colour that differs by class; classes in turn, so all are present."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    colours = np.random.default_rng(1234).integers(40, 215, size=(len(CLASSES), 3))
    noise = rng.normal(scale=30, size=(count, 3, 32, 32))
    pixels = np.clip(colours[labels][:, :, None, None] + noise, 0, 255).astype(np.uint8)
    return Images(pixels, labels, CIFAR10)


def write_images(path: Path, images: Images) -> None:
    """Write the official binary layout: one label byte, then 3072 bytes a record."""
    records = np.concatenate(
        [images.labels.astype(np.uint8)[:, None], images.pixels.reshape(len(images), -1)], axis=1
    )
    path.write_bytes(records.tobytes())


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory) -> Path:
    """A folder like data/cifar10 with 5 x 100 training images and 100 test images."""
    directory = tmp_path_factory.mktemp("cifar10")
    for seed, name in enumerate([*TRAIN_FILES, TEST_FILE]):
        write_images(directory / name, make_images(100, seed=seed))
    (directory / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return directory


# They train, open pages in a browser, or start DVC or git many times: 10 seconds and more a file.
# Not for make test-fast.
SLOW_FILES = (
    "test_aware.py",
    "test_bundle.py",
    "test_controls.py",
    "test_mixtures.py",
    "test_pre_commit.py",
    "test_remotes.py",
    "test_report.py",
    "test_study_cluster.py",
    "test_study_pareto.py",
    "test_study_point.py",
    "test_teach.py",
    "test_web_bundle.py",
    "test_web_page.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process runs a whole file, whose fixtures its tests share, but the tests of the longest,
    test_pipeline.py, are spread. Tests that need the pipeline to have run are slow.
    """
    for item in items:
        if item.path.name != "test_pipeline.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))
        if "repository" in item.fixturenames or item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Repository:
    """A repository whose first `dvc repro` has run.

    Making it takes long: all tests share it, and a test that changes something puts it back. Of two
    processes one makes it, and each gets a copy.
    """
    folder = tmp_path_factory.getbasetemp()
    one_of_several = "PYTEST_XDIST_WORKER" in os.environ  # they share the folder above theirs
    made = (folder.parent if one_of_several else folder) / "repository"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            part = made.with_suffix(".part")
            make_repository(part)
            part.rename(made)
    path = tmp_path_factory.mktemp("clone") / "with a space"
    shutil.copytree(made, path, symlinks=True)
    return Repository(path)


def make_repository(path: Path) -> None:
    repository = prepare_repository(path)
    output = repository.dvc("repro")
    (path / "build").mkdir()
    (path / FIRST_OUTPUT).write_text(output)
    repository.commit("base")


def prepare_repository(path: Path) -> Repository:
    """Tiny images stand in for CIFAR-10: `dvc commit` takes them as what prepare made."""
    path.mkdir()
    copy_working_tree(path)
    set_params(path / "params.yaml", TINY)
    repository = Repository(path)
    repository.run("git", "init", "--quiet")
    repository.run("git", "config", "user.name", "Test")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.dvc("repro", "validate_params")
    data = path / "data" / "cifar10"
    data.mkdir()
    for seed, name in enumerate([*TRAIN_FILES, TEST_FILE]):
        write_images(data / name, make_images(100, seed=seed))
    repository.dvc("commit", "--force", "prepare")
    return repository


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """Of the module's own folder, served."""
    with served(folder) as address:
        yield address
