"""Hypothesis strategies for the core's tables."""

import numpy as np
from hypothesis import strategies as st

from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.tracks import Tracks


@st.composite
def boxes(draw, count: int) -> np.ndarray:
    """(count, 4) float32 corners with area, some of them outside the image or with awkward decimals."""
    coordinate = st.floats(-5000, 5000, width=32, allow_subnormal=False)
    size = st.floats(0.25, 6000, width=32)
    rows = [[draw(coordinate), draw(coordinate), draw(size), draw(size)] for _ in range(count)]
    table = np.array(rows, np.float32).reshape(-1, 4)
    table[:, 2:] += table[:, :2]
    return table


@st.composite
def tracks(draw, max_frames: int = 12, max_tracks: int = 4, labels: tuple[str, ...] = ("person",)) -> Tracks:
    """Tracks with gaps, in a video of up to ``max_frames`` frames."""
    num_frames = draw(st.integers(1, max_frames))
    video = VideoInfo("clip", num_frames, 640, 480, 25)
    cells = draw(
        st.lists(st.tuples(st.integers(1, max_tracks), st.integers(0, num_frames - 1)), unique=True, max_size=30)
    )
    count = len(cells)
    return Tracks.create(
        video,
        [frame for _, frame in cells],
        [track for track, _ in cells],
        draw(boxes(count)),
        draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)),
        draw(st.lists(st.integers(-1, 50), min_size=count, max_size=count)),
        # One label a track, as annotation tools have it.
        [(track - 1) % len(labels) for track, _ in cells],
        labels,
    )


@st.composite
def detections(draw, max_frames: int = 8, max_boxes: int = 20) -> Detections:
    """Detections of a short video, several labels."""
    num_frames = draw(st.integers(1, max_frames))
    count = draw(st.integers(0, max_boxes))
    return Detections.create(
        VideoInfo("clip", num_frames, 640, 480, 25),
        draw(st.lists(st.integers(0, num_frames - 1), min_size=count, max_size=count)),
        draw(boxes(count)),
        draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)),
        draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)),
        ("person", "car"),
    )
