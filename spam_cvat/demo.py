"""The whole loop on a generated clip: no server, no download, about a minute.

In: a folder and a seed. Out: a rendered clip with ground truth, candidate boxes of the embedded detector, labels before
and after review with a simulated annotator, and a report. Every figure is measured on
that clip, nothing is tuned to it.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat import __version__
from spam_cvat.annotation import Annotation
from spam_cvat.appearance import open_embedder
from spam_cvat.charts import Reliability
from spam_cvat.detections import comparable
from spam_cvat.detectors import open_detector
from spam_cvat.errors import InputError
from spam_cvat.evaluation import Scores
from spam_cvat.evaluation.matching import cover, match_boxes
from spam_cvat.formats import cvat, mot
from spam_cvat.hierarchy.edge_labels import true_links
from spam_cvat.perception import perceive
from spam_cvat.report import (
    Figure,
    Picture,
    QuestionKind,
    Report,
    Row,
    draw_tracks,
    identity_colours,
    telling_frames,
    write_report,
)
from spam_cvat.review.answers import AnswersLog
from spam_cvat.review.questions import cost
from spam_cvat.review.selection import CLICKS_PER_BOX, Budget
from spam_cvat.review.sheets import render_sheet
from spam_cvat.review.simulate import Asked, Case, EconomyRow, Simulation
from spam_cvat.tracks import Tracks
from spam_cvat.training.render import CLIP, Clip, render_clip, write_video
from spam_cvat.video import Video, open_video

Progress = Callable[[str, int, int], None]

BUDGETS = ("0.5%", "1%", "1.5%", "2%", "2.5%", "3%")
"""Shares of full manual work after which quality is measured; the last one is what the demonstration spends."""
# People are 120 pixels tall and more: enlarging the image further would find no more of them.
DETECTOR, EMBEDDER = "hog?scale=1.2", "histogram"
ANNOTATOR = "simulated"

ASKS = {
    "TRACK": "Is this one real person all the way?",
    "SAME": "Which of these continues that person?",
    "SWITCH": "At which picture does the person change?",
    "FIX": "Is the box right?",
}
MEANINGS = {
    "HOTA": "detection and association, in balance",
    "DetA": "are the boxes there, and nothing else",
    "AssA": "does one track stay with one person",
    "LocA": "how tightly boxes fit",
    "IDF1": "share of boxes under the right identity",
    "MOTA": "misses, false boxes and switches, counted",
}
COUNTS = {"IDSW": "identity switches", "FP": "false boxes", "FN": "missed boxes"}


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        report: the page.
        before: scores without review.
        after: scores after it.
        rows: quality against clicks.
        clicks: spent.
        share: clicks over those of full manual work, three for each true box.
        questions: asked.
        seconds: stage by stage.
        files: everything written, by name, with what it is.
    """

    report: Path
    before: Scores
    after: Scores
    rows: tuple[EconomyRow, ...]
    clicks: float
    share: float
    questions: int
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The headline numbers as plain values."""
        return {
            "HOTA_before": self.before.HOTA,
            "HOTA_after": self.after.HOTA,
            "IDF1_before": self.before.IDF1,
            "IDF1_after": self.after.IDF1,
            "MOTA_before": self.before.MOTA,
            "MOTA_after": self.after.MOTA,
            "clicks": self.clicks,
            "questions": self.questions,
            "share_of_full_manual_clicks": self.share,
            "seconds": round(sum(self.seconds.values()), 1),
            "report": str(self.report),
        }


def run_demo(
    out: str | Path,
    seed: int = 1,
    progress: Progress | None = None,
    *,
    frames: int = CLIP.num_frames,
    detector: str = DETECTOR,
    weights: Path | None = None,
) -> DemoResult:
    """Render a clip, annotate it, review it, and report.

    Args:
        out: folder for everything that is written; made where it does not exist.
        seed: of the clip.
        progress: called with a stage's name, what is done of it and what there is to do.
        frames: length of the clip.
        detector: see :func:`spam_cvat.detectors.open_detector`.
        weights: a weights file in place of the shipped one.

    Raises:
        InputError: the folder holds a log of answers that people gave, or an argument cannot be used.
    """
    out = Path(out)
    log_path = out / "answers.jsonl"
    _refuse_human_answers(log_path)
    tell: Progress = progress or (lambda stage, done, total: None)
    clock = _Clock()
    with clock.stage("render the clip"):
        clip = render_clip(
            out / "clip.mp4",
            seed,
            replace(CLIP, num_frames=frames),
            progress=lambda done, total: tell("render", done, total),
        )
    with open_video(clip.path) as video:
        with clock.stage("detect and embed"):
            found = perceive(
                video,
                open_detector(detector),
                open_embedder(EMBEDDER),
                progress=lambda done, total: tell("detect", done, total),
            )
        with clock.stage("annotate and review"):
            simulation, before, rows, scores = _reviewed(clip, found, weights, tell)
        with clock.stage("write files and report"):
            tell("report", 0, 1)
            result = DemoResult(
                report=out / "report.html",
                before=scores[0],
                after=scores[1],
                rows=rows,
                clicks=simulation.clicks,
                share=rows[-1].share,
                questions=len(simulation.asked),
                seconds=clock.seconds,
                files=_write_files(out, clip, before, simulation, video),
            )
            _write_page(result, clip, before, simulation, video, {"seed": str(seed), "detector": detector})
    (out / "results.json").write_text(json.dumps(_results(result), indent=1))
    tell("report", 1, 1)
    return result


class _Clock:
    """Seconds that stages took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 2)


def _refuse_human_answers(path: Path) -> None:
    """Make way for a new log, unless the old one holds what people said."""
    if not path.exists():
        return
    if any(answer.by != ANNOTATOR for answer in AnswersLog(path).answers()):
        raise InputError(f"{path}: holds answers of people; give the demonstration another folder")
    path.unlink()


def _reviewed(
    clip: Clip, found: Any, weights: Path | None, tell: Progress
) -> tuple[Simulation, Annotation, tuple[EconomyRow, ...], tuple[Scores, Scores]]:
    """The simulation at its end, the annotation before it, quality against clicks, scores before and after."""
    tell("review", 0, len(BUDGETS) + 1)
    simulation = Simulation([Case(found, clip.ground_truth)], weights=weights)
    before, first = simulation.annotations[0], simulation.scores()
    rows = [simulation.row("demo")]
    for number, share in enumerate(BUDGETS, 1):
        tell("review", number, len(BUDGETS) + 1)
        simulation.spend(Budget.parse(share).of(simulation.boxes) - simulation.clicks)
        rows.append(simulation.row("demo"))
    tell("review", len(BUDGETS) + 1, len(BUDGETS) + 1)
    return simulation, before, tuple(rows), (first, simulation.scores())


def _results(result: DemoResult) -> dict[str, Any]:
    return {
        **result.summary(),
        "before": result.before.summary(),
        "after": result.after.summary(),
        "rows": [row.to_json() for row in result.rows],
        "stages": result.seconds,
        "version": __version__,
    }


# --- files -------------------------------------------------------------------------------------------------------


def _write_files(out: Path, clip: Clip, before: Annotation, simulation: Simulation, video: Video) -> dict[str, str]:
    after = simulation.annotations[0]
    after.save(out / "annotation.spam")
    AnswersLog(out / "answers.jsonl").append(simulation.answers[0])
    mot.write_tracks(out / "truth.txt", clip.ground_truth, ground_truth=True)
    mot.write_tracks(out / "before.txt", before.tracks)
    mot.write_tracks(out / "after.txt", after.tracks)
    cvat.write_xml(out / "annotations.xml", after.tracks)
    _write_comparison(out / "tracks.mp4", clip, before.tracks, after.tracks, video)
    return {
        "clip.mp4": "the generated clip",
        "truth.txt": "its ground truth, MOTChallenge format",
        "before.txt": "labels before review, MOTChallenge format",
        "after.txt": "labels after review, MOTChallenge format",
        "annotations.xml": "labels after review, for CVAT's import (CVAT for video 1.1)",
        "annotation.spam": "detections, hierarchy, probabilities and tracks after review",
        "answers.jsonl": "every answer given",
        "tracks.mp4": "the clip with tracks, before and after review side by side",
        "results.json": "all figures of this page",
    }


def _write_comparison(path: Path, clip: Clip, before: Tracks, after: Tracks, video: Video) -> None:
    colours = [identity_colours(tracks, clip.ground_truth) for tracks in (before, after)]

    def images() -> Iterator[NDArray[np.uint8]]:
        for number, image in video.frames():
            both = [draw_tracks(image, t, number, c) for t, c in zip((before, after), colours, strict=True)]
            yield np.hstack(both)

    write_video(path, images(), clip.video.fps)


# --- the page ----------------------------------------------------------------------------------------------------


def _write_page(
    result: DemoResult, clip: Clip, before: Annotation, simulation: Simulation, video: Video, facts: dict[str, str]
) -> None:
    truth, after = clip.ground_truth, simulation.annotations[0]
    full = CLICKS_PER_BOX * len(truth)
    report = Report(
        title="From boxes to reviewed tracks, in one loop",
        lead=(
            f"A generated clip of {clip.video.num_frames} frames with {len(truth.ids)} people, seen by the embedded "
            f"detector, linked by the graph hierarchy, and reviewed by a simulated annotator who answered "
            f"{result.questions} questions."
        ),
        figures=_figures(result, full),
        pairs=_pairs(truth, before.tracks, after.tracks, video),
        video="tracks.mp4",
        clicks=[row.clicks for row in result.rows],
        curve={name: [getattr(row, name) for row in result.rows] for name in ("IDF1", "HOTA", "AssA", "DetA")},
        full_clicks=full,
        truth=truth,
        before=before.tracks,
        after=after.tracks,
        backdrop=video.frame(0),
        rows=_score_rows(result.before, result.after),
        kinds=_kinds(simulation.asked),
        sheets=_sheets(simulation, video),
        calibration=calibrations(before, truth),
        seconds=result.seconds,
        files=result.files,
        facts={
            **facts,
            "embedder": EMBEDDER,
            "candidate boxes": f"{len(before.detections):,}",
            "true boxes": f"{len(truth):,}",
            "weights": str(before.provenance.get("weights", ""))[:16],
            "program": f"spam-cvat {__version__}",
        },
        caveats=(
            "The clip is drawn, not filmed, and short; real video is harder in some ways and easier in others.",
            "The simulated annotator is never wrong and never tired.",
            "Clicks are counted as one for a look at a track, one for a pick and two for a split; real seconds differ.",
            "Review can only keep or drop boxes that were proposed or filled in; people the detector never saw "
            "stay missed.",
        ),
    )
    write_report(result.report, report)


def _figures(result: DemoResult, full: float) -> list[Figure]:
    def change(name: str) -> Figure:
        old, new = getattr(result.before, name), getattr(result.after, name)
        return Figure(name, f"{100 * new:.1f}", f"{100 * old:.1f}", MEANINGS[name])

    return [
        change("HOTA"),
        change("IDF1"),
        Figure("Clicks", f"{result.clicks:g}", note=f"for {result.questions} questions"),
        Figure("Of full manual work", f"{100 * result.share:.1f} %", note=f"which is {full:,.0f} clicks, 3 a true box"),
    ]


def _pairs(truth: Tracks, before: Tracks, after: Tracks, video: Video) -> list[tuple[Picture, Picture]]:
    covers = (cover(truth, before), cover(truth, after))
    colours = [identity_colours(tracks, truth) for tracks in (before, after)]
    out = []
    for frame in telling_frames(truth, covers[0], covers[1]):
        image, pair = video.frame(frame), []
        for name, tracks, palette, covered in zip(("before", "after"), (before, after), colours, covers, strict=True):
            here = truth.frame == frame
            right, people = int(covered.right(truth.track)[here].sum()), int(here.sum())
            shown = int((tracks.frame == frame).sum())
            caption = f"Frame {frame}: {shown} boxes; {right} of {people} people under the right identity."
            pair.append(
                Picture(draw_tracks(image, tracks, frame, palette), f"Tracks {name} review. {caption}", caption)
            )
        out.append((pair[0], pair[1]))
    return out


def _score_rows(before: Scores, after: Scores) -> list[Row]:
    rows = []
    for name, meaning in MEANINGS.items():
        old, new = getattr(before, name), getattr(after, name)
        rows.append(Row(name, meaning, f"{100 * old:.1f}", f"{100 * new:.1f}", new > old))
    for name, meaning in COUNTS.items():
        old, new = getattr(before, name), getattr(after, name)
        rows.append(Row(name, meaning, f"{old:,}", f"{new:,}", new < old))
    return rows


def _kinds(asked: Sequence[Asked]) -> list[QuestionKind]:
    out = []
    for kind, asks in ASKS.items():
        mine = [one for one in asked if one.question.kind == kind]
        if mine:
            replies = Counter(one.reply.value for one in mine)
            clicks = sum(cost(one.question, one.reply) for one in mine)
            out.append(QuestionKind(kind, asks, len(mine), clicks, dict(replies.most_common())))
    return out


def _sheets(simulation: Simulation, video: Video, count: int = 4) -> list[Picture]:
    """Sheets of the questions asked first, of every kind in turn."""
    queues = [[one for one in simulation.asked if one.question.kind == kind] for kind in ASKS]
    chosen = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)][:count]
    out = []
    for one in chosen:
        image = render_sheet(one.question, simulation.annotations[0], video.frame)
        price = cost(one.question, one.reply)
        caption = f"{one.question.kind}, round {one.round}: answered “{one.reply.value}”, {price:g} click" + "s" * (
            price != 1
        )
        out.append(Picture(image, f"Question sheet. {ASKS[one.question.kind]} {caption}.", caption + "."))
    return out


def calibrations(annotation: Annotation, truth: Tracks) -> list[Reliability]:
    """How far the gate's and the links' probabilities can be believed, against ground truth.

    A detection is true where it is matched to a person (IoU >= 0.5, one to one in its frame), a link where it joins
    successive tracklets of one person.
    """
    found = annotation.detections
    partner = match_boxes(found.frame, found.box, truth.frame, truth.box)
    identity = np.where(partner >= 0, truth.track[partner], 0).astype(np.int64)
    candidate = comparable(found).score >= float(annotation.config.get("min_score", 0))
    out = [Reliability.of("gate, each candidate box", annotation.gate[candidate], (identity > 0)[candidate])]
    stated, true = [], []
    for level in annotation.levels:
        if len(level.edge):
            stated.append(level.probability)
            true.append(true_links(level, found.frame.astype(np.int64), identity))
    if stated:
        out.append(Reliability.of("links, all levels", np.concatenate(stated), np.concatenate(true)))
    return out
