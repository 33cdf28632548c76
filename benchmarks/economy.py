"""Label economy: quality of the labels against clicks, with a simulated annotator.

In: MOT17 half-val (YOLOX-X), DanceTrack val (YOLOX-X) and PETS09-S2L1 (YOLOX-nano) with ground truth. Out: a row per
data set, strategy and budget; ``share`` is what was spent of full manual work (3 clicks a ground-truth box), 0.01 for
1 %, ``budget`` what could have been. All videos of a data set share one queue of questions. The tracks are written to
``DIR/<data>-<strategy>-<budget>/<sequence>.txt``.

    python -m benchmarks.economy --out DIR [--json] [--data half-val] [--strategy gain] [--budget 1%]
"""

import time
from collections.abc import Sequence

from benchmarks.common import Row, finish, main, options, progress, read_sequences, sequence_folders
from spam_cvat.errors import InputError
from spam_cvat.formats.mot import write_tracks
from spam_cvat.review.selection import STRATEGIES, Budget
from spam_cvat.review.simulate import Case, Simulation

# Folder, detections, split, scoring preset.
DATA = {
    "half-val": (("mot17", "train"), "yolox_x", "half-val", "mot17"),
    "dancetrack": (("dancetrack", "val"), "yolox_x", "all", "plain"),
    "pets": (("pets09",), "yolox_nano", "all", "plain"),
    # For design: what is measured above is never tuned on.
    "mot17-first": (("mot17", "train"), "yolox_x", "first", "mot17"),
    "mot15": (("mot15", "train"), "frcnn", "all", "plain"),
}
DEFAULT_DATA = ("half-val", "dancetrack", "pets")
BUDGETS = ("0.1%", "0.3%", "1%", "3.3%")
COLUMNS = ("data", "strategy", "budget", "share", "clicks", "questions", "error_rate", "seed", "HOTA", "AssA", "IDF1")


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--data", action="append", choices=DATA, help=f"default {', '.join(DEFAULT_DATA)}")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="default gain")
    parser.add_argument("--budget", action="append", metavar="CLICKS|SHARE%", help=f"default {', '.join(BUDGETS)}")
    parser.add_argument("--sequence", action="append", metavar="NAME", help="only these sequences")
    parser.add_argument("--error-rate", type=float, default=0.0, metavar="P", help="share of wrong replies")
    parser.add_argument("--rounds", type=int, default=4, help="rounds between one budget and the next")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    rows: list[Row] = []
    for data in args.data or DEFAULT_DATA:
        for strategy in args.strategy or ("gain",):
            rows += curve(data, strategy, args)
    finish(args, rows, began, COLUMNS)


def curve(data: str, strategy: str, args) -> list[Row]:
    """Quality before any click and at each budget.

    Raises:
        InputError: the data set has none of the sequences named.
    """
    parts, detections, split, preset = DATA[data]
    folders = [path for path in sequence_folders(*parts) if not args.sequence or path.name in args.sequence]
    if not folders:
        raise InputError(f"{data}: no sequence {', '.join(args.sequence or ())}")
    simulation = Simulation(
        [Case.of(sequence) for sequence in read_sequences(folders, detections, split)],
        strategy=strategy,
        error_rate=args.error_rate,
        seed=args.seed,
        preset=preset,
        progress=lambda text: progress(f"{data} {strategy}: {text}"),
    )
    rows = [_row(simulation, data, "0%", args)]
    budgets = {text: Budget.parse(text).of(simulation.boxes) for text in args.budget or BUDGETS}
    for text, clicks in sorted(budgets.items(), key=lambda item: item[1]):
        simulation.spend(max(clicks - simulation.clicks, 0.0), args.rounds)
        rows.append(_row(simulation, data, text, args))
    return rows


def _row(simulation: Simulation, data: str, budget: str, args) -> Row:
    """The present state as a row in percent, and its tracks as files."""
    row = simulation.row(data).to_json()
    row |= {name: round(100 * row[name], 3) for name in ("HOTA", "DetA", "AssA", "MOTA", "IDF1")}
    for annotation in simulation.annotations:
        folder = args.out / f"{data}-{simulation.strategy}-{budget}"
        write_tracks(folder / f"{annotation.video.name}.txt", annotation.tracks)
    progress(f"{data} {simulation.strategy} {budget}: HOTA {row['HOTA']:.2f} IDF1 {row['IDF1']:.2f}")
    return {**row, "share": round(row["share"], 5), "budget": budget}


if __name__ == "__main__":
    main(run)
