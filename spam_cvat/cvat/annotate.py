"""Annotate a CVAT task from this side: frames from the server, the engine here, tracks back into the task.

In: a task. Out: tracks in it, the Annotation and the camera's motion in the store. What the function does on the
server's side, without a function; a second run replaces its own tracks, and what a human did stays.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer
from spam_cvat.appearance import open_embedder
from spam_cvat.cache import default_cache
from spam_cvat.cvat.connect import Connection
from spam_cvat.cvat.merge import Conflict
from spam_cvat.cvat.store import Store, TaskStore
from spam_cvat.cvat.tasks import TaskInfo, TaskVideo, assemble_tracks, read_detections, read_task, rectangle_tracks
from spam_cvat.cvat.writeback import WritePlan, carry_out, make_plan, read_jobs, recall
from spam_cvat.detections import Detections
from spam_cvat.detectors import open_detector
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.errors import InputError
from spam_cvat.motion import open_motion
from spam_cvat.perception import perceive
from spam_cvat.review.answers import AnswersLog
from spam_cvat.source import embed

DEFAULT_DETECTOR = "hog"
MOTION_FILE = "motion.npy"

Progress = Callable[[str, int, int], None]
Json = dict[str, Any]


@dataclass(frozen=True)
class WriteReport:
    """What a write did, or would do.

    Attributes:
        created: CVAT tracks made.
        updated: CVAT tracks given a new content under their id.
        deleted: CVAT tracks of ours taken away.
        kept: tracks of ours that were right already.
        human: tracks that a human drew or edited.
        withheld: boxes not written because a human decided about them.
        conflicts: where a human's version was kept against the new result, in words.
        held: jobs left alone for now, in words.
        warnings: in words.
        backup: name of the backup; None where nothing was written.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    kept: int = 0
    human: int = 0
    withheld: int = 0
    conflicts: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    backup: str | None = None

    @classmethod
    def of(cls, plan: WritePlan, backup: str | None = None) -> "WriteReport":
        """The report of a plan."""
        return cls(
            created=plan.count("create"),
            updated=plan.count("update"),
            deleted=plan.count("delete"),
            kept=plan.count("keep"),
            human=plan.count("human"),
            withheld=plan.withheld,
            conflicts=tuple(_conflicts(plan)),
            held=tuple(f"job {held.job}: {held.reason}" for held in plan.held),
            warnings=plan.warnings,
            backup=backup,
        )


def _conflicts(plan: WritePlan) -> Iterator[str]:
    for job, item in plan.jobs.items():
        conflict: Conflict
        for conflict in item.conflicts:
            yield f"job {job}, {conflict}"


@dataclass(frozen=True)
class AnnotateReport:
    """What annotating a task did.

    Attributes:
        task: its number.
        frames: of the task that are not deleted.
        detections: candidate boxes.
        tracks: identities found.
        boxes: boxes of all tracks.
        write: what was written.
        seconds: by stage.
        notes: in words.
    """

    task: int
    frames: int
    detections: int
    tracks: int
    boxes: int
    write: WriteReport
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def annotate_task(
    conn: Connection,
    store: Store,
    task_id: int,
    *,
    detector: str | None = None,
    embedder: str = "histogram",
    motion: str = "auto",
    config: EngineConfig | None = None,
    weights: Path | None = None,
    aliases: Mapping[str, str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> AnnotateReport:
    """Find tracks in a task's frames and write them into it.

    Args:
        conn: the server.
        store: where things are remembered.
        task_id: CVAT's number.
        detector: ``task`` (the rectangles in the task) or a detector's spec; by default ``task`` where it holds
            rectangles, else ``hog``.
        embedder: an embedder's spec, ``none`` for none.
        motion: camera motion: ``auto``, ``none`` or a file.
        config: of the engine.
        weights: a weights file in place of the shipped one.
        aliases: the task's name for a detector's label.
        force: write also into jobs that somebody may have open.
        dry_run: write nothing, neither here nor there.
        cache_dir: of what was perceived; by default the user's.
        progress: called with the stage, the steps done and to do.

    Raises:
        InputError: a spec cannot be used, the task has no label that fits or no rectangles where they are asked for.
        CvatError: the server refused or failed; running it again carries on.
    """
    seconds: dict[str, float] = {}
    task = read_task(conn, task_id)
    place = store.task(conn.url, task_id)
    with _timed(seconds, "detect"):
        found, seen = detect_task(conn, task, detector, embedder, cache_dir=cache_dir, progress=progress)
    labels = task.match_labels(found.labels, aliases)
    named = [row for row, name in enumerate(found.labels) if name in labels]
    found = found.select(np.isin(found.label, named))
    with _timed(seconds, "motion"), TaskVideo(conn, task) as video:
        warps = open_motion(motion, video, found)
    with _timed(seconds, "engine"):
        annotation = annotate(found, config=config, warps=warps, answers=answers_of(place), weights=weights)
    annotation = replace(annotation, provenance={**annotation.provenance, "perception": seen})
    with _timed(seconds, "write"), place.lock():
        task = read_task(conn, task_id)
        by_job = read_jobs(conn, task)
        memory = recall(task, place, by_job, _tracks(place.annotation()), labels)
        plan = make_plan(task, memory, by_job, annotation.tracks, labels, force=force, restore=True)
        backup = None
        if not dry_run:
            save_motion(place, warps)
            backup = carry_out(conn, task, place, memory, plan, provenance=annotation.provenance, kind="push")
            place.save_annotation(annotation)
    return AnnotateReport(
        task=task_id,
        frames=len(task.frames()),
        detections=len(found),
        tracks=len(annotation.tracks.ids),
        boxes=len(annotation.tracks),
        write=WriteReport.of(plan, backup),
        seconds=seconds,
        notes=tuple(memory.notes),
    )


def _tracks(annotation: Annotation | None) -> Any:
    return None if annotation is None else annotation.tracks


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = round(time.monotonic() - begun, 3)


def detect_task(
    conn: Connection,
    task: TaskInfo,
    detector: str | None,
    embedder: str,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Detections, str]:
    """A task's candidate boxes with their appearance, and the name of what found them.

    Raises:
        InputError: a spec cannot be used, or the task holds no rectangles where they are asked for.
    """
    net = open_embedder(embedder)
    given = read_detections(conn, task) if detector in (None, "task") else None
    if given is not None and (len(given) or detector == "task"):
        if not len(given):
            raise InputError(f"task {task.id} holds no rectangles: give a detector, as in --detector hog")
        if net is not None:
            with TaskVideo(conn, task) as video:
                given = embed(video, given, net, progress=progress and partial(progress, "embed"))
        return given, "task" + (f" + {net.name}" if net else "")
    net_name = f" + {net.name}" if net else ""
    finder = open_detector(detector or DEFAULT_DETECTOR)
    report = progress and partial(progress, "detect")
    with TaskVideo(conn, task) as video:
        found = perceive(video, finder, net, progress=report, cache_dir=cache_dir or default_cache())
    return found, finder.name + net_name


def answers_of(place: TaskStore) -> list[Answer]:
    """The answers log of a task, oldest first; empty where there is none."""
    with place.answers_file() as path:
        return AnswersLog(path).answers() if path.exists() else []


def save_motion(place: TaskStore, warps: NDArray[np.float64] | None) -> None:
    """Keep the camera's motion beside the annotation: a new solve needs it and should not need the pixels."""
    if warps is None:
        place.delete(MOTION_FILE)
        return
    buffer = io.BytesIO()
    np.save(buffer, warps, allow_pickle=False)
    place.write_bytes(MOTION_FILE, buffer.getvalue())


def load_motion(place: TaskStore, num_frames: int) -> NDArray[np.float64] | None:
    """What :func:`save_motion` kept; None where the camera is taken for still or the task has changed since."""
    data = place.read_bytes(MOTION_FILE)
    warps = None if data is None else np.load(io.BytesIO(data), allow_pickle=False)
    return warps if warps is not None and len(warps) == num_frames else None


def stored_annotation(
    conn: Connection, place: TaskStore, task: TaskInfo, by_job: Mapping[int, Json] | None = None
) -> tuple[Annotation, tuple[str, ...]]:
    """A task's Annotation from the store; where there is none, one made of the tracks that the task holds.

    The latter knows the boxes of the tracks alone, so questions are about who is who, and what the detector missed
    stays missed; the notes say so.

    Returns:
        The annotation, and notes in words.

    Raises:
        InputError: the store holds nothing and the task holds no tracks, or the stored one is of other frames.
    """
    annotation = place.annotation()
    if annotation is not None:
        if annotation.video.num_frames != task.size:
            raise InputError(
                f"task {task.id} has {task.size} frames, the annotation in {place.location} has "
                f"{annotation.video.num_frames}: its data was replaced; annotate it again"
            )
        return annotation, ()
    jobs = by_job if by_job is not None else read_jobs(conn, task)
    tracks = assemble_tracks(task, {job: rectangle_tracks(item) for job, item in jobs.items()}).tracks
    if not len(tracks):
        raise InputError(
            f"{place.location} holds nothing about task {task.id}, and the task holds no tracks: annotate it first"
        )
    boxes = Detections.create(
        task.video, tracks.frame, tracks.box, label=tracks.label, labels=tracks.labels, drop_bad=True
    )
    rebuilt = annotate(boxes, config=EngineConfig(gate=False, smooth=False), answers=answers_of(place))
    rebuilt = replace(rebuilt, provenance={**rebuilt.provenance, "perception": "tracks of the task"})
    note = (
        f"{place.location} holds nothing about task {task.id}: rebuilt from its {len(tracks.ids)} tracks "
        f"({len(tracks)} boxes); set SPAM_STORE to the function's store to use what it knows"
    )
    return rebuilt, (note,)
