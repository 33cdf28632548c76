"""MOT17: our tracks, ByteTrack's and GHOST's on the same boxes, and what the gate is worth.

In: the MOT17 training sequences with public (``frcnn``) and YOLOX-X (``yolox_x``) detections. Out: a table,
``results.json`` and result files. Nothing is trained or tuned on the second halves, which are what is measured; the
first halves (``--split first``) are for design.

    python -m benchmarks.mot17 --out DIR [--json] [--detections yolox_x] [--variant NAME] [--split half-val]
"""

import time
from collections.abc import Sequence

from benchmarks.common import (
    COUNTS,
    PERCENT,
    SPLITS,
    Run,
    finish,
    main,
    options,
    progress,
    read_sequences,
    run_variant,
    sequence_folders,
)
from benchmarks.trackers import trackers
from spam_cvat.errors import InputError

COLUMNS = ("data", "variant", *PERCENT, *COUNTS, "frames_per_second")


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--detections", action="append", metavar="NAME", help="yolox_x, frcnn; default both")
    parser.add_argument("--variant", action="append", metavar="NAME", help="default all")
    parser.add_argument("--split", choices=SPLITS, default="half-val")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    runs = compare(
        f"mot17-{args.split}",
        [("mot17", "train")],
        args.detections or ["yolox_x", "frcnn"],
        args.variant,
        args.split,
        "mot17",
        args.out,
    )
    finish(args, [run.row for run in runs], began, COLUMNS, sequences=[row for run in runs for row in run.sequences])


def compare(data, folders, detections, variants, split, preset, out) -> list[Run]:
    """Run the chosen variants (all where none is named) on each detector's boxes.

    Raises:
        InputError: a variant is named that does not exist.
    """
    paths = [path for parts in folders for path in sequence_folders(*parts)]
    chosen = {name: trackers(name) for name in detections}
    known = [variant for table in chosen.values() for variant in table]
    unknown = sorted(set(variants or ()) - set(known))
    if unknown:
        raise InputError(f"no variant {unknown[0]!r}; there are: {', '.join(known)}")
    runs = []
    for name, table in chosen.items():
        sequences = read_sequences(paths, name, split)
        for variant, tracker in table.items():
            if variants and variant not in variants:
                continue
            runs.append(run_variant(data, variant, sequences, tracker, preset, out))
            progress(f"{data} {variant}: HOTA {runs[-1].row['HOTA']:.2f}")
    return runs


if __name__ == "__main__":
    main(run)
