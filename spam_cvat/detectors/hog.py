"""The embedded detector: OpenCV's histogram-of-gradients people detector (Dalal and Triggs, CVPR 2005).

It needs no file and no network access. Its window is 128 pixels high with a margin around the person, and images are
enlarged 1.5 times first, so it finds upright people from about 70 pixels' height on; a trained network finds far more.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from spam_cvat.detectors import FrameDetections
from spam_cvat.specs import Spec

# Where the person stands in the detection window, as fractions of its width and height: left, top, right, bottom.
# Medians over 920 windows on people in frames of MOT17's first halves, rounded.
PERSON_IN_WINDOW = (0.22, 0.10, 0.78, 0.90)
# The logistic map from the support vector machine's margin m to a score, 1 / (1 + exp(-SLOPE * (m - HALF))): on the
# same frames one window in twenty is a person at m = 0, one in two at m = 1, nineteen in twenty at m = 2.
SLOPE, HALF = 3.0, 1.0
# Enlarging beyond this many pixels of width costs seconds a frame.
WIDEST = 1920
# The number of OpenCV's threads is the process's.
_ALONE = threading.Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV's threads append windows in one locked step and margins in another (``HOGInvoker``), so that now and then
    a margin goes to somebody else's window, and the order differs from run to run.
    """
    with _ALONE:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(threads)


@dataclass(frozen=True)
class HogDetector:
    """OpenCV's people detector, with scores that mean a probability.

    Options of the spec ``hog``: ``threshold`` (lowest score, 0.03, a margin of -0.16), ``scale`` (enlargement of the
    image, 1.5, less where the image would become wider than 1920 pixels), ``nms`` (IoU above which the weaker of two
    boxes is dropped, 0.5).

    >>> open_detector("hog?scale=2").detect(image).box.shape        # doctest: +SKIP
    (37, 4)
    """

    threshold: float = 0.03
    scale: float = 1.5
    nms: float = 0.5
    labels: tuple[str, ...] = ("person",)

    @classmethod
    def from_spec(cls, spec: Spec) -> "HogDetector":
        """Take the options out of a spec. Raises InputError for a bad or unknown one."""
        detector = cls(
            # At 0 and 1 the margin would be infinite.
            threshold=spec.number("threshold", cls.threshold, 1e-6, 1 - 1e-6),
            scale=spec.number("scale", cls.scale, 0.1, 8),
            nms=spec.number("nms", cls.nms),
        )
        spec.finish()
        return detector

    @property
    def name(self) -> str:
        """As :attr:`Detector.name`."""
        return f"hog(2,threshold={self.threshold:g},scale={self.scale:g},nms={self.nms:g})"

    @cached_property
    def _hog(self) -> Any:
        hog = cv2.HOGDescriptor()
        hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
        return hog

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """As :meth:`Detector.detect`."""
        height, width = image.shape[:2]
        scale = min(self.scale, max(WIDEST / width, 0.1))
        scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) if scale != 1 else image
        if scaled.shape[0] < 128 or scaled.shape[1] < 64:  # the window does not fit
            return FrameDetections.create([], [], [], width, height)
        with _one_thread():
            windows, margins = self._hog.detectMultiScale(
                scaled,
                hitThreshold=HALF + math.log(self.threshold / (1 - self.threshold)) / SLOPE,
                winStride=(8, 8),
                padding=(8, 8),
                scale=1.05,
                groupThreshold=0,
            )
        left, top, size_x, size_y = np.asarray(windows, np.float64).reshape(-1, 4).T / scale
        x1, y1, x2, y2 = PERSON_IN_WINDOW
        boxes = np.stack([left + x1 * size_x, top + y1 * size_y, left + x2 * size_x, top + y2 * size_y], axis=1)
        scores = 1 / (1 + np.exp(-SLOPE * (np.ravel(margins) - HALF)))
        return FrameDetections.create(boxes, scores, np.zeros(len(boxes)), width, height).suppressed(self.nms)
