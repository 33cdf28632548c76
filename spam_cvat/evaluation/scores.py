"""One sequence's scores and a set's: the rules of a benchmark applied, the three metric families computed.

In: ground truth and tracks, as tables or as files. Out: :class:`Scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.evaluation.clear import Clear, clear, combine_clear
from spam_cvat.evaluation.hota import Hota, combine_hota, hota
from spam_cvat.evaluation.identity import Identity, combine_identity, identity
from spam_cvat.evaluation.pairing import EPS, Pairing, make_side
from spam_cvat.formats.mot import PEDESTRIAN, GroundTruth, read_ground_truth, read_seqinfo
from spam_cvat.tracks import Tracks

# Classes whose overlap excuses a tracker box: person on vehicle, static person, distractor, reflection (MOT20 adds
# non-MOT vehicles). "plain" scores every row that is not marked as unscored, as TrackEval does for 2D MOT 2015.
PRESETS: dict[str, tuple[int, ...] | None] = {
    "plain": None,
    "mot17": (2, 7, 8, 12),
    "mot20": (2, 6, 7, 8, 12),
}
LAST_CLASS = 13


@dataclass(frozen=True)
class Scores:
    """Scores of one sequence or, from :func:`combine`, of several. Accuracies are in 0..1, counts are boxes.

    The three families hold all parts; the headline numbers are properties under TrackEval's names.
    """

    hota: Hota
    clear: Clear
    identity: Identity
    num_truth_tracks: int
    num_tracks: int

    @property
    def HOTA(self) -> float:
        """Higher order tracking accuracy, the mean over the thresholds."""
        return float(self.hota.hota.mean())

    @property
    def DetA(self) -> float:
        """Detection accuracy."""
        return float(self.hota.det_a.mean())

    @property
    def AssA(self) -> float:
        """Association accuracy."""
        return float(self.hota.ass_a.mean())

    @property
    def LocA(self) -> float:
        """Localisation accuracy, the mean IoU of the matches."""
        return float(self.hota.loc_a.mean())

    @property
    def MOTA(self) -> float:
        """Multiple object tracking accuracy; can be negative."""
        return float(self.clear.mota)

    @property
    def IDF1(self) -> float:
        """Identity F1."""
        return float(self.identity.idf1)

    @property
    def IDSW(self) -> int:
        """Identity switches."""
        return int(self.clear.idsw)

    @property
    def FP(self) -> int:
        """False positives at IoU 0.5 (CLEAR)."""
        return int(self.clear.fp)

    @property
    def FN(self) -> int:
        """False negatives at IoU 0.5 (CLEAR)."""
        return int(self.clear.fn)

    @property
    def num_truth_boxes(self) -> int:
        """Ground-truth boxes that were scored."""
        return self.clear.tp + self.clear.fn

    def summary(self) -> dict[str, float | int]:
        """The headline numbers and their parts as plain values, under TrackEval's names."""
        return {
            **{name: getattr(self, name) for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1")},
            **{name: getattr(self, name) for name in ("IDSW", "FP", "FN")},
            "DetRe": float(self.hota.det_re.mean()),
            "DetPr": float(self.hota.det_pr.mean()),
            "AssRe": float(self.hota.ass_re.mean()),
            "AssPr": float(self.hota.ass_pr.mean()),
            "MOTP": float(self.clear.motp),
            "TP": int(self.clear.tp),
            "Frag": int(self.clear.frag),
            "MT": int(self.clear.mt),
            "PT": int(self.clear.pt),
            "ML": int(self.clear.ml),
            "IDR": float(self.identity.idr),
            "IDP": float(self.identity.idp),
            "IDTP": int(self.identity.idtp),
            "IDFP": int(self.identity.idfp),
            "IDFN": int(self.identity.idfn),
            "GT_Dets": int(self.num_truth_boxes),
            "Dets": int(self.clear.tp + self.clear.fp),
            "GT_IDs": int(self.num_truth_tracks),
            "IDs": int(self.num_tracks),
        }


def evaluate(truth: GroundTruth | Tracks, tracks: Tracks | GroundTruth, preset: str = "plain") -> Scores:
    """Score one sequence. Labels are not looked at.

    Args:
        truth: what is true. Tracks, or GroundTruth with distractors and rows that are not scored.
        tracks: what is scored.
        preset: "plain"; or "mot17" or "mot20", whose rules take distractors and what lies on them out first.

    Raises:
        InputError: an unknown preset, tracks in frames that the truth does not have, or classes no preset knows.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    frames = truth.video.num_frames
    if len(tracks) and int(tracks.frame.max()) >= frames:
        raise InputError(
            f"{tracks.video.name}: a box in frame {int(tracks.frame.max())} (from 0), "
            f"the ground truth has {frames} frames"
        )
    distractors = PRESETS[preset]
    ours = _columns(tracks)
    if isinstance(truth, GroundTruth):
        if distractors is not None:
            ours = _without_excused(truth, ours, distractors)
        scored = truth.confidence != 0
        truth = truth.select(scored if distractors is None else scored & (truth.category == PEDESTRIAN))
    pairing = Pairing(frames, make_side(*_columns(truth), frames), make_side(*ours, frames))
    return Scores(
        hota(pairing), clear(pairing), identity(pairing), len(pairing.truth.count), len(pairing.tracker.count)
    )


def combine(scores: Sequence[Scores]) -> Scores:
    """The scores of several sequences as one set (TrackEval's COMBINED_SEQ): counts added, then the formulas.

    Raises:
        InputError: there is nothing to combine.
    """
    if not scores:
        raise InputError("no scores to combine")
    return Scores(
        combine_hota([score.hota for score in scores]),
        combine_clear([score.clear for score in scores]),
        combine_identity([score.identity for score in scores]),
        sum(score.num_truth_tracks for score in scores),
        sum(score.num_tracks for score in scores),
    )


def evaluate_files(truth: str | Path, tracks: str | Path, preset: str = "plain") -> Scores:
    """Score a result file against a ground-truth file, in the files' full precision.

    Args:
        truth: a ``gt.txt``, or a MOTChallenge sequence folder that holds ``gt/gt.txt``.
        tracks: a result file.
        preset: see :func:`evaluate`.

    Raises:
        InputError: a file is missing or holds a bad row (``file:line: reason``).
    """
    truth = Path(truth)
    if truth.is_dir():
        truth = truth / "gt" / "gt.txt"
    folder = truth.parent.parent
    # Without a seqinfo.ini the sequence is as long as the longer of the two files.
    endless = VideoInfo(truth.stem, 2**31 - 2, 1, 1)
    video = read_seqinfo(folder) if (folder / "seqinfo.ini").is_file() else endless
    rows, boxes = read_ground_truth(truth, video), read_ground_truth(tracks, video)
    if video is endless:
        length = 1 + max((int(table.frame.max()) for table in (rows, boxes) if len(table)), default=-1)
        rows = replace(rows, video=replace(video, num_frames=length))
    return evaluate(rows, boxes, preset)


Columns = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.floating]]


def _columns(table: GroundTruth | Tracks) -> Columns:
    return (table.frame, table.id if isinstance(table, GroundTruth) else table.track, table.box)


def _without_excused(truth: GroundTruth, ours: Columns, distractors: tuple[int, ...]) -> Columns:
    """Tracker rows without those that match a distractor.

    Boxes of all classes, unscored ones too, are matched to tracker boxes by IoU of at least 0.5; what is matched to a
    distractor goes, neither right nor wrong.
    """
    unknown = np.unique(truth.category[(truth.category < 1) | (truth.category > LAST_CLASS)])
    if len(unknown):
        raise InputError(
            f"{truth.video.name}: ground truth has class {int(unknown[0])}, the preset knows 1..{LAST_CLASS}; "
            "use preset plain"
        )
    frames = truth.video.num_frames
    order = np.argsort(ours[0], kind="stable")
    ours = (ours[0][order], ours[1][order], ours[2][order])
    pairing = Pairing(frames, make_side(*_columns(truth), frames), make_side(*ours, frames))
    distractor = np.isin(truth.category, distractors)
    excused: list[Any] = [np.zeros(0, np.int64)]
    for chunk in pairing.chunks():
        gated = np.where(chunk.iou < 0.5 - EPS, 0, chunk.iou)
        # Only frames where a tracker box lies on a distractor can lose one.
        touched = np.add.reduceat(distractor[chunk.truth] & (gated > 0), chunk.start[:-1]) > 0
        for index in np.flatnonzero(touched):
            start, shape = chunk.start[index], chunk.shape[index]
            matrix = gated[start : chunk.start[index + 1]].reshape(shape)
            pair = start + np.ravel_multi_index(linear_sum_assignment(matrix, maximize=True), shape)
            pair = pair[(gated[pair] > EPS) & distractor[chunk.truth[pair]]]
            excused.append(chunk.tracker[pair])
    kept = np.ones(len(ours[0]), bool)
    kept[np.concatenate(excused)] = False
    return (ours[0][kept], ours[1][kept], ours[2][kept])
