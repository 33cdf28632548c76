"""Small ONNX networks for tests, written without the onnx package.

A file is a protocol buffer (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): fields of numbers, texts and
messages within messages. Only what the tests' networks use is here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FLOAT, INT64 = 1, 7  # TensorProto.DataType


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(fields: Sequence[tuple[int, Any]]) -> bytes:
    """Fields by number: an int as a number, everything else as bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return message([(1, name), (3, value), (20, 2)])
    return message([(1, name), *((8, item) for item in value), (20, 7)])


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    fields: list[tuple[int, Any]] = [(1, name) for name in inputs]
    fields += [(2, output), (3, output), (4, kind)]
    fields += [(5, attribute(name, value)) for name, value in attributes.items()]
    return message(fields)


def tensor(name: str, array: np.ndarray) -> bytes:
    kind = INT64 if array.dtype == np.int64 else FLOAT
    dtype = np.int64 if kind == INT64 else np.float32
    dims: list[tuple[int, Any]] = [(1, size) for size in array.shape]
    return message([*dims, (2, kind), (8, name), (9, array.astype(dtype).tobytes())])


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> bytes:
    sizes = [(1, message([(2 if isinstance(size, str) else 1, size)])) for size in shape]
    return message([(1, name), (2, message([(1, message([(1, kind), (2, message(sizes))]))]))])


def write(
    path: Path,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    nodes: Sequence[bytes],
    constants: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    integers: Sequence[str] = (),
) -> Path:
    """Write a network; ``integers`` names the outputs that are int64."""
    graph = message(
        [
            *((1, item) for item in nodes),
            (2, "graph"),
            *((5, tensor(name, array)) for name, array in constants.items()),
            *((11, value(name, shape)) for name, shape in inputs.items()),
            *((12, value(name, shape, INT64 if name in integers else FLOAT)) for name, shape in outputs.items()),
        ]
    )
    properties = [(14, message([(1, key), (2, text)])) for key, text in (metadata or {}).items()]
    path.write_bytes(message([(1, 8), (7, graph), (8, message([(2, 13)])), *properties]))
    return path


def white_square_detector(path: Path, size: int = 64, classes: int = 1, **options: Any) -> Path:
    """A YOLOX head that sees white cells of 32 pixels, as class ``classes - 1``; cells of 8 and 16 see nothing."""
    nodes, constants, heads = [], {}, []
    for stride in (8, 16, 32):
        see = 1.0 if stride == 32 else 0.0
        box = np.zeros((4, 3, stride, stride))
        score = np.zeros((1 + classes, 3, stride, stride))
        score[0] = see / (3 * stride**2 * 10)  # mean gray level / 10
        # Centre half a cell from the cell's corner, size e^0 cells.
        constants |= {f"box{stride}": box, f"box_bias{stride}": np.array([0.5, 0.5, 0, 0])}
        bias = np.full(1 + classes, -30.0)
        bias[0], bias[-1] = (-20.0, 30.0) if see else (-50.0, 30.0)  # half sure at a gray level of 200
        constants |= {f"score{stride}": score, f"score_bias{stride}": bias}
        strides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes += [
            node("Conv", ["images", f"box{stride}", f"box_bias{stride}"], f"b{stride}", **strides),
            node("Conv", ["images", f"score{stride}", f"score_bias{stride}"], f"s{stride}", **strides),
            node("Sigmoid", [f"s{stride}"], f"p{stride}"),
            node("Concat", [f"b{stride}", f"p{stride}"], f"c{stride}", axis=1),
            node("Reshape", [f"c{stride}", "flat"], f"h{stride}"),
        ]
        heads.append(f"h{stride}")
    constants["flat"] = np.array([0, 5 + classes, -1], np.int64)
    nodes += [node("Concat", heads, "all", axis=2), node("Transpose", ["all"], "output", perm=[0, 2, 1])]
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    batch = options.pop("batch", 1)
    return write(
        path, {"images": [batch, 3, size, size]}, {"output": [batch, anchors, 5 + classes]}, nodes, constants, **options
    )


def mean_colour(path: Path, batch: int | str, height: int, width: int, channels_last: bool) -> Path:
    """An embedder that gives the mean of each channel it is fed."""
    shape = [batch, height, width, 3] if channels_last else [batch, 3, height, width]
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [node("ReduceMean", ["images"], "vector", axes=axes, keepdims=0)]
    return write(path, {"images": shape}, {"vector": [batch, 3]}, nodes, {})


def constant_outputs(path: Path, outputs: Mapping[str, np.ndarray], **options: Any) -> Path:
    """A network that gives these arrays whatever it sees."""
    nodes = [node("Identity", [f"{name}_value"], name) for name in outputs]
    constants = {f"{name}_value": array for name, array in outputs.items()}
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    integers = [name for name, array in outputs.items() if array.dtype == np.int64]
    return write(path, {"images": [1, 3, 64, 64]}, shapes, nodes, constants, integers=integers, **options)
