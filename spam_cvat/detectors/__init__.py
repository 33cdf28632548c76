"""Detectors: candidate boxes from pixels, at a threshold low enough to miss little.

In: one image. Out: its boxes, scores and labels. The gate of the hierarchy throws out what is not real, so a detector
here proposes more than a detector alone would show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.boxes import area, clip_boxes, nms
from spam_cvat.errors import InputError
from spam_cvat.specs import Spec


@dataclass(frozen=True)
class FrameDetections:
    """One image's boxes, by falling score.

    Attributes:
        box: (n, 4) float32, x1 y1 x2 y2 in pixels of the image, inside it.
        score: (n,) float32 in [0, 1].
        label: (n,) int16, index into the detector's labels.
    """

    box: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int16]

    @classmethod
    def create(cls, box: ArrayLike, score: ArrayLike, label: ArrayLike, width: int, height: int) -> "FrameDetections":
        """Clip to the image, drop what has no area left there or is not finite, sort by falling score."""
        boxes = np.asarray(box, np.float64).reshape(-1, 4)
        scores, labels = np.asarray(score, np.float64).reshape(-1), np.asarray(label).reshape(-1)
        finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
        inside = clip_boxes(np.where(finite[:, None], boxes, 0).astype(np.float32), width, height)
        order = np.argsort(-scores, kind="stable")
        order = order[(finite & (area(inside) > 0))[order]]
        return cls(inside[order], np.clip(scores[order], 0, 1).astype(np.float32), labels[order].astype(np.int16))

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.box)

    def suppressed(self, threshold: float) -> "FrameDetections":
        """What greedy non-maximum suppression within each label keeps; drops overlaps of IoU > threshold."""
        if not len(self):
            return self
        # Labels are moved apart, so that boxes of different ones never overlap.
        apart = self.label[:, None].astype(np.float32) * (self.box.max() + 1)
        kept = np.sort(nms(self.box + apart, self.score, threshold))
        return FrameDetections(self.box[kept], self.score[kept], self.label[kept])


class Detector(Protocol):
    """What every detector can do; :func:`open_detector` makes one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names that ``FrameDetections.label`` points into."""

    @property
    def name(self) -> str:
        """The kind, the weights' digest and every parameter that changes the boxes: part of caches' keys."""

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """Boxes of one (height, width, 3) uint8 BGR image."""


def open_detector(spec: str, *, threshold: float | None = None) -> Detector:
    """Make the detector that a spec names.

    * ``hog``: OpenCV's people detector; needs no file. :class:`spam_cvat.detectors.hog.HogDetector` has its options.
    * ``onnx:FILE``: a network from a file. :class:`spam_cvat.detectors.onnx.OnnxDetector` has its options.
    * ``nuclio:URL``: a detector function that runs beside a CVAT server.
      :class:`spam_cvat.detectors.nuclio.NuclioDetector` has its options.

    Options stand in the spec: ``onnx:yolox.onnx?classes=person,car&tiles=2x1&threshold=0.05``.

    Args:
        spec: the detector's kind, its file or address, and options.
        threshold: lowest score to report, in [0, 1]; goes before the spec's own.

    Raises:
        InputError: there is no such kind, file or option.
        SpamError: something the detector needs is not installed.
    """
    parsed = Spec.parse(spec)
    if threshold is not None:
        parsed.options["threshold"] = repr(float(threshold))
    # Each kind brings its own dependencies: import only what is asked for.
    if parsed.kind == "hog" and not parsed.target:
        from spam_cvat.detectors.hog import HogDetector

        return HogDetector.from_spec(parsed)
    if parsed.kind == "onnx" and parsed.target:
        from spam_cvat.detectors.onnx import OnnxDetector

        return OnnxDetector.from_spec(parsed)
    if parsed.kind == "nuclio" and parsed.target:
        from spam_cvat.detectors.nuclio import NuclioDetector

        return NuclioDetector.from_spec(parsed)
    if parsed.kind == "task":
        raise InputError(
            "detector 'task' takes the boxes that a CVAT task already holds: it works with CVAT tasks only"
        )
    raise InputError(f"detector {spec!r}: write hog, onnx:FILE or nuclio:URL")


def label_indices(wanted: Sequence[str], available: Sequence[str], where: str) -> NDArray[np.int16]:
    """For each available class, its index among the wanted ones, -1 where it is not wanted; names ignore case.

    >>> label_indices(["car", "person"], ["person", "bicycle", "Car"], "net.onnx").tolist()
    [1, -1, 0]

    Raises:
        InputError: a wanted class is not available; the message starts with ``where``.
    """
    index = {name.casefold(): k for k, name in enumerate(wanted)}
    missing = sorted(set(index) - {name.casefold() for name in available})
    if missing:
        shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
        raise InputError(f"{where}: has no class {', '.join(missing)}; it has {shown}")
    return np.array([index.get(name.casefold(), -1) for name in available], np.int16)
