"""Calibration: how far stated probabilities are from observed frequencies, gate and edges of each level.

In: generated scenes that training has not seen, the MOT17 first halves, DanceTrack val (measured only). Out: a row per
data set and quantity with the expected calibration error over 15 bins, how many nodes or edges it was taken over, and
the floor: what the error would be on the mean for so many of them if every probability meant exactly what it says.
An edge is true when its ends belong to one person and nobody of that person lies between. Distractors do not count:
neither their boxes nor links from or to them.

    python -m benchmarks.calibration --out DIR [--json] [--data generated]
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row, finish, main, options, progress, read_sequences, sequence_folders
from benchmarks.study import CANDIDATE, identities, true_identities
from spam_cvat.annotation import Annotation, Level
from spam_cvat.engine import annotate
from spam_cvat.hierarchy.calibration import expected_calibration_error
from spam_cvat.hierarchy.edge_labels import true_links
from spam_cvat.hierarchy.levels import STAGES
from spam_cvat.training.synthetic import generate_scene, random_config

DATA = ("generated", "mot17-first", "dancetrack")
SCENES, FRAMES, FIRST_SEED = 40, 150, 900_000
IGNORED = -1
DRAWS = 50


@dataclass(frozen=True)
class Judged:
    """An annotation beside the truth.

    Attributes:
        annotation: what the engine says.
        identity: (N,) true identity of each detection, of those that the engine looks at: 0 none, IGNORED not to be
            judged.
        linked: (N,) the same, of those alone that each kind of stage links: "level", "weak" or "ends".
    """

    annotation: Annotation
    identity: NDArray[np.int64]
    linked: Mapping[str, NDArray[np.int64]]


def judged(data: str, weights: Path | None) -> Iterator[Judged]:
    """Annotations of all scenes of a data set."""
    if data == "generated":
        for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
            rng = np.random.default_rng(seed)
            scene = generate_scene(seed, random_config(rng, FRAMES))
            identity = scene.identity.astype(np.int64)
            result = annotate(scene.detections, warps=scene.warps, weights=weights)
            yield Judged(result, identity, dict.fromkeys(map(kind_of, result.levels), identity))
        return
    parts, split = (("dancetrack", "val"), "all") if data == "dancetrack" else (("mot17", "train"), "first")
    for sequence in read_sequences(sequence_folders(*parts), "yolox_x", split):
        progress(f"{data} {sequence.name}")
        result = annotate(sequence.detections, warps=sequence.warps, weights=weights)
        truth = sequence.ground_truth
        assert truth is not None
        among = {"gate": result.detections.score >= CANDIDATE}
        for level in result.levels:
            kind = kind_of(level)
            among[kind] = among.get(kind, False) | (level.node >= 0)
        rows = {kind: true_identities(result.detections, truth, mask)[0] for kind, mask in among.items()}
        linked = {kind: np.where(row == -2, IGNORED, identities(row, truth)) for kind, row in rows.items()}
        yield Judged(result, linked.pop("gate"), linked)


def kind_of(level: Level) -> str:
    """Which boxes a stage links: those of the levels (crossings too), the weak ones with them, or tracks as a whole."""
    kind = level.stage.split()[0]
    return {"crossings": "level", "border": "ends"}.get(kind, kind)


def floor_of(probability: NDArray[np.float64]) -> float:
    """Mean error of probabilities that are exactly right, from chance alone: outcomes are drawn from them."""
    rng = np.random.default_rng(0)
    draws = [rng.random(len(probability)) < probability for _ in range(DRAWS)]
    return float(np.mean([expected_calibration_error(probability, drawn) for drawn in draws]))


def rows_of(data: str, weights: Path | None) -> list[Row]:
    """Errors of one data set."""
    stated: dict[str, list[NDArray[np.float64]]] = {}
    true: dict[str, list[NDArray[np.bool_]]] = {}
    for scene in judged(data, weights):
        result, identity = scene.annotation, scene.identity
        known = (identity != IGNORED) & (result.detections.score >= CANDIDATE)
        stated.setdefault("gate", []).append(result.gate[known].astype(np.float64))
        true.setdefault("gate", []).append(identity[known] > 0)
        frame = result.detections.frame.astype(np.int64)
        for level in result.levels:
            name = f"edges, {level.stage}"
            identity = scene.linked[kind_of(level)]
            truth = true_links(level, frame, identity.clip(0))
            counts = (identity[level.boxes()] != IGNORED).all(1)
            stated.setdefault(name, []).append(level.probability[counts].astype(np.float64))
            true.setdefault(name, []).append(truth[counts])
    rows = []
    for name in ["gate", *(f"edges, {stage}" for stage in STAGES if f"edges, {stage}" in stated)]:
        p, t = np.concatenate(stated[name]), np.concatenate(true[name])
        rows.append(
            {
                "data": data,
                "variant": name,
                "ece": round(expected_calibration_error(p, t), 4),
                "floor": round(floor_of(p), 4),
                "count": len(p),
                "stated": round(float(p.mean()), 4) if len(p) else 0.0,
                "true": round(float(t.mean()), 4) if len(t) else 0.0,
            }
        )
    return rows


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--data", action="append", choices=DATA, help="default all")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    finish(args, [row for data in args.data or DATA for row in rows_of(data, args.weights)], began)


if __name__ == "__main__":
    main(run)
