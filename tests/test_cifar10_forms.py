"""stages.prepare takes CIFAR-10 as people have it, and runs nothing that a file asks for."""

import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.common.sources.params import PrepareParams
from stages.common.sources.pickled_batches import read_batch
from stages.prepare import prepare
from tests.cifar10_files import FILES, Python2Pickler, write_binary, write_python_folder


@pytest.fixture
def binary(tmp_path) -> Path:
    return write_binary(tmp_path / "binary" / "cifar-10-batches-bin")


@pytest.fixture
def python(tmp_path, binary) -> Path:
    return write_python_folder(binary, tmp_path / "downloads" / "cifar-10-batches-py")


@pytest.fixture
def digests(binary) -> dict[str, str]:
    return {name: digest(binary / name) for name in FILES}


def prepared(path: Path | str, digests: dict[str, str], tmp_path: Path) -> bool:
    """Whether data/cifar10 has the binary files' bytes and nothing else."""
    target = tmp_path / "data" / "cifar10"
    prepare(target, PrepareParams(["local"], str(path)), digests)
    return (
        sorted(os.listdir(target)) == sorted([*FILES, "batches.meta.txt"])
        and {name: digest(target / name) for name in FILES} == digests
        and os.listdir(target.parent) == [target.name]
    )


def reason(path: Path | str, digests: dict[str, str], tmp_path: Path) -> str:
    target = tmp_path / "data" / "cifar10"
    with pytest.raises(InputError) as caught:
        prepare(target, PrepareParams(["local"], str(path)), digests)
    assert not target.exists()
    return str(caught.value).splitlines()[1]


def tar(folder: Path, path: Path, mode: str = "w:gz", inside: str | None = None) -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(folder, arcname=folder.name if inside is None else inside)
    return path


def zipped(folder: Path, path: Path, separator: str = "/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.writestr(f"{folder.name}{separator}{file.name}", file.read_bytes())
    return path


# Forms that are accepted


@pytest.mark.parametrize("version", [2, 3])
def test_batches_pickled_by_python_2_and_3_become_the_published_bytes(
    binary, digests, tmp_path, version
):
    folder = write_python_folder(binary, tmp_path / "batches", python=version)
    assert prepared(folder, digests, tmp_path)


def test_torchvisions_root_is_the_folder_around_the_batches(python, digests, tmp_path):
    (python.parent / "another").mkdir()
    assert prepared(python.parent, digests, tmp_path)


def test_a_deeper_and_renamed_folder_is_found(python, digests, tmp_path):
    shutil.move(python, tmp_path / "downloads" / "1" / "2" / "my images (copy)")
    assert prepared(tmp_path / "downloads", digests, tmp_path)


def test_one_of_the_files_stands_for_its_folder(python, digests, tmp_path):
    assert prepared(python / "data_batch_1", digests, tmp_path)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", ""])
@pytest.mark.parametrize("inside", [None, ".", "a/b/c/renamed"])
def test_tar_archives_are_read_whatever_their_folders(python, digests, tmp_path, suffix, inside):
    archive = tar(python, tmp_path / f"cifar.tar.{suffix}", f"w:{suffix}", inside)
    assert prepared(archive, digests, tmp_path)


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_zip_archives_are_read_also_with_the_separators_of_windows(
    python, digests, tmp_path, separator
):
    assert prepared(zipped(python, tmp_path / "cifar.zip", separator), digests, tmp_path)


def test_a_zip_around_the_tar_is_read(python, digests, tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    tar(python, around / "cifar-10-python.tar.gz")
    assert prepared(zipped(around, tmp_path / "archive.zip"), digests, tmp_path)


def test_a_folder_that_holds_only_the_archive_is_enough(binary, digests, tmp_path):
    tar(binary, tmp_path / "cifar-10-binary.tar.gz")
    shutil.rmtree(binary.parent)
    assert prepared(tmp_path, digests, tmp_path)


def test_the_most_complete_set_of_a_folder_is_taken(python, digests, tmp_path):
    rest = tmp_path / "downloads" / "a"
    rest.mkdir()
    shutil.copy(python / "test_batch", rest)
    assert prepared(python.parent, digests, tmp_path)


def test_links_to_the_batches_are_followed_without_an_endless_loop(python, digests, tmp_path):
    (tmp_path / "link").symlink_to(python)
    assert prepared(tmp_path / "link", digests, tmp_path)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "batches").symlink_to(python)
    (tmp_path / "around" / "a loop").symlink_to(tmp_path / "around")
    assert prepared(tmp_path / "around", digests, tmp_path)


# Relative paths


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/tmp1", "build/quick"])
def test_relative_paths_start_at_the_repository_in_a_copy_of_it_too(
    python, digests, tmp_path, monkeypatch, copy
):
    root = tmp_path / "repository"
    (root / copy).mkdir(parents=True)
    (root / "dvc.yaml").touch()
    monkeypatch.chdir(root / copy)
    assert prepared("../downloads", digests, tmp_path)


def test_a_path_that_is_nowhere_says_from_where_it_was_looked_for(digests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reason("../x.tar.gz", digests, tmp_path).endswith(
        f"there is no such file or folder below {tmp_path}"
    )
    assert reason("/x.tar.gz", digests, tmp_path).endswith("there is no such file or folder")
    assert "no home folder for ~nobody-here" in reason("~nobody-here/x", digests, tmp_path)


# What is missing or wrong, in one line


def test_missing_batches_are_named(python, digests, tmp_path):
    (python / "data_batch_3").unlink()
    (python / "test_batch").unlink()
    assert reason(python.parent, digests, tmp_path).endswith("lacks data_batch_3, test_batch")
    archive = tar(python, tmp_path / "cifar-10-python.tar.gz")
    assert reason(archive, digests, tmp_path).endswith("lacks data_batch_3, test_batch")


def test_another_dataset_is_told_by_what_it_holds(digests, tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("meta", "test", "train"):
        (folder / name).touch()
    assert reason(folder, digests, tmp_path).endswith("but meta, test, train")
    archive = tar(folder, tmp_path / "cifar-100-python.tar.gz")
    assert "but cifar-100-python/" in reason(archive, digests, tmp_path)


def test_one_changed_pixel_is_found(binary, digests, tmp_path):
    content = bytearray((binary / "data_batch_4.bin").read_bytes())
    content[5000] ^= 1
    (binary / "data_batch_4.bin").write_bytes(content)
    folder = write_python_folder(binary, tmp_path / "changed")
    found = reason(folder, digests, tmp_path)
    assert "data_batch_4.bin has the md5" in found
    assert digests["data_batch_4.bin"] in found


@pytest.mark.parametrize("kind", ["not an archive", "cut zip", "zip with a password"])
def test_an_archive_that_cannot_be_read_is_a_reason(python, digests, tmp_path, kind):
    archive = zipped(python, tmp_path / "cifar.zip")
    content = bytearray(archive.read_bytes())
    if kind == "not an archive":
        content = bytearray(b"7z\xbc\xaf\x27\x1c" + bytes(1000))
    if kind == "cut zip":
        content = content[: len(content) // 2]
    if kind == "zip with a password":
        for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(signature) + flags] |= 1
    archive.write_bytes(content)
    found = reason(archive, digests, tmp_path)
    assert found.endswith("not a whole .tar.gz, .tar or .zip archive")


def test_a_pipe_is_refused_and_not_waited_for(digests, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a folder nor a file" in reason(tmp_path / "pipe", digests, tmp_path)


# Pickles


class Malicious:
    """Its pickle asks the reader to run a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_that_a_pickle_asks_for_is_run(python, digests, tmp_path):
    ran = tmp_path / "ran"
    content = pickle.dumps({b"data": Malicious(ran), b"labels": [0]}, protocol=2)
    pickle.loads(content)
    assert ran.exists()  # it does run where pickles are simply loaded
    ran.unlink()

    (python / "data_batch_1").write_bytes(content)
    found = reason(python, digests, tmp_path)
    assert "data_batch_1 is no pickled batch: asks for posix.system, which is not run" in found
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(S'x'\ntR.",
        b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'mro'\ntR.",
        b"P1\n.",
    ],
)
def test_names_that_an_array_does_not_need_are_refused(tmp_path, content):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match="data_batch_1 is no pickled batch"):
        read_batch(tmp_path / "data_batch_1")


def batch(**changes) -> dict[bytes, object]:
    whole = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9]}
    return {key.encode(): value for key, value in (whole | changes).items()}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (batch(), None),
        ([1], "holds no dictionary"),
        ({}, "has no 'data' of N x 3072 uint8"),
        (batch(data=[1, 2]), "has no 'data'"),
        (batch(data=np.zeros((2, 3072), np.float32)), "has no 'data'"),
        (batch(data=np.zeros((2, 32, 96), np.uint8)), "has no 'data'"),
        (batch(data=np.asfortranarray(np.zeros((2, 3072), np.uint8))), "has no 'data'"),
        (batch(data=np.array([{}], dtype=object)), "has no 'data'"),
        (batch(labels=[0, 10]), "has no list 'labels' from 0 to 9"),
        (batch(labels=[0, True]), "has no list 'labels'"),
        (batch(labels=3), "has no list 'labels'"),
        (batch(labels=[1]), "has 1 labels for 2 images"),
    ],
)
def test_pickles_that_are_no_batch_say_why(tmp_path, content, found):
    with open(tmp_path / "test_batch", "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    if found is None:
        assert read_batch(tmp_path / "test_batch").shape == (2, 3073)
        return
    with pytest.raises(InputError, match=found):
        read_batch(tmp_path / "test_batch")


def test_a_damaged_pickle_is_refused_in_one_line_or_read(python):
    whole = (python / "data_batch_1").read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.5 else whole)
        for place in rng.integers(0, max(1, min(len(damaged), 600)), size=3):
            damaged[place : place + 1] = bytes([rng.integers(256)])
        (python / "data_batch_1").write_bytes(damaged)
        try:
            read_batch(python / "data_batch_1")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not any("\n" in message for message in messages)
