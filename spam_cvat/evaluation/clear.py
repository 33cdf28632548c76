"""CLEAR MOT (Bernardin and Stiefelhagen, 2008), equal to TrackEval's numbers: MOTA, identity switches and their parts.

In: a :class:`~spam_cvat.evaluation.pairing.Pairing`. Out: counts.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from spam_cvat.evaluation.pairing import EPS, Pairing

THRESHOLD = 0.5


@dataclass(frozen=True)
class Clear:
    """Counts; add two sequences' and the properties give the combined scores.

    Attributes:
        tp: matched boxes.
        fn: ground-truth boxes without a match.
        fp: tracker boxes without a match.
        idsw: matches whose ground truth was last matched to another identity.
        mt: ground-truth tracks matched for more than 80 % of their boxes.
        pt: those matched for 20 % to 80 %.
        ml: those matched for less than 20 %.
        frag: times a ground-truth track is picked up again after a loss.
        similarity: the matches' IoU, added up.
        frames: frames of the sequence.
    """

    tp: int
    fn: int
    fp: int
    idsw: int
    mt: int
    pt: int
    ml: int
    frag: int
    similarity: float
    frames: int

    @property
    def mota(self) -> float:
        """1 - (FN + FP + IDSW) / ground-truth boxes; 0 where one side is empty, as in TrackEval."""
        return (self.tp - self.fp - self.idsw) / max(1, self.tp + self.fn) if self.frames else 0.0

    @property
    def motp(self) -> float:
        """Mean IoU of the matches."""
        return self.similarity / max(1, self.tp)


def clear(pairing: Pairing) -> Clear:
    """Score one sequence; a frame's matching keeps the last frame's partners, then maximises IoU."""
    truth, tracker = pairing.truth, pairing.tracker
    tracks = len(truth.count)
    if not len(truth) or not len(tracker):
        # TrackEval leaves these sequences without frames and scores MOTA 0 for them on their own.
        return Clear(0, len(truth), len(tracker), 0, 0, 0, tracks, 0, 0.0, 0)
    step, row, identity, similarity = _matches(pairing)
    person = truth.id[row]

    order = np.lexsort((step, person))
    person, identity, step = person[order], identity[order], step[order]
    again = np.diff(person) == 0
    switches = again & (np.diff(identity) != 0)
    # A pick-up is a match with no match of the same track in the scored frame before it.
    pick_ups = again & (np.diff(step) > 1)

    ratio = np.bincount(person, minlength=tracks) / truth.count
    mostly = int((ratio > 0.8).sum())
    partly = int((ratio >= 0.2).sum()) - mostly
    tp = len(row)
    return Clear(
        tp=tp,
        fn=len(truth) - tp,
        fp=len(tracker) - tp,
        idsw=int(switches.sum()),
        mt=mostly,
        pt=partly,
        ml=tracks - mostly - partly,
        frag=int(pick_ups.sum()),
        similarity=float(similarity.sum()),
        frames=pairing.num_frames,
    )


def combine_clear(parts: Sequence[Clear]) -> Clear:
    """Several sequences as one: everything is added."""
    total = Clear(*(sum(values) for values in zip(*map(astuple, parts), strict=True)))
    # Unlike a lone sequence, a set is scored by the formula even where all of it is empty.
    return Clear(**{**vars(total), "frames": max(1, total.frames)})


def _matches(
    pairing: Pairing,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each match: its frame's rank among the frames with boxes of both sides, truth row, tracker identity, IoU."""
    truth, tracker = pairing.truth, pairing.tracker
    partner = np.full(len(truth.count), -1, np.int64)  # identity matched in the last scored frame
    step = 0
    steps, rows, identities, similarities = [], [], [], []
    for chunk in pairing.chunks():
        gated = np.where(chunk.iou < THRESHOLD - EPS, 0, chunk.iou)
        for index, (frame, matrix) in enumerate(zip(chunk.frame, chunk.matrices(gated), strict=True)):
            person = truth.id[truth.start[frame] : truth.start[frame + 1]]
            ids = tracker.id[tracker.start[frame] : tracker.start[frame + 1]]
            kept = (partner[person][:, None] == ids) & (matrix > 0)
            row, column = linear_sum_assignment(1000 * kept + matrix, maximize=True)
            matched = matrix[row, column] > 0
            row, column = row[matched], column[matched]
            partner.fill(-1)
            partner[person[row]] = ids[column]
            steps.append(np.full(len(row), step + index))
            rows.append(truth.start[frame] + row)
            identities.append(ids[column])
            similarities.append(matrix[row, column])
        step += len(chunk.frame)
    if not steps:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate(steps), np.concatenate(rows), np.concatenate(identities), np.concatenate(similarities)
