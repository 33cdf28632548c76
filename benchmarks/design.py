"""What choices rest on: the data that serve design, each in several slightly changed copies, so that chance shows.

In: the MOT17 first halves with both detectors' boxes, the same with each sequence's YOLOX-X confidences replaced by
those that its second half has at the same ranks (that detector was trained on the first halves and is surer there; no
ground truth of a second half enters), MOT15, and generated scenes that training has not seen. Out: a row per data set
with the mean over copies and their standard deviation. In each copy confidences are changed by 0.15 in log odds and the
edges of boxes by 0.4 % of the height (standard deviations), so single events that go one way or the other by chance
are averaged out; differences between versions are to be judged by these means.

    python -m benchmarks.design --out DIR [--json] [--data NAME] [--copies 4] [--weights FILE]
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import (
    PERCENT,
    Row,
    check_names,
    finish,
    main,
    options,
    percent,
    progress,
    read_sequences,
    sequence_folders,
)
from spam_cvat.detections import Detections
from spam_cvat.engine import annotate
from spam_cvat.errors import InputError
from spam_cvat.evaluation import Scores, combine, evaluate
from spam_cvat.hierarchy.calibration import logit, sigmoid
from spam_cvat.review.simulate import Case
from spam_cvat.training.synthetic import generate_scene, random_config

# Standard deviations of what copies differ by: confidences in log odds, edges of boxes in heights.
SCORE_NOISE, EDGE_NOISE = 0.15, 0.004
SCENES, FRAMES, FIRST_SEED = 12, 240, 700_000
COLUMNS = ("data", "variant", "copies", *PERCENT, "HOTA_deviation", "IDF1_deviation", "MOTA_deviation")


@dataclass(frozen=True)
class DesignSet:
    """Videos that serve design.

    Attributes:
        cases: of all videos.
        preset: how they are scored.
    """

    cases: Callable[[], Iterator[Case]]
    preset: str


def real(folder: str, detections: str, split: str) -> Iterator[Case]:
    """Sequences of a data set."""
    yield from map(Case.of, read_sequences(sequence_folders(folder, "train"), detections, split))


def replaced() -> Iterator[Case]:
    """The MOT17 first halves with the confidences that their second halves have at the same ranks."""
    folders = sequence_folders("mot17", "train")
    halves = (read_sequences(folders, "yolox_x", split) for split in ("first", "half-val"))
    for first, second in zip(*halves, strict=True):
        yield replace(Case.of(first), detections=_ranked_like(first.detections, second.detections))


def _ranked_like(detections: Detections, other: Detections) -> Detections:
    rank = np.empty(len(detections))
    rank[np.argsort(detections.score, kind="stable")] = (np.arange(len(detections)) + 0.5) / len(detections)
    return _create(detections, detections.box, np.quantile(other.score, rank))


def generated(kind: str) -> Iterator[Case]:
    """Scenes of one kind, of random crowd, rate, camera and detector."""
    for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
        scene = generate_scene(seed, random_config(np.random.default_rng(seed), FRAMES, kind=kind))
        if len(scene.ground_truth):
            yield Case(scene.detections, scene.ground_truth, scene.warps)


SETS = {
    "yolox_x": DesignSet(partial(real, "mot17", "yolox_x", "first"), "mot17"),
    "replaced": DesignSet(replaced, "mot17"),
    "frcnn": DesignSet(partial(real, "mot17", "frcnn", "first"), "mot17"),
    "mot15": DesignSet(partial(real, "mot15", "frcnn", "all"), "plain"),
} | {kind: DesignSet(partial(generated, kind), "plain") for kind in ("street", "moving", "dance", "sport")}


def copy_of(case: Case, rng: np.random.Generator) -> Case:
    """The case with boxes and confidences changed a little."""
    found = case.detections
    height = (found.box[:, 3] - found.box[:, 1])[:, None]
    box = found.box + EDGE_NOISE * height * rng.standard_normal(found.box.shape)
    score = sigmoid(logit(found.score.astype(np.float64)) + SCORE_NOISE * rng.standard_normal(len(found)))
    return replace(case, detections=_create(found, box, score))


def _create(found: Detections, box: np.ndarray, score: np.ndarray) -> Detections:
    return Detections.create(
        found.video, found.frame, box, score, found.label, found.labels, found.embedding, drop_bad=True
    )


def score_copy(name: str, copy: int, weights: Path | None = None) -> Scores:
    """A data set's scores in one copy; copy 0 has the boxes as they are."""
    chosen = SETS[name]
    scores = []
    for number, case in enumerate(chosen.cases()):
        changed = copy_of(case, np.random.default_rng([copy, number])) if copy else case
        tracks = annotate(changed.detections, warps=changed.warps, weights=weights).tracks
        scores.append(evaluate(changed.ground_truth, tracks, chosen.preset))
    return combine(scores)


def row_of(name: str, scores: Rows[Scores]) -> Row:
    """Mean and standard deviation over copies."""
    copies = [percent(score) for score in scores]
    row = {"data": name, "variant": "ours", "copies": len(copies)}
    row |= {key: round(float(np.mean([copy[key] for copy in copies])), 2) for key in PERCENT}
    spread = {key: float(np.std([copy[key] for copy in copies], ddof=min(len(copies) - 1, 1))) for key in PERCENT}
    return row | {f"{key}_deviation": round(spread[key], 2) for key in ("HOTA", "IDF1", "MOTA")}


def run(arguments: Rows[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--data", action="append", metavar="NAME", help=f"default all: {', '.join(SETS)}")
    parser.add_argument("--copies", type=int, default=4, help="the boxes as they are, and so many less one changed")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    args = parser.parse_args(arguments)
    check_names("data set", args.data, SETS)
    if args.copies < 1:
        raise InputError(f"{args.copies} copies: at least one is needed")
    began = time.perf_counter()
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        waiting = {
            name: [pool.submit(score_copy, name, copy, args.weights) for copy in range(args.copies)]
            for name in args.data or SETS
        }
        for name, copies in waiting.items():
            rows.append(row_of(name, [copy.result() for copy in copies]))
            progress(f"{name}: HOTA {rows[-1]['HOTA']:.2f}")
    finish(args, rows, began, COLUMNS)


if __name__ == "__main__":
    main(run)
