"""A float32 matrix product on this machine, to compare a network's speed with."""

from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

PRODUCT_SIZE = 512


def matrix_product(threads: int) -> Callable[[], object]:
    """A call that runs one float32 matrix product.

    ONNX Runtime runs it, because it keeps to ``threads``; one factor is constant, like weights.
    """
    rng = np.random.default_rng(0)
    left, right = rng.random((2, PRODUCT_SIZE, PRODUCT_SIZE), dtype=np.float32)
    shape = [PRODUCT_SIZE, PRODUCT_SIZE]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "product",
        inputs=[helper.make_tensor_value_info("left", TensorProto.FLOAT, shape)],
        outputs=[helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        initializer=[numpy_helper.from_array(right, "right")],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})


def matrix_product_gflops(milliseconds: float) -> float:
    """Billions of floating-point operations a second: 2 n^3 for a product of n x n matrices."""
    return 2 * PRODUCT_SIZE**3 / milliseconds / 1e6
