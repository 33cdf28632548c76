"""Review, sync and undo: the commands that turn questions into final labels.

In: an annotated task. Out of ``create_review``: a review task. Out of ``sync_task``: answers in the log, the task's
tracks solved again with them, and written by three-way merge. Out of ``undo_task``: the tracks as they were before.

Sync has three steps, each of which can be cut off and done again: read the completed review jobs and what humans edited
in the task itself, and append the answers to the log; solve; write back. Only the log and CVAT hold human work.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer, current, digest, resolve
from spam_cvat.boxes import iou_matrix
from spam_cvat.cvat.annotate import (
    Progress,
    WriteReport,
    answers_of,
    load_motion,
    stored_annotation,
)
from spam_cvat.cvat.connect import Connection, CvatStatusError
from spam_cvat.cvat.gestures import Box, Places, interpret, meaning
from spam_cvat.cvat.merge import Pushed
from spam_cvat.cvat.replies import Collected, Replied, collect
from spam_cvat.cvat.review_record import load_reviews, save_review
from spam_cvat.cvat.review_tasks import QUESTIONS_PER_JOB, ReviewReport, open_review
from spam_cvat.cvat.spans import Span, read_span
from spam_cvat.cvat.store import Store, TaskStore, utc_now
from spam_cvat.cvat.tasks import JobInfo, TaskInfo, read_task
from spam_cvat.cvat.writeback import (
    Memory,
    carry_out,
    carry_out_undo,
    make_plan,
    plan_undo,
    read_jobs,
    recall,
)
from spam_cvat.detections import Detections
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.errors import SpamError
from spam_cvat.review.answers import AnswersLog
from spam_cvat.review.selection import Budget, select_questions

WATCH_SECONDS = 30.0

log = logging.getLogger(__name__)

Json = dict[str, Any]


# --- review -----------------------------------------------------------------------------------------------------------


def create_review(
    conn: Connection,
    store: Store,
    task_id: int,
    budget: Budget | str,
    form: str = "sheets",
    assignees: Sequence[str] = (),
    questions_per_job: int = QUESTIONS_PER_JOB,
    *,
    strategy: str = "gain",
    progress: Progress | None = None,
) -> ReviewReport:
    """Turn what the model is least sure of into review jobs.

    A second call finds the open review of the same questions; one that was cut off resumes.

    Args:
        conn: the server.
        store: where things are remembered.
        task_id: CVAT's number of the annotated task.
        budget: clicks (``120``) or a share of full manual work (``3%``).
        form: ``sheets`` or ``tracklets``.
        assignees: user names; jobs are dealt out in turn.
        questions_per_job: as many go into one job.
        strategy: how questions are chosen, see :func:`spam_cvat.review.selection.select_questions`.
        progress: called with the stage, the steps done and to do.

    Raises:
        InputError: budget, form or an assignee cannot be used, or there is nothing to ask about.
        CvatError: the server refused or failed; asking again resumes.
    """
    wanted = Budget.parse(budget) if isinstance(budget, str) else budget
    task = read_task(conn, task_id)
    place = store.task(conn.url, task_id)
    with place.lock():
        annotation, notes = stored_annotation(conn, place, task)
        if notes:
            place.save_annotation(annotation)
        answers = answers_of(place)
        if digest(answers) != annotation.provenance.get("answers"):
            notes = (*notes, "answers came in since the task was solved last: sync first, to ask about what is left")
        told = {q for review in load_reviews(place) for q in review.unsure}
        questions = select_questions(annotation, wanted, strategy=strategy, exclude=told, answers=answers)
        report = open_review(
            conn,
            place,
            task,
            annotation,
            questions,
            form=form,
            assignees=assignees,
            questions_per_job=questions_per_job,
            progress=progress,
        )
    return replace(report, notes=(*notes, *report.notes))


# --- sync -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyncReport:
    """What a sync did, or would do.

    Attributes:
        task: CVAT's number.
        dry_run: nothing was written, neither here nor there.
        jobs_read: review jobs that were completed or changed since they were read last.
        jobs_open: review jobs that are not completed.
        replies: questions by the word replied, ``?`` for those not answered.
        answers: answers appended to the log.
        edits: of these, taken from what humans edited in the task itself.
        clicks: what the new replies cost.
        solved: whether the task was solved again.
        write: what was written into the task.
        conflicts: answers that do not count, because later ones contradict them, in words.
        drawn: (frame, box) drawn by humans in review jobs where no detection is; they stay in the review task.
        notes: in words.
    """

    task: int
    dry_run: bool = False
    jobs_read: int = 0
    jobs_open: int = 0
    replies: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    edits: int = 0
    clicks: float = 0.0
    solved: bool = False
    write: WriteReport = field(default_factory=WriteReport)
    conflicts: tuple[str, ...] = ()
    drawn: tuple[tuple[int, Box], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every review job is completed and nothing waits to be written."""
        return not self.jobs_open and not self.write.held


def sync_task(
    conn: Connection,
    store: Store,
    task_id: int,
    watch: bool = False,
    dry_run: bool = False,
    *,
    force: bool = False,
    interval: float = WATCH_SECONDS,
    config: EngineConfig | None = None,
    weights: Path | None = None,
    aliases: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_report: Callable[[SyncReport], None] | None = None,
) -> SyncReport:
    """Bring answers home: log them, solve the task again, write the result without touching what humans did.

    Args:
        conn: the server.
        store: where things are remembered.
        task_id: CVAT's number of the annotated task.
        watch: go on, every ``interval`` seconds, until every review job is completed and written.
        dry_run: tell what would be done and write nothing.
        force: write also into jobs that somebody may have open.
        interval: seconds between two looks.
        config: of the engine; by default as the task was annotated.
        weights: a weights file in place of the shipped one.
        aliases: the task's name for a detector's label.
        progress: called with the stage, the steps done and to do.
        on_report: called after every look.

    Returns:
        The report of the last look.

    Raises:
        InputError: there is nothing to sync, or the task has no label that fits.
        CvatError: the server refused or failed; running it again carries on. While watching, a server that is away
            for a while is waited for.
    """
    while True:
        try:
            report = _sync_once(conn, store, task_id, dry_run, force, config, weights, aliases, progress)
        except CvatStatusError as error:
            if not watch or (error.status and error.status < 500):
                raise
            log.warning("%s; trying again in %.0f s", error, interval)
        else:
            if on_report:
                on_report(report)
            if not watch or dry_run or report.finished:
                return report
        time.sleep(interval)


def _sync_once(
    conn: Connection,
    store: Store,
    task_id: int,
    dry_run: bool,
    force: bool,
    config: EngineConfig | None,
    weights: Path | None,
    aliases: Mapping[str, str] | None,
    progress: Progress | None,
) -> SyncReport:
    task = read_task(conn, task_id)
    place = store.task(conn.url, task_id)
    with place.lock():
        by_job = read_jobs(conn, task)
        annotation, notes = stored_annotation(conn, place, task, by_job)
        labels = task.match_labels(annotation.tracks.labels, aliases)
        memory = recall(task, place, by_job, annotation.tracks, labels)
        collected = _collect(conn, place, annotation.detections)
        replies = [reply for item in collected for reply in item.replies]
        logged = answers_of(place)
        fresh = list(new_answers(logged, replies))
        edits = list(new_edits([*logged, *fresh], task, memory, by_job, annotation))
        answers = [*logged, *fresh, *edits]
        if not dry_run:
            _append(place, [*fresh, *edits])
            for item in collected:
                save_review(place, item.review)
    solved = digest(answers) != annotation.provenance.get("answers")
    if solved:
        if progress:
            progress("solving", 0, 1)
        annotation = _solve(annotation, answers, place, config, weights)
    # The lock was let go for the solve, which may take minutes: look again at what is there.
    with place.lock():
        task = read_task(conn, task_id)
        by_job = read_jobs(conn, task)
        memory = recall(task, place, by_job, _tracks_written(place, annotation), labels)
        plan = make_plan(task, memory, by_job, annotation.tracks, labels, force=force)
        backup = None
        if not dry_run:
            report = (lambda done, total: progress("writing", done, total)) if progress else None
            backup = carry_out(conn, task, place, memory, plan, provenance=annotation.provenance, progress=report)
            if solved or place.annotation() is None:
                place.save_annotation(annotation)
    words: dict[str, int] = {}
    for reply in replies:
        words[reply.value] = words.get(reply.value, 0) + 1
    return SyncReport(
        task=task_id,
        dry_run=dry_run,
        jobs_read=sum(item.jobs for item in collected),
        jobs_open=sum(item.open for item in collected),
        replies=words,
        answers=len(fresh) + len(edits),
        edits=len(edits),
        clicks=sum(answer.clicks for answer in fresh),
        solved=solved,
        write=WriteReport.of(plan, backup),
        conflicts=tuple(resolve(answers, annotation.detections).conflicts) if answers else (),
        drawn=tuple(place_ for reply in replies for place_ in reply.drawn),
        notes=(*notes, *memory.notes, *_notes(collected)),
    )


def _tracks_written(place: TaskStore, annotation: Annotation) -> Any:
    """The tracks that the last push wrote: those of the annotation in the store."""
    stored = place.annotation()
    return annotation.tracks if stored is None else stored.tracks


def _notes(collected: Iterable[Collected]) -> Iterator[str]:
    for item in collected:
        yield from item.notes
        for reply in item.replies:
            yield from reply.notes


def _collect(conn: Connection, place: TaskStore, detections: Detections) -> list[Collected]:
    return [
        collect(conn, review, detections)
        for review in load_reviews(place)
        if review.state in ("open", "done") and review.task is not None
    ]


def _append(place: TaskStore, answers: Sequence[Answer]) -> None:
    if answers:
        with place.answers_file() as path:
            AnswersLog(path).append(answers)


def _solve(
    annotation: Annotation,
    answers: Sequence[Answer],
    place: TaskStore,
    config: EngineConfig | None,
    weights: Path | None,
) -> Annotation:
    """The same detections with all answers clamped; configured as before unless told otherwise."""
    known = {name: value for name, value in annotation.config.items() if name in EngineConfig.__dataclass_fields__}
    warps = load_motion(place, annotation.video.num_frames)
    again = annotate(
        annotation.detections,
        config=config or EngineConfig(**known),
        warps=warps,
        answers=answers,
        weights=weights,
    )
    return replace(again, provenance={**annotation.provenance, **again.provenance})


# --- what is new in the log -------------------------------------------------------------------------------------------


def _says(answer: Answer) -> tuple[Any, ...]:
    return answer.kind, answer.detections, answer.box, answer.identity


def new_answers(logged: Sequence[Answer], replies: Iterable[Replied]) -> Iterator[Answer]:
    """The answers that are not in the log yet.

    A reply that says what the log says of its question already adds nothing; another one replaces it, since it carries
    a later time; one that was taken back is withdrawn. A question not answered here leaves other jobs' answers alone.
    """
    latest: dict[str, list[Answer]] = {}
    for answer in logged:
        if answer.question is not None:
            before = latest.get(answer.question, [])
            latest[answer.question] = [*before, answer] if before and before[0].at == answer.at else [answer]
    for reply in replies:
        question = reply.asked.question.id
        before = latest.get(question, [])
        if [_says(answer) for answer in before] == [_says(answer) for answer in reply.answers]:
            continue
        if reply.answers:
            yield from reply.answers
        elif before and before[0].kind != "withdraw" and before[0].job == str(reply.job):
            yield Answer("withdraw", by=reply.by, at=reply.at, job=str(reply.job), question=question)


def new_edits(
    logged: Sequence[Answer],
    task: TaskInfo,
    memory: Memory,
    by_job: Mapping[int, Json],
    annotation: Annotation,
) -> Iterator[Answer]:
    """What humans did to our tracks in the task itself, as answers that are not in the log yet.

    Moved boxes refine, merged tracks are one person, a split one is two, a deleted one is not real. The edits
    themselves stay in CVAT whatever the engine makes of these.
    """
    known = {_says(answer) for answer in current(logged)[0]}
    finder = _Finder(annotation)
    at = utc_now()
    for job in task.annotation_jobs:
        base = memory.base.get(job.id, [])
        for answer in _edits_of_job(job, base, by_job[job.id], finder):
            if _says(answer) not in known:
                known.add(_says(answer))
                name = hashlib.sha256(json.dumps(answer.to_json()["detections"]).encode()).hexdigest()[:12]
                yield replace(answer, at=at, question=f"edit-{answer.kind}-{name}")


def _edits_of_job(job: JobInfo, base: Sequence[Pushed], now: Json, finder: "_Finder") -> tuple[Answer, ...]:
    before = {pushed.id: {**pushed.content, "id": pushed.id} for pushed in base}
    there = {int(track["id"]): track for track in now["tracks"]}
    if all(number in there and there[number] == track for number, track in before.items()) and len(there) == len(
        before
    ):
        return ()
    stop = job.stop - 1
    spans = {number: read_span(track, job.start, stop) for number, track in before.items()}
    human = {pushed.id: set(pushed.human) for pushed in base}
    gestures = [
        gesture
        for gesture in interpret({"tracks": list(before.values())}, {"tracks": now["tracks"]}, job.start, stop)
        if gesture.kind not in ("draw", "attribute", "inside")
        # What a human left there before our last write has been told of then.
        and not (gesture.frame is not None and gesture.tracks and gesture.frame in human.get(gesture.tracks[0], ()))
    ]
    places = Places(
        at=lambda number, frame: finder.at(spans[number], frame),
        whole=lambda number: finder.whole(spans[number]),
        context=finder.context,
    )
    return meaning(gestures, places, by=job.assignee or "", job=f"task job {job.id}", hidden_is_false=False).answers


class _Finder:
    """Detections by the boxes that our tracks show in CVAT, which are smoothed, thinned and rounded."""

    def __init__(self, annotation: Annotation) -> None:
        self.detections = annotation.detections
        self.tracked = np.zeros(len(annotation.detections), bool)
        rows = annotation.tracks.detection
        self.tracked[rows[rows >= 0]] = True
        self.rows: dict[int, int] = {}

    def at(self, span: Span, frame: int) -> int | None:
        """The detection that a box came from: the one that overlaps it most, those in tracks first."""
        box = span.at(frame)
        if box is None or not 0 <= frame < self.detections.video.num_frames:
            return None
        start, stop = (int(row) for row in self.detections.frame_start[frame : frame + 2])
        overlap = iou_matrix(box[None].astype(np.float32), self.detections.box[start:stop])[0]
        rank = np.where(overlap >= 0.5, overlap + self.tracked[start:stop], 0.0)
        if not rank.size or rank.max() == 0:
            return None
        row = start + int(rank.argmax())
        identity = int(self.detections.id[row])
        self.rows[identity] = row
        return identity

    def whole(self, span: Span) -> tuple[int, ...]:
        """The detections of a whole track."""
        found = (self.at(span, int(frame)) for frame in span.visible)
        return tuple(identity for identity in found if identity is not None)

    def context(self, identity: int) -> tuple[float, float, float, float, float] | None:
        """Where a detection found here is."""
        row = self.rows.get(identity)
        if row is None:
            return None
        x1, y1, x2, y2 = (round(float(value), 1) for value in self.detections.box[row])
        return float(self.detections.frame[row]), x1, y1, x2, y2


# --- undo -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UndoReport:
    """What an undo did, or would do.

    Attributes:
        task: CVAT's number.
        dry_run: nothing was written.
        backup: the one restored.
        at: when it was taken.
        restored: tracks put back as they were.
        deleted: tracks taken away.
        kept: what a human changed since and therefore stayed, in words.
        notes: in words.
    """

    task: int
    dry_run: bool
    backup: str
    at: str
    restored: int
    deleted: int
    kept: tuple[str, ...]
    notes: tuple[str, ...] = ()


def undo_task(
    conn: Connection, store: Store, task_id: int, *, steps: int = 1, dry_run: bool = False, force: bool = False
) -> UndoReport:
    """Take back the last write of tracks into a task; called again, the one before.

    What humans changed since stays. The answers stay in the log: the next sync uses them again.

    Args:
        conn: the server.
        store: where things are remembered.
        task_id: CVAT's number.
        steps: how many writes to take back.
        dry_run: tell what would be done and write nothing.
        force: go on although humans changed some of the tracks since; what they changed stays in any case.

    Raises:
        SpamError: there is nothing to undo, or humans changed what would be restored and ``force`` is not set.
        CvatError: the server refused or failed; running it again carries on.
    """
    if steps < 1:
        raise SpamError(f"undo of {steps} writes: at least one")
    place = store.task(conn.url, task_id)
    reports = []
    with place.lock():
        for _ in range(1 if dry_run else steps):
            reports.append(_undo_once(conn, place, read_task(conn, task_id), dry_run, force))
    last = reports[-1]
    return replace(
        last,
        restored=sum(report.restored for report in reports),
        deleted=sum(report.deleted for report in reports),
        kept=tuple(dict.fromkeys(line for report in reports for line in report.kept)),
    )


def _undo_once(conn: Connection, place: TaskStore, task: TaskInfo, dry_run: bool, force: bool) -> UndoReport:
    by_job = read_jobs(conn, task)
    annotation = place.annotation()
    tracks, labels = None, None
    if annotation is not None:
        tracks, labels = annotation.tracks, task.match_labels(annotation.tracks.labels)
    memory = recall(task, place, by_job, tracks, labels)
    plan = plan_undo(task, place, memory, by_job)
    if plan.kept and not (force or dry_run):
        raise SpamError(
            f"task {task.id}: humans changed {len(plan.kept)} of the tracks since the write of {plan.at}: "
            f"{plan.kept[0]}{' and more' if len(plan.kept) > 1 else ''}; nothing was undone: "
            "--dry-run lists them, --force restores the others and keeps these"
        )
    if not dry_run:
        carry_out_undo(conn, task, place, memory, plan)
    return UndoReport(
        task=task.id,
        dry_run=dry_run,
        backup=plan.backup,
        at=plan.at,
        restored=sum(map(len, plan.restore.values())),
        deleted=sum(map(len, plan.delete.values())),
        kept=plan.kept,
        notes=("the answers stay in the log: the next sync uses them again",),
    )
