"""Two people who cross, and tracks of them with known mistakes: for tests of what compares the two."""

from spam_cvat.detections import VideoInfo
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("street", 10, 200, 100, 10.0)


def tracks_of(rows: list[tuple[int, int, float]]) -> Tracks:
    """Rows of frame, identity and left edge; boxes are 20 wide and 40 high."""
    frame, track, left = (list(column) for column in zip(*rows, strict=True))
    return Tracks.create(VIDEO, frame, track, [[x, 30, x + 20, 70] for x in left])


def true_tracks() -> Tracks:
    """Persons 1 and 2, walking towards each other."""
    return tracks_of([(k, 1, 10 + 5 * k) for k in range(10)] + [(k, 2, 140 - 5 * k) for k in range(10)])


def swapped_tracks() -> Tracks:
    """Follow person 1 as 7, lose him in frame 4, and follow him on as 9; person 2 is 8 from frame 5 on."""
    first = [(k, 7 if k < 4 else 9, 10 + 5 * k) for k in range(10) if k != 4]
    return tracks_of(first + [(k, 8, 140 - 5 * k) for k in range(5, 10)])
