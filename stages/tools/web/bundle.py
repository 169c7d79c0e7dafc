"""The folder that a web server serves: the page, ONNX Runtime Web and models."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from deploy.classify import InputError as UnreadableModel
from deploy.classify import read_description
from stages.common.core.cli import InputError
from stages.common.core.files import replacing, write_json
from stages.tools.web.runtime import RUNTIME, fetch_runtime

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "deploy" / "web"
MODELS = "models"  # a folder of the bundle
LIST = "models.json"  # which models there are; the page shows the first
# Every web server knows that .js is JavaScript; some do not know .mjs, and browsers then refuse it.
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")  # ONNX Runtime's; the npm package has none


def write_web_bundle(models: list[Path], folder: Path, runtime: Path = RUNTIME) -> None:
    """Write, or renew, a folder that works on any static web server and without a network.

    ``models`` are .onnx files of the pipeline, in the order in which the page lists them. Models
    in the folder that are not among them are removed. ``runtime`` has ONNX Runtime Web, or gets it
    from npm. Raises ``InputError`` when there is no model, one is missing, is not of this pipeline
    or has the name of another, or ONNX Runtime Web cannot be fetched; nothing is written then.
    """
    refuse_unusable(models)
    fetch_runtime(runtime)
    sources = {Path(path.name): path for path in PAGE.iterdir()}
    sources[Path("LICENSE")] = ROOT / "LICENSE"
    sources |= {
        Path("onnxruntime", target): runtime / name for name, target in RUNTIME_FILES.items()
    }
    sources |= {Path("onnxruntime", name): wheel() / name for name in NOTICES}
    sources |= {Path(MODELS, path.name): path for path in models}
    for target, source in sources.items():
        with replacing(folder / target) as part:
            shutil.copyfile(source, part)
    write_json(folder / LIST, {"models": [f"{MODELS}/{path.name}" for path in models]})
    for path in (folder / MODELS).glob("*.onnx"):
        if Path(MODELS, path.name) not in sources:
            path.unlink()


def refuse_unusable(models: list[Path]) -> None:
    if not models:
        raise InputError(
            "there is no model; run 'dvc pull --allow-missing' or 'dvc repro', or name .onnx files"
        )
    names = [path.name for path in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two models are called {', '.join(twice)}; rename one")
    for path in models:
        try:
            read_description(path)
        except UnreadableModel as error:
            raise InputError(str(error)) from None


def wheel() -> Path:
    """The folder of the Python package onnxruntime."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def size_bytes(folder: Path) -> int:
    """Of all files in a folder and in those below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
