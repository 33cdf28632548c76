"""Sources: what a user names on the command line becomes detections and camera motion.

In: a path to a video file, an image folder or a MOTChallenge sequence, with or without pixels. Out: a :class:`Source`,
ready for the engine. Frames keep the source's own numbers, also when only some are asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spam_cvat.appearance import Embedder, open_embedder
from spam_cvat.cache import default_cache
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.detectors import open_detector
from spam_cvat.errors import InputError
from spam_cvat.formats import mot
from spam_cvat.motion import open_motion
from spam_cvat.perception import perceive
from spam_cvat.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Video, open_video, parse_frames

DEFAULT_DETECTOR = "hog"
DEFAULT_EMBEDDER = "histogram"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """What the engine needs of a video.

    Attributes:
        detections: candidate boxes, with appearance vectors where there are pixels and an embedder.
        warps: (num_frames, 2, 3) camera motion, frame k - 1 to frame k; None for a still camera.
    """

    detections: Detections
    warps: NDArray[np.float64] | None


def load_source(
    path: Path,
    *,
    detections: Path | None = None,
    detector: str | None = None,
    embedder: str = DEFAULT_EMBEDDER,
    motion: str = "auto",
    frames: str | None = None,
    progress: Progress | None = None,
) -> Source:
    """Read or detect what there is in a video.

    Args:
        path: a video file, a folder of images, or a MOTChallenge sequence folder.
        detections: a MOTChallenge detection file, in place of a detector. A sequence folder without pixels that holds
            just one file in ``det/`` needs neither.
        detector: see :func:`spam_cvat.detectors.open_detector`; ``hog`` where nothing is given.
        embedder: see :func:`spam_cvat.appearance.open_embedder`; passed over where there are no pixels.
        motion: ``auto`` (``gmc.txt`` beside a sequence, else from pixels), ``none`` or a file.
        frames: ``A:B``, only detections of frames A to B-1.
        progress: called with a stage's name, the frames done and the frames to do.

    Raises:
        InputError: a path, spec or file cannot be used, or there is nothing to take boxes from.
    """
    if detections is not None and detector is not None:
        raise InputError("give a detection file or a detector, not both")
    if _has_pixels(path):
        return _from_pixels(path, detections, detector, embedder, motion, frames, progress)
    if detector is not None:
        raise InputError(f"{path}: holds no images to detect in; give a detection file instead of {detector}")
    info = mot.read_seqinfo(path)
    found = _cut(mot.read_detections(detections or detection_file(path), info), frames)
    return Source(found, _warps(motion, path, info))


def _from_pixels(
    path: Path,
    detections: Path | None,
    detector: str | None,
    embedder: str,
    motion: str,
    frames: str | None,
    progress: Progress | None,
) -> Source:
    """What :func:`load_source` does where there are frames to look at."""
    with open_video(path) as video:
        net = open_embedder(embedder)
        start, stop, step = parse_frames(frames or ":", video.info.num_frames)
        if step != 1:
            raise InputError(f"frames {frames!r}: tracks need every frame; write A:B")
        if detections is not None:
            found = _cut(mot.read_detections(detections, video.info), frames)
            if net is not None:
                found = embed(video, found, net, start, stop, _stage(progress, "embed"))
        else:
            found = perceive(
                video,
                open_detector(detector or DEFAULT_DETECTOR),
                net,
                start=start,
                stop=stop,
                progress=_stage(progress, "detect"),
                cache_dir=default_cache(),
            )
        beside = path / "gmc.txt"
        if motion == "auto" and beside.is_file():
            return Source(found, mot.read_warps(beside, video.info.num_frames))
        warps = open_motion(
            motion,
            video,
            found,
            start=start,
            stop=stop,
            progress=_stage(progress, "camera motion"),
            cache_dir=default_cache(),
        )
        return Source(found, warps)


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return partial(progress, name) if progress else None


def embed(
    video: Video,
    detections: Detections,
    embedder: Embedder,
    start: int = 0,
    stop: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Detections:
    """Give detections read from a file their appearance vectors; those outside frames start .. stop - 1 get none."""
    stop = video.info.num_frames if stop is None else stop
    vectors = np.zeros((len(detections), embedder.dim), np.float32)
    for k, image in video.frames(start, stop):
        rows = slice(*detections.frame_start[k : k + 2])
        if rows.stop > rows.start:
            vectors[rows] = embedder.embed(image, detections.box[rows])
        if progress:
            progress(k + 1 - start, stop - start)
    return detections.with_embedding(vectors)


def _has_pixels(path: Path) -> bool:
    """False only for a sequence folder that holds text, and neither images nor a video file."""
    if not (path.is_dir() and (path / "seqinfo.ini").is_file()):
        return True
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in path.iterdir()) or any(
        file.suffix.lower() in IMAGE_SUFFIXES
        for folder in path.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
    )


def detection_file(path: Path, name: str | None = None) -> Path:
    """The file in a sequence's ``det/`` of that name (with or without ``.txt``), or the only one there is.

    Raises:
        InputError: there is none of that name, or no name is given and there is not just one file.
    """
    if name is not None:
        file = path / "det" / (name if name.endswith(".txt") else f"{name}.txt")
        if not file.is_file():
            raise InputError(f"{file}: no such detection file")
        return file
    files = sorted((path / "det").glob("*.txt"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{path}: detection files in det/ are {names}; say which with --detections")
    return files[0]


def _cut(detections: Detections, frames: str | None) -> Detections:
    if frames is None:
        return detections
    start, stop, _ = parse_frames(frames, detections.video.num_frames)
    return detections.select(np.arange(detections.frame_start[start], detections.frame_start[stop]))


def _warps(motion: str, path: Path, info: VideoInfo) -> NDArray[np.float64] | None:
    """Camera motion where there are no pixels to estimate it from."""
    if motion == "none":
        return None
    file = path / "gmc.txt" if motion == "auto" else Path(motion)
    return mot.read_warps(file, info.num_frames) if file.is_file() or motion != "auto" else None
