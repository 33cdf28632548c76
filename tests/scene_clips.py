"""Clips of people of one size, at places of the test's own choice."""

import numpy as np

from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.hierarchy.geometry import Clip

HEIGHT = 100.0


def clip_of(
    x: np.ndarray, y: np.ndarray | None = None, *, score: float = 0.9, fps: float = 25.0, look: np.ndarray | None = None
) -> tuple[Clip, np.ndarray]:
    """People of one size at (people, frames) centres; the clip and who each row is."""
    people, frames = x.shape
    y = np.full(x.shape, 300.0) if y is None else y
    half = np.array([0.2, 0.5]) * HEIGHT
    centre = np.stack([x, y], axis=2).transpose(1, 0, 2).reshape(-1, 2)
    box = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    frame = np.repeat(np.arange(frames), people)
    # Falling scores keep the order of the people within a frame.
    scores = np.tile(score - 0.01 * np.arange(people), frames)
    embedding = None if look is None else np.tile(look, (frames, 1)).astype(np.float32)
    video = VideoInfo("scene", frames, 1920, 1080, fps)
    return Clip.create(Detections.create(video, frame, box, scores, embedding=embedding), None), np.tile(
        np.arange(people), frames
    )
