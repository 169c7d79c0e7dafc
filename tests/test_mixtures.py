"""Mixtures of two images, and the unpruned network as teacher on them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.building.build import build_chain
from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.data.dataset import CIFAR10, Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.network.chain import Chain
from stages.common.network.size import size_of
from stages.common.pruning import base_teacher
from stages.common.pruning.base_teacher import MixupFirst, MixupTeacher
from stages.common.pruning.fine_tuning import prune_in_steps
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import model_digest
from stages.common.training.loop import Epochs
from stages.common.training.params import Augmentation
from stages.common.training.teacher import TeacherOutputs, mirrored_logits, save_teacher
from tests.conftest import make_images
from tests.networks import PARAMS as ALL_PARAMS
from tests.networks import PROVENANCE, RECIPE, call_prune, run_context, write_params
from tests.test_plan import PARAMS

MEANS, SQUARES = (0, 1, 4, 5), (2, 3, 6, 7)  # numbers of mixtures
VIEWS = 3


@pytest.fixture(scope="module")
def images() -> Images:
    return make_images(100)


@pytest.fixture(scope="module")
def base(images) -> Chain:
    return build_chain([[16, 16], [32, 32]], images, seed=1).eval()


@pytest.fixture
def teacher(base, images, tmp_path) -> MixupFirst:
    """Of mixtures for two passes over them, then of plain views."""
    mixup = mixup_of(base, images, tmp_path / "resume")
    return MixupFirst(mixup, 2 * VIEWS, plain_teacher(base, images))


def mixup_of(base: Chain, images: Images, path: Path) -> MixupTeacher:
    context = run_context(images, path)
    return base_teacher.mixup_teacher(base, context, seed=0, views=VIEWS, batch_size=50)


def plain_teacher(base: Chain, images: Images) -> TeacherOutputs:
    """Of one view."""
    pixels = torch.from_numpy(images.pixels)
    view = Augmenter(pixels, CIFAR10, RECIPE.augmentation(), seed=0).view(0)
    logits = mirrored_logits(base, view.split(50), torch.float32).astype(np.float16)
    return TeacherOutputs(logits[None], 0, 0, RECIPE.augmentation(), images.digest())


# ------------------------------------------------------------------------------------ the images


def of_one_colour(count: int) -> Augmenter:
    """Image i is i all over, so that a pixel tells where it came from."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    return Augmenter(pixels.contiguous(), CIFAR10, Augmentation(0, 0), seed=0)


@pytest.mark.parametrize("number", MEANS)
def test_a_mean_of_two_images_has_every_pixel_between_theirs(number):
    mixed = of_one_colour(250).mixture(number).pixels
    assert mixed.dtype == torch.uint8
    assert (mixed.amin(dim=(1, 2, 3)) == mixed.amax(dim=(1, 2, 3))).all()
    moved = (mixed[:, 0, 0, 0] != torch.arange(250)).float().mean()
    assert moved > 0.8


@pytest.mark.parametrize("number", SQUARES)
def test_a_square_of_another_image_is_all_that_is_new(number):
    mixed = of_one_colour(250).mixture(number).pixels
    for index, image in enumerate(mixed[:, 0].long()):
        assert (mixed[index] == mixed[index, 0]).all()  # in every channel the same square
        foreign = image != index
        if foreign.any():
            assert len(image[foreign].unique()) == 1
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            height, width = (len(span) for span in (rows, columns))
            assert foreign.sum() == height * width  # nothing but a rectangle
            cut = {0, 31} & {*rows.flatten().tolist(), *columns.flatten().tolist()}
            assert height == width or cut  # a square, unless the border cuts it


def test_the_share_of_the_first_image_is_uniform():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(2000).view(-1, 1, 1, 1)
    augmenter = Augmenter(
        pixels.expand(-1, 3, 32, 32).contiguous(), CIFAR10, Augmentation(0, 0), seed=0
    )
    white = augmenter.mixture(0).pixels[2000:, 0, 0, 0].float() / 255
    mixed = white[white < 1]  # the others have met a white one
    assert mixed.mean() == pytest.approx(0.5, abs=0.04)
    assert mixed.std() == pytest.approx(12**-0.5, abs=0.03)


def test_mixtures_differ_by_number_and_by_seed_alone():
    pixels = torch.from_numpy(make_images(40).pixels)
    first, again, other = (
        Augmenter(pixels, CIFAR10, Augmentation(2, 8), seed) for seed in (0, 0, 1)
    )
    mixed = [first.mixture(number).pixels for number in range(4)]
    assert all(torch.equal(one, again.mixture(number).pixels) for number, one in enumerate(mixed))
    assert len({one.numpy().tobytes() for one in [*mixed, other.mixture(0).pixels]}) == 5


@pytest.mark.parametrize("number", [0, 2])
def test_a_mixture_has_both_labels_by_the_share_of_either_image(number):
    augmenter = of_one_colour(250)
    mixture = augmenter.mixture(number)
    first, second = torch.arange(250).float(), mixture.partners.float()
    mean = mixture.shares * first + (1 - mixture.shares) * second
    assert torch.allclose(mixture.pixels.float().mean(dim=(1, 2, 3)), mean, atol=0.51)
    labels = mixture.labels(torch.arange(250) % 10, classes=10)
    assert torch.allclose(labels.sum(1), torch.ones(250))
    for index in (0, 1, 17):
        expected = torch.zeros(10)
        expected[index % 10] += mixture.shares[index]
        expected[int(mixture.partners[index]) % 10] += 1 - mixture.shares[index]
        assert torch.allclose(labels[index], expected)


# ------------------------------------------------------------------------------------ the teacher


def test_the_base_is_teacher_of_the_mixture_that_is_trained_on(base, images, teacher, tmp_path):
    epochs = Epochs(run_context(images, tmp_path), seed=5, teacher=teacher)
    for epoch in range(2 * VIEWS):
        pixels, labels, logits, _ = epochs.load(epoch)
        with torch.no_grad():
            expected = (base(pixels.float()) + base(pixels.flip(-1).float())) / 2
        assert torch.allclose(expected, logits, rtol=0, atol=0.01)
        assert labels.shape == (len(images), 10)


def test_mixtures_come_in_turn_then_mirrored_and_whatever_the_seed(images, teacher, tmp_path):
    context = run_context(images, tmp_path)
    one, other = (Epochs(context, seed, teacher) for seed in (0, 1))
    seen = [one.load(epoch)[0] for epoch in range(2 * VIEWS)]
    assert len({pixels.numpy().tobytes() for pixels in seen}) == 2 * VIEWS
    for epoch in range(VIEWS):
        assert torch.equal(seen[epoch].flip(-1), seen[epoch + VIEWS])
        assert torch.equal(seen[epoch], other.load(epoch)[0])
    assert not torch.equal(one.load(0)[3], other.load(0)[3])  # the order follows the seed


def test_after_the_mixtures_come_plain_views_as_without_them(images, teacher, tmp_path):
    context = run_context(images, tmp_path)
    both, plain = (Epochs(context, 3, each) for each in (teacher, teacher.plain))
    for epoch in range(2 * VIEWS, 2 * VIEWS + 3):
        for one, other in zip(both.load(epoch), plain.load(epoch), strict=True):
            assert torch.equal(one, other)


def test_the_outputs_on_a_mixture_are_computed_once_after_a_kill_too(
    base, images, teacher, tmp_path, monkeypatch
):
    calls = []

    def counted(*args: object) -> np.ndarray:
        calls.append(args)
        return mirrored_logits(*args)

    monkeypatch.setattr(base_teacher, "mirrored_logits", counted)
    epochs = Epochs(run_context(images, tmp_path), seed=0, teacher=teacher)
    before = [epochs.load(epoch)[2] for epoch in range(VIEWS + 1)]
    assert len(calls) == VIEWS
    resumed = dataclasses.replace(teacher, mixup=mixup_of(base, images, tmp_path / "resume"))
    epochs = Epochs(run_context(images, tmp_path), seed=0, teacher=resumed)
    assert torch.equal(epochs.load(1)[2], before[1])
    assert len(calls) == VIEWS
    resumed.mixup.store.clear()  # of what the first run made and this one has not read, too
    assert not list((tmp_path / "resume").iterdir())


def test_another_base_has_its_own_outputs(base, images, tmp_path):
    other = build_chain([[16, 16], [32, 32]], images, seed=2).eval()
    augmenter = Augmenter(torch.from_numpy(images.pixels), CIFAR10, RECIPE.augmentation(), seed=0)
    one, another = (mixup_of(each, images, tmp_path / "resume") for each in (base, other))
    assert not np.array_equal(
        *(each.epoch_data(augmenter, 0, seed=0).logits for each in (one, another))
    )


# -------------------------------------------------------------------------------------- the stage


@pytest.mark.parametrize(
    ("share", "epochs", "expected"),
    [(0.9, 120, 108), (0.9, 4, 3), (0.9, 1, 0), (0.29, 100, 29), (0.0, 5, 0), (1.0, 1, 1)],
)
def test_a_short_fine_tuning_ends_on_plain_views_as_well(share, epochs, expected):
    assert dataclasses.replace(PARAMS, mixup_share=share).mixup_epochs(epochs) == expected


@pytest.mark.parametrize(
    ("steps", "epochs", "between", "expected"), [(1, 20, 7, 18), (3, 20, 10, 36), (2, 9, 9, 18)]
)
def test_the_other_epochs_are_on_plain_views(steps, epochs, between, expected):
    params = dataclasses.replace(PARAMS, mixup_share=0.1, steps=steps, epochs=epochs)
    assert dataclasses.replace(params, epochs_between=between).plain_epochs() == expected


@pytest.mark.parametrize(
    ("steps", "epochs", "between", "expected"),
    [(1, 20, 0, 2), (1, 9, 20, 0), (2, 10, 20, 2), (2, 20, 10, 2), (2, 9, 9, 0)],
)
def test_outputs_are_needed_for_the_step_that_has_most_epochs_on_mixtures(
    steps, epochs, between, expected
):
    params = dataclasses.replace(PARAMS, mixup_share=0.1, steps=steps, epochs=epochs)
    assert dataclasses.replace(params, epochs_between=between).most_mixup_epochs() == expected


def test_the_base_is_the_teacher_as_long_as_images_are_mixed(base, images, tmp_path):
    params = dataclasses.replace(PARAMS, steps=1, epochs=2)
    other = build_chain([[16, 16], [32, 32]], images, seed=2).eval()
    teachers = plain_teacher(base, images), plain_teacher(other, images)

    def trained(share: float) -> list[str]:
        """With one and with the other wider network as teacher of plain views."""
        chosen = dataclasses.replace(params, mixup_share=share)
        return [
            model_digest(prune_in_steps(base, each, chosen, run_context(images, tmp_path)).network)
            for each in teachers
        ]

    never, half, always = (trained(share) for share in (0.0, 0.5, 1.0))
    assert len({*never, *half}) == 4
    assert len({*always}) == 1


@pytest.mark.parametrize(
    ("share", "views", "computed"), [(1.0, 2, 2), (0.5, 9, 3), (0.1, 9, 0), (0.0, 9, 0)]
)
def test_the_stage_counts_the_outputs_that_the_base_computed(
    base, data_directory, tmp_path, monkeypatch, share, views, computed
):
    params = dataclasses.replace(PARAMS, steps=1, mixup_share=share, mixup_views=views, epochs=6)
    write_params(
        tmp_path / "params.yaml",
        recipe=dataclasses.asdict(RECIPE),
        prune=dataclasses.asdict(params),
    )
    save_checkpoint(tmp_path / "base.pt", base, PROVENANCE)
    images, _ = load_training_images(data_directory, DataParams(**ALL_PARAMS["data"]))
    save_teacher(tmp_path / "teacher.npz", plain_teacher(base, images))
    (tmp_path / "latency.json").write_text('{"used": false}\n')
    metrics = call_prune(monkeypatch, data_directory, tmp_path)
    flops = computed * len(images) * 2 * 2 * size_of(base).macs
    assert metrics.get("teaching_flops", 0) == flops
    provenance = load_checkpoint(tmp_path / "pruned.pt").provenance["prune"]
    assert ("mixed_views" in provenance) == (share > 0)  # the name that checkpoints keep
    assert not any("mixup" in key for key in provenance)
    assert not list((tmp_path / "resume").iterdir())
