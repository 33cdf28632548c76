"""Perception: a video's frames through a detector and an embedder, once, into Detections.

In: a Video, a Detector, perhaps an Embedder. Frames stream through one at a time; what was found is kept in a cache on
disk, keyed by the video's content and the names of detector and embedder, so that a run that was cancelled, or broke,
goes on where it stopped, and another embedder does not run the detector again. Out: Detections of the whole video.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.appearance import Embedder
from spam_cvat.cache import RangeCache, Rows, cache_key
from spam_cvat.detections import Detections
from spam_cvat.detectors import Detector
from spam_cvat.errors import CancelledError
from spam_cvat.video import Image, Video, check_range

BOX_COLUMNS = ("frame", "box", "score", "label")
VECTOR_COLUMNS = ("frame", "vector")
# Frames a cache file holds at most: what a hard kill can lose.
BLOCK = 128

Progress = Callable[[int, int], None]


def perceive(
    video: Video,
    detector: Detector,
    embedder: Embedder | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    cache_dir: Path | None = None,
) -> Detections:
    """Detect, and embed, in frames start .. stop - 1.

    >>> with open_video("clip.mp4") as video:                                           # doctest: +SKIP
    ...     detections = perceive(video, open_detector("hog"), open_embedder("histogram"))

    Args:
        video: the frames' source.
        detector: proposes boxes.
        embedder: describes them; None leaves ``Detections.embedding`` None.
        start: first frame.
        stop: frame after the last; None for the video's end.
        progress: called after every frame with the frames done and the frames to do.
        cancelled: asked before every frame; True stops the run.
        cache_dir: folder of the cache; None for no cache.

    Returns:
        Detections of the video as a whole, numbered as its frames are, with boxes in start .. stop - 1 only.

    Raises:
        InputError: the range is outside the video, or a frame cannot be read.
        CancelledError: ``cancelled`` said so; what was done is in the cache.
    """
    stop = video.info.num_frames if stop is None else stop
    check_range(start, stop, 1, video.info.num_frames, video.info.name)
    box_cache, vector_cache = _caches(video, detector, embedder, cache_dir)
    run = _Run(video, detector, embedder, box_cache, vector_cache, start, stop, progress, cancelled)
    rows: list[Rows] = []
    position = start
    while position < stop:
        rows.append(run.advance(position))
        position = rows[-1].stop
        if progress:
            progress(position - start, stop - start)
    columns = {name: np.concatenate([part.columns[name] for part in rows]) for name in rows[0].columns}
    return Detections.create(
        video.info,
        columns["frame"],
        columns["box"],
        columns["score"],
        columns["label"],
        detector.labels,
        columns.get("vector"),
    )


def _caches(
    video: Video, detector: Detector, embedder: Embedder | None, cache_dir: Path | None
) -> tuple[RangeCache, RangeCache]:
    """The caches of boxes and of vectors; vectors lie below the boxes they describe."""
    if cache_dir is None:
        return RangeCache(None, BOX_COLUMNS), RangeCache(None, VECTOR_COLUMNS)
    boxes = Path(cache_dir) / video.digest[:32] / cache_key(detector.name)
    vectors = boxes / cache_key(embedder.name) if embedder else None
    return RangeCache(boxes, BOX_COLUMNS), RangeCache(vectors, VECTOR_COLUMNS)


@dataclass
class _Run:
    """One call of :func:`perceive`: what it works with, and the stream of frames where it stands."""

    video: Video
    detector: Detector
    embedder: Embedder | None
    box_cache: RangeCache
    vector_cache: RangeCache
    start: int
    stop: int
    progress: Progress | None
    cancelled: Callable[[], bool] | None
    _stream: Iterator[tuple[int, Image]] = field(default_factory=lambda: iter(()))
    _stream_at: int = -1  # the frame from which on the stream gives

    def advance(self, position: int) -> Rows:
        """Rows of the next frames from ``position`` on: from the cache as far as it reaches, else of one block."""
        boxes = self.box_cache.find(position, self.stop)
        if self.embedder is None:
            return boxes or self._compute(position, None)
        vectors = self.vector_cache.find(position, boxes.stop) if boxes else None
        if boxes is None or vectors is None:
            return self._compute(position, boxes)
        boxes = boxes.cut(position, vectors.stop)
        if not np.array_equal(boxes.columns["frame"], vectors.columns["frame"]):  # described other boxes once
            return self._compute(position, boxes)
        return Rows(position, vectors.stop, boxes.columns | {"vector": vectors.columns["vector"]})

    def _compute(self, position: int, known: Rows | None) -> Rows:
        """Perceive one block, or less where boxes are known for less; keep what was done even if it breaks off."""
        stop = min((position // BLOCK + 1) * BLOCK, known.stop if known else self.stop, self.stop)
        parts: list[dict[str, NDArray[Any]]] = []
        done = position
        try:
            for k, image in self._frames(position, stop):
                if self.cancelled and self.cancelled():
                    raise CancelledError(f"{self.video.info.name}: cancelled at frame {k}")
                part = known.cut(k, k + 1).columns if known else self._detect(k, image)
                if self.embedder is not None:
                    part = part | {"vector": self.embedder.embed(image, part["box"])}
                parts.append(part)
                done = k + 1
                if self.progress:
                    self.progress(done - self.start, self.stop - self.start)
            done = stop  # frames that the video leaves out at the end are done too
        finally:
            rows = Rows(position, done, self._stack(parts))
            if known is None:
                self.box_cache.save(rows)
            if self.embedder is not None:
                self.vector_cache.save(rows)
        return rows

    def _detect(self, k: int, image: Image) -> dict[str, NDArray[Any]]:
        found = self.detector.detect(image)
        frame = np.full(len(found), k, np.int32)
        return {"frame": frame, "box": found.box, "score": found.score, "label": found.label}

    def _stack(self, parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        empty: dict[str, NDArray[Any]] = {
            "frame": np.zeros(0, np.int32),
            "box": np.zeros((0, 4), np.float32),
            "score": np.zeros(0, np.float32),
            "label": np.zeros(0, np.int16),
        }
        if self.embedder is not None:
            empty["vector"] = np.zeros((0, self.embedder.dim), np.float32)
        return {name: np.concatenate([column, *(part[name] for part in parts)]) for name, column in empty.items()}

    def _frames(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Frames start .. stop - 1, from the running stream where it stands there: opening one anew costs a seek."""
        if self._stream_at != start:
            self._stream = self.video.frames(start, self.stop)
        self._stream_at = -1  # unknown, should this generator not run to its end
        for k, image in self._stream:
            if k >= stop:
                # The stream is one frame ahead: put it back.
                self._stream = itertools.chain([(k, image)], self._stream)
                break
            yield k, image
            if k == stop - 1:
                break
        self._stream_at = stop
