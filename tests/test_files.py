"""Files are whole or not there; errors are one line."""

import errno
import hashlib
from pathlib import Path

import pytest

from stages.common.core.cli import InputError, run
from stages.common.core.files import digest, replacing, write_bytes, write_csv, write_json


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new folder" / "result.json"
    write_json(path, {"accuracy": 1.0})
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="killed"):
        write_half(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def write_half(path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError("killed")


def test_a_full_disk_is_reported_with_the_files_name_and_the_remedy(tmp_path, capsys):
    def main() -> None:
        with replacing(tmp_path / "model.pt"):
            raise OSError(28, "No space left on device")  # as write(2) fails: without a name

    with pytest.raises(SystemExit):
        run(main)
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert str(tmp_path / "model.pt") in said
    assert "run the same command again" in said


def test_a_read_only_folder_is_told_with_the_name_of_the_file_that_was_to_be_written(
    tmp_path, monkeypatch
):
    def refuse(path, *args, **kwargs):  # as a read-only mount does, root included
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for action in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, action, refuse)
    with pytest.raises(OSError, match=r"Read-only file system: '[^']*/model\.pt'$"):
        write_bytes(tmp_path / "model.pt", b"content")


def test_a_csv_has_its_header_even_without_rows(tmp_path):
    write_csv(tmp_path / "curve.csv", [], header=["epoch", "loss"])
    assert (tmp_path / "curve.csv").read_text() == "epoch,loss\n"
    write_csv(tmp_path / "curve.csv", [{"epoch": 1, "loss": 0.5}], header=["epoch", "loss"])
    assert (tmp_path / "curve.csv").read_text() == "epoch,loss\n1,0.5\n"


def test_the_digest_is_that_of_the_files_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert digest(tmp_path / "file") == hashlib.md5(b"content").hexdigest()


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("prune.amount is 2"), 2, "error: prune.amount is 2\n"),
        (OSError(28, "No space left on device", "models/a.pt"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_input_error_is_one_line_without_traceback(capsys, error, code, said):
    with pytest.raises(SystemExit) as exit_:
        run(raising(error))
    assert exit_.value.code == code
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(AssertionError):
        run(raising(AssertionError("a bug")))
