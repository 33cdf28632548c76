"""Where HOTA is lost on the MOT17 first halves: the study that chooses what to work on next.

    python -m benchmarks.study --out out/study [--detections yolox_x] [--weights FILE] [--json]

Only first halves are looked at; half-val is for measuring. Every loss is counted in boxes or links:

* gate: false boxes kept (in tracks that are all false, or inside true ones), true boxes dropped, by confidence;
* links: wrong ones inside tracks and missed ones between tracks, by the gap in frames they span; true ones that were
  never weighed, as pruning left no candidate, by the level's extent and counted by the boxes that they would join;
* never proposed: ground-truth boxes without a candidate, and how many of them interpolation found;
* localisation: mean IoU of true boxes as detected and as they are in the tracks.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.common import Row, finish, main, options, percent, progress, read_sequences, sequence_folders, show
from spam_cvat.annotation import Annotation, Level
from spam_cvat.boxes import iou_matrix, iou_pairs
from spam_cvat.detections import Detections
from spam_cvat.engine import annotate
from spam_cvat.errors import InputError
from spam_cvat.evaluation import combine, evaluate
from spam_cvat.formats.mot import GroundTruth
from spam_cvat.hierarchy.edge_labels import true_edges
from spam_cvat.hierarchy.levels import EXTENTS, stage_name
from spam_cvat.hierarchy.motion_fit import Members

GAPS = (1, 2, 8, 32, 128)
PEDESTRIAN = 1
# Lower scores are no candidates: the engine does not look at them.
CANDIDATE = 0.1


def true_identities(
    detections: Detections, truth: GroundTruth, among: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ground-truth row of each detection (-1: none, -2: a distractor), and the IoU with it. Two (N,).

    Ground-truth boxes are given to the detections ``among`` (N,), one each. What is judged by its links should be
    matched alone: another box of the same person, which no track has, may fit better.
    """
    row = np.full(len(detections), -1, np.int64)
    iou = np.zeros(len(detections))
    order = np.argsort(truth.frame, kind="stable")
    start = np.searchsorted(truth.frame[order], np.arange(detections.video.num_frames + 1))
    for k, part in detections.by_frame():
        mine = order[start[k] : start[k + 1]]
        candidate = part.start + np.flatnonzero(among[part])
        if not len(mine) or not len(candidate):
            continue
        overlap = iou_matrix(truth.box[mine], detections.box[candidate].astype(np.float64))
        cost = np.where(overlap >= 0.5, overlap, 0.0)
        for g, d in zip(*linear_sum_assignment(-cost), strict=True):
            if cost[g, d] > 0:
                real = truth.category[mine[g]] == PEDESTRIAN and truth.confidence[mine[g]] != 0
                row[candidate[d]] = mine[g] if real else -2
                iou[candidate[d]] = overlap[g, d]
    return row, iou


def identities(row: NDArray[np.int64], truth: GroundTruth) -> NDArray[np.int64]:
    """Identity of each detection from its ground-truth row, 0 where it has none. (N,) -> (N,).

    One above the file's number: some data sets count identities from 0.
    """
    return np.where(row >= 0, truth.id[np.maximum(row, 0)] + 1, 0)


def losses(annotation: Annotation, truth: GroundTruth) -> dict[str, Any]:
    """All counts of one sequence."""
    detections, tracks = annotation.detections, annotation.tracks
    candidate = detections.score >= CANDIDATE
    row, iou = true_identities(detections, truth, candidate)
    track = np.zeros(len(detections), np.int64)
    seen = tracks.detection >= 0
    track[tracks.detection[seen]] = tracks.track[seen]
    out: dict[str, Any] = {}
    total = np.bincount(track)
    true = np.bincount(track, weights=row >= 0, minlength=len(total))
    wholly_false = (true < 0.5 * total)[track]
    false = (row == -1) & (track > 0)
    out["false boxes in false tracks"] = int((false & wholly_false).sum())
    out["false boxes in true tracks"] = int((false & ~wholly_false).sum())
    dropped = (row >= 0) & (track == 0)
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 1.01)):
        inside = (detections.score >= low) & (detections.score < high)
        out[f"true boxes dropped, score {low:g}-{min(high, 1):g}"] = int((dropped & inside).sum())
    identity = identities(true_identities(detections, truth, track > 0)[0], truth)
    out |= _wrong_links(detections.frame, identity, track) | _missed_links(detections.frame, identity, track)
    all_identities = identities(row, truth)
    for number, extent in enumerate(EXTENTS[1:], start=1):
        level = next(level for level in annotation.levels if level.stage == stage_name("level", number))
        joined, pruned = _unweighed(level, detections.frame.astype(np.int64), all_identities)
        out[f"boxes behind true links, extent {extent}"] = joined
        out[f"of these without a candidate, extent {extent}"] = pruned
    scored = (truth.category == PEDESTRIAN) & (truth.confidence != 0)
    proposed = np.zeros(len(truth), bool)
    proposed[row[row >= 0]] = True
    out["boxes never proposed"] = int((scored & ~proposed).sum())
    used = np.flatnonzero(seen)
    used = used[row[tracks.detection[used]] >= 0]
    source = tracks.detection[used]
    out["IoU of true boxes, detected"] = round(float(iou[source].mean()), 4) if len(used) else 0.0
    final = iou_pairs(tracks.box[used].astype(np.float64), truth.box[row[source]])
    out["IoU of true boxes, in tracks"] = round(float(final.mean()), 4) if len(used) else 0.0
    return out


def _bucket(gap: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(GAPS, gap, side="right") - 1


def _names(kind: str, counts: NDArray[np.int64]) -> dict[str, int]:
    ends = [*GAPS[1:], 10**9]
    return {
        f"{kind}, gap {a}{f'-{b - 1}' if b - 1 > a and b < 10**9 else ('+' if b >= 10**9 else '')}": int(c)
        for a, b, c in zip(GAPS, ends, counts, strict=True)
    }


def _wrong_links(frame: NDArray[Any], identity: NDArray[Any], track: NDArray[Any]) -> dict[str, int]:
    """Successive true boxes of a track that are two people."""
    rows = np.flatnonzero((track > 0) & (identity > 0))
    rows = rows[np.lexsort((frame[rows], track[rows]))]
    a, b = rows[:-1], rows[1:]
    wrong = (track[a] == track[b]) & (identity[a] != identity[b])
    return _names("wrong links", np.bincount(_bucket((frame[b] - frame[a])[wrong]), minlength=len(GAPS)))


def _missed_links(frame: NDArray[Any], identity: NDArray[Any], track: NDArray[Any]) -> dict[str, int]:
    """Successive boxes of a person that are in two tracks."""
    rows = np.flatnonzero((track > 0) & (identity > 0))
    rows = rows[np.lexsort((frame[rows], identity[rows]))]
    a, b = rows[:-1], rows[1:]
    missed = (identity[a] == identity[b]) & (track[a] != track[b])
    return _names("missed links", np.bincount(_bucket((frame[b] - frame[a])[missed]), minlength=len(GAPS)))


def _unweighed(level: Level, frame: NDArray[np.int64], identity: NDArray[np.int64]) -> tuple[int, int]:
    """Boxes behind a level's true links, and behind those that are no candidates; n and m boxes count 2 n m / (n + m).

    A link is true from the last box of a tracklet to the next first box of its person, less than ``extent`` later.
    """
    node = level.node.astype(np.int64)
    members = Members.of(node)
    first, last, total = members.first, members.last, len(members)
    span = int(frame.max(initial=0)) + 2
    begin = identity[first] * span + frame[first]
    order = np.argsort(begin, kind="stable")
    place = np.searchsorted(begin[order], identity[last] * span + frame[last], side="right")
    a = np.flatnonzero((place < total) & (identity[last] > 0))
    edge = np.stack([a, order[place[a]]], axis=1)
    edge = edge[frame[first[edge[:, 1]]] - frame[last[edge[:, 0]]] < level.extent]
    edge = edge[true_edges(edge, node, frame, identity)]
    n, m = members.count[edge].T
    weight = 2 * n * m / (n + m)
    code, known = edge @ np.array([total, 1]), level.edge.astype(np.int64) @ np.array([total, 1])
    return round(weight.sum()), round(weight[~np.isin(code, known)].sum())


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--detections", action="append", metavar="NAME", help="default yolox_x and frcnn")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    rows: list[Row] = []
    for name in args.detections or ["yolox_x", "frcnn"]:
        scores, every = [], []
        for sequence in read_sequences(sequence_folders("mot17", "train"), name, "first"):
            if sequence.ground_truth is None:
                raise InputError(f"{sequence.folder}: no gt/gt.txt to study")
            progress(f"{name} {sequence.name}")
            result = annotate(sequence.detections, warps=sequence.warps, weights=args.weights)
            scores.append(evaluate(sequence.ground_truth, result.tracks, "mot17"))
            every.append(losses(result, sequence.ground_truth))
            rows.append({"data": sequence.name, "variant": name, **percent(scores[-1]), **every[-1]})
        together = {
            key: float(np.mean([e[key] for e in every])) if key.startswith("IoU") else sum(e[key] for e in every)
            for key in every[0]
        }
        rows.append({"data": "all", "variant": name, **percent(combine(scores)), **together})
    finish(args, rows, began, ["data", "variant", "HOTA", "AssA", "LocA", "MOTA", "IDF1"])
    if not args.json:
        for row in rows:
            if row["data"] == "all":
                show([{"loss": key, row["variant"]: value} for key, value in row.items()], ["loss", row["variant"]])


if __name__ == "__main__":
    main(run)
