"""Detection networks from ONNX files: YOLOX heads, and networks that end in boxes, scores and labels.

In: one image, cut into overlapping tiles where it is large. Each tile is letterboxed to the network's input; what the
network says is decoded, moved back into the image and merged. Out: boxes of the classes asked for.
"""

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import area
from spam_cvat.detectors import FrameDetections, label_indices
from spam_cvat.errors import InputError, SpamError
from spam_cvat.onnx_model import RAW_BGR, OnnxModel, Preprocessing, open_onnx, unknown_outputs
from spam_cvat.specs import Spec

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,"
    "fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(","))
LETTERBOX = 114  # gray, as YOLOX trains with
DEFAULT_INPUT = 640  # where the network takes any size
# A tile shrinks by about this much at most: people of 60 pixels in full HD still measure 24 in the network's input.
SHRINK = 2.5
MOST_TILES = 64
OVERLAP = 0.2  # of a tile, shared with each neighbour, so that a person is whole in one of the two
# A box that ends at a tile's inner border is a fragment if so much of it lies in another box.
FRAGMENT = 0.7

Raw = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]  # boxes in the input's pixels, scores, classes


@dataclass(frozen=True)
class OnnxDetector:
    """A detection network from a file.

    Options of the spec ``onnx:FILE``:
        ``threshold``: lowest score, 0.05.
        ``nms``: IoU above which the weaker of two boxes of one class is dropped, 0.65.
        ``classes``: class names to report, ``person``.
        ``labels``: the network's own class names in order, where it is neither COCO's nor the only one.
        ``tiles``: ``COLUMNSxROWS``; chosen from image and input size by default (a 416-pixel network cuts full HD 2x1).
        ``size``: ``WIDTHxHEIGHT`` of the input for networks that take any, 640x640.
        ``channels``, ``scale``, ``mean``, ``std``: preprocessing, see :class:`Preprocessing`; BGR 0..255 by default.
        ``sha256``, ``device``, ``threads``: see :func:`open_onnx`.

    Two kinds of network are understood. YOLOX: one output (1, A, 5 + classes) over strides 8, 16, 32 (and 64) with
    centre, size, objectness and class probabilities, decoded or not. End to end: outputs called boxes (n, 4) in the
    input's pixels, scores (n,) and labels (n,), each with or without a leading batch axis.

    Raises (from :meth:`from_spec`):
        InputError: the file or an option is not usable, or the outputs are not understood.
        SpamError: onnxruntime is not installed.
    """

    model: OnnxModel = field(repr=False)
    classes: NDArray[np.int16]  # index into labels for each of the network's classes, -1 where not wanted
    labels: tuple[str, ...]
    width: int
    height: int
    threshold: float = 0.05
    nms: float = 0.65
    tiles: tuple[int, int] | None = None
    preprocessing: Preprocessing = RAW_BGR

    @classmethod
    def from_spec(cls, spec: Spec) -> "OnnxDetector":
        """Open the file a spec names."""
        model = open_onnx(spec)
        width, height = spec.size("size") or (model.width or DEFAULT_INPUT, model.height or DEFAULT_INPUT)
        if (model.width or width, model.height or height) != (width, height):
            raise InputError(
                f"{model.path}: its input is {model.width}x{model.height}, size={width}x{height} cannot be"
            )
        labels = spec.words("classes") or ("person",)
        tiles = spec.size("tiles")
        if tiles and tiles[0] * tiles[1] > MOST_TILES:
            raise InputError(f"{spec.text!r}: tiles are at most {MOST_TILES}")
        detector = cls(
            model=model,
            classes=label_indices(labels, _class_names(model, spec.words("labels"), width, height), str(model.path)),
            labels=labels,
            width=width,
            height=height,
            threshold=spec.number("threshold", cls.threshold),
            nms=spec.number("nms", cls.nms),
            tiles=tiles,
            preprocessing=Preprocessing.from_spec(spec, RAW_BGR),
        )
        spec.finish()
        return detector

    @cached_property
    def name(self) -> str:
        """As :attr:`Detector.name`."""
        classes = ",".join(f"{self.labels[label]}:{kind}" for kind, label in enumerate(self.classes) if label >= 0)
        tiles = "x".join(map(str, self.tiles)) if self.tiles else "auto"
        return (
            f"onnx(1,{self.model.sha256[:16]},{self.width}x{self.height},threshold={self.threshold:g},nms={self.nms:g},"
            f"classes={classes},tiles={tiles},{self.preprocessing})"
        )

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """As :meth:`Detector.detect`."""
        height, width = image.shape[:2]
        columns, rows = self.tiles or automatic_tiles(width, height, self.width, self.height)
        windows = list(tile_windows(width, height, columns, rows))
        scales = [min(self.width / (x2 - x1), self.height / (y2 - y1)) for x1, y1, x2, y2 in windows]
        inputs = np.stack(
            [
                letterbox(image[y1:y2, x1:x2], scale, self.width, self.height)
                for (x1, y1, x2, y2), scale in zip(windows, scales, strict=True)
            ]
        )
        boxes, scores, labels, cut = [], [], [], []
        for window, scale, (box, score, kind) in zip(windows, scales, self._run(inputs), strict=True):
            label = self.classes[kind]
            wanted = (score >= self.threshold) & (label >= 0)
            left, top, right, bottom = window
            found = FrameDetections.create(
                box[wanted] / scale, score[wanted], label[wanted], right - left, bottom - top
            ).suppressed(self.nms)
            boxes.append(found.box + np.array([left, top, left, top], np.float32))
            scores.append(found.score)
            labels.append(found.label)
            cut.append(_ends_inside(boxes[-1], window, width, height))
        merged = FrameDetections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))
        if len(windows) == 1:
            return merged
        whole = without_fragments(merged, np.concatenate(cut))
        return FrameDetections.create(whole.box, whole.score, whole.label, width, height).suppressed(self.nms)

    def _run(self, images: NDArray[np.uint8]) -> Iterator[Raw]:
        """What the network says of each letterboxed image."""
        batch = self.model.batch or len(images)
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padding = np.zeros((batch - len(part), *part.shape[1:]), np.uint8)
            full = self.preprocessing.apply(np.concatenate([part, padding]), channels_last=self.model.channels_last)
            outputs = self.model.run(full)
            for index in range(len(part)):
                yield self._decode(outputs, index)

    def _decode(self, outputs: list[NDArray[np.float32]], index: int) -> Raw:
        if len(outputs) == 1:
            head = outputs[0][index]
            if not self._decoded:
                head = decode_yolox(head, self.width, self.height)
            kind = head[:, 5:].argmax(1)
            score = head[:, 4] * head[np.arange(len(head)), 5 + kind]
            if not (score.min() >= 0 and score.max() <= 1.001):
                raise SpamError(
                    f"{self.model.path}: gives scores from {score.min():.3g} to {score.max():.3g}, not probabilities; "
                    "is its preprocessing another (options channels, scale, mean, std), or not exported with sigmoids?"
                )
            centre, half = head[:, :2], head[:, 2:4] / 2
            return np.concatenate([centre - half, centre + half], axis=1), score, kind
        named = dict(zip((name for name, _ in self.model.output_shapes), outputs, strict=True))
        box, score, kind = (
            named[key][index] if named[key].ndim == axes + 1 else named[key]
            for key, axes in (("boxes", 2), ("scores", 1), ("labels", 1))
        )
        kind = kind.astype(np.intp)
        return box.astype(np.float32), np.where(kind < len(self.classes), score, 0), kind % len(self.classes)

    @cached_property
    def _decoded(self) -> bool:
        """Whether a YOLOX network decodes its boxes itself: the centres then span the input, else a grid cell."""
        gray = np.full((self.model.batch or 1, self.height, self.width, 3), LETTERBOX, np.uint8)
        output = self.model.run(self.preprocessing.apply(gray, channels_last=self.model.channels_last))[0]
        return bool(np.median(np.abs(output[0, :, 0])) > 8)


def anchors(width: int, height: int, strides: tuple[int, ...] = (8, 16, 32)) -> int:
    """Number of predictions of a YOLOX head on an input of that size.

    >>> anchors(416, 416)
    3549
    """
    return sum((width // stride) * (height // stride) for stride in strides)


def decode_yolox(head: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Turn offsets in grid cells and logarithms of sizes into pixels of the input.

    As ``YOLOXHead.decode_outputs`` of YOLOX (Apache-2.0) does: ``(xy + cell) * stride``, ``exp(wh) * stride``.

    Args:
        head: (A, 5 + classes), anchors ordered by stride 8, 16, 32 (64), then row, then column.
        width: of the input, in pixels.
        height: of the input, in pixels.

    Returns:
        (A, 5 + classes) with centre x, centre y, width, height in pixels.
    """
    strides = (8, 16, 32) if len(head) == anchors(width, height) else (8, 16, 32, 64)
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full((x.size, 1), stride))
    cell, stride_of = np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)
    # Sizes are cut at e^10 cells, far beyond any input, so that a wild logarithm does not overflow.
    pixels = [(head[:, :2] + cell) * stride_of, np.exp(np.minimum(head[:, 2:4], 10)) * stride_of]
    return np.concatenate([*pixels, head[:, 4:]], axis=1)


def letterbox(image: NDArray[np.uint8], scale: float, width: int, height: int) -> NDArray[np.uint8]:
    """The image scaled and put into the top-left corner of a gray (height, width, 3) canvas."""
    canvas = np.full((height, width, 3), LETTERBOX, np.uint8)
    new_width = min(max(round(image.shape[1] * scale), 1), width)
    new_height = min(max(round(image.shape[0] * scale), 1), height)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return canvas


def automatic_tiles(width: int, height: int, input_width: int, input_height: int) -> tuple[int, int]:
    """Columns and rows that let no tile shrink by much more than 2.5 on its way into the network.

    >>> automatic_tiles(768, 576, 416, 416), automatic_tiles(1920, 1080, 416, 416)
    ((1, 1), (2, 1))
    """
    columns = max(1, round(width / (SHRINK * input_width)))
    rows = max(1, round(height / (SHRINK * input_height)))
    while columns * rows > MOST_TILES:
        columns, rows = max(1, columns - 1), max(1, rows - 1)
    return columns, rows


def tile_windows(width: int, height: int, columns: int, rows: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows x1 y1 x2 y2, row by row, that cover the image; neighbours share a fifth of a window.

    >>> list(tile_windows(1920, 1080, 2, 1))
    [(0, 0, 1067, 1080), (853, 0, 1920, 1080)]
    """
    for top, bottom in _spans(height, rows):
        for left, right in _spans(width, columns):
            yield left, top, right, bottom


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    size = min(math.ceil(length / (1 + (count - 1) * (1 - OVERLAP))), length)
    starts = np.linspace(0, length - size, count).round().astype(int)
    return [(int(start), int(start) + size) for start in starts]


def _ends_inside(
    boxes: NDArray[np.float32], window: tuple[int, int, int, int], width: int, height: int
) -> NDArray[np.bool_]:
    """Which boxes touch a border of their tile that is not a border of the image."""
    left, top, right, bottom = window
    near = 0.01 * max(right - left, bottom - top)
    touches = np.zeros(len(boxes), bool)
    if left > 0:
        touches |= boxes[:, 0] < left + near
    if top > 0:
        touches |= boxes[:, 1] < top + near
    if right < width:
        touches |= boxes[:, 2] > right - near
    if bottom < height:
        touches |= boxes[:, 3] > bottom - near
    return touches


def without_fragments(found: FrameDetections, cut: NDArray[np.bool_]) -> FrameDetections:
    """Drop boxes cut by a tile's border that lie for the most part in another, larger box of their label.

    Args:
        found: boxes of all tiles.
        cut: (n,) which of them end at a tile's inner border.
    """
    if not cut.any():
        return found
    box, size = found.box, area(found.box)
    left_top = np.maximum(box[cut, None, :2], box[None, :, :2])
    right_bottom = np.minimum(box[cut, None, 2:], box[None, :, 2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(-1)  # (cut, n)
    covered = shared > FRAGMENT * size[cut, None]
    covered &= (size[None, :] > size[cut, None]) & (found.label[None, :] == found.label[cut, None])
    keep = np.ones(len(found), bool)
    keep[np.flatnonzero(cut)] = ~covered.any(1)
    return FrameDetections(box[keep], found.score[keep], found.label[keep])


def _class_names(model: OnnxModel, given: tuple[str, ...], width: int, height: int) -> tuple[str, ...]:
    """The network's classes in order: as given, as the file's metadata says, or COCO's for 80. Refuses other heads."""
    shapes = dict(model.output_shapes)
    understood = (
        f"YOLOX's (1, {anchors(width, height)}, 5 + classes) for an input of {width}x{height}",
        "boxes, scores and labels by these names",
    )
    if {"boxes", "scores", "labels"} <= set(shapes):
        count = None
    else:
        shape = next(iter(shapes.values()))
        counts = {anchors(width, height), anchors(width, height, (8, 16, 32, 64))}
        if len(shapes) != 1 or len(shape) != 3 or not isinstance(shape[2], int) or shape[2] < 6:
            raise unknown_outputs(model, understood)
        if isinstance(shape[1], int) and shape[1] not in counts:
            raise unknown_outputs(model, understood)
        count = shape[2] - 5
    names = given or _metadata_names(model) or {1: ("person",), 80: COCO_CLASSES, None: COCO_CLASSES}.get(count, ())
    if not names or (count is not None and len(names) != count):
        found = f"{len(names)} names are given" if names else "name them in order: labels=NAME,NAME,..."
        raise InputError(f"{model.path}: this network has {count} classes; {found}")
    return names


def _metadata_names(model: OnnxModel) -> tuple[str, ...]:
    """Class names that exporters write into a file's metadata as a dict literal ``{0: 'person', ...}``."""
    text = model.session.get_modelmeta().custom_metadata_map.get("names", "")
    try:
        names = ast.literal_eval(text) if text else {}
    except (ValueError, SyntaxError):
        return ()
    return tuple(str(names[key]) for key in sorted(names)) if isinstance(names, dict) else ()
