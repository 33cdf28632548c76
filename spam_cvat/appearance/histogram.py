"""The embedded appearance: colour histograms of horizontal stripes of the body.

Hue and saturation are counted where there is colour, brightness where there is none, more so near the box's middle
line, where the person is rather than the background. The root of a histogram has a dot product with another's that is
their Bhattacharyya coefficient (Comaniciu et al., CVPR 2000), so stripes compare as distributions do.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.appearance import crop, unit_length

WIDTH, HEIGHT = 24, 60  # crops are shrunk to this: colours need no more
STRIPES = 6  # hair, shoulders, chest, hips, thighs, feet
HUES, SATURATIONS, GRAYS = 12, 3, 6
BINS = HUES * SATURATIONS + GRAYS


@dataclass(frozen=True)
class HistogramEmbedder:
    """Colour histograms of six stripes, 252 numbers. The spec is ``histogram``."""

    dim: int = STRIPES * BINS
    name: str = "histogram(1)"

    def embed(self, image: NDArray[np.uint8], boxes: ArrayLike) -> NDArray[np.float32]:
        """As :meth:`Embedder.embed`."""
        rows = np.asarray(boxes, np.float64).reshape(-1, 4)
        counts = np.zeros((len(rows), self.dim))
        for row, box in enumerate(rows):
            pixels = crop(image, box)
            if pixels is not None:
                counts[row] = stripe_histograms(pixels)
        return unit_length(np.sqrt(counts))


def stripe_histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weighted counts of a BGR crop's colours by stripe. (h, w, 3) uint8 -> (STRIPES * BINS,)."""
    small = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(small, cv2.COLOR_BGR2HSV).astype(np.float64), -1, 0)
    # A pixel counts as coloured by its chroma: the hue of dark and of pale pixels is noise.
    chroma = np.clip(saturation * value / 255 / 60, 0, 1)
    column = (np.arange(WIDTH) + 0.5) / WIDTH
    weight = np.broadcast_to(1 - (2 * column - 1) ** 2, (HEIGHT, WIDTH))  # Epanechnikov's kernel across the body
    stripe = np.broadcast_to((np.arange(HEIGHT) * STRIPES // HEIGHT)[:, None], (HEIGHT, WIDTH))
    shade = np.minimum(saturation * SATURATIONS // 256, SATURATIONS - 1)
    counts = np.zeros(STRIPES * BINS)
    # Neighbouring bins share a pixel by its distance to their centres, so that light moves a histogram little.
    for bin_of, share in _shared(hue / 180 * HUES, HUES, wraps=True):
        index = stripe * BINS + bin_of * SATURATIONS + shade.astype(int)
        counts += np.bincount(index.ravel(), (weight * chroma * share).ravel(), len(counts))
    for bin_of, share in _shared(value / 256 * GRAYS, GRAYS, wraps=False):
        index = stripe * BINS + HUES * SATURATIONS + bin_of
        counts += np.bincount(index.ravel(), (weight * (1 - chroma) * share).ravel(), len(counts))
    return counts


def _shared(
    place: NDArray[np.float64], count: int, *, wraps: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The two bins nearest to each place in 0..count, with their shares, which add up to 1."""
    lower = np.floor(place - 0.5).astype(np.int64)
    upper_share = place - 0.5 - lower
    pairs = [(lower, 1 - upper_share), (lower + 1, upper_share)]
    return [(index % count if wraps else np.clip(index, 0, count - 1), share) for index, share in pairs]
