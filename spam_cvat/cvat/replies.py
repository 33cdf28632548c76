"""Replies: what the jobs of a review task say.

In: a review and its jobs in CVAT. Out: answers for the log, question by question, with what could not be understood in
words. Radio values are found by their attribute's id, questions by their frames' file names.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spam_cvat.answers import Answer
from spam_cvat.boxes import iou_matrix
from spam_cvat.cvat.connect import Connection, CvatStatusError
from spam_cvat.cvat.gestures import Box, Gesture, Places, interpret, meaning
from spam_cvat.cvat.review_record import Asked, Review
from spam_cvat.cvat.review_tasks import tracklets_of
from spam_cvat.cvat.spans import attribute_values
from spam_cvat.cvat.tasks import JobInfo, TaskInfo, job_annotations, read_task
from spam_cvat.detections import Detections
from spam_cvat.review.questions import LABELS, Reply, to_answers

UNANSWERED = "?"

Json = dict[str, Any]


@dataclass(frozen=True)
class Replied:
    """What a review job says about one question.

    Attributes:
        asked: the question.
        answers: what the reply amounts to; empty where it says nothing.
        value: the reply's word, ``?`` where there is none.
        job: CVAT's number.
        by: who.
        at: when.
        notes: what could not be understood, in words.
        drawn: (frame of the video, box) of what was drawn where no detection is.
    """

    asked: Asked
    answers: tuple[Answer, ...]
    value: str
    job: int
    by: str
    at: str
    notes: tuple[str, ...] = ()
    drawn: tuple[tuple[int, Box], ...] = ()


@dataclass(frozen=True)
class Collected:
    """What was read from a review task.

    Attributes:
        review: the review, with the jobs read noted; ``done`` once all are.
        replies: one per question of the jobs read.
        jobs: jobs read.
        open: jobs that are not completed.
        notes: in words.
    """

    review: Review
    replies: tuple[Replied, ...]
    jobs: int
    open: int
    notes: tuple[str, ...] = ()


def collect(conn: Connection, review: Review, detections: Detections) -> Collected:
    """Read the completed jobs of a review that changed since they were read last.

    Radio values that are not offered, missing tags and deleted frames count as not answered.

    Args:
        conn: the server.
        review: an open or done one.
        detections: of the annotation that is in the store now.
    """
    assert review.task is not None
    try:
        info = read_task(conn, review.task)
    except CvatStatusError as error:
        if error.status != 404:
            raise
        note = f"review task {review.task} is gone; what was answered in it before is kept"
        return Collected(replace(review, state="lost"), (), 0, 0, (note,))
    jobs = {job.id: job for job in info.annotation_jobs}
    notes = [
        f"review job {number} is gone: its questions are not answered" for number in review.jobs if number not in jobs
    ]
    completed = [job for job in info.annotation_jobs if job.state == "completed"]
    due = [job for job in completed if review.read.get(job.id) != job.updated]
    replies: list[Replied] = []
    for job in due:
        replies += _read_job(conn, info, job, review, detections)
    state = "done" if len(completed) == len(jobs) else "open"
    unsure = {reply.asked.question.id for reply in replies if reply.value == "unsure"}
    known = {reply.asked.question.id for reply in replies}
    review = replace(
        review,
        state=state,
        read={**review.read, **{job.id: job.updated for job in due}},
        unsure=tuple(sorted(unsure | (set(review.unsure) - known))),
    )
    return Collected(review, tuple(replies), len(due), len(jobs) - len(completed), tuple(notes))


def _read_job(conn: Connection, info: TaskInfo, job: JobInfo, review: Review, detections: Detections) -> list[Replied]:
    now = job_annotations(conn, job.id)
    before = review.before.get(job.id, {"tags": [], "shapes": [], "tracks": []})
    places = {Path(name).name: frame for frame, name in enumerate(info.frame_names)}
    kinds = {label.id: kind for label in info.labels for kind, name in LABELS.items() if name == label.name}
    specs = {a.id for label in info.labels for a in label.attributes if a.name == "answer"}
    deleted = set(info.deleted)
    here = [
        asked for asked in review.asked if asked.files[0] in places and job.start <= places[asked.files[0]] < job.stop
    ]
    gestures = interpret(before, now, job.start, job.stop - 1)
    out = []
    for asked in here:
        frames = [places[name] for name in asked.files if name in places]
        context = _Context(asked, frames, job, now, before, kinds, specs, detections)
        if deleted.issuperset(frames):
            note = f"question {asked.question.id}: its frames were deleted, not answered"
            out.append(_replied(context, (), UNANSWERED, (note,)))
        elif asked.objects and asked.question.kind != "FIX":
            mine = [g for g in gestures if _belongs(g, context) and g.frame not in deleted]
            out.append(_read_tracklets(context, mine))
        elif asked.question.kind == "FIX":
            out.append(_read_fix(context))
        else:
            out.append(_read_tag(context))
    return out


@dataclass(frozen=True)
class _Context:
    """A question and where its reply is."""

    asked: Asked
    frames: Sequence[int]
    job: JobInfo
    now: Json
    before: Json
    kinds: Mapping[int, str]
    specs: set[int]
    detections: Detections

    def values(self, item: Mapping[str, Any]) -> list[str]:
        """The answers that an object carries."""
        return [value for spec, value in attribute_values(item.get("attributes", ())).items() if spec in self.specs]


def _replied(
    context: _Context,
    answers: Sequence[Answer],
    value: str,
    notes: Sequence[str] = (),
    drawn: Sequence[tuple[int, Box]] = (),
) -> Replied:
    job = context.job
    by = job.assignee or ""
    return Replied(context.asked, tuple(answers), value, job.id, by, job.updated, tuple(notes), tuple(drawn))


def _say(context: _Context, reply: Reply, notes: Sequence[str] = ()) -> Replied:
    job = context.job
    answers = to_answers(
        context.asked.question, reply, job.assignee or "", job.updated, str(job.id), context.detections
    )
    return _replied(context, answers, reply.value, notes)


def _chosen(context: _Context, items: Iterable[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The one answer that objects carry, and notes where they say several or something unknown."""
    question = context.asked.question
    said = [value for item in items for value in context.values(item) if value != UNANSWERED]
    usable = sorted({value for value in said if value in question.choices})
    notes = [
        f"question {question.id}: {value!r} is no answer to it, not answered"
        for value in sorted(set(said) - set(question.choices))
    ]
    if len(usable) > 1:
        notes.append(f"question {question.id}: says {' and '.join(usable)}, not answered")
    return (usable[0] if len(usable) == 1 else UNANSWERED), notes


def _read_tag(context: _Context) -> Replied:
    frame, kind = context.frames[0], context.asked.question.kind
    tags = [tag for tag in context.now["tags"] if tag["frame"] == frame and context.kinds.get(tag["label_id"]) == kind]
    value, notes = _chosen(context, tags)
    if value == UNANSWERED:
        return _replied(context, (), value, notes)
    return _say(context, Reply(value), notes)


def _read_fix(context: _Context) -> Replied:
    """A box on a real frame: moved means fixed, whatever key was pressed with it; gone means not a person."""
    frame = context.frames[0]
    shapes = [shape for shape in context.now["shapes"] if shape["frame"] == frame and shape["type"] == "rectangle"]
    old = {shape["id"]: shape for shape in context.before["shapes"] if shape["frame"] == frame}
    if not shapes:
        return _say(context, Reply("not a person")) if old else _replied(context, (), UNANSWERED)
    ours = [shape for shape in shapes if shape["id"] in old]
    drawn = [shape for shape in shapes if shape["id"] not in old]
    value, notes = _chosen(context, shapes)
    if value == "not a person":
        return _say(context, Reply(value), notes)
    moved = [s for s in ours if np.abs(np.subtract(s["points"], old[s["id"]]["points"])).max() > 0.02]
    changed = drawn[-1:] or moved[-1:]
    if changed:
        x1, y1, x2, y2 = (round(float(value), 2) for value in changed[0]["points"])
        return _say(context, Reply("fixed", (x1, y1, x2, y2)), notes)
    if value == "fixed":
        notes.append(f"question {context.asked.question.id}: says fixed, but the box is as it was: taken as ok")
        value = "ok"
    if value == UNANSWERED:
        return _replied(context, (), value, notes)
    return _say(context, Reply(value), notes)


def _belongs(gesture: Gesture, context: _Context) -> bool:
    if gesture.tracks:
        return any(number in context.asked.objects for number in gesture.tracks)
    return gesture.frame in context.frames


def _read_tracklets(context: _Context, gestures: Sequence[Gesture]) -> Replied:
    """A question on real frames: the answer pressed, if any, and everything that was put right by hand."""
    asked, question = context.asked, context.asked.question
    roles = dict(tracklets_of(question))
    mine = [track for track in context.now["tracks"] if asked.objects.get(int(track["id"])) == "asked"]
    value, notes = _chosen(context, mine)
    job = context.job
    said = meaning(
        [gesture for gesture in gestures if gesture.kind != "attribute"],
        _places(context, {number: roles[role] for number, role in asked.objects.items()}),
        by=job.assignee or "",
        at=job.updated,
        job=str(job.id),
        question=question.id,
    )
    answers = [*said.answers]
    if value != UNANSWERED:
        # What was done by hand is more exact than the key, so it comes later in the log and wins.
        answers = [*_say(context, Reply(value)).answers, *answers]
    elif answers:
        value = "by hand"
    notes += [f"question {question.id}: {note}" for note in said.notes]
    return _replied(context, answers, value, notes, said.drawn)


def _places(context: _Context, tracklets: Mapping[int, tuple[int, ...]]) -> Places:
    detections, asked = context.detections, context.asked
    source = dict(zip(context.frames, asked.sources, strict=False))
    known = {int(identity): row for row, identity in enumerate(detections.id)}
    at: dict[tuple[int, int], int] = {}
    for number, ids in tracklets.items():
        for identity in ids:
            row = known.get(identity)
            if row is not None:
                at[number, int(detections.frame[row])] = identity
    taken = {identity for ids in tracklets.values() for identity in ids}

    def near(frame: int, box: Box) -> int | None:
        return detection_near(detections, source.get(frame, -1), box, taken)

    def place(identity: int) -> tuple[float, float, float, float, float] | None:
        row = known.get(identity)
        if row is None:
            return None
        x1, y1, x2, y2 = (round(float(value), 1) for value in detections.box[row])
        return float(detections.frame[row]), x1, y1, x2, y2

    return Places(
        at=lambda number, frame: at.get((number, source.get(frame, -1))),
        whole=lambda number: tracklets.get(number, ()),
        near=near,
        source=lambda frame: source.get(frame, frame),
        context=place,
    )


def detection_near(
    detections: Detections,
    frame: int,
    box: Box,
    taken: Collection[int] = (),
) -> int | None:
    """Id of the detection that overlaps a drawn box most, at least by IoU 0.5, and is not among ``taken``."""
    if not 0 <= frame < detections.video.num_frames:
        return None
    start, stop = (int(row) for row in detections.frame_start[frame : frame + 2])
    overlap = iou_matrix(np.array([box], np.float32), detections.box[start:stop])[0]
    for row in np.argsort(-overlap) + start:
        if overlap[row - start] < 0.5:
            return None
        if int(detections.id[row]) not in taken:
            return int(detections.id[row])
    return None
