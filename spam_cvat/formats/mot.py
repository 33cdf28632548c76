"""MOTChallenge text files and sequence folders.

In: ``seqinfo.ini``, ``det/*.txt``, ``gt/gt.txt``, ``gmc.txt`` and result files. Out: Detections, Tracks, GroundTruth
and camera warps, and the text of Tracks on the way back. Files count frames from 1 and hold left, top, width, height;
everything that leaves this module counts from 0 and holds corners. A bad row is refused as ``file:line: reason``.
"""

import configparser
import logging
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import xywh_to_xyxy
from spam_cvat.detections import Detections, VideoInfo, confidences_of
from spam_cvat.errors import InputError
from spam_cvat.formats.table import Table, read_table, read_text
from spam_cvat.tracks import Tracks

PEDESTRIAN = 1
# A score such as 1.0000001 is a rounding of the program that wrote it, not a mistake.
SCORE_SLACK = 1e-4
# So many confidences outside 0..1, and such a share of all, are no mistake but another scale.
MARGINS, MARGIN_SHARE = 20, 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """Every row of a ground-truth file, in frame order, rows of a frame in the file's order.

    The columns that a scorer needs and Tracks does not have stay: distractors of other classes, rows marked as not to
    be scored, and boxes in full precision.

    Attributes:
        video: the video they belong to.
        frame: (M,) int32, from 0.
        id: (M,) int64 identities as in the file.
        box: (M, 4) float64, x1 y1 x2 y2 in pixels.
        confidence: (M,) float64; 0 marks a row that is not scored.
        category: (M,) int16, MOTChallenge class (1 pedestrian ... 13); 1 where the file has none.
        visibility: (M,) float64 in [0, 1]; 1 where the file has none.
    """

    video: VideoInfo
    frame: NDArray[np.int32]
    id: NDArray[np.int64]
    box: NDArray[np.float64]
    confidence: NDArray[np.float64]
    category: NDArray[np.int16]
    visibility: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)

    def select(self, rows: NDArray[Any]) -> "GroundTruth":
        """The rows of a boolean mask or of an ascending index array."""
        columns = ("frame", "id", "box", "confidence", "category", "visibility")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def window(self, start: int, stop: int) -> "GroundTruth":
        """Rows of frames start .. stop - 1, renumbered from 0, as a video of their own."""
        start, stop = max(start, 0), min(stop, self.video.num_frames)
        cut = self.select((self.frame >= start) & (self.frame < stop))
        video = replace(self.video, num_frames=max(stop - start, 0))
        return replace(cut, video=video, frame=(cut.frame - start).astype(np.int32))

    def tracks(self, classes: Rows[int] = (PEDESTRIAN,), *, unscored: bool = False) -> Tracks:
        """The rows to be scored, of the classes named, as Tracks of one label.

        Boxes without area are left out, and rows of confidence 0 too unless ``unscored``: somebody is there as well,
        but scores do not count him. Identities are kept, or moved up together where the file counts them from 0.
        """
        solid = (self.box[:, 2:] > self.box[:, :2]).all(1)
        kept = self.select(((self.confidence != 0) | unscored) & np.isin(self.category, classes) & solid)
        return Tracks.create(self.video, kept.frame, kept.id + _shift(kept.id), kept.box)


@dataclass(frozen=True)
class Sequence:
    """One sequence folder in memory.

    Attributes:
        video: name, length, size and rate from ``seqinfo.ini``.
        folder: where it was read from.
        detections: candidate boxes of one detector.
        ground_truth: rows of ``gt/gt.txt``, or None where there is none.
        warps: (num_frames, 2, 3) float64, pixel coordinates of frame k - 1 to frame k, or None without ``gmc.txt``.
    """

    video: VideoInfo
    folder: Path
    detections: Detections
    ground_truth: GroundTruth | None
    warps: NDArray[np.float64] | None

    @property
    def name(self) -> str:
        """The sequence's name."""
        return self.video.name

    def window(self, start: int, stop: int) -> "Sequence":
        """Frames start .. stop - 1, renumbered from 0, as a sequence of their own; its first warp is the identity."""
        start, stop = max(start, 0), min(stop, self.video.num_frames)
        warps = None
        if self.warps is not None:
            warps = self.warps[start:stop].copy()
            warps[:1] = np.eye(2, 3)
        return replace(
            self,
            video=replace(self.video, num_frames=max(stop - start, 0)),
            detections=self.detections.window(start, stop),
            ground_truth=None if self.ground_truth is None else self.ground_truth.window(start, stop),
            warps=warps,
        )


def half_val(sequence: Sequence) -> Sequence:
    """Frames N//2+1 .. N-1 renumbered from 0: the validation half of ByteTrack and OC-SORT."""
    return sequence.window(sequence.video.num_frames // 2 + 1, sequence.video.num_frames)


def first_half(sequence: Sequence) -> Sequence:
    """Frames 0 .. N//2: the training half of ByteTrack and OC-SORT."""
    return sequence.window(0, sequence.video.num_frames // 2 + 1)


def read_seqinfo(folder: str | Path) -> VideoInfo:
    """Read a folder's ``seqinfo.ini``.

    Raises:
        InputError: the file is missing, or lacks a value, or holds one that no video has.
    """
    path = Path(folder) / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path), source=str(path))
        section = parser["Sequence"]
        return VideoInfo(
            name=section.get("name", Path(folder).resolve().name),
            num_frames=int(section["seqLength"]),
            width=int(section["imWidth"]),
            height=int(section["imHeight"]),
            fps=float(section.get("frameRate", "30")),
        )
    except KeyError as error:
        raise InputError(f"{path}: no {error.args[0]}; a sequence needs seqLength, imWidth and imHeight") from error
    except (configparser.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: {reason}") from error


def read_sequence(folder: str | Path, detections: str | Path | None = "yolox_x") -> Sequence:
    """Read a MOTChallenge sequence folder.

    Args:
        folder: holds ``seqinfo.ini`` and, as far as they exist, ``det/``, ``gt/gt.txt`` and ``gmc.txt``.
        detections: a detector's name (``det/<name>.txt``), a path to a detection file, or None for no detections.

    Raises:
        InputError: something named is missing or holds a bad row.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a MOTChallenge sequence with a seqinfo.ini")
    video = read_seqinfo(folder)
    truth, motion = folder / "gt" / "gt.txt", folder / "gmc.txt"
    return Sequence(
        video=video,
        folder=folder,
        detections=Detections.empty(video)
        if detections is None
        else read_detections(_detection_file(folder, detections), video),
        ground_truth=read_ground_truth(truth, video) if truth.is_file() else None,
        warps=read_warps(motion, video.num_frames) if motion.is_file() else None,
    )


def read_detections(path: str | Path, video: VideoInfo) -> Detections:
    """Read a detection file: ``frame,-1,left,top,width,height[,confidence,...]``, frames from 1.

    A file whose confidences are all -1 has none, and they count as 1. Where many lie outside 0..1, as in MOTChallenge's
    files of detectors that give margins or per cent, :func:`spam_cvat.detections.confidences_of` makes some of them.

    Raises:
        InputError: ``file:line: reason`` for the first bad row.
    """
    table = read_table(path, columns=6)
    frame, box = _frames_and_boxes(table, video, area=True)
    return Detections.create(video, frame, box, _confidences(table, video))


def _confidences(table: Table, video: VideoInfo) -> NDArray[np.float64]:
    """The seventh column as confidences in [0, 1], (N,)."""
    score = table.column(6, missing=1)
    if (score == -1).all():
        return np.ones(len(score))
    outside = ~((score >= -SCORE_SLACK) & (score <= 1 + SCORE_SLACK))
    if outside.sum() >= max(MARGINS, MARGIN_SHARE * len(score)) and np.isfinite(score).all():
        log.warning(
            "%s: confidences of %g to %g are no probabilities; only their order and distances are used",
            table.path, score.min(), score.max(),
        )  # fmt: skip
        return confidences_of(score, video.num_frames)
    table.refuse(outside, lambda row: f"confidence {score[row]:g} is outside 0..1; rescale the file's scores")
    return np.clip(score, 0, 1)


def read_tracks(path: str | Path, video: VideoInfo, labels: Rows[str] = ("person",)) -> Tracks:
    """Read a result file: ``frame,id,left,top,width,height[,confidence[,class,...]]``, frames from 1.

    A confidence outside 0..1 says nothing in such files (many programs write -1) and is read as 1. Where there is more
    than one label, the eighth column is the label's number from 1, as :func:`write_tracks` writes it. Identities that
    count from 0 are all moved up by one.

    Raises:
        InputError: ``file:line: reason`` for the first bad row.
    """
    table = read_table(path, columns=6)
    frame, box = _frames_and_boxes(table, video, area=True)
    ids = _identities(table, frame)
    table.refuse(ids < 0, lambda row: f"identity {ids[row]} is negative; tracks have identities of 1 or more")
    score = table.column(6, missing=1)
    score = np.where((score >= 0) & (score <= 1), score, 1)
    label = np.zeros(len(table), np.int64)
    if len(labels) > 1 and table.width > 7:
        label = np.nan_to_num(table.column(7, missing=0), nan=0).astype(np.int64) - 1
        wrong = (label < 0) | (label >= len(labels))
        table.refuse(wrong, lambda row: f"class {label[row] + 1} is not one of 1..{len(labels)}")
    return Tracks.create(video, frame, ids + _shift(ids), box, score, label=label, labels=labels)


def read_ground_truth(path: str | Path, video: VideoInfo) -> GroundTruth:
    """Read a ground-truth file, every row of it.

    Eight or nine columns are MOT16 and later, ``frame,id,left,top,width,height,confidence,class[,visibility]``; other
    widths (2D MOT 2015 has three world coordinates, result files have -1,-1,-1) have no class: all rows are of class 1.

    Raises:
        InputError: ``file:line: reason`` for the first bad row.
    """
    table = read_table(path, columns=6)
    frame, box = _frames_and_boxes(table, video, area=False)
    ids = _identities(table, frame)
    category = table.column(7, missing=1) if table.width in (8, 9) else np.ones(len(table))
    table.refuse(~np.isfinite(category), lambda row: "class is not a number")
    visibility = table.column(8, missing=1) if table.width == 9 else np.ones(len(table))
    confidence = table.column(6, missing=1)
    order = np.argsort(frame, kind="stable")
    return GroundTruth(
        video=video,
        frame=frame[order].astype(np.int32),
        id=ids[order],
        box=box[order],
        # The scorer reads this column as an integer flag, as TrackEval does.
        confidence=np.trunc(np.nan_to_num(confidence, nan=1.0))[order],
        category=np.where(category < 0, PEDESTRIAN, category)[order].astype(np.int16),
        visibility=np.clip(np.nan_to_num(visibility, nan=1.0), 0, 1)[order],
    )


def read_warps(path: str | Path, num_frames: int) -> NDArray[np.float64]:
    """Read camera motion: ``frame a00 a01 a02 a10 a11 a12`` a line, frames from 0, frame k - 1 to frame k.

    Returns:
        (num_frames, 2, 3) float64; the identity where the file has no line, and for frame 0.

    Raises:
        InputError: ``file:line: reason`` for the first bad row.
    """
    table = read_table(path, columns=7)
    frame = table.whole(0, "frame")
    outside = (frame < 0) | (frame >= num_frames)
    table.refuse(outside, lambda row: f"frame {frame[row]} is outside 0..{num_frames - 1}")
    maps = table.values[:, 1:7]
    table.refuse(~np.isfinite(maps).all(1), lambda row: "the affine map is not finite")
    warps = np.tile(np.eye(2, 3), (num_frames, 1, 1))
    warps[frame] = maps.reshape(-1, 2, 3)
    warps[:1] = np.eye(2, 3)
    return warps


def write_tracks(path: str | Path, tracks: Tracks, *, ground_truth: bool = False) -> None:
    """Write a result file, by frame and then identity; read back, boxes and scores are the same to the last bit.

    Args:
        path: file to write; its folder is made.
        tracks: what to write. Which detection a box came from has no place in the format.
        ground_truth: write ``...,1,class,1`` rows, as training code reads them, in place of
            ``...,confidence,-1,-1,-1``.
    """
    order = np.lexsort((tracks.track, tracks.frame))
    tracks = tracks.select(order)
    boxes = _exact_xywh(tracks.box)
    named = ground_truth or len(tracks.labels) > 1
    out = []
    for row, (frame, track, score, label) in enumerate(
        zip(tracks.frame.tolist(), tracks.track.tolist(), tracks.score, tracks.label.tolist(), strict=True)
    ):
        category = label + 1 if named else -1
        tail = f"1,{category},1" if ground_truth else f"{score!s},{category},-1,-1"
        out.append(f"{frame + 1},{track},{boxes[row]},{tail}\n")
    _write_text(path, out)


def write_detections(path: str | Path, detections: Detections) -> None:
    """Write a detection file; read back, boxes and scores are the same to the last bit. Labels have no place in it."""
    boxes = _exact_xywh(detections.box)
    rows = zip(detections.frame.tolist(), boxes, detections.score, strict=True)
    _write_text(path, [f"{frame + 1},-1,{box},{score!s},-1,-1,-1\n" for frame, box, score in rows])


def _write_text(path: str | Path, lines: list[str]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _exact_xywh(box: NDArray[np.float32]) -> list[str]:
    """Text ``left,top,width,height`` that gives back the very float32 corners, short where a short one does."""
    # The shortest decimals of the corners; their difference has few digits too, after the float noise is cut.
    left = box[:, :2].astype(str).astype(np.float64)
    size = np.round(box[:, 2:].astype(str).astype(np.float64) - left, 9)
    # Where that is not enough (an edge near 0, the other one far from it), all digits of the float32 numbers are.
    short = (left + size).astype(np.float32) == box[:, 2:]
    whole = box.astype(np.float64)
    left, size = np.where(short, left, whole[:, :2]), np.where(short, size, whole[:, 2:] - whole[:, :2])
    rows = np.concatenate([left, size], axis=1).tolist()
    # Whole numbers lose their ".0".
    return [(",".join(map(repr, row)) + ",").replace(".0,", ",")[:-1] for row in rows]


def _detection_file(folder: Path, detections: str | Path) -> Path:
    named = folder / "det" / f"{detections}.txt"
    if named.is_file():
        return named
    if Path(detections).is_file():
        return Path(detections)
    known = sorted(file.stem for file in folder.glob("det/*.txt"))
    raise InputError(f"{folder}: no detections {str(detections)!r}; there are: {', '.join(known) or 'none'}")


def _shift(ids: NDArray[np.int64]) -> int:
    """What to add so that identities start above 0; DanceTrack counts them from 0."""
    return max(0, 1 - int(ids.min())) if len(ids) else 0


def _frames_and_boxes(table: Table, video: VideoInfo, *, area: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frames from 0 and float64 corners, checked."""
    frame = table.whole(0, "frame")
    outside = (frame < 1) | (frame > video.num_frames)
    table.refuse(outside, lambda row: f"frame {frame[row]} is outside 1..{video.num_frames}")
    xywh = table.values[:, 2:6]
    size = xywh[:, 2:]
    with np.errstate(invalid="ignore"):
        wild = ~(np.abs(xywh) <= 1e6).all(1)
        thin = ~((size > 0) if area else (size >= 0)).all(1)
    table.refuse(wild, lambda row: f"box {xywh[row].tolist()} is not finite")
    table.refuse(thin, lambda row: f"box of width {size[row, 0]:g} and height {size[row, 1]:g}")
    return frame - 1, xywh_to_xyxy(xywh).astype(np.float64)


def _identities(table: Table, frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """Identities, at most one box each in a frame."""
    ids = table.whole(1, "identity")
    order = np.lexsort((np.arange(len(ids)), frame, ids))
    twin = np.zeros(len(ids), bool)
    twin[order[1:]] = (np.diff(ids[order]) == 0) & (np.diff(frame[order]) == 0)
    table.refuse(twin, lambda row: f"identity {ids[row]} has another box in frame {frame[row] + 1}")
    return ids
