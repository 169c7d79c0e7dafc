"""A variant's model file in two revisions."""

from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.inference.onnx_graph import image_shape, load_model, shape_of
from stages.common.inference.runtimes.onnx_files import onnx_runtimes, runtime_name
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, engine_code
from stages.common.revisions.changes import COMPARED, ONLY_IN_BASE, ONLY_IN_HEAD, SAME_FILE
from stages.common.revisions.model_files import Revision, fetch


@dataclass(frozen=True)
class Pair:
    """One variant's file in BASE and in HEAD; None where a revision has none.

    ``wrong``: the runtimes that a check found wrong for one of the two.
    """

    variant: str
    base: Path | None
    head: Path | None
    status: str
    wrong: frozenset[str] = frozenset()


def fetch_pairs(repository: Repo, base: Revision, head: Revision, folder: Path) -> list[Pair]:
    """The files of every variant of either revision, BASE's first, in ``folder``."""
    if not base.models.keys() & head.models.keys():
        raise InputError(
            f"{base.name} and {head.name} have no variant in common ({', '.join(base.models)}; "
            f"{', '.join(head.models)}); compare other revisions"
        )
    return [
        Pair(
            variant=variant,
            base=file_of(repository, base, variant, folder / "base"),
            head=file_of(repository, head, variant, folder / "head"),
            status=status_of(variant, base, head),
            wrong=frozenset().union(
                *(each.models[variant].wrong for each in (base, head) if variant in each.models)
            ),
        )
        for variant in base.models | head.models
    ]


def file_of(repository: Repo, revision: Revision, variant: str, folder: Path) -> Path | None:
    if variant not in revision.models:
        return None
    return fetch(repository, revision, variant, folder)


def status_of(variant: str, base: Revision, head: Revision) -> str:
    if variant not in head.models:
        return ONLY_IN_BASE
    if variant not in base.models:
        return ONLY_IN_HEAD
    same = base.models[variant].md5 == head.models[variant].md5
    return SAME_FILE if same else COMPARED


def right_engines(pair: Pair, opencv_engine: str) -> dict[str, str]:
    """By runtime, an engine that is right for both files: OpenCV's wanted one, or else another.

    A runtime without one is left out.
    """
    installed = [engine for engine in NAMED_ENGINES if engine_code(engine) is not None]
    found: dict[str, str] = {}
    for runtime, engine in onnx_runtimes([opencv_engine, *installed]):
        used = "new" if engine == "auto" else engine  # auto begins with the new one
        if runtime_name(runtime, used) not in pair.wrong:
            found.setdefault(runtime, engine)
    return found


def require_same_images(pair: Pair, base: Revision, head: Revision, images: Images) -> None:
    """Raise ``InputError`` where the two files, or they and the test images, are of another size or
    number of classes.
    """
    of_images = in_words(images.shape, len(images.classes))
    of_base, of_head = (takes(path) if path else of_images for path in (pair.base, pair.head))
    if of_base != of_head:
        raise InputError(
            f"{pair.variant} is for {of_base} in {base.name} and for {of_head} in {head.name}; "
            "compare a revision with the same images"
        )
    if of_head != of_images:
        raise InputError(
            f"{pair.variant} is for {of_head}, the test images are {of_images}; give those that "
            "both revisions were made for by --data"
        )


def takes(path: Path) -> str:
    model = load_model(path)
    *_, classes = shape_of(model.graph.output[0])
    return in_words(image_shape(model, path), classes)


def in_words(shape: tuple[int, int, int], classes: int) -> str:
    return f"{shape[1]}x{shape[2]} pixels and {classes} classes"
