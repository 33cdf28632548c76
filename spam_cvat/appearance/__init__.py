"""Appearance: a vector for each box, so that boxes of one person are near each other.

In: one image and its boxes. Out: unit vectors, whose dot product says how alike two boxes look; a zero row where a box
shows too little of the image to tell.
"""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.errors import InputError
from spam_cvat.specs import Spec

# Smaller crops say nothing: 4x8 pixels hold less than a stripe of a shirt.
SMALLEST_WIDTH, SMALLEST_HEIGHT = 4, 8


class Embedder(Protocol):
    """What every embedder can do; :func:`open_embedder` makes one."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    @property
    def name(self) -> str:
        """The kind, the weights' digest and every parameter that changes the vectors: part of caches' keys."""

    def embed(self, image: NDArray[np.uint8], boxes: ArrayLike) -> NDArray[np.float32]:
        """Vectors of boxes of one image.

        Args:
            image: (height, width, 3) uint8 BGR.
            boxes: (n, 4) x1 y1 x2 y2 in pixels; what reaches outside the image is cut off.

        Returns:
            (n, dim) float32 of unit length; zero rows where less than 4x8 pixels of a box lie in the image.
        """


def open_embedder(spec: str) -> Embedder | None:
    """Make the embedder that a spec names; None for ``none``.

    * ``histogram``: colours of the body's stripes; needs no file.
    * ``onnx:FILE``: a re-identification network from a file. :class:`spam_cvat.appearance.onnx.OnnxEmbedder` has its
      options.

    Raises:
        InputError: there is no such kind, file or option.
        SpamError: onnxruntime is not installed.
    """
    parsed = Spec.parse(spec)
    if parsed.kind == "none" and not parsed.target:
        parsed.finish()
        return None
    if parsed.kind == "histogram" and not parsed.target:
        from spam_cvat.appearance.histogram import HistogramEmbedder

        parsed.finish()
        return HistogramEmbedder()
    if parsed.kind == "onnx" and parsed.target:
        from spam_cvat.appearance.onnx import OnnxEmbedder

        return OnnxEmbedder.from_spec(parsed)
    raise InputError(f"embedder {spec!r}: write histogram, onnx:FILE or none")


def crop(image: NDArray[np.uint8], box: ArrayLike) -> NDArray[np.uint8] | None:
    """The part of an image inside a box, a view; None where less than 4x8 pixels of it lie in the image."""
    corners = np.asarray(box, np.float64)
    if not np.isfinite(corners).all():
        return None
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.rint(np.clip(corners, 0, [width, height, width, height])).astype(int)
    if x2 - x1 < SMALLEST_WIDTH or y2 - y1 < SMALLEST_HEIGHT:
        return None
    return image[y1:y2, x1:x2]


def unit_length(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows divided by their norm; rows of no length, or with a number that is not finite, become zero."""
    finite = np.where(np.isfinite(vectors).all(1, keepdims=True), vectors, 0)
    norm = np.linalg.norm(finite, axis=1, keepdims=True)
    return np.divide(finite, norm, out=np.zeros_like(finite), where=norm > 1e-12).astype(np.float32)
