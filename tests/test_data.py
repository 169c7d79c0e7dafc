"""CIFAR-10 on disk: splits that never overlap, errors that name the file."""

import numpy as np
import pytest

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import read_records
from stages.common.data.dataset import load_test_images, load_training_images
from tests.conftest import data_params, make_images, write_images


def test_images_come_back_as_written(tmp_path):
    images = make_images(20)
    write_images(tmp_path / "batch.bin", images)
    pixels, labels = read_records(tmp_path / "batch.bin")
    assert np.array_equal(pixels, images.pixels)
    assert np.array_equal(labels, images.labels)


def test_validation_images_are_the_last_ones_and_never_trained_on(data_directory):
    few, held_out = load_training_images(data_directory, data_params(100, 50))
    many, same = load_training_images(data_directory, data_params(450, 50))
    assert (len(few), len(many), len(held_out)) == (100, 450, 50)
    assert np.array_equal(held_out.pixels, same.pixels)
    assert np.array_equal(many.pixels[:100], few.pixels)
    trained = {image.tobytes() for image in many.pixels}
    assert not trained & {image.tobytes() for image in held_out.pixels}


def test_too_many_images_wanted_is_refused(data_directory):
    with pytest.raises(InputError, match=r"data\.train_images is 451; allowed: at most 450"):
        load_training_images(data_directory, data_params(451, 50))


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"test_batch\.bin is missing; run 'dvc repro prepare'"):
        load_test_images(tmp_path)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_truncated_file_is_refused_by_name(tmp_path, size):
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(InputError, match=rf"test_batch\.bin has {size} bytes"):
        load_test_images(tmp_path)


def test_a_label_that_is_no_class_is_refused(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(InputError, match="has the label 10; expected 0 to 9"):
        load_test_images(tmp_path)


def test_the_digest_follows_pixels_and_labels():
    images, other = make_images(10), make_images(10)
    assert images.digest() == other.digest()
    other.labels[0] += 1
    assert images.digest() != other.digest()


def test_accuracy_is_in_percent():
    labels = np.array([0, 0, 1, 1])
    predictions = np.array([0, 1, 1, 1])
    assert accuracy(predictions, labels) == 75.0
