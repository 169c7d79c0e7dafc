"""Write a folder with which a browser classifies pictures: deploy/web with models.

Reads   models of the pipeline (.onnx), deploy/web, ONNX Runtime Web from npm (fetched once)
Writes  a folder for any static web server; nothing in it asks for a network
Params  none
Raises  InputError for models that are missing or foreign, and when npm fails

    python -m stages.tools.web --folder build/web models/*.onnx
"""

import argparse
from pathlib import Path

from stages.common.core.cli import run
from stages.tools.web.bundle import size_bytes, write_web_bundle


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", help=".onnx files, the first shown first")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    write_web_bundle(args.models, args.folder)
    size = size_bytes(args.folder)
    print(f"{args.folder}: {len(args.models)} models, {size:,} bytes in all; to open it:")
    print(f"python3 -m http.server --directory {args.folder}    # then http://localhost:8000")


if __name__ == "__main__":
    run(main)
