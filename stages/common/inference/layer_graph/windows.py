"""The windows of a convolution or a pool: how many there are, and how far they reach."""

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right: ONNX's order
NO_PADS: Pads = (0, 0, 0, 0)


def windows(size: Pair, kernel: Pair, stride: Pair, pads: Pads, ceil: bool = False) -> Pair:
    """The number of windows in each direction; ``size`` (H, W) is that of the input.

    ``ceil``: one that reaches beyond the pads counts too, where it does not start there.
    """
    rows, columns = (
        along(size[axis], kernel[axis], stride[axis], (pads[axis], pads[axis + 2]), ceil)
        for axis in (0, 1)
    )
    return rows, columns


def along(size: int, kernel: int, stride: int, pads: Pair, ceil: bool) -> int:
    room = size + sum(pads) - kernel
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + pads[0] else count


def reached(size: Pair, kernel: Pair, stride: Pair, pads: Pads, count: Pair) -> Pads:
    """``pads`` without those behind the last window."""
    bottom, right = (
        max(0, (count[axis] - 1) * stride[axis] + kernel[axis] - size[axis] - pads[axis])
        for axis in (0, 1)
    )
    return (pads[0], pads[1], bottom, right)


def centred(kernel: Pair) -> Pads | None:
    """(kernel - 1) / 2 on every side; None for an even kernel."""
    if any(length % 2 == 0 for length in kernel):
        return None
    rows, columns = ((length - 1) // 2 for length in kernel)
    return (rows, columns, rows, columns)
