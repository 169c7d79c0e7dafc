"""Put a model and all that a place needs into one folder, or into an archive of it.

Reads   a model of the pipeline and what was measured of it, params.yaml, LICENSE, deploy/
Writes  the folder or archive: the model, its card, the licence, programs, a page, SHA256SUMS
Params  card.*  (see CardParams)
Raises  InputError for an unknown model or place, for a missing file, and for figures of another
        model; nothing is then written

A copy of an ONNX file has its card in its metadata; the files in models/ stay as they are.
"""

import argparse
import difflib
import shutil
from pathlib import Path

from stages.card.params import CardParams
from stages.common.core.cli import InputError, run
from stages.common.core.params import load_params
from stages.common.revisions.model_files import open_repository
from stages.tools.bundle.folder import (
    files_in,
    move_into_place,
    unfinished,
    write_archive,
    write_checksums,
)
from stages.tools.bundle.models import Pipeline
from stages.tools.bundle.places import PLACES

LICENCE = Path("LICENSE")


def require_place(name: str) -> str:
    if name not in PLACES:
        near = difflib.get_close_matches(name, PLACES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(PLACES)}"
        raise InputError(f"FOR={name}: no such place; {hint}")
    return name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a variant of dvc.yaml")
    parser.add_argument("--place", required=True, help=", ".join(PLACES))
    parser.add_argument("--folder", type=Path, required=True, help="where bundles are written")
    parser.add_argument("--archive", action="store_true", help="a .tar.gz, no folder")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    fill = PLACES[require_place(args.place)]
    licences = load_params(CardParams, args.params, section="card")
    pipeline_folder, _, name = args.model.rpartition("/")
    target = args.folder / f"{args.model.replace('/', '-')}-{args.place}"
    with open_repository(Path()) as repository:
        pipeline = Pipeline(repository, pipeline_folder, licences)
        model = pipeline.model(name)
        with unfinished(target) as folder:
            fill(pipeline, model, folder)
            shutil.copyfile(LICENCE, folder / LICENCE.name)
            write_checksums(folder)
            files = files_in(folder)
            size = sum(path.stat().st_size for path in files)
            if args.archive:
                target = target.with_name(f"{target.name}.tar.gz")
                write_archive(folder, target)
            else:
                move_into_place(folder, target)
    print(f"{target}: {len(files)} files, {size:,} bytes; its README.md says how to use it")


if __name__ == "__main__":
    run(main)
