"""Our scores against TrackEval's on real tracks: how far apart they are, and how long each takes.

In: the MOT17 training sequences, tracked by ByteTrack, and a Python that has trackeval 1.3.0 installed. Out: the
largest difference of any score, and CPU seconds of both, reading of the files included.

    python -m venv other-venv && other-venv/bin/pip install trackeval==1.3.0
    python -m benchmarks.evaluation --out DIR --trackeval other-venv/bin/python [--json]
"""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import data_folder, finish, main, options, sequence_folders
from spam_cvat.baselines.bytetrack import bytetrack
from spam_cvat.errors import SpamError
from spam_cvat.evaluation import combine, evaluate_files
from spam_cvat.formats.mot import read_sequence, write_tracks

RECORD = Path(__file__).parents[1] / "tests" / "data" / "trackeval" / "record.py"


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--trackeval", required=True, metavar="PYTHON", help="an interpreter that has trackeval")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    rows = []
    for detections in ("yolox_x", "frcnn"):
        tracks = args.out / f"bytetrack-{detections}"
        lengths = {}
        for folder in sequence_folders("mot17", "train"):
            sequence = read_sequence(folder, detections)
            lengths[folder.name] = sequence.video.num_frames
            write_tracks(tracks / "ours" / "data" / f"{folder.name}.txt", bytetrack(sequence.detections))
        theirs = _trackeval(args.trackeval, data_folder("mot17", "train"), tracks, lengths)
        start = time.process_time()
        parts = {
            name: evaluate_files(
                data_folder("mot17", "train", name), tracks / "ours" / "data" / f"{name}.txt", preset="mot17"
            )
            for name in lengths
        }
        ours = parts | {"COMBINED_SEQ": combine(list(parts.values()))}
        seconds = time.process_time() - start
        summaries = {name: scores.summary() for name, scores in ours.items()}
        difference = max(
            abs(summaries[name][key] - value) for name, row in theirs["scores"].items() for key, value in row.items()
        )
        rows.append(
            {
                "data": "mot17",
                "variant": tracks.name,
                "HOTA": round(100 * summaries["COMBINED_SEQ"]["HOTA"], 3),
                "largest_difference": difference,
                "cpu_seconds": round(seconds, 2),
                "trackeval_cpu_seconds": round(theirs["seconds"], 2),
                "times_faster": round(theirs["seconds"] / seconds, 2),
            }
        )
    finish(args, rows, began)


def _trackeval(python: str, truth: Path, tracks: Path, lengths: dict[str, int]) -> dict:
    command = [python, str(RECORD), "--score", str(truth), str(tracks), "--lengths", json.dumps(lengths)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SpamError(f"{python}: cannot run it: {error.strerror}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SpamError(f"{python}: TrackEval failed: {reason}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(run)
