"""Detector functions that already run beside a CVAT server, called as CVAT calls them.

In: one image, sent as ``{"image": base64 PNG, "threshold": t}``. Out: the boxes of the function's answer, a list of
``{"confidence", "label", "points", "type"}``; polygons, masks, ellipses and skeletons become their bounding boxes.
"""

import base64
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from spam_cvat.detectors import FrameDetections
from spam_cvat.errors import InputError, SpamError
from spam_cvat.specs import Spec

log = logging.getLogger(__name__)

# Headers of CVAT 2.54 for an invocation through Nuclio's dashboard.
DASHBOARD_HEADERS = {
    "x-nuclio-path": "/",
    "x-nuclio-project-name": "cvat",
    "x-nuclio-invoke-via": "domain-name",
}


@dataclass(frozen=True)
class NuclioDetector:
    """A detector function behind HTTP.

    The spec is ``nuclio:http://HOST:PORT`` for a function's own port, as CVAT calls it outside Kubernetes, or
    ``nuclio:http://HOST:8070/FUNCTION`` for Nuclio's dashboard.

    Options:
        ``threshold``: lowest score, sent to the function and applied to its answer, 0.1.
        ``classes``: labels to report, ``person``.
        ``nms``: IoU above which the weaker of two boxes of one label is dropped, 0.9 (functions suppress themselves).
        ``timeout``: seconds a call may take, 120 as in CVAT.
        ``namespace``: Nuclio's, for the dashboard, ``nuclio``.
        ``version``: any word; change it when the function changed, so that cached boxes are not used.
    """

    url: str
    function: str = ""
    labels: tuple[str, ...] = ("person",)
    threshold: float = 0.1
    nms: float = 0.9
    timeout: float = 120.0
    namespace: str = "nuclio"
    version: str = ""
    _client: httpx.Client = field(default_factory=httpx.Client, repr=False, compare=False)
    _unknown: set[str] = field(default_factory=set, repr=False, compare=False)  # labels already complained of

    @classmethod
    def from_spec(cls, spec: Spec) -> "NuclioDetector":
        """Take address and options out of a spec. Raises InputError where they cannot be used."""
        parts = urlsplit(spec.target)
        function = parts.path.strip("/")
        if parts.scheme not in ("http", "https") or not parts.hostname or "/" in function:
            raise InputError(
                f"{spec.text!r}: write nuclio:http://HOST:PORT for a function's port, "
                "or nuclio:http://HOST:8070/FUNCTION for Nuclio's dashboard"
            )
        timeout = spec.number("timeout", cls.timeout, 0.1, 86_400)
        detector = cls(
            url=f"{parts.scheme}://{parts.netloc}",
            function=function,
            labels=spec.words("classes") or cls.labels,
            threshold=spec.number("threshold", cls.threshold),
            nms=spec.number("nms", cls.nms),
            timeout=timeout,
            namespace=spec.word("namespace", cls.namespace),
            version=spec.word("version"),
            # Only connecting is tried again: a call that was begun may have cost the function minutes.
            _client=httpx.Client(timeout=timeout, transport=httpx.HTTPTransport(retries=2)),
        )
        spec.finish()
        return detector

    @property
    def name(self) -> str:
        """As :attr:`Detector.name`."""
        where = f"{self.url}/{self.function}".rstrip("/")
        return (
            f"nuclio(1,{where},{','.join(self.labels)},threshold={self.threshold:g},nms={self.nms:g},"
            f"version={self.version})"
        )

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """As :meth:`Detector.detect`.

        Raises:
            SpamError: the function cannot be reached, takes too long, fails, or answers something else than boxes.
        """
        height, width = image.shape[:2]
        index = {label.casefold(): k for k, label in enumerate(self.labels)}
        boxes, scores, labels = [], [], []
        for number, item in enumerate(self._answer(image)):
            try:
                box, score, label = bounding_box(item), float(item.get("confidence", 1)), str(item["label"])
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise SpamError(f"{self._where}: item {number} of its answer is no shape: {str(item)[:120]}") from error
            if label.casefold() not in index:
                self._complain(label)
            elif box is not None and score >= self.threshold:
                boxes.append(box)
                scores.append(score)
                labels.append(index[label.casefold()])
        return FrameDetections.create(boxes, scores, labels, width, height).suppressed(self.nms)

    @property
    def _where(self) -> str:
        return f"function {self.function} at {self.url}" if self.function else f"function at {self.url}"

    def _complain(self, label: str) -> None:
        if label not in self._unknown:
            self._unknown.add(label)
            log.warning("%s: leaves out label %r; take it in with classes=%s,...", self._where, label, label)

    def _answer(self, image: NDArray[np.uint8]) -> list[Any]:
        # Lossless, as CVAT sends video frames; level 1 is three times as fast as the default and little larger.
        encoded, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not encoded:
            raise SpamError(f"{self._where}: a {image.shape[1]}x{image.shape[0]} frame cannot be encoded as PNG")
        body = {"image": base64.b64encode(data.tobytes()).decode(), "threshold": self.threshold}
        url, headers = f"{self.url}/", {}
        if self.function:
            url = f"{self.url}/api/function_invocations"
            headers = DASHBOARD_HEADERS | {
                "x-nuclio-function-name": self.function,
                "x-nuclio-function-namespace": self.namespace,
                "X-Nuclio-Invoke-Timeout": f"{math.ceil(self.timeout)}s",
            }
        try:
            response = self._client.post(url, json=body, headers=headers)
        except httpx.TimeoutException as error:
            raise SpamError(f"{self._where}: no answer within {self.timeout:g} s; raise the option timeout") from error
        except httpx.HTTPError as error:
            raise SpamError(f"{self._where}: cannot be reached: {error}") from error
        if response.status_code != 200:
            reason = " ".join(response.text.split())[:200]
            raise SpamError(f"{self._where}: answers {response.status_code}: {reason or 'no reason given'}")
        try:
            answer = response.json()
        except ValueError as error:
            raise SpamError(f"{self._where}: its answer is not JSON: {response.text[:120]!r}") from error
        if not isinstance(answer, list):
            raise SpamError(f"{self._where}: its answer is no list of boxes: {str(answer)[:120]}; is it a detector?")
        return answer


def bounding_box(item: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """The box x1, y1, x2, y2 of one shape in a CVAT function's answer; None for a tag or a shape of no extent.

    >>> bounding_box({"type": "polygon", "points": [10, 20, 30, 5, 20, 60]})
    (10.0, 5.0, 30.0, 60.0)

    Raises KeyError, TypeError, ValueError or IndexError where the shape is malformed.
    """
    kind = item.get("type", "rectangle")
    if kind == "tag":
        return None
    if kind == "mask" and "mask" in item:  # run lengths, then the inclusive corners
        left, top, right, bottom = (float(value) for value in item["mask"][-4:])
        return left, top, right + 1, bottom + 1
    if kind == "skeleton":
        points = np.array([point for element in item["elements"] for point in element["points"]], np.float64)
    else:
        points = np.array(item["points"], np.float64).reshape(-1)
    if kind == "ellipse":  # centre, then the rightmost x and the topmost y
        x, y, right, top = points
        points = np.array([2 * x - right, top, right, 2 * y - top])
    corners = points.reshape(-1, 2)
    x1, y1, x2, y2 = (float(value) for value in (*corners.min(0), *corners.max(0)))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None
