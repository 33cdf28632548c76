"""How well and how fast pixels become boxes, vectors and camera motion. For measuring only: nothing is tuned by it.

In: PETS09-S2L1's video, single frames of MOT17, the networks of ``SPAM_WEIGHTS``. Out: for each detector its recall
where it is right nine times of ten, and the best recall it can give at all; for each embedder the probability that two
boxes of one person look more alike than boxes of two; for camera motion its distance from published warps and how often
a fixed camera seems to move. Times are CPU time of all threads, so that a busy machine does not show.

    python -m benchmarks.perception --out DIR [--json] [--step 5]
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row, data_folder, finish, main, options, progress
from spam_cvat.appearance import open_embedder
from spam_cvat.boxes import iou_matrix
from spam_cvat.detectors import open_detector
from spam_cvat.errors import InputError
from spam_cvat.formats.mot import read_warps
from spam_cvat.motion import IDENTITY, estimate_motion
from spam_cvat.video import Video, open_video

NET = "onnx:{weights}/yolox_nano_416.onnx"
DETECTORS = ("hog", NET, f"{NET}?tiles=2x1", f"{NET}?tiles=2x2", f"{NET}?tiles=3x2")
EMBEDDERS = (
    "histogram",
    "onnx:{weights}/person-reidentification-retail-0248.onnx",
    "onnx:{weights}/osnet_x0_25_msmt17_a.onnx",
)
SURE = 0.9  # the precision at which recall is compared
OVERLAP = 0.5
MOVING = ("MOT17-05", "MOT17-10", "MOT17-11", "MOT17-13")

Truth = NDArray[np.float64]  # rows of gt.txt
Frame = tuple[NDArray[np.uint8], Truth]


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--step", type=int, default=5, help="take every so manieth frame of PETS, default 5")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    weights = Path(os.environ.get("SPAM_WEIGHTS", "../shared/weights"))
    if not weights.is_dir():
        raise InputError(f"{weights}: no such folder; point SPAM_WEIGHTS at the networks")
    pets = data_folder("pets09", "PETS09-S2L1")
    rows: list[Row] = []
    with open_video(pets) as video:
        truth = np.loadtxt(pets / "gt" / "gt.txt", delimiter=",")
        frames = [(image, of_frame(truth, k + 1)) for k, image in video.frames(0, None, args.step)]
        for data, images in (("pets09", frames), ("mot17-mini", list(street_frames()))):
            for spec in DETECTORS:
                progress(f"{data} {spec}")
                rows.append({"data": data, "variant": short(spec)} | detection(spec.format(weights=weights), images))
        for spec in EMBEDDERS:
            progress(f"pets09 {spec}")
            row = appearance(spec.format(weights=weights), frames)
            rows.append({"data": "pets09", "variant": short(spec)} | row)
        progress("camera motion")
        rows += [still_camera(video), reading(video)]
    rows += moving_cameras()
    columns = ("data", "variant", "frames", "boxes_per_frame", "recall", "recall_at_90", "score_at_90", "AUC")
    finish(args, rows, began, (*columns, "error_px", "moved", "ms"))


def short(spec: str) -> str:
    """A spec without its folder."""
    return spec.replace("{weights}/", "").replace(".onnx", "")


def of_frame(truth: Truth, number: int) -> Truth:
    """One frame's rows that count."""
    return truth[(truth[:, 0] == number) & (truth[:, 6] > 0)]


def boxes_of(truth: Truth) -> NDArray[np.float64]:
    return np.concatenate([truth[:, 2:4], truth[:, 2:4] + truth[:, 4:6]], axis=1)


def street_frames() -> Iterator[Frame]:
    """Every third of the single MOT17 frames, with its people."""
    for folder in sorted(data_folder("mot17-mini").iterdir()):
        truth = np.loadtxt(folder / "gt" / "gt.txt", delimiter=",")
        truth = truth[truth[:, 7] == 1]  # pedestrians; PETS has places in the world in this column
        with open_video(folder / "img1") as video:
            for k, image in video.frames(0, None, 3):
                yield image, of_frame(truth, k + 1)


def detection(spec: str, frames: Sequence[Frame]) -> Row:
    """Recall of a detector, and what it costs."""
    detector = open_detector(spec)
    scores: list[float] = []
    right: list[bool] = []
    people, seconds = 0, 0.0
    for image, truth in frames:
        found, took = timed(lambda image=image: detector.detect(image))
        seconds += took
        people += len(truth)
        scores += found.score.tolist()
        right += matched(found.box.astype(np.float64), boxes_of(truth))
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right)[order])
    enough = np.flatnonzero(hits / (np.arange(len(hits)) + 1) >= SURE)
    last = int(enough[-1]) if len(enough) else None
    return {
        "frames": len(frames),
        "boxes_per_frame": round(len(scores) / len(frames), 1),
        "recall": round(float(hits[-1]) / people, 3),
        "recall_at_90": 0.0 if last is None else round(float(hits[last]) / people, 3),
        "score_at_90": 1.0 if last is None else round(float(np.array(scores)[order][last]), 3),
        "ms": round(1000 * seconds / len(frames), 1),
    }


def matched(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> list[bool]:
    """Whether each box, by falling score, is the first on a person."""
    overlap = iou_matrix(boxes, truth)
    hits = []
    for row in overlap:
        best = int(row.argmax()) if len(row) else -1
        hits.append(best >= 0 and bool(row[best] > OVERLAP))
        if hits[-1]:
            overlap[:, best] = 0
    return hits


def appearance(spec: str, frames: Sequence[Frame]) -> Row:
    """How well an embedder tells people apart in boxes of the ground truth, and what a box costs."""
    embedder = open_embedder(spec)
    assert embedder is not None
    parts: list[NDArray[np.float32]] = []
    seconds = 0.0
    for image, truth in frames:
        vectors, took = timed(lambda image=image, truth=truth: embedder.embed(image, boxes_of(truth)))
        parts.append(vectors)
        seconds += took
    vectors, rows = np.concatenate(parts), np.concatenate([truth for _, truth in frames])
    first, second = np.triu_indices(len(rows), 1)
    apart = rows[first, 0] != rows[second, 0]
    first, second = first[apart], second[apart]
    same = rows[first, 1] == rows[second, 1]
    alike = np.einsum("ij,ij->i", vectors[first], vectors[second])
    # The area under the curve is the rank sum of Mann and Whitney; ties are too few to matter.
    rank = np.empty(len(alike))
    rank[np.argsort(alike)] = np.arange(1, len(alike) + 1)
    positive, negative = int(same.sum()), int((~same).sum())
    auc = (rank[same].sum() - positive * (positive + 1) / 2) / (positive * negative)
    return {"frames": len(frames), "AUC": round(float(auc), 3), "ms": round(1000 * seconds / len(rows), 2)}


def still_camera(video: Video) -> Row:
    """How often a fixed camera seems to move."""
    motion, took = timed(lambda: estimate_motion(video))
    moved = [not np.array_equal(warp, IDENTITY) for warp in motion.warps]
    frames = video.info.num_frames
    row = {"frames": frames, "moved": int(np.sum(moved)), "ms": round(1000 * took / frames, 1)}
    return {"data": "pets09", "variant": "motion"} | row


def moving_cameras() -> list[Row]:
    """Distance of the image's middle from where published warps (UCMCTrack's) put it, in pixels."""
    rows: list[Row] = []
    for name in MOVING:
        folder = next(data_folder("mot17-mini").glob(f"{name}*"))
        published = next(data_folder("mot17", "train").glob(f"{name}*")) / "gmc.txt"
        with open_video(folder / "img1") as video:
            motion, took = timed(lambda video=video: estimate_motion(video))
            count = video.info.num_frames
            expected = read_warps(published, len(published.read_text().splitlines()) + 1)[:count]
            centre = np.array([video.info.width / 2, video.info.height / 2, 1])
        error = np.linalg.norm((motion.warps - expected) @ centre, axis=1)[1:]
        row = {"frames": count, "error_px": round(float(np.median(error)), 2), "ms": round(1000 * took / count, 1)}
        rows.append({"data": name, "variant": "motion"} | row)
    return rows


def reading(video: Video) -> Row:
    """What a frame costs to read."""
    count, took = timed(lambda: sum(1 for _ in video.frames()))
    return {"data": "pets09", "variant": "reading", "frames": count, "ms": round(1000 * took / count, 2)}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and the CPU seconds of all threads it took."""
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


if __name__ == "__main__":
    main(run)
