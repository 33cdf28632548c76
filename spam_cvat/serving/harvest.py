"""Harvest: what the detector saw in the frames of one task, gathered in any order and kept through a restart.

In: images with their frame numbers. Out: Detections of the whole video. Parts are kept in the task's place in the
store, so that another process carries on where this one ended, and a second run does not look at a frame again.
"""

import io
import logging
import threading
import uuid
import zipfile
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spam_cvat.appearance import Embedder, open_embedder
from spam_cvat.cvat.store import TaskStore, digest_of
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.detectors import FrameDetections, open_detector
from spam_cvat.motion import Warps, identity_warps
from spam_cvat.serving.settings import Settings, on_device

FLUSH_EVERY = 25
"""Frames that a crash may cost; they are fetched again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What was seen in one frame.

    Attributes:
        boxes: with scores and labels.
        embedding: (n, D) float32 appearance vectors, or None.
        warp: (2, 3) float64, camera motion from the run's frame before this one, or None where that is not known.
    """

    boxes: FrameDetections
    embedding: NDArray[np.float32] | None = None
    warp: NDArray[np.float64] | None = None


class Perception(Protocol):
    """What turns an image into boxes with appearance vectors."""

    @property
    def name(self) -> str:
        """Changes with everything that changes what is seen."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that the boxes' label indices point into."""

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """Boxes of a (height, width, 3) uint8 BGR image."""

    def see(self, image: NDArray[np.uint8], frame: int | None = None) -> Seen:
        """Boxes and appearance vectors of an image; its frame number where that is known."""


class PixelPerception:
    """A detector and an embedder, loaded once, one image at a time."""

    def __init__(self, settings: Settings) -> None:
        """Load both. Raises InputError or SpamError as their specs demand."""
        self._detector = open_detector(on_device(settings.detector, settings.device), threshold=settings.threshold)
        self._embedder: Embedder | None = open_embedder(on_device(settings.embedder, settings.device))
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Names of the detector and the embedder with their parameters."""
        return f"{self._detector.name} {self._embedder.name if self._embedder else 'none'}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The detector's labels."""
        return self._detector.labels

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """Detect only."""
        with self._lock:
            return self._detector.detect(image)

    def see(self, image: NDArray[np.uint8], frame: int | None = None) -> Seen:
        """Detect and embed."""
        with self._lock:
            boxes = self._detector.detect(image)
            return Seen(boxes, self._embedder.embed(image, boxes.box) if self._embedder else None)


class GivenPerception:
    """Boxes that are known beforehand, such as rectangles that the task holds; only their appearance is looked at."""

    def __init__(self, detections: Detections, settings: Settings) -> None:
        """Take the boxes of a video."""
        self._detections = detections
        self._embedder: Embedder | None = open_embedder(on_device(settings.embedder, settings.device))
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Changes with the boxes."""
        boxes = digest_of([self._detections.id.tolist(), self._detections.score.tolist()])
        return f"given {boxes} {self._embedder.name if self._embedder else 'none'}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the boxes."""
        return self._detections.labels

    def detect(self, image: NDArray[np.uint8]) -> FrameDetections:
        """None: what an image shows is known by its frame alone."""
        return FrameDetections.create(np.zeros((0, 4)), [], [], 1, 1)

    def see(self, image: NDArray[np.uint8], frame: int | None = None) -> Seen:
        """The frame's boxes, embedded; none where the frame is not known."""
        rows = slice(0, 0)
        if frame is not None:
            rows = slice(*(int(row) for row in self._detections.frame_start[frame : frame + 2]))
        boxes = FrameDetections(self._detections.box[rows], self._detections.score[rows], self._detections.label[rows])
        with self._lock:
            return Seen(boxes, self._embedder.embed(image, boxes.box) if self._embedder else None)


class Harvest:
    """What was seen of one task so far.

    Args:
        store: the task's place in the store.
        digest: of the task's frames.
        perception: name of what looks at them; parts that something else saw are not used.
    """

    def __init__(self, store: TaskStore, digest: str, perception: str) -> None:
        """Take over what earlier processes left."""
        self._store = store
        self._key = digest_of([digest, perception])
        self._worker = uuid.uuid4().hex[:8]
        self._parts = 0
        self._seen: dict[int, Seen] = {}
        self._unsaved: list[int] = []
        self.refresh()

    def __contains__(self, frame: int) -> bool:
        """Whether a frame has been looked at."""
        return frame in self._seen

    def __len__(self) -> int:
        """Number of frames looked at."""
        return len(self._seen)

    def add(self, frame: int, seen: Seen) -> None:
        """Take in one frame; every now and then what is new goes to the store."""
        self._seen[frame] = seen
        self._unsaved.append(frame)
        if len(self._unsaved) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Put what is new into the store. Raises SpamError where that cannot be written."""
        if self._unsaved:
            data = _pack({frame: self._seen[frame] for frame in self._unsaved})
            self._store.write_bytes(f"frames/{self._key}-{self._worker}-{self._parts:06d}.npz", data)
            self._parts += 1
            self._unsaved = []

    def refresh(self) -> None:
        """Take over what other processes have seen of the same frames since."""
        for name in self._store.names("frames"):
            if not name.startswith(self._key) or f"-{self._worker}-" in name:
                continue
            data = self._store.read_bytes(f"frames/{name}")
            try:
                found = _unpack(data or b"")
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                log.warning(
                    "%s/frames/%s is damaged (%s): its frames are looked at again", self._store.location, name, error
                )
                continue
            for frame, seen in found.items():
                self._seen.setdefault(frame, seen)

    def discard(self) -> None:
        """Delete all parts of this task: the run is over."""
        for name in self._store.names("frames"):
            self._store.delete(f"frames/{name}")
        self._unsaved = []

    def detections(self, video: VideoInfo, frames: list[int], labels: tuple[str, ...]) -> Detections:
        """The boxes of these frames as one video's detections."""
        chosen = [(frame, self._seen[frame]) for frame in frames if len(self._seen[frame].boxes)]
        if not chosen:
            return Detections.empty(video, labels)
        vectors = [seen.embedding for _, seen in chosen if seen.embedding is not None]
        return Detections.create(
            video,
            np.repeat([frame for frame, _ in chosen], [len(seen.boxes) for _, seen in chosen]),
            np.concatenate([seen.boxes.box for _, seen in chosen]),
            np.concatenate([seen.boxes.score for _, seen in chosen]),
            np.concatenate([seen.boxes.label for _, seen in chosen]),
            labels,
            np.concatenate(vectors) if len(vectors) == len(chosen) else None,
            drop_bad=True,
        )

    def warps(self, num_frames: int) -> Warps:
        """Camera motion, (num_frames, 2, 3), the identity where it is not known."""
        warps = identity_warps(num_frames)
        for frame, seen in self._seen.items():
            if seen.warp is not None:
                warps[frame] = seen.warp
        return warps


def _pack(frames: dict[int, Seen]) -> bytes:
    """One npz file of several frames, frames without boxes included."""
    seen = list(frames.values())
    count = [len(item.boxes) for item in seen]
    arrays: dict[str, Any] = {
        "frame": np.array(list(frames), np.int32),
        "count": np.array(count, np.int32),
        "box": np.concatenate([item.boxes.box.reshape(-1, 4) for item in seen]),
        "score": np.concatenate([item.boxes.score for item in seen]),
        "label": np.concatenate([item.boxes.label for item in seen]),
        "warp": np.stack([np.full((2, 3), np.nan) if item.warp is None else item.warp for item in seen]),
    }
    vectors = [item.embedding for item in seen if item.embedding is not None and len(item.boxes)]
    if vectors and len(vectors) == sum(number > 0 for number in count):
        arrays["embedding"] = np.concatenate(vectors)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[int, Seen]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    ends = np.cumsum(arrays["count"])
    embedding = arrays.get("embedding")
    frames = {}
    for frame, start, stop in zip(
        arrays["frame"].tolist(), (ends - arrays["count"]).tolist(), ends.tolist(), strict=True
    ):
        boxes = FrameDetections(arrays["box"][start:stop], arrays["score"][start:stop], arrays["label"][start:stop])
        frames[frame] = Seen(boxes, None if embedding is None else embedding[start:stop])
    return frames
