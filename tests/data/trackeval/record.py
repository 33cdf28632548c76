"""Record what TrackEval says of generated sequences; the tests compare spam-cvat's scores with it.

    python -m venv other-venv && other-venv/bin/pip install trackeval==1.3.0
    other-venv/bin/python tests/data/trackeval/record.py

writes ``cases.json`` beside this file: for each sequence the rows of ground truth and tracker, and TrackEval's scores
under two rule sets (``mot17``: benchmark MOT17 with preprocessing; ``plain``: preprocessing switched off), lone and
combined. All rows are generated here from a seed; no data set's rows are in it. With ``--score`` it scores a folder of
result files instead, for ``benchmarks.evaluation``.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from trackeval.datasets import MotChallenge2DBox
from trackeval.eval import Evaluator
from trackeval.metrics import CLEAR, HOTA, Identity

HERE = Path(__file__).parent
KEPT = {
    "HOTA": ("HOTA", "DetA", "AssA", "LocA", "DetRe", "DetPr", "AssRe", "AssPr"),
    "CLEAR": ("MOTA", "MOTP", "IDSW", "Frag", "MT", "PT", "ML"),
    "Identity": ("IDF1", "IDR", "IDP", "IDTP", "IDFP", "IDFN"),
}


def walkers(rng, people, frames, size, classes=(1,), unscored=0.0):
    """Ground-truth rows of people who walk straight ahead, come and go."""
    rows = []
    for person in range(people):
        start = int(rng.integers(1, max(2, frames // 2)))
        stop = int(rng.integers(start, frames + 1))
        place, speed = rng.uniform(0, size, 2), rng.normal(0, 2.5, 2)
        width = rng.uniform(12, 30)
        category = int(rng.choice(classes))
        scored = int(rng.random() >= unscored)
        for frame in range(start, stop + 1):
            x, y = place + speed * (frame - start)
            box = np.round([x, y, width, 2.4 * width], 1).tolist()
            rows.append([frame, person + 1, *box, scored, category, round(float(rng.random()), 2)])
    return rows


def track(rng, truth, miss=0.1, false=1.0, switch=0.02, noise=1.5, frames=40, size=200):
    """Tracker rows: the truth with misses, shaken boxes, swapped identities and false boxes."""
    rows, renamed, used = [], {}, set()
    for frame, person, x, y, w, h, *_ in truth:
        if rng.random() < switch:
            renamed[person] = int(rng.integers(1, 40))
        identity = renamed.get(person, person + 50)
        if rng.random() < miss or (frame, identity) in used:
            continue
        used.add((frame, identity))
        box = np.round(np.array([x, y, w, h]) + rng.normal(0, noise, 4), 2)
        box[2:] = np.maximum(box[2:], 1)
        rows.append([frame, identity, *box.tolist(), round(float(rng.random()), 3), -1, -1, -1])
    for frame in range(1, frames + 1):
        for _ in range(rng.poisson(false)):
            identity = int(rng.integers(100, 108))
            if (frame, identity) in used:
                continue
            used.add((frame, identity))
            x, y = np.round(rng.uniform(0, size, 2), 2).tolist()
            rows.append([frame, identity, x, y, 20.5, 44.25, 0.3, -1, -1, -1])
    return rows


def cases():
    """Name, frames, ground-truth rows, tracker rows."""
    rng = np.random.default_rng(17)
    truth = walkers(rng, 8, 40, 200)
    yield "sparse", 40, truth, track(rng, truth)
    truth = walkers(rng, 30, 25, 120)
    yield "crowd", 25, truth, track(rng, truth, miss=0.2, switch=0.1, noise=3, frames=25, size=120)
    truth = walkers(rng, 24, 30, 110, classes=(1, 1, 1, 2, 3, 7, 8, 12, 6, 13), unscored=0.3)
    yield "distractors", 30, truth, track(rng, truth, miss=0.05, frames=30, size=110)
    truth = [row for row in walkers(rng, 6, 30, 150) if row[0] not in (5, 6, 7, 20)]
    tracker = [row for row in track(rng, truth, frames=30, size=150) if row[0] not in (1, 7, 8, 9, 25)]
    yield "empty-frames", 30, truth, tracker
    yield "no-truth", 10, [], track(rng, [], frames=10)
    yield "no-tracks", 10, walkers(rng, 4, 10, 100), []
    yield "nothing", 5, [], []
    truth = walkers(rng, 3, 10, 100, classes=(7, 8))
    yield "only-distractors", 10, truth, track(rng, truth, miss=0, frames=10, size=100)
    truth = walkers(rng, 5, 12, 60)
    yield "far-apart", 12, truth, [[f, 1, 4000 + f, 10, 20, 40, 1, -1, -1, -1] for f in range(1, 13)]
    truth = walkers(rng, 6, 20, 80)
    yield "perfect", 20, truth, [[*row[:6], 1, -1, -1, -1] for row in truth]
    # Whole pixels: IoU falls exactly on thresholds, and equal boxes tie.
    truth = [[f, i, 10 * i + f, 20, 20, 40, 1, (1, 1, 7)[i % 3], 1] for f in range(1, 16) for i in range(1, 7)]
    tracker = [[f, i, 10 * i + f + 5 * (i % 2), 20, 20, 40, 1, -1, -1, -1] for f in range(1, 16) for i in range(1, 7)]
    tracker += [[f, 90, 20 + f, 20, 20, 40, 1, -1, -1, -1] for f in range(4, 9)]
    yield "ties", 15, truth, tracker
    truth = [[f, i, 5, 5, 20, 40, 1, 1, 1] for f in range(1, 9) for i in (1, 2, 3)]
    yield "stacked", 8, truth, [[f, i, 5, 5 + i, 20, 40, 1, -1, -1, -1] for f in range(1, 9) for i in (4, 5)]
    yield "one-frame", 1, [[1, 1, 5, 5, 20, 40, 1, 1, 1]], [[1, 9, 6, 5, 20, 40, 1, -1, -1, -1]]
    # Rows in no order, and identities far apart.
    truth = walkers(rng, 10, 30, 150)
    tracker = track(rng, truth, frames=30, size=150)
    rng.shuffle(truth)
    rng.shuffle(tracker)
    yield "shuffled", 30, truth, [[row[0], row[1] * 1000, *row[2:]] for row in tracker]


def score(gt, tracks, lengths, preprocess):
    """TrackEval's scores of ``tracks/ours/data/*.txt`` by sequence, COMBINED_SEQ included."""
    quiet = {"PRINT_CONFIG": False}
    dataset = MotChallenge2DBox(
        {
            "GT_FOLDER": str(gt),
            "TRACKERS_FOLDER": str(tracks),
            "TRACKERS_TO_EVAL": ["ours"],
            "BENCHMARK": "MOT17",
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": lengths,
            "DO_PREPROC": preprocess,
            **quiet,
        }
    )
    evaluator = Evaluator(
        {
            "USE_PARALLEL": False,
            "PRINT_RESULTS": False,
            "TIME_PROGRESS": False,
            "PLOT_CURVES": False,
            "OUTPUT_SUMMARY": False,
            "OUTPUT_DETAILED": False,
            "BREAK_ON_ERROR": True,
            **quiet,
        }
    )
    results, _ = evaluator.evaluate([dataset], [HOTA(), CLEAR(quiet), Identity(quiet)])
    return {
        name: {key: float(np.mean(scores["pedestrian"][family][key])) for family, keys in KEPT.items() for key in keys}
        | {key: int(scores["pedestrian"]["CLEAR"][f"CLR_{key}"]) for key in ("TP", "FP", "FN")}
        for name, scores in results["MotChallenge2DBox"]["ours"].items()
    }


def record():
    """Write ``cases.json``."""
    sequences = list(cases())
    with tempfile.TemporaryDirectory() as folder:
        gt, tracks = Path(folder, "gt"), Path(folder, "tracks")
        (tracks / "ours" / "data").mkdir(parents=True)
        for name, _, truth, tracker in sequences:
            (gt / name / "gt").mkdir(parents=True)
            for path, rows in (
                (gt / name / "gt" / "gt.txt", truth),
                (tracks / "ours" / "data" / f"{name}.txt", tracker),
            ):
                path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        lengths = {name: frames for name, frames, _, _ in sequences}
        scores = {"mot17": score(gt, tracks, lengths, True), "plain": score(gt, tracks, lengths, False)}
    recorded = {
        "made_by": "trackeval 1.3.0",
        "sequences": {
            name: {"frames": frames, "truth": truth, "tracks": tracker} for name, frames, truth, tracker in sequences
        },
        "scores": scores,
    }
    text = json.dumps(recorded, separators=(",", ":")).replace("],[", "],\n[")
    (HERE / "cases.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score", nargs=2, metavar=("GT", "TRACKS"), help="only score TRACKS/ours/data against GT")
    parser.add_argument("--lengths", type=json.loads, help="frames by sequence, as JSON")
    args = parser.parse_args()
    if args.score is None:
        return record()
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        scores = score(*args.score, args.lengths, True)
    print(json.dumps({"scores": scores, "seconds": time.process_time() - began}))


if __name__ == "__main__":
    main()
