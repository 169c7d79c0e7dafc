"""The convolution that reads the pixels, or their difference from a mean.

Its inputs are known exactly, so that GPTQ can round its weights, and the difference of pixels from
a whole number is an 8-bit integer itself.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from stages.common.data.dataset import Images
from stages.common.inference.int8.gptq import patches_of, round_filters

WEIGHT, BIAS = 1, 2  # inputs of Conv
CENTRE = 128  # less this, pixels are int8 themselves, with the zero point 0


@dataclass(frozen=True)
class FirstLayer:
    """``mean``: what is subtracted from the pixels, None where nothing is. ``strides`` (y, x),
    ``pads`` (top, left, bottom, right).
    """

    node: NodeProto
    mean: np.ndarray | None
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    def patches(self, images: Images, kernel: tuple[int, int]) -> np.ndarray:
        """See ``patches_of``; of as many images as it takes."""
        offset = 0 if self.mean is None else float(self.mean)
        return patches_of(images.pixels, kernel, self.strides, self.pads, offset)


def first_layer(model: ModelProto) -> FirstLayer | None:
    """None where the first convolution reads something else, has groups or dilations, or pads by
    itself.
    """
    node = next((node for node in model.graph.node if node.op_type == "Conv"), None)
    if node is None:
        return None
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    constants = constants_of(model)
    pixels = model.graph.input[0].name
    difference = subtraction(model, node.input[0])
    mean = None if difference is None else constants.get(difference.input[1])
    reads_pixels = node.input[0] == pixels or (
        difference is not None
        and difference.input[0] == pixels
        and mean is not None
        and mean.size == 1
    )
    plain = (
        attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and attributes.get("group", 1) == 1
        and set(attributes.get("dilations", [1])) == {1}
        and node.input[WEIGHT] in constants
    )
    if not (reads_pixels and plain):
        return None
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    rows, columns = attributes.get("strides", [1, 1])
    return FirstLayer(node, mean, (rows, columns), (top, left, bottom, right))


def subtraction(model: ModelProto, name: str) -> NodeProto | None:
    """The Sub that makes a tensor, if one does."""
    makers = [node for node in model.graph.node if node.op_type == "Sub" and name in node.output]
    return makers[0] if makers else None


def centred(model: ModelProto) -> ModelProto:
    """A copy that computes the same, whose first convolution reads the pixels less ``CENTRE``.

    Its bias takes up the difference: conv(x - m) + b = conv(x - 128) + b + (128 - m) sum(weights).
    Where it pads, its border would be another one: the copy is as the model was.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    first = first_layer(copy)
    if first is None or any(first.pads):
        return copy
    add_bias(first.node, copy)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    weight, bias = (constants[name] for name in first.node.input[WEIGHT:])
    sums = numpy_helper.to_array(weight).sum(axis=(1, 2, 3), dtype=np.float64)
    mean = 0.0 if first.mean is None else float(first.mean)
    moved = numpy_helper.to_array(bias) + (CENTRE - mean) * sums
    bias.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias.name))
    subtract_centre(first.node, copy)
    return copy


def subtract_centre(convolution: NodeProto, model: ModelProto) -> None:
    """Let it read the pixels less ``CENTRE``, in place, whatever it subtracted before."""
    name = "centre_of_pixels"
    difference = subtraction(model, convolution.input[0])
    pixels = convolution.input[0] if difference is None else difference.input[0]
    new = onnx.helper.make_node("Sub", [pixels, name], [f"{pixels}_centred"], name="centre")
    convolution.input[0] = new.output[0]
    if difference is not None and difference.output[0] not in names_read(model):
        model.graph.node.remove(difference)
    if not any(node.output[0] == new.output[0] for node in model.graph.node):
        model.graph.node.insert(0, new)
        centre = numpy_helper.from_array(np.array(CENTRE, np.float32), name)
        model.graph.initializer.append(centre)
    read = names_read(model)
    for tensor in [each for each in model.graph.initializer if each.name not in read]:
        model.graph.initializer.remove(tensor)


def names_read(model: ModelProto) -> set[str]:
    """Of the tensors that a node reads."""
    return {name for node in model.graph.node for name in node.input}


def add_bias(convolution: NodeProto, model: ModelProto) -> None:
    """Give it a bias of zeros, in place, where it has none."""
    if len(convolution.input) > BIAS:
        return
    convolution.input.append(f"{convolution.input[WEIGHT]}_bias")
    [weight] = [each for each in model.graph.initializer if each.name == convolution.input[WEIGHT]]
    zeros = np.zeros(weight.dims[0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(zeros, convolution.input[BIAS]))


def round_first_layer(first: FirstLayer, model: ModelProto, images: Images, levels: int) -> None:
    """Put its weights on their INT8 grid, in place. Where it has no bias, which takes the mean
    error, it gets one.
    """
    add_bias(first.node, model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    filters = numpy_helper.to_array(constants[first.node.input[WEIGHT]])
    bias = numpy_helper.to_array(constants[first.node.input[BIAS]])
    height, width = filters.shape[2:]
    patches = first.patches(images, (height, width))
    rounded = round_filters(filters, bias, patches, levels)
    for name, value in zip(first.node.input[WEIGHT:], rounded, strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(value, name))


def exact_differences(
    first: FirstLayer | None, lowest: int, around_zero: bool = False
) -> dict[str, list[dict]]:
    """Pixels minus a whole number, as onnxruntime.quantization's TensorQuantOverrides: with the
    scale 1, no difference is rounded. ``lowest``: of the activations' integers. ``around_zero``:
    empty where the zero point would not be 0.
    """
    if first is None or first.mean is None:
        return {}
    mean = float(first.mean)
    if not (mean.is_integer() and 0 <= mean <= 255) or (around_zero and mean + lowest != 0):
        return {}
    dtype = np.int8 if lowest < 0 else np.uint8
    quantization = {
        "scale": np.array(1, np.float32),
        "zero_point": np.array(int(mean) + lowest, dtype),
    }
    return {first.node.input[0]: [quantization]}


def constants_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
