"""MOT17: our tracks, ByteTrack's and GHOST's on the same boxes, and what the gate is worth.

In: the MOT17 training sequences with public (``frcnn``) and YOLOX-X (``yolox_x``) detections. Out: a table,
``results.json`` and result files. Nothing is trained or tuned on the second halves, which are what is measured; the
first halves (``--split first``) are for design.

    python -m benchmarks.mot17 --out DIR [--json] [--detections yolox_x] [--variant NAME] [--split half-val]
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import (
    COUNTS,
    PERCENT,
    SPLITS,
    Run,
    check_names,
    finish,
    main,
    progress,
    read_sequences,
    run_variant,
    sequence_folders,
    tracker_options,
)
from benchmarks.trackers import trackers
from spam_cvat.baselines.ghost import GhostConfig

COLUMNS = ("data", "variant", *PERCENT, *COUNTS, "frames_per_second")


def run(arguments: Sequence[str] | None = None) -> None:
    parser = tracker_options(__doc__, "yolox_x and frcnn")
    parser.add_argument("--split", choices=SPLITS, default="half-val")
    args = parser.parse_args(arguments)
    compare(args, f"mot17-{args.split}", sequence_folders("mot17", "train"), ["yolox_x", "frcnn"], args.split, "mot17")


def compare(
    args: argparse.Namespace,
    data: str,
    folders: Sequence[Path],
    detections: Sequence[str],
    split: str,
    preset: str,
    ghost_config: GhostConfig | None = None,
) -> None:
    """Run the chosen variants (all where none is named) on each detector's boxes, and report.

    Raises:
        InputError: a variant is named that does not exist.
    """
    began = time.perf_counter()
    chosen = {
        name: trackers(name, weights=args.weights, ghost_config=ghost_config) for name in args.detections or detections
    }
    check_names("variant", args.variant, [variant for table in chosen.values() for variant in table])
    runs: list[Run] = []
    for name, table in chosen.items():
        sequences = read_sequences(folders, name, split)
        for variant, tracker in table.items():
            if args.variant and variant not in args.variant:
                continue
            runs.append(run_variant(data, variant, sequences, tracker, preset, args.out))
            progress(f"{data} {variant}: HOTA {runs[-1].row['HOTA']:.2f}")
    finish(args, [run.row for run in runs], began, COLUMNS, sequences=[row for run in runs for row in run.sequences])


if __name__ == "__main__":
    main(run)
