"""How much generated scenes look like real ones: the same statistics of both, side by side.

In: the first halves of the MOT17 sequences (never the second ones), with two detectors, generated scenes of every
preset, and the detections alone of DanceTrack and PETS09, whose ground truth is for measuring trackers only. Out: a
table on the terminal and ``results.json``. A statistic that lies far outside the range that random scenes cover means
that a network trained on them has not seen what is common in real videos.

    python -m benchmarks.simulator --out DIR [--json] [--scenes 6] [--presets street random]
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spam_cvat.baselines.bytetrack import bytetrack
from spam_cvat.boxes import area, iou_matrix, iou_pairs, warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.evaluation import combine, evaluate
from spam_cvat.evaluation.matching import match_boxes
from spam_cvat.formats import mot
from spam_cvat.formats.mot import GroundTruth, first_half, read_sequence
from spam_cvat.hierarchy.geometry import Clip, neighbourhood
from spam_cvat.hierarchy.graph import adjacent_pairs, chains
from spam_cvat.hierarchy.motion_fit import Members, measure_motion
from spam_cvat.tracks import Tracks, interpolate
from spam_cvat.training.synthetic import PRESETS, Scene, generate_scene, preset, random_config

DISTRACTORS = (2, 7, 8, 12)
SCORES = ((0.1, 0.2), (0.2, 0.3), (0.3, 0.6), (0.6, 0.8), (0.8, 1.01))
# Boxes that are almost surely people, and the boxes of a chain that is not a flicker.
SURE, LASTING = 0.6, 5


@dataclass(frozen=True)
class Observed:
    """A video with all that is known of it, real or generated; rows of ``visible`` as in ``truth``."""

    truth: Tracks
    visible: NDArray[np.floating]
    detections: Detections
    distractors: Tracks
    warps: NDArray[np.floating]
    scored: GroundTruth | Tracks
    preset: str = "plain"


def observed_sequence(sequence: mot.Sequence) -> Observed:
    """A real sequence; needs ground truth."""
    gt = sequence.ground_truth
    if gt is None:
        raise SystemExit(f"{sequence.name}: no ground truth")
    people = gt.select((gt.confidence != 0) & (gt.category == 1))
    order = np.lexsort((people.frame, people.id))
    others = gt.select(np.isin(gt.category, DISTRACTORS))
    warps = np.tile(np.eye(2, 3), (sequence.video.num_frames, 1, 1)) if sequence.warps is None else sequence.warps
    return Observed(
        Tracks.create(sequence.video, people.frame, people.id, people.box),
        people.visibility[order],
        sequence.detections,
        Tracks.create(sequence.video, others.frame, others.id + 1, others.box),
        warps,
        gt,
        "mot17",
    )


def observed_scene(scene: Scene) -> Observed:
    """A generated scene, with the warps an estimator would have found."""
    empty = Tracks.empty(scene.detections.video)
    return Observed(scene.ground_truth, scene.visibility, scene.detections, empty, scene.warps, scene.ground_truth)


def matches(truth: Tracks, detections: Detections) -> NDArray[np.intp]:
    """(N,) row of ``truth`` that each detection is matched to frame by frame (IoU >= 0.5), -1 for none."""
    return match_boxes(detections.frame, detections.box, truth.frame, truth.box)


def runs(mask: NDArray[np.bool_], group: NDArray[np.integer]) -> NDArray[np.intp]:
    """Lengths of the runs of true values, within equal values of ``group``."""
    if not len(mask):
        return np.zeros(0, np.intp)
    change = (np.diff(mask.astype(int)) != 0) | (np.diff(group) != 0)
    bounds = np.concatenate([[0], np.flatnonzero(change) + 1, [len(mask)]])
    return np.diff(bounds)[mask[bounds[:-1]]]


Samples = dict[str, NDArray[np.floating]]
Column = dict[str, tuple[float, float, float]]


def motion_samples(seen: Observed) -> Samples:
    """How people move, free of the camera's own motion: sizes, speeds, accelerations, overlaps, hiding."""
    gt, fps = seen.truth, seen.truth.video.fps
    high = gt.box[:, 3] - gt.box[:, 1]
    step = np.flatnonzero((np.diff(gt.track) == 0) & (np.diff(gt.frame) == 1))
    carried = warp_boxes(gt.box[step].astype(np.float64), seen.warps[gt.frame[step + 1]])
    after = gt.box[step + 1]
    shift = ((after[:, :2] + after[:, 2:]) - (carried[:, :2] + carried[:, 2:])) / 2
    velocity = np.full((len(gt), 2), np.nan)
    velocity[step + 1] = shift / high[step, None] * fps
    span = max(1, round(0.25 * fps))
    smooth = np.stack([np.convolve(column, np.ones(span) / span, "full")[: len(gt)] for column in velocity.T], 1)
    late = np.arange(span, len(gt))
    bend = (smooth[late] - smooth[late - span]) / 0.25
    bend = bend[(gt.track[late] == gt.track[late - span]) & np.isfinite(bend).all(1)]
    smooth = smooth[np.isfinite(smooth).all(1)]
    hidden = seen.visible < 0.3
    return {
        "people a frame": np.bincount(gt.frame, minlength=gt.video.num_frames).astype(float),
        "height / image": high / gt.video.height,
        "width / height": (gt.box[:, 2] - gt.box[:, 0]) / high,
        "speed (heights/s)": np.linalg.norm(smooth, axis=1),
        "acceleration (heights/s2)": np.linalg.norm(bend, axis=1),
        "IoU of successive boxes (warped)": iou_pairs(carried.astype(np.float32), after),
        "width change a frame": np.abs(np.log((after[:, 2] - after[:, 0]) / (carried[:, 2] - carried[:, 0]))),
        "height change a frame": np.abs(np.log((after[:, 3] - after[:, 1]) / (carried[:, 3] - carried[:, 1]))),
        "visibility": seen.visible,
        "hidden for (s)": runs(hidden, gt.track) / fps,
        "in view for (s)": np.diff(gt.track_start) / fps,
        "largest IoU with another": _crowding(gt),
        "camera (widths/s)": np.linalg.norm(_centre_motion(seen), axis=1) / gt.video.width * fps,
    }


def _centre_motion(seen: Observed) -> NDArray[np.floating]:
    video = seen.truth.video
    middle = np.array([video.width / 2, video.height / 2])
    return (seen.warps[1:, :, :2] @ middle + seen.warps[1:, :, 2]) - middle


def _crowding(gt: Tracks) -> NDArray[np.floating]:
    out = np.zeros(len(gt))
    order = np.argsort(gt.frame, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(gt.frame[order])) + 1):
        if len(rows) > 1:
            overlap = iou_matrix(gt.box[rows], gt.box[rows])
            np.fill_diagonal(overlap, 0)
            out[rows] = overlap.max(1)
    return out


def detector_samples(seen: Observed) -> Samples:
    """What the detector reports: scores, misses, errors that last, false positives."""
    gt, det, frames = seen.truth, seen.detections, seen.truth.video.num_frames
    truth = matches(gt, det)
    real = truth >= 0
    junk = ~real & (matches(seen.distractors, det) < 0)
    score = np.zeros(len(gt))
    score[truth[real]] = det.score[real]
    step = np.flatnonzero((np.diff(gt.track) == 0) & (np.diff(gt.frame) == 1))
    out: Samples = {}
    for name, low, high in [("hidden", 0.0, 0.25), ("half seen", 0.25, 0.75), ("seen", 0.75, 1.01)]:
        mine = (seen.visible >= low) & (seen.visible < high)
        out[f"{name}: found at .1"] = _mean(score[mine] >= 0.1)
        out[f"{name}: found at .6"] = _mean(score[mine] >= 0.6)
        found = score[mine]
        out[f"{name}: score"] = found[found >= 0.1]
        rows = np.flatnonzero(real)[mine[truth[real]] & (det.score[real] >= 0.1)]
        out[f"{name}: IoU with truth"] = iou_pairs(det.box[rows], gt.box[truth[rows]])
    both = step[(score[step] >= 0.1) & (score[step + 1] >= 0.1)]
    out["score change a frame"] = np.abs(score[both + 1] - score[both])
    missed = (score < 0.5) & (seen.visible > 0.25)
    out["missed for (s), though visible"] = runs(missed, gt.track) / gt.video.fps
    out |= _by_score(det, real, junk)
    out |= _errors(seen, truth)
    out |= _false_positives(seen, truth, junk)
    out["boxes a frame at .1"] = _mean(np.bincount(det.frame[det.score >= 0.1], minlength=frames))
    return out


def _by_score(det: Detections, real: NDArray[np.bool_], junk: NDArray[np.bool_]) -> Samples:
    """What a score is worth, and how many boxes of it lie on better ones."""
    _, shadow, _, _, _ = neighbourhood(det)
    sure = max(int((det.score >= 0.6).sum()), 1)
    out: Samples = {}
    for low, high in SCORES:
        mine = (det.score >= low) & (det.score < high) & (real | junk)
        title = f"score {low:g}-{min(high, 1):g}"
        out[f"{title}: boxes to one over .6"] = np.array([mine.sum() / sure])
        out[f"{title}: real"] = _mean(real[mine])
        out[f"{title}: real, on a better box"] = _mean(real[mine & (shadow > 0.3)])
        out[f"{title}: on a better box"] = _mean(shadow[mine] > 0.3)
    return out


def _errors(seen: Observed, truth: NDArray[np.intp]) -> Samples:
    gt, det = seen.truth, seen.detections
    clear = (truth >= 0) & (det.score >= 0.5)
    row = np.flatnonzero(clear)
    row = row[seen.visible[truth[row]] > 0.75]
    row = row[np.argsort(truth[row], kind="stable")]
    size = np.tile(gt.box[truth[row], 2:] - gt.box[truth[row], :2], 2)
    error = (det.box[row] - gt.box[truth[row]]) / size
    step = np.flatnonzero(np.diff(truth[row]) == 1)
    step = step[gt.track[truth[row[step]]] == gt.track[truth[row[step + 1]]]]
    change = error[step + 1] - error[step]
    return {
        "edge error, sideways": np.abs(error[:, [0, 2]]).ravel(),
        "edge error, up and down": np.abs(error[:, [1, 3]]).ravel(),
        "edge error change a frame, sideways": np.abs(change[:, [0, 2]]).ravel(),
        "edge error change a frame, up and down": np.abs(change[:, [1, 3]]).ravel(),
    }


def _false_positives(seen: Observed, truth: NDArray[np.intp], junk: NDArray[np.bool_]) -> Samples:
    gt, det, frames = seen.truth, seen.detections, seen.truth.video.num_frames
    people = max(len(gt), 1)
    out = {f"false a frame at {low}": np.array([(junk & (det.score >= low)).sum() / frames]) for low in (0.1, 0.3, 0.6)}
    out |= {f"false a person at {low}": np.array([(junk & (det.score >= low)).sum() / people]) for low in (0.1, 0.6)}
    some = det.select(junk & (det.score >= 0.1))
    order = np.argsort(gt.frame, kind="stable")
    start = np.searchsorted(gt.frame[order], np.arange(frames + 1))
    on_person, before, inside = [], [], []
    for frame, rows in some.by_frame():
        mine, box = order[start[frame] : start[frame + 1]], some.box[rows]
        overlap = iou_matrix(box, gt.box[mine]).max(1, initial=0)
        on_person.append(overlap)
        inside.append(_contained(box, gt.box[mine]))
        old = slice(int(some.frame_start[max(frame - 1, 0)]), int(some.frame_start[frame]))
        carried = warp_boxes(some.box[old], seen.warps[frame])
        before.append(iou_matrix(box, carried).max(1, initial=0))
    joined = [np.concatenate(part) if part else np.zeros(0) for part in (on_person, inside, before)]
    out["false: height / people's"] = _relative_height(some, gt)
    out["false: IoU with a person"] = joined[0]
    out["false: share inside a person"] = joined[1]
    out["false: seen in the frame before"] = _mean(joined[2] > 0.5)
    return out


def _contained(box: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.floating]:
    if not len(other):
        return np.zeros(len(box))
    low, high = np.maximum(box[:, None, :2], other[None, :, :2]), np.minimum(box[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    return (shared / area(box)[:, None]).max(1)


def _relative_height(det: Detections, gt: Tracks) -> NDArray[np.floating]:
    usual = float(np.median(gt.box[:, 3] - gt.box[:, 1])) if len(gt) else 1.0
    return (det.box[:, 3] - det.box[:, 1]) / usual


def observable_samples(detections: Detections, warps: NDArray[np.floating] | None) -> Samples:
    """What can be seen without ground truth, of confident boxes and of chains of mutually nearest ones."""
    sure = detections.select(np.flatnonzero(detections.score >= SURE))
    if not len(sure):
        return {}
    clip = Clip.create(sure, None if warps is None else warps.astype(np.float64))
    members = Members.of(chains(clip, adjacent_pairs(clip)))
    box, fps = clip.box[members.row], clip.fps
    ends = members.last[(members.count >= LASTING) & (clip.frame[members.last] < clip.num_frames - 1)]
    unsure = (detections.score >= 0.1) & (detections.score < SURE)
    out: Samples = {
        "seen: people a frame": np.diff(clip.frame_start).astype(float),
        "seen: height / image": (sure.box[:, 3] - sure.box[:, 1]) / detections.video.height,
        "seen: width / height": box[:, 2] / box[:, 3],
        "seen: unsure boxes a sure one": np.array([unsure.sum() / len(sure)]),
        "seen: share overlapping by .3": _mean(clip.overlap > 0.3),
        "seen: chain ends a person and second": np.array([len(ends) / len(sure) * fps]),
        "seen: chain ends beside another": _mean(clip.overlap[ends] > 0.3),
    }
    for seconds in (0.05, 0.25, 1.0):
        later = max(1, round(seconds * fps))
        row = np.flatnonzero(members.owner[:-later] == members.owner[later:])
        size = np.abs(np.log(box[row + later, 2:] / box[row, 2:]))
        moved = np.linalg.norm(box[row + later, :2] - box[row, :2], axis=1) / box[row, 3]
        out |= {
            f"seen: moved in {seconds} s (heights)": moved,
            f"seen: width change in {seconds} s": size[:, 0],
            f"seen: height change in {seconds} s": size[:, 1],
        }
    motion = measure_motion(clip, members)
    for model, name in enumerate(("short", "long", "still")):
        out[f"seen: error over 0.8 s, {name}"] = np.array([motion.error(model, np.array(0.8 * fps))])
    return out


def _mean(values: NDArray[np.bool_] | NDArray[np.integer]) -> NDArray[np.floating]:
    return np.array([np.mean(values)]) if len(values) else np.zeros(0)


def tracker_scores(videos: Sequence[Observed]) -> Column:
    """Lowest, combined and highest score of ByteTrack with interpolated gaps: are the scenes as hard as real ones?"""
    each = [evaluate(v.scored, interpolate(bytetrack(v.detections), max_gap=20), preset=v.preset) for v in videos]
    whole = combine(each)
    return {
        f"ByteTrack {name}": (
            min(getattr(one, name) for one in each),
            getattr(whole, name),
            max(getattr(one, name) for one in each),
        )
        for name in ("HOTA", "DetA", "AssA", "MOTA", "IDF1")
    }


def pooled(videos: Sequence[Observed]) -> Column:
    """10 %, 50 % and 90 % quantile of every statistic over several videos; means of a video count as one value."""
    parts: dict[str, list[NDArray[np.floating]]] = {}
    for video in videos:
        samples = motion_samples(video) | detector_samples(video) | observable_samples(video.detections, video.warps)
        for name, values in samples.items():
            parts.setdefault(name, []).append(values)
    return quantiles(parts) | tracker_scores(videos)


def observed(folders: Sequence[Path], detector: str) -> Column:
    """As :func:`pooled`, of what can be seen without ground truth."""
    parts: dict[str, list[NDArray[np.floating]]] = {}
    for sequence in (read_sequence(folder, detector) for folder in folders):
        for name, values in observable_samples(sequence.detections, sequence.warps).items():
            parts.setdefault(name, []).append(values)
    return quantiles(parts)


def quantiles(parts: dict[str, list[NDArray[np.floating]]]) -> Column:
    """10 %, 50 % and 90 % quantile of each statistic's joined samples."""
    out = {}
    for name, arrays in parts.items():
        joined = np.concatenate(arrays)
        if len(joined):
            low, middle, high = np.quantile(joined, [0.1, 0.5, 0.9])
            out[name] = (float(low), float(middle), float(high))
    return out


def real_sequences(data: Path, detector: str) -> list[Observed]:
    """First halves of MOT17 with one detector's boxes."""
    folders = sorted((data / "mot17" / "train").glob("MOT17-*"))
    return [observed_sequence(first_half(read_sequence(folder, detector))) for folder in folders]


def generated(name: str, count: int, frames: int) -> list[Observed]:
    """Scenes of a preset, or of random kinds."""
    rng = np.random.default_rng(0)
    configs = [
        random_config(rng, frames) if name == "random" else preset(name, num_frames=frames) for _ in range(count)
    ]
    scenes = (generate_scene(seed, config) for seed, config in enumerate(configs))
    # In a random scene everybody may be out of view; there is nothing to compare then.
    return [observed_scene(scene) for scene in scenes if len(scene.ground_truth)]


def table(columns: dict[str, Column]) -> str:
    """Text: one line a statistic, ``10 % / 50 % / 90 %`` a column."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [f"{'':40}" + "".join(f"{title:>22}" for title in columns)]
    for name in names:
        cells = (column.get(name) for column in columns.values())
        lines.append(f"{name:40}" + "".join(f"{' '.join(f'{v:.3g}' for v in c) if c else '-':>22}" for c in cells))
    return "\n".join(lines)


def main() -> None:
    """Print the comparison and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scenes", type=int, default=6, help="generated scenes of each kind")
    parser.add_argument("--frames", type=int, default=400, help="frames of each")
    parser.add_argument("--presets", nargs="*", default=[*PRESETS, "random"])
    args = parser.parse_args()
    began = time.perf_counter()
    data = Path(os.environ.get("SPAM_DATA", "../shared/data"))
    columns = {detector: pooled(real_sequences(data, detector)) for detector in ("yolox_x", "frcnn")}
    columns["dancetrack"] = observed(sorted((data / "dancetrack" / "val").glob("dancetrack*")), "yolox_x")
    columns["pets09"] = observed(sorted((data / "pets09").glob("PETS09-*")), "yolox_nano")
    columns |= {name: pooled(generated(name, args.scenes, args.frames)) for name in args.presets}
    rows = [
        {"data": title, "variant": name, "q10": value[0], "median": value[1], "q90": value[2]}
        for title, column in columns.items()
        for name, value in column.items()
    ]
    result = {"rows": rows, "seconds": round(time.perf_counter() - began, 1), "versions": {"numpy": np.__version__}}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result) if args.json else table(columns))


if __name__ == "__main__":
    main()
