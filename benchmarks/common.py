"""What benchmarks share: options, data, the run over sequences, ``results.json`` and the table on the terminal.

A benchmark is ``python -m benchmarks.NAME --out DIR [--json]``. It writes ``DIR/results.json`` with ``rows`` (one for
each data set and variant; HOTA and its kind in percent), ``machine``, ``versions`` and ``seconds``, and the tracks as
MOTChallenge files ``DIR/<variant>/<sequence>.txt``, which TrackEval scores as they are.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spam_cvat.errors import InputError, SpamError
from spam_cvat.evaluation import Scores, combine, evaluate
from spam_cvat.formats.mot import Sequence as MotSequence
from spam_cvat.formats.mot import first_half, half_val, read_sequence, write_tracks
from spam_cvat.tracks import Tracks

PACKAGES = ("spam-cvat", "numpy", "scipy", "torch", "torch-geometric", "opencv-python-headless", "onnxruntime", "lap")
PERCENT = ("HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1")
COUNTS = ("IDSW", "FP", "FN")
SPLITS: dict[str, Callable[[MotSequence], MotSequence]] = {
    "half-val": half_val,
    "first": first_half,
    "all": lambda sequence: sequence,
}
Row = dict[str, Any]
Tracker = Callable[[MotSequence], Tracks]


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: ``--out`` and ``--json``."""
    lines = (description or "").strip().splitlines()
    parser = argparse.ArgumentParser(description=lines[0] if lines else None)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results.json and tracks go")
    parser.add_argument("--json", action="store_true", help="print results.json in place of a table")
    return parser


def tracker_options(description: str | None, detections: str) -> argparse.ArgumentParser:
    """What the tables of trackers take besides: which boxes, which variants, whose weights."""
    parser = options(description)
    parser.add_argument("--detections", action="append", metavar="NAME", help=f"default {detections}")
    parser.add_argument("--variant", action="append", metavar="NAME", help="default all")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="in place of the shipped weights")
    return parser


def check_names(kind: str, asked: Iterable[str] | None, known: Iterable[str]) -> None:
    """Refuse names that an option was given and that do not exist.

    Raises:
        InputError: there is no such ``kind`` ("variant", "data set"); the message lists what there is.
    """
    known = list(known)
    unknown = sorted(set(asked or ()) - set(known))
    if unknown:
        raise InputError(f"no {kind} {unknown[0]!r}; there are: {', '.join(known)}")


def data_folder(*parts: str) -> Path:
    """A folder of the data that benchmarks run on: under ``SPAM_DATA``, by default ``../shared/data``.

    Raises:
        InputError: it is not there.
    """
    root = Path(os.environ.get("SPAM_DATA", "../shared/data"))
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; point SPAM_DATA at the data (see benchmarks/RESULTS.md)")
    return folder


def sequence_folders(*parts: str) -> list[Path]:
    """The sequence folders of a data set, by name."""
    return sorted(path.parent for path in data_folder(*parts).glob("*/seqinfo.ini"))


def percent(scores: Scores) -> Row:
    """A row's figures: accuracies in percent, counts as they are."""
    values = scores.summary()
    return {name: round(100 * values[name], 3) for name in PERCENT} | {name: values[name] for name in COUNTS}


@dataclass(frozen=True)
class Run:
    """One variant over a data set.

    Attributes:
        row: the data set's combined scores, with ``frames_per_second`` of the tracker alone, by CPU seconds of
            all threads, so that a busy machine does not show.
        sequences: the same for each sequence.
    """

    row: Row
    sequences: list[Row]


def run_variant(
    data: str, variant: str, sequences: Iterable[MotSequence], tracker: Tracker, preset: str, out: Path
) -> Run:
    """Track every sequence, write the result files, score them."""
    scores: list[Scores] = []
    rows: list[Row] = []
    frames, seconds = 0, 0.0
    for sequence in sequences:
        if sequence.ground_truth is None:
            raise InputError(f"{sequence.folder}: no gt/gt.txt to score against")
        began = time.process_time()
        tracks = tracker(sequence)
        took = time.process_time() - began
        write_tracks(out / variant / f"{sequence.name}.txt", tracks)
        scores.append(evaluate(sequence.ground_truth, tracks, preset))
        frames += sequence.video.num_frames
        seconds += took
        rows.append(_row(data, variant, scores[-1], sequence.video.num_frames, took) | {"sequence": sequence.name})
    return Run(_row(data, variant, combine(scores), frames, seconds), rows)


def read_sequences(folders: Iterable[Path], detections: str, split: str = "all") -> list[MotSequence]:
    """Sequences with one detector's boxes, cut to a split."""
    return [SPLITS[split](read_sequence(folder, detections)) for folder in folders]


def finish(
    args: argparse.Namespace,
    rows: Sequence[Row],
    began: float,
    columns: Sequence[str] | None = None,
    **more: Any,
) -> None:
    """Write ``results.json`` and show the rows.

    Args:
        args: the parsed options.
        rows: one for each data set and variant.
        began: ``time.perf_counter()`` at the start.
        columns: what the table shows; by default the first row's keys.
        more: further entries of ``results.json``.
    """
    result = {
        "rows": list(rows),
        **more,
        "machine": machine(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1)
    (args.out / "results.json").write_text(text + "\n", encoding="utf-8")
    if args.json:
        print(text)
    else:
        show(rows, columns or list(rows[0]) if rows else [])
        print(f"{args.out / 'results.json'}: {len(rows)} rows in {result['seconds']:.0f} s")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table."""
    table = Table()
    for name in columns:
        numeric = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def progress(text: str) -> None:
    """A line on the standard error, so that ``--json`` stays one object on the standard output."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter to the figures."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> float:
    """The most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main(run: Callable[[Sequence[str] | None], None]) -> None:
    """Run a benchmark; an error a user can act on is one line and an exit code, as in the command line."""
    try:
        run(None)
    except SpamError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def _row(data: str, variant: str, scores: Scores, frames: int, seconds: float) -> Row:
    speed = {"frames": frames, "frames_per_second": round(frames / max(seconds, 1e-9), 1)}
    return {"data": data, "variant": variant, **percent(scores), **speed}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
