"""The command line: ``spam-cvat COMMAND``.

Reads options, calls the rooms below, prints what they return. Exit codes: 0 done, 1 failed, 2 bad input. With
``--json`` a command prints exactly one JSON object on standard output; progress and messages go to standard error.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spam_cvat import __version__
from spam_cvat.errors import InputError, SpamError

app = typer.Typer(
    name="spam-cvat",
    help="Multi-object tracks for CVAT: a graph annotates the video, humans answer only what it is unsure of.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    help="Train the networks: on generated scenes, on pseudo-labels, on answers.", no_args_is_help=True
)
app.add_typer(train_app, name="train")

messages = Console(stderr=True)
output = Console()

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="SPAM_STORE", help="Folder or fsspec URL that keeps annotations, answers and backups."
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Weights of the hierarchy; the shipped ones by default.")
]


TaskNumber = Annotated[int, typer.Argument(metavar="TASK", help="Number of the CVAT task.")]
Server = Annotated[str | None, typer.Option("--server-host", help="Address of the CVAT server.")]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile saved by cvat-cli.")]
Organization = Annotated[str | None, typer.Option("--org", help="Short name of the organization to work in.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done and write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Write also into jobs that somebody may have open.")]
Alias = Annotated[
    list[str] | None, typer.Option("--label", metavar="DETECTOR=TASK", help="The task's name for a detector's label.")
]


class TrackFormat(StrEnum):
    """File formats that ``track`` writes."""

    mot = "mot"
    cvat = "cvat"


class Preset(StrEnum):
    """Rules of evaluation."""

    mot17 = "mot17"
    plain = "plain"


class ReviewForm(StrEnum):
    """How questions are put to annotators."""

    sheets = "sheets"
    tracklets = "tracklets"


def main() -> None:
    """Entry point of the ``spam-cvat`` command; turns errors into one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()  # prints usage errors itself and exits with 2
    except SpamError as error:
        messages.print(f"[bold red]spam-cvat:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _plain(text: object) -> str:
    """Text in which rich sees no markup."""
    return str(text).replace("[", "\\[")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback ``(stage, done, total)``: a bar on a terminal, a plain line at every tenth of a stage otherwise."""
    if messages.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=messages, transient=True) as bars:
            tasks: dict[str, Any] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield show
    else:
        last: dict[str, int] = {}

        def line(stage: str, done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if last.get(stage) != tenth:
                last[stage] = tenth
                print(f"{stage}: {done}/{total}", file=sys.stderr, flush=True)

        yield line


def _emit(result: Mapping[str, Any], as_json: bool, title: str = "") -> None:
    """Print a result: one JSON object, or a two-column table."""
    if as_json:
        print(json.dumps(result, indent=1, default=str))
        return
    table = Table(title=title or None, show_header=False, title_justify="left")
    for key, value in result.items():
        table.add_row(key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else _plain(value))
    output.print(table)


def _emit_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows of like columns: one JSON object, or a table."""
    if as_json:
        print(json.dumps({"rows": list(rows)}, indent=1, default=str))
        return
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else _plain(value) for value in row.values()))
    output.print(table)


@contextmanager
def _cvat(server: str | None, profile: str | None, organization: str | None, store: str | None) -> Iterator[Any]:
    """A connection and a store; login as in cvat-cli: a profile, or ``CVAT_ACCESS_TOKEN``."""
    from spam_cvat.cvat.connect import connect
    from spam_cvat.cvat.store import Store

    with connect(server, profile=profile, organization=organization) as connection:
        yield connection, Store(store)


def _aliases(pairs: Sequence[str] | None) -> dict[str, str]:
    """``DETECTOR=TASK`` pairs as a table.

    Raises:
        InputError: a pair has no ``=``.
    """
    table = {}
    for pair in pairs or ():
        name, sign, label = pair.partition("=")
        if not (name and sign and label):
            raise InputError(f"--label {pair}: write DETECTOR=TASK, such as person=pedestrian")
        table[name] = label
    return table


def _report(report: Any, as_json: bool, title: str) -> None:
    """Print a result that is a dataclass: all of it as JSON, or what there is to read in it."""
    values = asdict(report)
    if as_json:
        _emit(values, True)
        return
    lines = {}
    for key, value in values.items():
        for name, part in value.items() if isinstance(value, dict) else [(key, value)]:
            if isinstance(part, list | tuple):
                part = "\n".join(_line(item) for item in part)
            if part not in (None, "", {}):
                lines[name] = part
    _emit(lines, False, title)


def _line(item: Any) -> str:
    """One entry of a list on one line."""
    return ", ".join(f"{key} {value}" for key, value in item.items()) if isinstance(item, dict) else str(item)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    if verbose:
        logging.getLogger("spam_cvat").setLevel(logging.INFO)
    if version:
        print(f"spam-cvat {__version__}")
        raise typer.Exit


# --- files ------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the clip, the labels and the report.")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, another clip.")] = 1,
    as_json: Json = False,
) -> None:
    """Run the whole loop on a generated clip with ground truth: no server, no download."""
    from spam_cvat.demo import run_demo

    with _progress() as progress:
        result = run_demo(out, seed=seed, progress=progress)
    _emit(result.summary(), as_json, "The loop on a generated clip")


@app.command()
def track(
    source: Annotated[Path, typer.Argument(help="A video file, a folder of images or a MOTChallenge sequence.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write the tracks to.")],
    detections: Annotated[Path | None, typer.Option(help="MOTChallenge detections, in place of a detector.")] = None,
    detector: Annotated[str | None, typer.Option(help="hog, onnx:FILE or nuclio:URL.")] = None,
    embedder: Annotated[str, typer.Option(help="histogram, onnx:FILE or none.")] = "histogram",
    motion: Annotated[str, typer.Option(help="Camera motion: auto, none or a gmc file.")] = "auto",
    frames: Annotated[str | None, typer.Option(help="A:B, only frames A to B-1, counted from 0.")] = None,
    answers: Annotated[Path | None, typer.Option(help="A log of answers that the tracks must respect.")] = None,
    file_format: Annotated[TrackFormat, typer.Option("--format", help="Format of the tracks.")] = TrackFormat.mot,
    save: Annotated[Path | None, typer.Option(help="Also write the whole annotation to this *.spam file.")] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Annotate a video file, an image folder or a MOTChallenge sequence."""
    from spam_cvat.engine import annotate as run_engine
    from spam_cvat.review.answers import AnswersLog
    from spam_cvat.source import load_source

    if answers is not None and not answers.is_file():
        raise InputError(f"{answers}: no such log of answers")
    with _progress() as progress:
        video = load_source(
            source,
            detections=detections,
            detector=detector,
            embedder=embedder,
            motion=motion,
            frames=frames,
            progress=progress,
        )
    log = AnswersLog(answers).answers() if answers is not None else None
    result = run_engine(video.detections, warps=video.warps, answers=log, weights=weights)
    _write(result.tracks, out, file_format)
    if save is not None:
        result.save(save)
    summary = {
        "frames": result.video.num_frames,
        "detections": len(result.detections),
        "tracks": len(result.tracks.ids),
        "boxes": len(result.tracks),
        "written": str(out),
    }
    _emit(summary, as_json)


def _write(tracks: Any, path: Path, file_format: TrackFormat) -> None:
    from spam_cvat.formats import cvat, mot

    path.parent.mkdir(parents=True, exist_ok=True)
    if file_format is TrackFormat.mot:
        mot.write_tracks(path, tracks)
    else:
        cvat.write_xml(path, tracks)


@app.command()
def evaluate(
    ground_truth: Annotated[Path, typer.Argument(metavar="GT", help="gt.txt, or a MOTChallenge sequence folder.")],
    tracks: Annotated[Path, typer.Argument(metavar="TRACKS", help="Result file in MOTChallenge format.")],
    preset: Annotated[Preset, typer.Option(help="mot17 sets distractors aside as the benchmark does.")] = Preset.plain,
    as_json: Json = False,
) -> None:
    """Score tracks against ground truth: HOTA, DetA, AssA, LocA, MOTA, IDF1, IDSW, FP, FN."""
    from spam_cvat import evaluation

    scores = evaluation.evaluate_files(ground_truth, tracks, preset=preset.value)
    _emit(scores.summary(), as_json, f"{tracks.name} against {ground_truth}")


@app.command()
def simulate(
    sequences: Annotated[list[Path], typer.Argument(metavar="SEQ...", help="MOTChallenge folders with ground truth.")],
    budget: Annotated[list[str], typer.Option(help="Clicks, or a share of full manual work such as 3.3%.")],
    detections: Annotated[str | None, typer.Option(help="Name of the file in det/ to take boxes from.")] = None,
    strategy: Annotated[str, typer.Option(help="gain, spam, entropy or random.")] = "gain",
    error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of wrong answers.")] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often questions are chosen between two budgets.")] = 4,
    preset: Annotated[Preset, typer.Option(help="Rules of evaluation.")] = Preset.plain,
    seed: int = 0,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Run the review loop with a simulated annotator: quality against clicks."""
    from spam_cvat.formats import mot
    from spam_cvat.review.selection import Budget
    from spam_cvat.review.simulate import Case
    from spam_cvat.review.simulate import simulate as run_simulation
    from spam_cvat.source import detection_file

    budgets = [Budget.parse(text) for text in budget]
    cases = [Case.of(mot.read_sequence(folder, detection_file(folder, detections))) for folder in sequences]
    rows = run_simulation(
        cases,
        budgets,
        data=", ".join(folder.name for folder in sequences),
        rounds=rounds,
        strategy=strategy,
        error_rate=error_rate,
        seed=seed,
        preset=preset.value,
        weights=weights,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _emit_rows([row.to_json() for row in rows], as_json)


# --- CVAT -------------------------------------------------------------------------------------------------------------


@app.command()
def annotate(
    task: TaskNumber,
    detector: Annotated[
        str | None, typer.Option(help="task (rectangles in the task), hog, onnx:FILE or nuclio:URL.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="histogram, onnx:FILE or none.")] = "histogram",
    motion: Annotated[str, typer.Option(help="Camera motion: auto, none or a gmc file.")] = "auto",
    label: Alias = None,
    weights: Weights = None,
    dry_run: DryRun = False,
    force: Force = False,
    server: Server = None,
    profile: Profile = None,
    organization: Organization = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Find tracks in a CVAT task's frames and write them into it."""
    from spam_cvat.cvat.annotate import annotate_task

    with _cvat(server, profile, organization, store) as (connection, place), _progress() as progress:
        report = annotate_task(
            connection,
            place,
            task,
            detector=detector,
            embedder=embedder,
            motion=motion,
            aliases=_aliases(label),
            weights=weights,
            dry_run=dry_run,
            force=force,
            progress=progress,
        )
    _report(report, as_json, f"Task {task} annotated" + (" (dry run)" if dry_run else ""))


@app.command()
def review(
    task: TaskNumber,
    budget: Annotated[str, typer.Option(help="Clicks, or a share of full manual work such as 3%.")],
    form: Annotated[ReviewForm, typer.Option(help="A picture per question, or tracks on real frames.")] = (
        ReviewForm.sheets
    ),
    assign: Annotated[
        list[str] | None, typer.Option(help="User who answers; give several to share the jobs out.")
    ] = None,
    per_job: Annotated[int, typer.Option(min=1, help="Questions in one job.")] = 25,
    strategy: Annotated[str, typer.Option(help="gain, spam, entropy or random.")] = "gain",
    server: Server = None,
    profile: Profile = None,
    organization: Organization = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Turn what the model is least sure of into review jobs."""
    from spam_cvat.cvat.sync import create_review

    with _cvat(server, profile, organization, store) as (connection, place), _progress() as progress:
        report = create_review(
            connection,
            place,
            task,
            budget,
            form.value,
            assign or (),
            per_job,
            strategy=strategy,
            progress=progress,
        )
    _report(report, as_json, f"Review of task {task}")


@app.command()
def sync(
    task: TaskNumber,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until every review job is answered.")] = False,
    dry_run: DryRun = False,
    force: Force = False,
    label: Alias = None,
    weights: Weights = None,
    server: Server = None,
    profile: Profile = None,
    organization: Organization = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Bring answers home: log them, solve again, write the result without touching what humans did."""
    from spam_cvat.cvat.sync import SyncReport, sync_task

    title = f"Sync of task {task}" + (" (dry run)" if dry_run else "")

    def show(report: SyncReport) -> None:
        if watch and not as_json:
            _report(report, False, title)

    with _cvat(server, profile, organization, store) as (connection, place), _progress() as progress:
        report = sync_task(
            connection,
            place,
            task,
            watch,
            dry_run,
            force=force,
            aliases=_aliases(label),
            weights=weights,
            progress=progress,
            on_report=show,
        )
    if as_json or not watch:
        _report(report, as_json, title)


@app.command()
def undo(
    task: TaskNumber,
    steps: Annotated[int, typer.Option(min=1, help="How many writes to take back.")] = 1,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Go on although humans edited tracks since; edits stay.")] = (
        False
    ),
    server: Server = None,
    profile: Profile = None,
    organization: Organization = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Take back the last write of tracks into a task."""
    from spam_cvat.cvat.sync import undo_task

    with _cvat(server, profile, organization, store) as (connection, place):
        report = undo_task(connection, place, task, steps=steps, dry_run=dry_run, force=force)
    _report(report, as_json, f"Undo in task {task}" + (" (dry run)" if dry_run else ""))


@app.command()
def export(
    task: TaskNumber,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the labels.")],
    server: Server = None,
    profile: Profile = None,
    organization: Organization = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Write a task's labels as they are now: MOTChallenge, CVAT XML, the annotation, and what is expected wrong."""
    from spam_cvat.cvat.export import export_task

    with _cvat(server, profile, organization, store) as (connection, place):
        report = export_task(connection, place, task, out)
    _report(report, as_json, f"Task {task} exported to {out}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the dashboard API and of direct calls.")] = 8070,
    name: Annotated[str | None, typer.Option(help="The function's name in CVAT.")] = None,
) -> None:
    """Serve the CVAT function over HTTP without Nuclio, speaking Nuclio's dashboard API."""
    from spam_cvat.serving import gateway

    logging.getLogger("spam_cvat").setLevel(logging.INFO)
    gateway.serve(host, port, name=name)


# --- training and checking --------------------------------------------------------------------------------------------


@train_app.command("gate-and-links")
def train_gate_and_links(
    out: Annotated[Path, typer.Option("-o", "--out", help="File for the weights.")] = Path("out/gate-and-links.npz"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Pretrain the hierarchy on generated scenes; the shipped weights are those of seed 0."""
    from spam_cvat.training.pretrain import pretrain

    with _progress() as progress:
        pretrain(seed, out, progress=lambda stage, share: progress(stage, round(100 * share), 100))
    _emit({"weights": str(out), "seed": seed, "bytes": out.stat().st_size}, as_json)


@app.command()
def doctor(
    function: Annotated[
        str | None, typer.Option(envvar="SPAM_FUNCTION_URL", help="Address of the function or the gateway.")
    ] = None,
    server: Server = None,
    organization: Organization = None,
    as_json: Json = False,
) -> None:
    """Say what works here: torch, GPU, weights, networks, the store, CVAT, the function and its last failed run."""
    from spam_cvat.doctor import diagnose

    checks = diagnose(server=server, organization=organization, function=function)
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        _emit({"works": not failed, "checks": [asdict(check) for check in checks]}, True)
    else:
        table = Table("check", "status", "what was found")
        colours = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
        for check in checks:
            table.add_row(check.name, f"[{colours[check.status]}]{check.status}[/]", _plain(check.detail))
        output.print(table)
    raise typer.Exit(1 if failed else 0)
