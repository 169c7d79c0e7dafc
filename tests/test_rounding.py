"""GPTQ: integers that change a layer's outputs less than the nearest ones do."""

import itertools

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from stages.common.inference.int8 import gptq
from stages.common.inference.int8.gptq import patches_of, round_filters, round_weights
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.params import QuantizeParams
from tests.conftest import make_images
from tests.networks import PARAMS, fp32_model

RNG = np.random.default_rng(0)


def correlated(n: int, strength: float) -> np.ndarray:
    """A covariance (n, n) whose inputs share a common part, as neighbouring pixels do."""
    return strength * np.ones((n, n)) + (1 - strength) * np.eye(n)


def nearest(weights: np.ndarray, levels: int) -> np.ndarray:
    scale = np.abs(weights).max() / levels
    return np.round(weights / scale) * scale


def error(rounded: np.ndarray, weights: np.ndarray, covariance: np.ndarray) -> float:
    return float((rounded - weights) @ covariance @ (rounded - weights))


def test_patches_times_filters_are_the_convolution():
    pixels = RNG.integers(256, size=(3, 2, 5, 6)).astype(np.uint8)
    filters = RNG.normal(size=(4, 2, 2, 3))
    expected = torch.nn.functional.conv2d(torch.from_numpy(pixels * 1.0), torch.from_numpy(filters))
    products = patches_of(pixels, (2, 3)) @ filters.reshape(4, -1).T
    assert np.allclose(products, expected.permute(0, 2, 3, 1).reshape(-1, 4))


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
def test_patches_may_be_padded_strided_and_less_a_mean(strides, pads):
    rng = np.random.default_rng(1)
    pixels = rng.integers(256, size=(3, 2, 8, 9)).astype(np.uint8)
    filters = rng.normal(size=(4, 2, 3, 2))
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(pixels - 117.0), (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(filters), stride=strides)

    products = patches_of(pixels, (3, 2), strides, pads, 117) @ filters.reshape(4, -1).T

    assert np.allclose(products, expected.permute(0, 2, 3, 1).reshape(-1, 4))


def test_patches_of_large_images_are_those_of_the_first_ones(monkeypatch):
    rng = np.random.default_rng(1)
    pixels = rng.integers(256, size=(6, 2, 8, 8)).astype(np.uint8)
    monkeypatch.setattr(gptq, "MOST_VALUES", 2 * 7 * 7 * 8 + 5)

    assert np.array_equal(patches_of(pixels, (2, 2)), patches_of(pixels[:2], (2, 2)))


def test_with_independent_inputs_each_weight_goes_to_the_nearest_integer():
    weights = RNG.normal(size=12)
    assert np.allclose(round_weights(weights, np.eye(12), 64), nearest(weights, 64))


@pytest.mark.parametrize("levels", [15, 64, 127])
def test_rounded_weights_are_multiples_of_a_scale_set_by_the_largest(levels):
    for _ in range(20):
        weights = RNG.normal(size=12)
        rounded = round_weights(weights, correlated(12, 0.99), levels)
        integers = rounded / np.abs(weights).max() * levels
        assert np.allclose(integers, np.round(integers), atol=1e-9)
        assert np.abs(rounded).max() == pytest.approx(np.abs(weights).max())


def test_with_correlated_inputs_the_outputs_change_far_less_than_with_the_nearest_integers():
    covariance, ratios = correlated(12, 0.999), []
    for _ in range(50):
        weights = RNG.normal(size=12)
        errors = [
            error(rounded, weights, covariance)
            for rounded in (round_weights(weights, covariance, 64), nearest(weights, 64))
        ]
        ratios.append(errors[0] / errors[1])
    assert np.median(ratios) < 0.2


def test_rounded_weights_are_nearly_the_best_integers_which_the_nearest_are_not():
    """The best are found by trying all near ones; the errors are means over random filters."""
    covariance, rng = correlated(5, 0.9), np.random.default_rng(0)
    errors = np.array([errors_of_rounding(rng.normal(size=5), covariance) for _ in range(20)])
    best, found, plain = errors.T
    assert np.mean(found / best) < 1.25
    assert np.mean(plain / best) > 2
    assert (found <= 2.5 * best).all()


def errors_of_rounding(weights: np.ndarray, covariance: np.ndarray) -> tuple[float, ...]:
    """Of the best integers, of ``round_weights`` and of the nearest integers, with 15 levels."""
    scale = np.abs(weights).max() / 15
    down = np.floor(weights / scale)
    steps = itertools.product((-1, 0, 1, 2), repeat=len(weights))
    best = min(error((down + np.array(step)) * scale, weights, covariance) for step in steps)
    found, plain = round_weights(weights, covariance, 15), nearest(weights, 15)
    return best, error(found, weights, covariance), error(plain, weights, covariance)


def test_the_mean_of_the_layers_outputs_stays():
    filters, bias = RNG.normal(size=(6, 3, 2, 2)), RNG.normal(size=6)
    patches = RNG.normal(loc=100, scale=5, size=(1000, 12))
    rounded, new_bias = round_filters(filters, bias, patches, levels=15)
    before = patches.mean(0) @ filters.reshape(6, -1).T + bias
    after = patches.mean(0) @ rounded.reshape(6, -1).T + new_bias
    assert np.allclose(after, before, atol=1e-3)
    assert not np.allclose(rounded, filters, atol=1e-3)


def test_a_filter_of_zeros_stays():
    assert (round_weights(np.zeros(4), np.eye(4), 64) == 0).all()


@pytest.mark.parametrize("reduce_range", [True, False])
def test_the_quantizer_keeps_these_integers_in_the_first_layer(reduce_range):
    params = QuantizeParams(**{**PARAMS["quantize"], "reduce_range": reduce_range})
    images, model = make_images(100), fp32_model()
    levels = 64 if reduce_range else 127
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    filters, bias = (constants[name] for name in first.input[1:])
    patches = patches_of(images.pixels, (2, 2))
    expected, _ = round_filters(filters, bias, patches, levels)

    int8 = quantized(model, images, params)
    written = {each.name: numpy_helper.to_array(each) for each in int8.graph.initializer}
    dequantize = next(
        node
        for node in int8.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in written
        and written[node.input[0]].shape == filters.shape
    )
    integers, scale = (written[name] for name in dequantize.input[:2])
    assert np.allclose(integers * scale[:, None, None, None], expected, rtol=1e-5)
    assert np.abs(integers).max() == levels
