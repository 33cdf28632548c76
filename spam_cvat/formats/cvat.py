"""CVAT's tracks: as JSON of its API, and as the XML file "CVAT for video 1.1".

In: Tracks, or what CVAT gave. Out: the other. In CVAT a track is a list of keyframes; between two of them boxes are
linear in time, a keyframe that is ``outside`` hides the object until the next one, and a track whose last keyframe is
not outside runs on to the end. Frames count from 0 on both sides. Nothing here talks to a server.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks, keyframes

DECIMALS = 2
# Rounding to hundredths must not carry a box over the tolerance that its keyframes were chosen for.
PIXELS, RELATIVE = 1.0 * 0.99, 0.02 * 0.995


class CvatTracks(NamedTuple):
    """Tracks read from CVAT.

    Attributes:
        tracks: one box for each frame in which the object is visible; identities count from 1 in the order given.
        cvat_id: (M,) int64, the server's id of the track that each row came from; -1 where it had none.
        skipped: one line for each track that is not made of boxes.
    """

    tracks: Tracks
    cvat_id: NDArray[np.int64]
    skipped: tuple[str, ...]


class _Shape(NamedTuple):
    """A box of a track as CVAT stores it: row in the Tracks, frame, hidden or not, keyframe or not."""

    row: int
    frame: int
    outside: bool
    keyframe: bool


def tracks_to_cvat(
    tracks: Tracks,
    label_ids: Mapping[str, int],
    start: int = 0,
    stop: int | None = None,
    *,
    source: str = "auto",
    end: int | None = None,
    thin: bool = True,
    groups: Mapping[int, int] | None = None,
    attributes: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
) -> list[dict[str, Any]]:
    """Track objects for CVAT's API, without ids.

    Args:
        tracks: what to write.
        label_ids: the task's label ids by name.
        start: first frame of the job; boxes before it are left out.
        stop: the frame after the job's last; by default the end of the video. Boxes from it on are left out.
        source: manual, auto, semi-auto, file or consensus.
        end: where a track may still be closed. A track whose last box is in frame ``stop - 1`` can only be closed in
            frame ``stop``, which is outside the job; it is when ``end`` is larger than ``stop`` (give the task's size).
            By default it is left open.
        thin: keep only the keyframes that linear interpolation needs to stay within 1 pixel or 2 % of the box.
        groups: group number by identity; 0 where not named.
        attributes: immutable attributes (``{"spec_id", "value"}``) by identity; none where not named.

    Returns:
        One object for each identity that has a box in the range, by ascending identity. Its label is the one that most
        of its boxes have; gaps are hidden by ``outside`` keyframes.

    Raises:
        InputError: a track's label is not among ``label_ids``.
    """
    stop = tracks.video.num_frames if stop is None else stop
    mine = tracks.select((tracks.frame >= start) & (tracks.frame < stop))
    points = np.round(mine.box.astype(np.float64), DECIMALS)
    out = []
    for identity, shapes in _shapes(mine, stop if end is None else end, thin):
        label = _label_of(mine, identity)
        if label not in label_ids:
            known = ", ".join(sorted(label_ids)) or "none"
            raise InputError(f"track {identity}: the task has no label {label!r}; it has: {known}")
        out.append(
            {
                "label_id": label_ids[label],
                "frame": shapes[0].frame,
                "group": (groups or {}).get(identity, 0),
                "source": source,
                "attributes": [dict(pair) for pair in (attributes or {}).get(identity, ())],
                "shapes": [
                    {
                        "type": "rectangle",
                        "frame": shape.frame,
                        "points": points[shape.row].tolist(),
                        "outside": shape.outside,
                        "occluded": False,
                        "z_order": 0,
                        "rotation": 0.0,
                        "attributes": [],
                    }
                    for shape in shapes
                    if shape.keyframe
                ],
            }
        )
    return out


def tracks_from_cvat(
    objects: Iterable[Mapping[str, Any]],
    video: VideoInfo,
    label_names: Mapping[int, str],
    *,
    start: int = 0,
    stop: int | None = None,
) -> CvatTracks:
    """One box for each frame from CVAT's track objects.

    Args:
        objects: items of ``tracks`` in what the API gives.
        video: the task's frames.
        label_names: the task's label names by id.
        start: boxes before this frame are left out.
        stop: the frame after the last; tracks that are not closed run on to it. By default the end of the video.

    Raises:
        InputError: a track's label is not among ``label_names``, or a track lacks what CVAT always gives.
    """
    stop = video.num_frames if stop is None else min(stop, video.num_frames)
    labels = tuple(dict.fromkeys(label_names.values())) or ("person",)
    rows: list[_Boxes] = []
    cvat_ids: list[int] = []
    classes: list[int] = []
    skipped = []
    for item in objects:
        name = f"track {item.get('id', 'without id')}"
        try:
            others = {str(shape["type"]) for shape in item["shapes"]} - {"rectangle"}
            if others or item.get("elements"):
                skipped.append(f"{name}: {', '.join(sorted(others)) or 'skeleton'} is not a box")
                continue
            if item["label_id"] not in label_names:
                raise InputError(f"{name}: label {item['label_id']} is not among the task's labels")
            boxes = _filled(item["shapes"], start, stop)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name}: not a track as CVAT gives it ({error!r})") from error
        rows.append(boxes)
        cvat_ids.append(int(item.get("id") or -1))
        classes.append(labels.index(label_names[item["label_id"]]))
    if not rows:
        return CvatTracks(Tracks.empty(video, labels), np.zeros(0, np.int64), tuple(skipped))
    count = [len(boxes.frame) for boxes in rows]
    tracks = Tracks.create(
        video,
        np.concatenate([boxes.frame for boxes in rows]),
        np.repeat(np.arange(1, len(rows) + 1), count),
        np.concatenate([boxes.box for boxes in rows]),
        np.concatenate([boxes.score for boxes in rows]),
        label=np.repeat(classes, count),
        labels=labels,
    )
    return CvatTracks(tracks, np.array(cvat_ids, np.int64)[tracks.track - 1], tuple(skipped))


def write_xml(path: str | Path, tracks: Tracks) -> None:
    """Write "CVAT for video 1.1".

    Every box is in the file; those that CVAT needs to interpolate the others are marked as keyframes, which are what
    its importer takes. Scores have no place in the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(_xml_lines(tracks))


def read_xml(path: str | Path, video: VideoInfo | None = None) -> Tracks:
    """Read "CVAT for video 1.1".

    Args:
        path: ``annotations.xml``.
        video: the frames; by default as the file's own header tells them, at 30 frames a second.

    Raises:
        InputError: the file cannot be read, is no such XML, or holds a box that no track has.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    except ElementTree.ParseError as error:
        raise InputError(f"{path}:{error.position[0]}: not XML: {error}") from error
    if root.tag != "annotations":
        raise InputError(f"{path}: not CVAT's XML (the root is <{root.tag}>); export the task as 'CVAT for video 1.1'")
    try:
        return _from_xml(root, video or _xml_video(root, Path(path).stem))
    except (KeyError, ValueError, InputError) as error:
        reason = f"no {error.args[0]!r}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: {reason}") from error


class _Boxes(NamedTuple):
    """A track's visible boxes: (K,) frames, (K, 4) corners, (K,) scores."""

    frame: NDArray[np.int64]
    box: NDArray[np.float64]
    score: NDArray[np.float64]


def _shapes(tracks: Tracks, end: int, thin: bool) -> Iterator[tuple[int, list[_Shape]]]:
    """Each identity's boxes and the hidden ones that close its runs, in frame order.

    A hidden box repeats the last visible one a frame later; there is none where that frame is ``end`` or later.
    """
    kept = (keyframes(tracks, PIXELS, RELATIVE) if thin else np.ones(len(tracks), bool)).tolist()
    frames = tracks.frame.tolist()
    for identity, first, last in zip(
        tracks.ids.tolist(), tracks.track_start[:-1].tolist(), tracks.track_start[1:].tolist(), strict=True
    ):
        shapes = []
        for row in range(first, last):
            shapes.append(_Shape(row, frames[row], False, kept[row]))
            after = frames[row + 1] if row + 1 < last else end
            if after > frames[row] + 1:
                shapes.append(_Shape(row, frames[row] + 1, True, True))
        yield identity, shapes


def _label_of(tracks: Tracks, identity: int) -> str:
    """The label that most of a track's boxes have: a CVAT track has one."""
    return tracks.labels[int(np.bincount(tracks.label[tracks.rows(identity)]).argmax())]


def _filled(shapes: Sequence[Mapping[str, Any]], start: int, stop: int) -> _Boxes:
    """Boxes of the visible frames in start .. stop - 1, linear between keyframes, held after the last one."""
    # Of two keyframes in one frame the later counts.
    ordered = {int(shape["frame"]): shape for shape in sorted(shapes, key=lambda shape: int(shape["frame"]))}
    if not ordered:
        return _Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    at = np.array(list(ordered), np.int64)
    corners = np.array([upright_box(shape["points"], shape.get("rotation") or 0.0) for shape in ordered.values()])
    score = np.array([shape.get("score", 1.0) for shape in ordered.values()], np.float64)
    hidden = np.array([bool(shape["outside"]) for shape in ordered.values()])
    frame = np.arange(max(start, int(at[0])), stop)
    left = np.searchsorted(at, frame, side="right") - 1
    frame, left = frame[~hidden[left]], left[~hidden[left]]
    right = np.minimum(left + 1, len(at) - 1)
    share = ((frame - at[left]) / np.maximum(at[right] - at[left], 1))[:, None]
    box = corners[left] * (1 - share) + corners[right] * share
    solid = (box[:, 2:] > box[:, :2]).all(1)
    return _Boxes(frame[solid], box[solid], np.clip(score[left][solid], 0, 1))


def upright_box(points: Sequence[float], rotation: float) -> NDArray[np.float64]:
    """The upright box around one that is turned by ``rotation`` degrees about its centre. (4,) -> (4,)."""
    box = np.array(points, np.float64)
    if box.shape != (4,):
        raise ValueError(f"a rectangle of {box.size} numbers")
    if not np.isfinite(box).all():
        raise ValueError(f"a rectangle at {box.tolist()}")
    centre, half = (box[:2] + box[2:]) / 2, np.abs(box[2:] - box[:2]) / 2
    if rotation:
        cos, sin = abs(np.cos(np.radians(rotation))), abs(np.sin(np.radians(rotation)))
        half = np.array([half[0] * cos + half[1] * sin, half[0] * sin + half[1] * cos])
        return np.concatenate([centre - half, centre + half])
    return np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])


def _xml_lines(tracks: Tracks) -> Iterator[str]:
    video = tracks.video
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n<task>\n'
    yield f"<name>{escape(video.name)}</name>\n<size>{video.num_frames}</size>\n<mode>interpolation</mode>\n"
    yield f"<start_frame>0</start_frame>\n<stop_frame>{max(video.num_frames - 1, 0)}</stop_frame>\n<labels>\n"
    for label in tracks.labels:
        yield f"<label><name>{escape(label)}</name><type>rectangle</type><attributes></attributes></label>\n"
    yield "</labels>\n<original_size>\n"
    yield f"<width>{video.width}</width>\n<height>{video.height}</height>\n</original_size>\n</task>\n</meta>\n"
    for identity, shapes in _shapes(tracks, video.num_frames, thin=True):
        yield f'<track id="{identity}" label={quoteattr(_label_of(tracks, identity))} source="auto">\n'
        for shape in shapes:
            left, top, right, bottom = tracks.box[shape.row]
            yield (
                f'<box frame="{shape.frame}" keyframe="{int(shape.keyframe)}" outside="{int(shape.outside)}" '
                f'occluded="0" xtl="{left!s}" ytl="{top!s}" xbr="{right!s}" ybr="{bottom!s}" z_order="0"></box>\n'
            )
        yield "</track>\n"
    yield "</annotations>\n"


def _xml_video(root: ElementTree.Element, name: str) -> VideoInfo:
    """The video as the header tells it; a project's header holds no size, then the boxes tell."""
    task = root.find("meta/task")
    task = root.find("meta/job") if task is None else task
    frames = [int(box.attrib["frame"]) for box in root.iter("box")]
    corners = [float(box.attrib[side]) for box in root.iter("box") for side in ("xbr", "ybr")]
    if task is None:
        extent = int(max(corners, default=1)) + 1
        return VideoInfo(name, max(frames, default=-1) + 1, extent, extent)
    # A task with a frame step numbers its boxes by the source's frames.
    size = max(int(task.findtext("size", "0")), max(frames, default=-1) + 1)
    return VideoInfo(
        task.findtext("name") or name,
        size,
        int(task.findtext("original_size/width", "1")),
        int(task.findtext("original_size/height", "1")),
    )


def _from_xml(root: ElementTree.Element, video: VideoInfo) -> Tracks:
    declared = [label.findtext("name") or "" for label in root.iter("label")]
    labels = tuple(dict.fromkeys([*declared, *(track.attrib["label"] for track in root.iter("track"))]))
    rows: list[_Boxes] = []
    identities, classes = [], []
    for track in root.iter("track"):
        boxes = [
            {
                "frame": box.attrib["frame"],
                "points": [float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")],
                "rotation": float(box.attrib.get("rotation", 0)),
                "outside": box.attrib["outside"] == "1",
            }
            for box in track.iter("box")
        ]
        rows.append(_filled(boxes, 0, video.num_frames))
        identities.append(int(track.attrib["id"]))
        classes.append(labels.index(track.attrib["label"]))
    if not rows:
        return Tracks.empty(video, labels or ("person",))
    # CVAT counts the tracks of a file from 0.
    shift = max(0, 1 - min(identities))
    count = [len(boxes.frame) for boxes in rows]
    return Tracks.create(
        video,
        np.concatenate([boxes.frame for boxes in rows]),
        np.repeat(np.array(identities) + shift, count),
        np.concatenate([boxes.box for boxes in rows]),
        label=np.repeat(classes, count),
        labels=labels,
    )
