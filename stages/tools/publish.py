"""Put the current models into the DVC remote that travels with the repository, and only them.

Reads   dvc.yaml, dvc.lock and the DVC cache of the repository it runs in
Writes  the remote's folder: one file for each output that DVC may push (no data, no experiments)
Params  none
Raises  InputError when an output was never made or is not at hand, when all of them are too large
        for a git repository, when DVC cannot push; what the remote held is then still there

`dvc push` alone would let old models pile up. `dvc gc --cloud` would remove them, but from the
cache as well, and every experiment with them.
"""

import argparse
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from stages.common.core.cli import InputError, run

LIMIT_BYTES = 30_000_000  # every clone carries it


def publish(root: Path, remote: Path, limit_bytes: int = LIMIT_BYTES) -> dict[str, int]:
    """Leave in ``remote`` what dvc.lock names and nothing else; return its sizes by MD5."""
    with open_repository(root, remote) as repository:
        sizes = results(repository)
        refuse_too_much(sum(sizes.values()), limit_bytes)
        repository.push()
    objects = {object_path(remote, md5) for md5 in sizes}
    refuse_missing(objects)  # DVC only warns of what it could not push
    for path in stored(remote) - objects:
        path.unlink()
    return sizes


def open_repository(root: Path, remote: Path) -> Repo:
    """The repository with ``remote`` as its only goal, whatever its configuration says: files are
    deleted there.
    """
    url = str(remote.resolve())
    return Repo(
        str(root), config={"core": {"remote": "results"}, "remote": {"results": {"url": url}}}
    )


def results(repository: Repo) -> dict[str, int]:
    """Size by MD5 of every output that dvc.lock names and DVC may push.

    An optional pipeline that never ran, and so has no dvc.lock, has nothing to publish.
    """
    outs = [out for out in repository.index.outs if out.use_cache and out.can_push]
    outs = [out for out in outs if is_due(Path(out.stage.path).parent, Path(repository.root_dir))]
    if unmade := [out for out in outs if not out.hash_info]:
        pipeline = Path(unmade[0].stage.path).relative_to(repository.root_dir)
        names = [str(out) for out in unmade if out.stage.path == unmade[0].stage.path]
        raise InputError(
            f"{pipeline.with_name('dvc.lock')} does not name {', '.join(names)}; run 'dvc repro "
            f"{pipeline}' first"
        )
    assert not any(out.hash_info.isdir for out in outs), "a folder would need its files' MD5s"
    return {out.hash_info.value: out.meta.size for out in outs}


def is_due(pipeline: Path, root: Path) -> bool:
    """Whether the pipeline in a folder is the main one, or has run."""
    return pipeline == root or (pipeline / "dvc.lock").exists()


def object_path(remote: Path, md5: str) -> Path:
    """The path of a file in a DVC remote."""
    return remote / "files" / "md5" / md5[:2] / md5[2:]


def stored(remote: Path) -> set[Path]:
    return {path for path in remote.rglob("*") if path.is_file()}


def refuse_too_much(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise InputError(
            f"the results have {size_bytes:,} bytes; at most {limit_bytes:,} may travel with the "
            "repository; nothing was published"
        )


def refuse_missing(objects: set[Path]) -> None:
    if missing := sorted(str(path) for path in objects if not path.exists()):
        raise InputError(
            f"DVC could not push {', '.join(missing)}; the cache may lack it: run 'dvc repro', "
            "then publish again; nothing was deleted"
        )


def main() -> None:
    args = parse_args()
    try:
        sizes = publish(Path(), args.remote)
    except DvcException as error:
        raise InputError(f"DVC cannot push: {error}; nothing was deleted") from error
    print(f"{args.remote}: {len(sizes)} files, {sum(sizes.values()):,} bytes; commit it")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--remote", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
