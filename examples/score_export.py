"""Score exported labels against ground truth.

What it does: reads a MOTChallenge ground truth (a sequence folder) and the folder that `spam-cvat export` wrote, and
prints HOTA and its kind, beside what the export itself expects to be wrong.

    spam-cvat export 42 -o labels/
    python examples/score_export.py MOT17-02/ labels/ --preset mot17
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from spam_cvat.errors import InputError, SpamError
from spam_cvat.evaluation import evaluate
from spam_cvat.formats.mot import read_ground_truth, read_seqinfo, read_tracks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score exported labels against ground truth.")
    parser.add_argument("sequence", type=Path, help="folder with seqinfo.ini and gt/gt.txt")
    parser.add_argument("labels", type=Path, help="folder written by spam-cvat export")
    parser.add_argument("--preset", choices=("plain", "mot17"), default="plain")
    args = parser.parse_args(arguments)
    try:
        facts = args.labels / "labels.json"
        if not facts.is_file():
            raise InputError(f"{args.labels}: no labels.json; is this a folder written by spam-cvat export?")
        video = read_seqinfo(args.sequence)
        truth = read_ground_truth(args.sequence / "gt" / "gt.txt", video)
        scores = evaluate(truth, read_tracks(args.labels / "tracks.txt", video), args.preset)
    except SpamError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for name, value in scores.summary().items():
        print(f"{name:>6}  {100 * value:.2f} %" if isinstance(value, float) else f"{name:>6}  {value}")
    known = json.loads(facts.read_text())
    expected = known["expected"]
    print(f"expected by the model: {expected['false_boxes']} false boxes, {expected['wrong_links']} wrong links")
    print(f"human work: {known['clicks']:.0f} clicks for {known['boxes']} boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
