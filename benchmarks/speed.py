"""How fast tracks are made from boxes, and in how much memory: ours beside the ByteTrack baseline, on the same boxes.

In: generated street scenes of 1,000 frames, run forth and back until they are as long as asked (people turn round, no
track breaks), and the MOT17 second halves. Out: frames a CPU second on one thread, peak memory of a process that does
nothing else, and how the time a frame grows with the length. Each case runs in a process of its own; reading or making
the boxes is not counted, detectors have no part in it.

    python -m benchmarks.speed --out DIR [--json] [--frames 1000 10000 100000] [--boxes 10 30 100] [--no-mot17]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import finish, main, options, peak_memory_mib, progress, read_sequences, sequence_folders
from spam_cvat.baselines.bytetrack import bytetrack
from spam_cvat.detections import Detections
from spam_cvat.errors import SpamError
from spam_cvat.tracks import Tracks
from spam_cvat.training.synthetic import generate_scene, preset

TILE = 1_000
# Boxes that the engine looks at by default.
MIN_SCORE = 0.1
TRACKERS = ("bytetrack", "ours")
COLUMNS = (
    "data", "variant", "frames", "boxes_per_frame", "frames_per_second", "ratio", "peak_mib", "input_mib", "growth",
)  # fmt: skip
# The authors' ByteTrack on the MOT17 second halves, one thread: the figure that our ratio to it is of.
AUTHORS_FRAMES_PER_SECOND = 660


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--frames", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--boxes", type=int, nargs="*", default=[10, 30, 100])
    parser.add_argument("--no-mot17", action="store_true", help="leave the real boxes out")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=3, metavar=("TRACKER", "FRAMES", "BOXES"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        print(json.dumps(measure(args.case[0], int(args.case[1]), int(args.case[2]), args.seed, args.weights)))
        return
    began = time.perf_counter()
    cases = [] if args.no_mot17 else [(0, 0)]
    cases += [(frames, boxes) for boxes in args.boxes for frames in args.frames]
    rows: list[dict] = []
    for frames, boxes in cases:
        pair = {tracker: _child(tracker, frames, boxes, args) for tracker in TRACKERS}
        for tracker, row in pair.items():
            row["ratio"] = round(row["frames_per_second"] / pair["bytetrack"]["frames_per_second"], 3)
            shortest = next((old for old in rows if (old["data"], old["variant"]) == (row["data"], tracker)), row)
            row["growth"] = round(shortest["frames_per_second"] / row["frames_per_second"], 2)
            rows.append(row)
            progress(f"{row['data']} {tracker} {row['frames']} frames: {row['frames_per_second']:.0f} a second")
    finish(args, rows, began, COLUMNS, authors_bytetrack_frames_per_second=AUTHORS_FRAMES_PER_SECOND)


def measure(tracker: str, frames: int, boxes: int, seed: int, weights: Path | None = None) -> dict:
    """One case in this process; no frames and boxes stands for the MOT17 second halves."""
    videos: list[tuple[Detections, np.ndarray | None]]
    if frames:
        videos = [(long_video(frames, boxes, seed), None)]
    else:
        halves = read_sequences(sequence_folders("mot17", "train"), "yolox_x", "half-val")
        videos = [(half.detections, half.warps) for half in halves]
    _track(tracker, *_opening(*videos[0]), weights)
    before = peak_memory_mib()
    began = time.process_time()
    tracks = sum(len(_track(tracker, *video, weights).ids) for video in videos)
    seconds = time.process_time() - began
    total = sum(detections.video.num_frames for detections, _ in videos)
    return {
        "data": f"generated-{boxes}" if frames else "mot17-half-val",
        "variant": tracker,
        "frames": total,
        "boxes_per_frame": round(sum(len(detections) for detections, _ in videos) / total, 1),
        "tracks": tracks,
        "cpu_seconds": round(seconds, 2),
        "frames_per_second": round(total / seconds, 1),
        "peak_mib": round(peak_memory_mib(), 1),
        "input_mib": round(before, 1),
    }


def long_video(frames: int, boxes: int, seed: int) -> Detections:
    """A generated street scene with about so many candidate boxes a frame, run forth and back."""
    people = float(boxes)
    for _ in range(5):
        scene = generate_scene(seed, preset("street", num_frames=min(frames, TILE), people=people)).detections
        scene = scene.select(scene.score >= MIN_SCORE)
        found = len(scene) / scene.video.num_frames
        if abs(found / boxes - 1) < 0.05:
            break
        people *= boxes / max(found, 0.1)
    rows, numbers = [], []
    back = np.concatenate([np.arange(*scene.frame_start[k : k + 2]) for k in reversed(range(scene.video.num_frames))])
    for lap, start in enumerate(range(0, frames, scene.video.num_frames)):
        taken = back if lap % 2 else np.arange(len(scene))
        place = scene.frame[taken]
        rows.append(taken)
        numbers.append(start + (scene.video.num_frames - 1 - place if lap % 2 else place))
    row, number = np.concatenate(rows), np.concatenate(numbers)
    row, number = row[number < frames], number[number < frames]
    return replace(scene.select(row), video=replace(scene.video, num_frames=frames), frame=number.astype(np.int32))


def _opening(detections: Detections, warps: np.ndarray | None) -> tuple[Detections, np.ndarray | None]:
    """The first frames, to have everything loaded and compiled before the clock starts."""
    length = min(50, detections.video.num_frames)
    return detections.window(0, length), None if warps is None else warps[:length]


def _track(tracker: str, detections: Detections, warps: np.ndarray | None, weights: Path | None) -> Tracks:
    if tracker == "bytetrack":
        return bytetrack(detections)
    # Imported here, so that the baseline's process does not hold what only the engine needs.
    from spam_cvat.engine import annotate

    return annotate(detections, warps=warps, weights=weights).tracks


def _child(tracker: str, frames: int, boxes: int, args: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "benchmarks.speed", "--out", str(args.out), "--seed", str(args.seed)]
    command += ["--weights", str(args.weights)] if args.weights else []
    command += ["--case", tracker, str(frames), str(boxes)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"])[-1]
        raise SpamError(f"{tracker} with {frames} frames of {boxes} boxes: {reason}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(run)
