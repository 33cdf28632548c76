"""Export: the task's labels as they are now, in files, with where they come from and how good they should be.

In: a task. Out: a folder with MOTChallenge text, CVAT XML, the Annotation with the final tracks, and a README that
tells what was automatic, what humans said, and what is expected to be wrong.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spam_cvat import __version__
from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer, current, resolve
from spam_cvat.boxes import iou_matrix
from spam_cvat.cvat.annotate import answers_of
from spam_cvat.cvat.connect import Connection
from spam_cvat.cvat.push import load_record
from spam_cvat.cvat.store import Store, utc_now
from spam_cvat.cvat.tasks import TaskInfo, read_task, read_tracks
from spam_cvat.errors import InputError, SpamError
from spam_cvat.formats.cvat import write_xml
from spam_cvat.formats.mot import write_tracks
from spam_cvat.tracks import Tracks

FROM_DETECTION = 0.5
"""A box in CVAT comes from the detection that it overlaps most, from this IoU on."""


@dataclass(frozen=True)
class Expected:
    """What is expected to be wrong, from the calibrated probabilities; zero where nothing is known.

    Attributes:
        boxes: in the labels.
        detected: of these, boxes that a detection supports; the others were interpolated or drawn.
        answered: of these, boxes that an answer confirmed.
        false_boxes: expected number of boxes that show nobody.
        links: steps from one tracklet to the next that the model decided on.
        wrong_links: expected number of these that join two people.
    """

    boxes: int
    detected: int = 0
    answered: int = 0
    false_boxes: float = 0.0
    links: int = 0
    wrong_links: float = 0.0


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        task: CVAT's number.
        folder: where it is.
        files: names in it.
        tracks: identities.
        boxes: boxes of all tracks.
        expected: what should be wrong.
        answers: answers by kind.
        clicks: what they cost.
        notes: in words.
    """

    task: int
    folder: Path
    files: tuple[str, ...]
    tracks: int
    boxes: int
    expected: Expected
    answers: Mapping[str, int]
    clicks: float
    notes: tuple[str, ...] = ()


def export_task(conn: Connection, store: Store, task_id: int, out: str | Path) -> ExportReport:
    """Write a task's labels, as they are in CVAT now, into a folder.

    Args:
        conn: the server.
        store: where things are remembered.
        task_id: CVAT's number.
        out: the folder; made where it is missing, files of an earlier export are replaced.

    Raises:
        InputError: the task holds no tracks.
        SpamError: the folder cannot be written.
        CvatError: the server refused or failed.
    """
    task = read_task(conn, task_id)
    place = store.task(conn.url, task_id)
    record = load_record(place, task)
    tracks = read_tracks(conn, task, record.identities).tracks.relabelled()
    if not len(tracks):
        raise InputError(f"task {task_id} holds no tracks: annotate it first")
    annotation = place.annotation()
    notes: list[str] = []
    if annotation is not None and annotation.video.num_frames != task.size:
        notes.append("the stored annotation is of other frames: left out")
        annotation = None
    elif annotation is None:
        notes.append(f"{place.location} holds no annotation of this task: nothing is known of its quality")
    answers = answers_of(place)
    final = None if annotation is None else with_tracks(annotation, tracks)
    expected = Expected(len(tracks)) if final is None else expected_quality(final, answers)
    folder = Path(out)
    counting = current(answers)[0]
    report = ExportReport(
        task=task_id,
        folder=folder,
        files=("README.md", "tracks.txt", "annotations.xml", "labels.json")
        + (("annotation.spam",) if final is not None else ()),
        tracks=len(tracks.ids),
        boxes=len(tracks),
        expected=expected,
        answers=dict(sorted(Counter(answer.kind for answer in counting).items())),
        clicks=sum(answer.clicks for answer in answers),
        notes=tuple(notes),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tracks(folder / "tracks.txt", tracks)
        write_xml(folder / "annotations.xml", tracks)
        if final is not None:
            final.save(folder / "annotation.spam")
        provenance = dict(record.provenance) if final is None else dict(final.provenance)
        (folder / "labels.json").write_text(json.dumps(_facts(task, report, provenance), indent=1) + "\n")
        (folder / "README.md").write_text(_readme(task, report, provenance))
    except OSError as error:
        raise SpamError(f"{folder}: cannot write the export: {error.strerror or error}") from error
    return report


def with_tracks(annotation: Annotation, tracks: Tracks) -> Annotation:
    """The annotation with other final tracks, each of their boxes tied to the detection it overlaps most.

    Tracks whose labels the annotation does not know keep them; the detections' own are left as they are.
    """
    detections = annotation.detections
    rows = np.full(len(tracks), -1, np.int64)
    order = np.argsort(tracks.frame, kind="stable")
    starts = np.searchsorted(tracks.frame[order], np.arange(tracks.video.num_frames + 1))
    for frame, slot in detections.by_frame():
        mine = order[starts[frame] : starts[frame + 1]]
        overlap = iou_matrix(tracks.box[mine], detections.box[slot])
        while overlap.size and overlap.max() >= FROM_DETECTION:
            i, j = np.unravel_index(overlap.argmax(), overlap.shape)
            rows[mine[i]] = slot.start + j
            overlap[i], overlap[:, j] = 0, 0
    return replace(annotation, tracks=replace(tracks, video=detections.video, detection=rows))


def expected_quality(annotation: Annotation, answers: Sequence[Answer] = ()) -> Expected:
    """What should be wrong in an annotation's tracks, summed over what nobody was asked about."""
    tracks, detections = annotation.tracks, annotation.detections
    rows = tracks.detection[tracks.detection >= 0]
    clamps = resolve(answers, detections)
    known = clamps.gate[rows] == 1
    false = 1 - annotation.gate[rows].astype(float)
    links, wrong = 0, 0.0
    for level in annotation.levels:
        taken = level.probability[level.decision].astype(float)
        links += len(taken)
        wrong += float((1 - taken).sum())
    return Expected(
        boxes=len(tracks),
        detected=len(rows),
        answered=int(known.sum()),
        false_boxes=round(float(false[~known].sum()), 1),
        links=links,
        wrong_links=round(wrong, 1),
    )


def _facts(task: TaskInfo, report: ExportReport, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task.id,
        "name": task.name,
        "server": task.server,
        "frames": task.size,
        "deleted_frames": list(task.deleted),
        "tracks": report.tracks,
        "boxes": report.boxes,
        "expected": asdict(report.expected),
        "answers": dict(report.answers),
        "clicks": report.clicks,
        "provenance": dict(provenance),
        "exported": utc_now(),
        "program": f"spam-cvat {__version__}",
    }


def _readme(task: TaskInfo, report: ExportReport, provenance: Mapping[str, Any]) -> str:
    expected = report.expected
    share = 100 * expected.false_boxes / max(expected.boxes, 1)
    manual = 100 * report.clicks / max(3 * expected.boxes, 1)
    answers = ", ".join(f"{count} {kind}" for kind, count in report.answers.items()) or "none"
    lines = [
        f"# Labels of CVAT task {task.id}: {task.name}",
        "",
        f"{report.tracks} tracks, {report.boxes} boxes in {task.size} frames ({len(task.deleted)} of them deleted), "
        f"as they were in {task.server} on {utc_now()[:19]}Z. Written by spam-cvat {__version__}.",
        "",
        "| file | what |",
        "| --- | --- |",
        "| `tracks.txt` | MOTChallenge: frame (from 1), track, left, top, width, height, confidence, -1, -1, -1 |",
        "| `annotations.xml` | CVAT for video 1.1, to be imported into a task of the same frames |",
    ]
    if "annotation.spam" in report.files:
        lines.append("| `annotation.spam` | everything the model knows: detections, probabilities, decisions, tracks |")
    lines += [
        "| `labels.json` | the figures below |",
        "",
        "## Where they come from",
        "",
        *(f"* {name}: {value}" for name, value in provenance.items()),
        f"* answers: {answers}; {report.clicks:.0f} clicks, {manual:.2f} % of full manual work at 3 clicks a box",
        "",
        "## What to expect",
        "",
    ]
    if "annotation.spam" in report.files:
        lines += [
            f"* {expected.detected} boxes rest on a detection, {expected.boxes - expected.detected} were interpolated "
            f"or drawn; answers confirmed {expected.answered}.",
            f"* About {expected.false_boxes:.0f} boxes ({share:.1f} %) are expected to show nobody.",
            f"* About {expected.wrong_links:.0f} of {expected.links} links are expected to join two people.",
            "",
            "These are sums of the model's probabilities over what nobody was asked about. What no detection showed is "
            "not in them.",
        ]
    else:
        lines.append("Nothing is known: the store holds no annotation of this task.")
    return "\n".join([*lines, *(f"\n{note}" for note in report.notes), ""])
