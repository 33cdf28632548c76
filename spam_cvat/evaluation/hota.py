"""HOTA: higher order tracking accuracy (Luiten et al., IJCV 2021), equal to TrackEval's numbers.

In: a :class:`~spam_cvat.evaluation.pairing.Pairing`. Out: counts and accuracies at 19 localisation thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from spam_cvat.evaluation.pairing import EPS, Pairing

ALPHAS: NDArray[np.float64] = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True)
class Hota:
    """HOTA's parts, each (19,) float64 over the thresholds :data:`ALPHAS`; a score's headline is its mean over them."""

    tp: NDArray[np.float64]
    fn: NDArray[np.float64]
    fp: NDArray[np.float64]
    ass_a: NDArray[np.float64]
    ass_re: NDArray[np.float64]
    ass_pr: NDArray[np.float64]
    loc_a: NDArray[np.float64]

    @property
    def det_a(self) -> NDArray[np.float64]:
        """Detection accuracy, TP / (TP + FN + FP)."""
        return self.tp / np.maximum(1, self.tp + self.fn + self.fp)

    @property
    def det_re(self) -> NDArray[np.float64]:
        """Detection recall."""
        return self.tp / np.maximum(1, self.tp + self.fn)

    @property
    def det_pr(self) -> NDArray[np.float64]:
        """Detection precision."""
        return self.tp / np.maximum(1, self.tp + self.fp)

    @property
    def hota(self) -> NDArray[np.float64]:
        """The geometric mean of detection and association accuracy."""
        return np.sqrt(self.det_a * self.ass_a)


def hota(pairing: Pairing) -> Hota:
    """Score one sequence.

    A frame's matching maximises IoU times the alignment of the two identities over the whole sequence, and is the same
    for all thresholds; a matched pair counts at a threshold when its IoU reaches it.
    """
    truth, tracker = pairing.truth, pairing.tracker
    zero = np.zeros(len(ALPHAS))
    if not len(truth) or not len(tracker):
        # As in TrackEval: localisation is perfect where nothing was matched because one side is empty.
        return Hota(zero, zero + len(truth), zero + len(tracker), zero, zero, zero, zero + 1)
    alignment = _alignment(pairing)
    similarity, key = _matches(pairing, *alignment)

    hit = similarity >= ALPHAS[:, None] - EPS  # (19, matches)
    tp = hit.sum(1).astype(np.float64)
    pairs, inverse = np.unique(key, return_inverse=True)
    first, second = np.divmod(pairs, len(tracker.count))
    boxes = truth.count[first], tracker.count[second]
    # TPA of the pair of identities that each match is of, at each threshold: (19, pairs).
    tpa = np.stack([np.bincount(inverse[row], minlength=len(pairs)) for row in hit]).astype(np.float64)
    scale = np.maximum(1, tp)
    return Hota(
        tp=tp,
        fn=len(truth) - tp,
        fp=len(tracker) - tp,
        ass_a=(tpa * tpa / np.maximum(1, boxes[0] + boxes[1] - tpa)).sum(1) / scale,
        ass_re=(tpa * tpa / boxes[0]).sum(1) / scale,
        ass_pr=(tpa * tpa / boxes[1]).sum(1) / scale,
        loc_a=np.maximum(1e-10, (hit * similarity).sum(1)) / np.maximum(1e-10, tp),
    )


def combine_hota(parts: Sequence[Hota]) -> Hota:
    """Several sequences as one: counts are added, association is weighted by TP."""
    tp, fn, fp = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("tp", "fn", "fp"))
    weighted = {
        name: np.sum([getattr(part, name) * part.tp for part in parts], axis=0)
        for name in ("ass_a", "ass_re", "ass_pr", "loc_a")
    }
    location = np.maximum(1e-10, weighted.pop("loc_a")) / np.maximum(1e-10, tp)
    return Hota(tp, fn, fp, **{name: total / np.maximum(1, tp) for name, total in weighted.items()}, loc_a=location)


def _alignment(pairing: Pairing) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How well each pair of identities agrees over the sequence: its key (truth * T + tracker), and a Jaccard index."""
    keys, weights = [], []
    for chunk in pairing.chunks():
        soft = np.zeros_like(chunk.iou)
        for iou, share in zip(chunk.matrices(chunk.iou), chunk.matrices(soft), strict=True):
            total = iou.sum(0) + iou.sum(1)[:, None] - iou
            np.divide(iou, total, out=share, where=total > EPS)
        near = chunk.iou > 0
        keys.append(_keys(pairing, chunk.truth[near], chunk.tracker[near]))
        weights.append(soft[near])
    if not keys:
        return np.zeros(0, np.int64), np.zeros(0)
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    common = np.bincount(inverse, np.concatenate(weights))
    first, second = np.divmod(pairs, len(pairing.tracker.count))
    return pairs, common / (pairing.truth.count[first] + pairing.tracker.count[second] - common)


def _matches(
    pairing: Pairing, pairs: NDArray[np.int64], agreement: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """IoU and key of the pairs matched, all frames."""
    similarity, keys = [np.zeros(0)], [np.zeros(0, np.int64)]
    for chunk in pairing.chunks():
        score = np.zeros_like(chunk.iou)
        near = np.flatnonzero(chunk.iou > 0)
        key = _keys(pairing, chunk.truth[near], chunk.tracker[near])
        score[near] = agreement[np.searchsorted(pairs, key)] * chunk.iou[near]
        chosen = []
        for start, matrix in zip(chunk.start[:-1], chunk.matrices(score), strict=True):
            rows, columns = linear_sum_assignment(matrix, maximize=True)
            chosen.append(start + rows * matrix.shape[1] + columns)
        picked = np.concatenate(chosen)
        picked = picked[chunk.iou[picked] > 0]
        similarity.append(chunk.iou[picked])
        keys.append(_keys(pairing, chunk.truth[picked], chunk.tracker[picked]))
    return np.concatenate(similarity), np.concatenate(keys)


def _keys(pairing: Pairing, truth: NDArray[np.int64], tracker: NDArray[np.int64]) -> NDArray[np.int64]:
    return pairing.truth.id[truth] * len(pairing.tracker.count) + pairing.tracker.id[tracker]
