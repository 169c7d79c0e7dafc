"""Publishing models into the remote that is part of the repository, in one of three files."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.tools.publish import object_path, publish, stored

PIPELINE = """
stages:
  prepare: {cmd: unused, outs: [images: {push: false}]}
  train: {cmd: unused, outs: [model, table: {cache: false}]}
"""


@pytest.fixture
def root(tmp_path) -> Path:
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    for name in ("images", "table"):
        (tmp_path / name).write_text(name)
    return tmp_path


def make_model(root: Path, content: str) -> str:
    """Leave a model as `dvc repro` would; return its MD5."""
    (root / "model").write_text(content)
    with Repo(str(root)) as repository:
        repository.commit(force=True)
    return digest(root / "model")


def published(root: Path) -> set[Path]:
    publish(root, root / "remote")
    return stored(root / "remote")


def test_every_publishing_leaves_the_current_models_and_nothing_else(root):
    for content in ("first", "second", "first"):
        md5 = make_model(root, content)
        assert published(root) == {object_path(root / "remote", md5)}


def test_what_is_published_has_the_bytes_of_the_model(root):
    md5 = make_model(root, "first")
    assert publish(root, root / "remote") == {md5: len("first")}
    assert object_path(root / "remote", md5).read_text() == "first"


def test_too_much_is_refused_and_the_old_models_stay(root):
    make_model(root, "first")
    before = published(root)
    make_model(root, "second")
    with pytest.raises(InputError, match="have 6 bytes; at most 5 may travel"):
        publish(root, root / "remote", limit_bytes=5)
    assert stored(root / "remote") == before


def test_a_model_that_is_not_at_hand_is_named_and_the_old_ones_stay(root):
    make_model(root, "first")
    before = published(root)
    md5 = make_model(root, "second")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(InputError, match=md5[2:]):
        published(root)
    assert stored(root / "remote") == before


def test_a_model_that_was_never_made_is_named(root):
    with pytest.raises(
        InputError, match="dvc.lock does not name model; run 'dvc repro dvc.yaml' first"
    ):
        published(root)


def test_an_optional_pipeline_counts_from_its_first_run_on(root):
    make_model(root, "first")
    (root / "optional").mkdir()
    (root / "optional" / "dvc.yaml").write_text("stages: {more: {cmd: unused, outs: [other]}}\n")
    assert len(published(root)) == 1
    (root / "optional" / "other").write_text("other")
    make_model(root, "first")
    assert len(published(root)) == 2
    (root / "optional" / "dvc.yaml").write_text(
        "stages: {more: {cmd: unused, outs: [other]}, next: {cmd: unused, outs: [third]}}\n"
    )
    with pytest.raises(InputError, match=r"third; run 'dvc repro optional/dvc.yaml' first"):
        published(root)


def test_another_default_remote_is_left_alone(root):
    """Files are deleted where results are published: never on a disk that others use."""
    (root / "shared").mkdir()
    (root / "shared" / "of others").write_text("")
    with Repo(str(root)) as repository, repository.config.edit() as config:
        config["core"]["remote"] = "results"
        config["remote"]["results"] = {"url": str(root / "shared")}
    make_model(root, "first")
    assert len(published(root)) == 1
    assert stored(root / "shared") == {root / "shared" / "of others"}
