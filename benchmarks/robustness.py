"""Other detectors and other videos, made of the ones at hand: what becomes of tracks when the input is worse or unlike.

In: the MOT17 first halves with both detectors' boxes, and MOT15, which serve design. Out: a table of our tracks beside
interpolated ByteTrack's for each change of the input: confidences on another scale or without a meaning, boxes that
are badly placed, missing, repeated or of another shape, frames left out, camera motion unknown. A seed draws them.

    python -m benchmarks.robustness --out DIR [--json] [--change NAME] [--weights FILE] [--seed 0]
"""

import argparse
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    COUNTS,
    PERCENT,
    Run,
    check_names,
    finish,
    main,
    options,
    progress,
    read_sequences,
    run_variant,
)
from benchmarks.common import sequence_folders as folders
from benchmarks.trackers import trackers
from spam_cvat.detections import Detections, confidences_of
from spam_cvat.formats.mot import Sequence
from spam_cvat.hierarchy.calibration import logit
from spam_cvat.hierarchy.normalise import stretched
from spam_cvat.motion import at_frames, cumulative

Floats = NDArray[np.float64]
Change = Callable[[Sequence, np.random.Generator], Sequence]
COLUMNS = ("data", "variant", *PERCENT, *COUNTS)
# Boxes that a detector reports, by its own confidence.
REPORTED = 0.05
# One frame of so many is kept.
STEP = 3
DATA = {
    "MOT17 first yolox_x": ("mot17", "yolox_x", "first", "mot17"),
    "MOT17 first frcnn": ("mot17", "frcnn", "first", "mot17"),
    "MOT15 frcnn": ("mot15", "frcnn", "all", "plain"),
}


def run(arguments: Rows[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--change", action="append", metavar="NAME", help=f"default all: {', '.join(CHANGES)}")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    check_names("change", args.change, CHANGES)
    compare(args)


def compare(args: argparse.Namespace) -> None:
    """Ours and ByteTrack on every data set under every change asked for."""
    began = time.perf_counter()
    runs: list[Run] = []
    for data, (folder, detections, split, preset) in DATA.items():
        out = args.out / folder / detections
        sequences = read_sequences(folders(folder, "train"), detections, split)
        table = trackers(detections, weights=args.weights)
        pair = {"ours": table[detections], "bytetrack": table[f"bytetrack-interpolated-{detections}"]}
        for change in args.change or CHANGES:
            changed = [CHANGES[change](item, np.random.default_rng([args.seed, k])) for k, item in enumerate(sequences)]
            for name, tracker in pair.items():
                runs.append(run_variant(data, f"{change}-{name}", changed, tracker, preset, out))
                progress(f"{data}, {change}, {name}: HOTA {runs[-1].row['HOTA']:.2f}")
    finish(args, [run.row for run in runs], began, COLUMNS, sequences=[row for run in runs for row in run.sequences])


def rescored(score: Callable[[Floats], Floats]) -> Change:
    """Other confidences; what comes below :data:`REPORTED` is not reported."""

    def change(sequence: Sequence, _: np.random.Generator) -> Sequence:
        detections = sequence.detections
        new = score(detections.score.astype(np.float64))
        detections = replace(detections, score=np.clip(new, 0, 1).astype(np.float32)).select(new >= REPORTED)
        return replace(sequence, detections=detections)

    return change


def margins(sequence: Sequence, _: np.random.Generator) -> Sequence:
    """The detector lists margins (log odds, up to 7) in place of confidences, as a file with such numbers is read."""
    found = sequence.detections.select(sequence.detections.score >= REPORTED)
    score = confidences_of(np.minimum(logit(found.score.astype(np.float64)), 7), found.video.num_frames)
    return replace(sequence, detections=replace(found, score=score.astype(np.float32)))


def displaced(sequence: Sequence, rng: np.random.Generator) -> Sequence:
    """Each edge of a box is off by 3 % of its height (standard deviation), anew in every frame."""
    found = sequence.detections
    height = (found.box[:, 3] - found.box[:, 1])[:, None]
    box = found.box + 0.03 * height * rng.standard_normal(found.box.shape)
    return replace(sequence, detections=_create(found, found.frame, box))


def repeated(sequence: Sequence, rng: np.random.Generator) -> Sequence:
    """The detector does not suppress: seven boxes of ten come a second and a third time, a little off and less sure."""
    found = sequence.detections
    parts = [found]
    for _ in range(2):
        some = displaced(replace(sequence, detections=found.select(rng.random(len(found)) < 0.7)), rng).detections
        parts.append(replace(some, score=(some.score * rng.uniform(0.6, 1, len(some))).astype(np.float32)))
    frame, box, score = (np.concatenate([getattr(part, name) for part in parts]) for name in ("frame", "box", "score"))
    return replace(sequence, detections=Detections.create(found.video, frame, box, score, labels=found.labels))


def thinned(sequence: Sequence, rng: np.random.Generator) -> Sequence:
    """A fifth of all boxes is not found."""
    return replace(sequence, detections=sequence.detections.select(rng.random(len(sequence.detections)) >= 0.2))


def reshaped(factor: float) -> Change:
    """The picture is so many times as wide, and people are shaped like cars or like posts."""

    def change(sequence: Sequence, _: np.random.Generator) -> Sequence:
        found, warps = stretched(sequence.detections, sequence.warps, factor)
        truth = sequence.ground_truth
        if truth is not None:
            truth = replace(truth, video=found.video, box=truth.box * np.array([factor, 1, factor, 1]))
        return replace(sequence, video=found.video, detections=found, ground_truth=truth, warps=warps)

    return change


def skipping(sequence: Sequence, _: np.random.Generator) -> Sequence:
    """The detector looks at one frame of three; tracks are wanted in all."""
    return replace(sequence, detections=sequence.detections.select(sequence.detections.frame % STEP == 0))


def unsteady(sequence: Sequence, _: np.random.Generator) -> Sequence:
    """Nothing is known of the camera's motion."""
    return replace(sequence, warps=None)


def slow(sequence: Sequence, _: np.random.Generator) -> Sequence:
    """One frame of three is kept."""
    frames = -(-sequence.video.num_frames // STEP)
    video = replace(sequence.video, num_frames=frames, fps=sequence.video.fps / STEP)
    found, truth, warps = sequence.detections, sequence.ground_truth, sequence.warps
    found = found.select(found.frame % STEP == 0)
    if truth is not None:
        truth = truth.select(truth.frame % STEP == 0)
        truth = replace(truth, video=video, frame=truth.frame // STEP)
    if warps is not None:
        warps = at_frames(cumulative(warps), STEP * np.arange(frames))
    return replace(
        sequence,
        video=video,
        detections=_create(replace(found, video=video), found.frame // STEP, found.box),
        ground_truth=truth,
        warps=warps,
    )


def _create(found: Detections, frame: NDArray[np.int32], box: NDArray[np.floating]) -> Detections:
    return Detections.create(found.video, frame, box, found.score, found.label, found.labels, drop_bad=True)


CHANGES: dict[str, Change] = {
    "none": lambda sequence, _: sequence,
    "halved": rescored(lambda score: score / 2),
    "third": rescored(lambda score: score / 3),
    "cubed": rescored(lambda score: score**3),
    "root": rescored(np.cbrt),
    "one": rescored(lambda score: np.where(score >= 0.5, 1.0, 0.0)),
    "margins": margins,
    "displaced": displaced,
    "repeated": repeated,
    "thinned": thinned,
    "wide": reshaped(3),
    "narrow": reshaped(0.5),
    "slow": slow,
    "skipping": skipping,
    "unsteady": unsteady,
}


if __name__ == "__main__":
    main(run)
