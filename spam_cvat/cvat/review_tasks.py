"""Review tasks: questions as CVAT jobs, and the replies read back.

In: an annotated task and questions. Out: a review task of its own (its labels are the questions, so it cannot
share the source's project), with one job per batch of questions, a guide with links, and assignees.

Two forms. *Sheets*: one picture per question, one tag with one radio answer, two keys a question; a box to fix is shown
on its real frame. *Tracklets*: 6 to 12 real frames a question with the tracklet and its candidates as CVAT tracks,
which can be moved, merged, split and deleted as anywhere in CVAT.

What is asked is written into the store before anything is created, so that a creation that was cut off is resumed, and
a second call finds the review that is open. A question is known by its frames' file names and the server's ids alone.
"""

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cvat_sdk.api_client import models
from cvat_sdk.core.proxies.tasks import ResourceType
from numpy.typing import NDArray

from spam_cvat.annotation import Annotation
from spam_cvat.cvat.connect import Connection, CvatStatusError, explain
from spam_cvat.cvat.review_record import Asked, Review, load_reviews, save_review
from spam_cvat.cvat.store import TaskStore, utc_now
from spam_cvat.cvat.tasks import JobInfo, TaskInfo, TaskVideo, job_annotations, read_task
from spam_cvat.detections import Detections
from spam_cvat.errors import CvatError, InputError
from spam_cvat.review.questions import LABELS, REPLIES, Question, review_labels
from spam_cvat.review.sheets import needed_frames, render_sheet

FORMS = ("sheets", "tracklets")
QUESTIONS_PER_JOB = 25
TRACKLET_FRAMES = (6, 12)
KIND_ORDER = tuple(REPLIES)
JPEG_QUALITY = 92
STATUS_SECONDS = 1.0
"""Between two looks at whether CVAT has taken in the pictures."""

log = logging.getLogger(__name__)

Json = dict[str, Any]
Progress = Callable[[str, int, int], None]


# --- Opening a review -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviewJob:
    """A job to hand out.

    Attributes:
        id: CVAT's number.
        url: the address that opens it in the right workspace at its first question.
        questions: how many it holds.
        assignee: user name or None.
    """

    id: int
    url: str
    questions: int
    assignee: str | None


@dataclass(frozen=True)
class ReviewReport:
    """What came of asking for a review.

    Attributes:
        task: number of the review task, None where there was nothing to ask.
        created: whether it is new.
        form: ``sheets`` or ``tracklets``.
        questions: number of questions.
        clicks: what they are expected to cost.
        kinds: number of questions of each kind.
        jobs: to be answered.
        notes: in words.
    """

    task: int | None
    created: bool
    form: str
    questions: int
    clicks: float
    kinds: Mapping[str, int]
    jobs: tuple[ReviewJob, ...]
    notes: tuple[str, ...] = ()


def open_review(
    conn: Connection,
    store: TaskStore,
    task: TaskInfo,
    annotation: Annotation,
    questions: Sequence[Question],
    *,
    form: str = "sheets",
    assignees: Sequence[str] = (),
    questions_per_job: int = QUESTIONS_PER_JOB,
    progress: Progress | None = None,
) -> ReviewReport:
    """Put questions into a review task, or find the one that holds them already. The caller holds the task's lock.

    Args:
        conn: the server.
        store: the source task's place.
        task: the source task.
        annotation: what the questions are about.
        questions: best first; those that are in an open review of this task are not asked again.
        form: ``sheets`` or ``tracklets``.
        assignees: user names; jobs are dealt out in turn.
        questions_per_job: as many go into one job.
        progress: called with the stage, the steps done and to do.

    Raises:
        InputError: the form is unknown, or an assignee is.
        CvatError: the server refused or failed; asking again resumes.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r}: not one of {', '.join(FORMS)}")
    if questions_per_job < 1:
        raise InputError(f"{questions_per_job} questions a job: at least one")
    people = [_user_id(conn, name) for name in assignees]
    notes: list[str] = []
    gone = set(task.deleted)
    showable = [q for q in questions if gone.isdisjoint(_frames_of(q, annotation.detections))]
    if len(showable) < len(questions):
        notes.append(f"{len(questions) - len(showable)} questions show frames that were deleted: left out")
    reviews = _living(conn, store, notes)
    waiting = [review for review in reviews if review.state in ("open", "creating")]
    asked = set().union(*(review.ids for review in waiting)) if waiting else set()
    fresh = [question for question in showable if question.id not in asked]
    if not fresh:
        if not waiting:
            notes.append("nothing to ask: the model is sure enough, or everything has been asked")
            return ReviewReport(None, False, form, 0, 0.0, {}, (), tuple(notes))
        review = waiting[-1]
        created = review.state == "creating"
        if len(waiting) > 1:
            notes.append(f"{len(waiting)} reviews are open: tasks {', '.join(str(r.task) for r in waiting)}")
    else:
        review = _new_review(fresh, form, questions_per_job, annotation.detections)
        created = True
    if review.state == "creating":
        review = _create(conn, store, task, annotation, review, progress)
    _assign(conn, review, list(zip(assignees, people, strict=True)), assign_taken=False)
    return _report(conn, review, created, notes)


def _new_review(questions: Sequence[Question], form: str, per_job: int, detections: Detections) -> Review:
    batches = [list(questions[first : first + per_job]) for first in range(0, len(questions), per_job)]
    # The best questions are in the first job; inside a job the kind changes as rarely as possible.
    for batch in batches:
        batch.sort(key=lambda q: (KIND_ORDER.index(q.kind), _frames_of(q, detections)[0]))
    ordered = [question for batch in batches for question in batch]
    key = hashlib.sha256("\n".join([form, *sorted(q.id for q in ordered)]).encode()).hexdigest()[:12]
    asked = tuple(_asked(number, question, form, detections) for number, question in enumerate(ordered, 1))
    return Review(key, form, "creating", utc_now(), asked, tuple(len(batch) for batch in batches))


def _asked(number: int, question: Question, form: str, detections: Detections) -> Asked:
    stem = f"{number:04d}_{question.kind}_{question.id}"
    if question.kind == "FIX":
        [source] = _frames_of(question, detections)[:1]
        return Asked(question, (f"{stem}_f{source:06d}.jpg",), (source,))
    if form == "sheets":
        return Asked(question, (f"{stem}.jpg",), (-1,))
    sources = _tracklet_frames(question, detections)
    return Asked(question, tuple(f"{stem}_f{source:06d}.jpg" for source in sources), sources)


def _rows(ids: Iterable[int], detections: Detections) -> list[int]:
    order = np.argsort(detections.id)
    wanted = np.fromiter(ids, np.uint64)
    place = np.searchsorted(detections.id[order], wanted)
    place = np.minimum(place, len(order) - 1)
    rows = order[place]
    if (detections.id[rows] != wanted).any():
        raise InputError("a question is about detections that the annotation does not have; annotate again")
    return [int(row) for row in rows]


def _frames_of(question: Question, detections: Detections) -> list[int]:
    if question.kind == "FIX":
        return [int(detections.frame[row]) for row in _rows(question.subject, detections)]
    return needed_frames(question, detections)


def _tracklet_frames(question: Question, detections: Detections) -> tuple[int, ...]:
    """Six to twelve frames: those that a sheet would show, and more of the tracklet where these are few."""
    fewest, most = TRACKLET_FRAMES
    shown = sorted({int(detections.frame[row]) for row in _rows(question.shown, detections)})
    if len(shown) > most:
        shown = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, most).round().astype(int))]
    rest = [int(detections.frame[row]) for row in _rows(question.subject, detections)]
    rest = [frame for frame in dict.fromkeys(rest) if frame not in shown]
    lacking = min(fewest - len(shown), len(rest))
    if lacking > 0:
        shown += [rest[i] for i in np.linspace(0, len(rest) - 1, lacking).round().astype(int)]
    return tuple(sorted(set(shown)))


def _living(conn: Connection, store: TaskStore, notes: list[str]) -> list[Review]:
    """The reviews, those marked as lost whose task is gone."""
    out = []
    for review in load_reviews(store):
        if review.state in ("open", "done") and review.task is not None and not _exists(conn, review.task):
            if review.state == "open":
                notes.append(f"review task {review.task} is gone: its unanswered questions may be asked again")
            review = replace(review, state="lost")
            save_review(store, review)
        out.append(review)
    return out


def _exists(conn: Connection, task: int) -> bool:
    try:
        conn.get(f"/api/tasks/{task}", what=f"review task {task}", **_anywhere())
    except CvatStatusError as error:
        if error.status == 404:
            return False
        raise
    return True


def _anywhere() -> Json:
    return {"no_organization": True}


def _user_id(conn: Connection, name: str) -> int:
    found = conn.pages("/api/users", {"search": name}, what=f"user {name}")
    for user in found:
        if user["username"] == name:
            return int(user["id"])
    raise InputError(f"the server knows no user {name!r}; give the name as it is used to log in")


# --- Creating the task ------------------------------------------------------------------------------------------------


def _create(
    conn: Connection,
    store: TaskStore,
    task: TaskInfo,
    annotation: Annotation,
    review: Review,
    progress: Progress | None,
) -> Review:
    """Carry a review from ``creating`` to ``open``; every step can be done again."""
    save_review(store, review)
    with _organization(conn, task):
        if review.task is None:
            number = _find_or_upload(conn, task, annotation, review, progress)
            review = replace(review, task=number)
            save_review(store, review)
        assert review.task is not None
        created = read_task(conn, review.task)
        jobs = created.annotation_jobs
        _check_frames(created, review)
        review = _write_questions(conn, created, annotation, review, progress)
        review = replace(review, jobs=tuple(job.id for job in jobs))
        _write_guide(conn, created, review)
    review = replace(review, state="open")
    save_review(store, review)
    return review


@contextmanager
def _organization(conn: Connection, task: TaskInfo) -> Iterator[None]:
    """Create things where the source task is: in its organization, or in nobody's."""
    if task.organization is None:
        slug: str | None = None
        if conn.organization is not None:
            slug = ""
    else:
        slug = str(conn.get(f"/api/organizations/{task.organization}", what="the task's organization")["slug"])
    with conn.client.organization_context(slug) if slug is not None else nullcontext():
        yield


def _task_name(task: TaskInfo, review: Review) -> str:
    return f"Review of task {task.id}: {task.name[:120]} [{len(review.asked)} questions, {review.key}]"


def _find_or_upload(
    conn: Connection, task: TaskInfo, annotation: Annotation, review: Review, progress: Progress | None
) -> int:
    """The review's task: left by a call that was cut off, or made now."""
    name = _task_name(task, review)
    expected = sum(len(asked.files) for asked in review.asked)
    for found in conn.pages("/api/tasks", {"search": review.key}, what="looking for the review task"):
        if found["name"] != name:
            continue
        if found.get("size") == expected:
            return int(found["id"])
        # Ours, by name, and without all of its frames: nobody can have worked in it.
        conn.delete(f"/api/tasks/{found['id']}", what=f"incomplete review task {found['id']}")
    with tempfile.TemporaryDirectory(prefix="spam-cvat-review-") as folder:
        paths = _render(conn, task, annotation, review, Path(folder), progress)
        if progress:
            progress("uploading", 0, 1)
        mapping = [[name for asked in review.batch(k) for name in asked.files] for k in range(len(review.batches))]
        with explain("creating the review task", conn.url):
            made = conn.client.tasks.create_from_data(
                models.TaskWriteRequest(name=name, labels=_label_requests(review.form)),
                resources=[str(path) for path in paths],
                resource_type=ResourceType.LOCAL,
                data_params={"image_quality": 90, "job_file_mapping": mapping},
                status_check_period=STATUS_SECONDS,
            )
        if progress:
            progress("uploading", 1, 1)
        return int(made.id)


def _label_requests(form: str) -> list[Any]:
    labels = review_labels() if form == "sheets" else tracklet_labels()
    return [models.PatchedLabelRequest(**label) for label in labels]


def tracklet_labels() -> list[Json]:
    """The labels of a review in the form of tracklets: one per kind of question.

    The tracklet asked about and its candidates share the label, because CVAT's page merges tracks of one label only;
    the attribute ``role`` tells them apart.
    """
    role = {
        "name": "role",
        "mutable": False,
        "input_type": "select",
        "default_value": "asked",
        "values": ["asked", *(f"cand {k}" for k in range(1, 7))],
    }
    out = []
    for label in review_labels():
        attributes = [*label["attributes"]] + ([role] if label["name"] != LABELS["FIX"] else [])
        out.append({**label, "type": "rectangle", "attributes": attributes})
    return out


def _render(
    conn: Connection,
    task: TaskInfo,
    annotation: Annotation,
    review: Review,
    folder: Path,
    progress: Progress | None,
) -> list[Path]:
    """The pictures of all questions, as files."""
    with _Frames(conn, task, folder / "frames", _all_frames(review, annotation.detections)) as frames:
        paths = []
        for number, asked in enumerate(review.asked):
            if progress:
                progress("drawing questions", number, len(review.asked))
            for name, source in zip(asked.files, asked.sources, strict=True):
                picture = frames(source) if source >= 0 else render_sheet(asked.question, annotation, frames)
                path = folder / name
                if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                    raise CvatError(f"{path}: the picture cannot be written; is there space left?")
                paths.append(path)
        if progress:
            progress("drawing questions", len(review.asked), len(review.asked))
    return paths


def _all_frames(review: Review, detections: Detections) -> list[int]:
    wanted: set[int] = set()
    for asked in review.asked:
        if asked.sources[0] < 0:
            wanted.update(needed_frames(asked.question, detections))
        else:
            wanted.update(asked.sources)
    return sorted(wanted)


class _Frames:
    """Frames of a task by number, fetched in one pass and kept on disk: hundreds of them do not fit into memory."""

    def __init__(self, conn: Connection, task: TaskInfo, folder: Path, numbers: Sequence[int]) -> None:
        self.video = TaskVideo(conn, task)
        self.folder, self.numbers = folder, numbers

    def __enter__(self) -> "_Frames":
        self.folder.mkdir(parents=True)
        for number, image in self.video.numbered(self.numbers):
            cv2.imwrite(str(self._path(number)), image, [cv2.IMWRITE_JPEG_QUALITY, 97])
        return self

    def __exit__(self, *exception: object) -> None:
        self.video.close()

    def __call__(self, number: int) -> NDArray[np.uint8]:
        image = cv2.imread(str(self._path(number)))
        return self.video.frame(number) if image is None else np.asarray(image, np.uint8)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.jpg"


def _check_frames(created: TaskInfo, review: Review) -> None:
    files = tuple(name for asked in review.asked for name in asked.files)
    names = tuple(Path(name).name for name in created.frame_names)
    if names != files or len(created.annotation_jobs) != len(review.batches):
        raise CvatError(
            f"review task {created.id}: CVAT made {len(names)} frames in {len(created.annotation_jobs)} jobs of "
            f"{len(files)} in {len(review.batches)}, or in another order; delete that task and ask again"
        )


def _write_questions(
    conn: Connection, created: TaskInfo, annotation: Annotation, review: Review, progress: Progress | None
) -> Review:
    labels = {label.name: label for label in created.labels}
    before: dict[int, Json] = {}
    asked: list[Asked] = []
    for index, job in enumerate(created.annotation_jobs):
        if progress:
            progress("writing questions", index, len(review.batches))
        body, roles = _job_body(review.batch(index), job, labels, annotation.detections)
        answer = conn.put(f"/api/jobs/{job.id}/annotations/", body, what=f"questions of review job {job.id}")
        before[job.id] = job_annotations(conn, job.id)
        numbers = {kind: [int(item["id"]) for item in answer[kind]] for kind in ("shapes", "tracks")}
        for item, objects in zip(review.batch(index), roles, strict=True):
            ids = {numbers[kind].pop(0): role for kind, role in objects}
            asked.append(replace(item, objects=ids))
    if progress:
        progress("writing questions", len(review.batches), len(review.batches))
    return replace(review, before=before, asked=tuple(asked))


def _job_body(
    batch: Sequence[Asked], job: JobInfo, labels: Mapping[str, Any], detections: Detections
) -> tuple[Json, list[list[tuple[str, str]]]]:
    """A review job's annotations, and per question the (kind, role) of its objects in the order written."""
    body: Json = {"version": 0, "tags": [], "shapes": [], "tracks": []}
    roles: list[list[tuple[str, str]]] = []
    frame = job.start
    for asked in batch:
        question, label = asked.question, labels[LABELS[asked.question.kind]]
        common = {"label_id": label.id, "group": 0, "source": "auto"}
        objects: list[tuple[str, str]] = []
        if question.kind == "FIX":
            [row] = _rows(question.subject[:1], detections)
            points = detections.box[row].astype(float).round(2).tolist()
            body["shapes"].append({**common, "frame": frame, "type": "rectangle", "points": points, "attributes": []})
            objects.append(("shapes", "asked"))
        elif asked.sources[0] < 0:
            body["tags"].append({**common, "frame": frame, "attributes": []})
        else:
            role = next(attribute.id for attribute in label.attributes if attribute.name == "role")
            for name, ids in tracklets_of(question):
                shapes = _tracklet_shapes(ids, asked.sources, frame, job, detections)
                if shapes:
                    attributes = [{"spec_id": role, "value": name}]
                    body["tracks"].append(
                        {**common, "frame": shapes[0]["frame"], "attributes": attributes, "shapes": shapes}
                    )
                    objects.append(("tracks", name))
        roles.append(objects)
        frame += len(asked.files)
    return body, roles


def tracklets_of(question: Question) -> list[tuple[str, tuple[int, ...]]]:
    """(role, detections) of what a question shows: the tracklet asked about, then its candidates."""
    candidates = [(f"cand {k}", ids) for k, ids in enumerate(question.candidates, 1)]
    return [("asked", question.subject), *candidates]


def _tracklet_shapes(
    ids: Sequence[int], sources: Sequence[int], first: int, job: JobInfo, detections: Detections
) -> list[Json]:
    """A keyframe in every shown frame between the tracklet's ends, closed after the last."""
    rows = _rows(ids, detections)
    frames = detections.frame[rows].astype(float)
    boxes = detections.box[rows].astype(float)
    shapes: list[Json] = []
    for offset, source in enumerate(sources):
        if frames[0] <= source <= frames[-1]:
            points = [round(float(np.interp(source, frames, boxes[:, side])), 2) for side in range(4)]
            shapes.append(_keyframe(first + offset, points, False))
    if shapes and shapes[-1]["frame"] + 1 < job.stop:
        shapes.append(_keyframe(shapes[-1]["frame"] + 1, shapes[-1]["points"], True))
    return shapes


def _keyframe(frame: int, points: list[float], outside: bool) -> Json:
    return {
        "type": "rectangle",
        "frame": frame,
        "points": points,
        "outside": outside,
        "occluded": False,
        "attributes": [],
    }


# --- Guide and assignees ----------------------------------------------------------------------------------------------


def job_url(server: str, task: int, job: int, frame: int) -> str:
    """The address that opens a review job in the Attribute annotation workspace, at a frame."""
    return f"{server}/tasks/{task}/jobs/{job}?defaultWorkspace=attributes&frame={frame}"


def _write_guide(conn: Connection, created: TaskInfo, review: Review) -> None:
    task = conn.get(f"/api/tasks/{created.id}", what=f"review task {created.id}")
    if task.get("guide_id"):
        return
    links = [
        f"| {index} | [job {job.id}]({job_url(conn.url, created.id, job.id, job.start)}) | {count} |"
        for index, (job, count) in enumerate(zip(created.annotation_jobs, review.batches, strict=True), 1)
    ]
    text = guide(review.form, [question.kind for question in review.questions], links)
    conn.post("/api/guides", {"task_id": created.id, "markdown": text}, what="the review task's guide")


def guide(form: str, kinds: Iterable[str], links: Sequence[str]) -> str:
    """The guide of a review task, in Markdown.

    Args:
        form: ``sheets`` or ``tracklets``.
        kinds: of the questions in it.
        links: a table row for each job.
    """
    lines = [
        "# How to answer",
        "",
        "Open your job **by its link below**: it starts in the *Attribute annotation* workspace at the first question.",
        "",
        "Press a **number key** for the answer, then **F** for the next question. "
        "Keys count from 0, which is `?`: not answered.",
        "When you do not know, say *unsure*. At the end: *Menu, Finish the job*.",
        "",
        "| question | 1 | 2 | 3 | more keys |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = {
        "TRACK": "| REAL person? | real, one person all along | false: no person | mixed: several people | 4 unsure |",
        "SAME": "| SAME person? | the first candidate | the second | the third | 4 to 6 candidates, 7 none, 8 unsure |",
        "SWITCH": "| SWITCH at? | one person | from crop 2 on another | from crop 3 on | "
        "crop 4 to 8 on 4 to 8, 9 unsure |",
        "FIX": "| FIX the box | the box is right | you fixed it: drag it, or Shift+N to draw anew | not a person | |",
    }
    present = set(kinds)
    lines += [row for kind, row in rows.items() if kind in present]
    if form == "tracklets":
        lines += [
            "",
            "Each question is a few frames. Its track has the role *asked*, possible continuations are *cand 1* to "
            "*cand 6*. Instead of a key you may simply put things right: merge tracks (M) that are one person, split "
            "(Alt+M) where the person changes, delete (Del) what is no person, hide (O) or drag wrong boxes. "
            "Change to the *Standard* workspace for that.",
        ]
    lines += ["", "# Jobs", "", "| | open it | questions |", "| --- | --- | --- |", *links, ""]
    return "\n".join(lines)


def _assign(conn: Connection, review: Review, people: Sequence[tuple[str, int]], *, assign_taken: bool) -> None:
    """Deal out the jobs in turn; a job that somebody has keeps him."""
    if not people or review.task is None:
        return
    info = read_task(conn, review.task)
    for index, job in enumerate(info.annotation_jobs):
        name, number = people[index % len(people)]
        if job.state != "completed" and (job.assignee is None or assign_taken) and job.assignee != name:
            conn.patch(f"/api/jobs/{job.id}", {"assignee": number}, what=f"assigning job {job.id} to {name}")


def _report(conn: Connection, review: Review, created: bool, notes: Sequence[str]) -> ReviewReport:
    assert review.task is not None
    info = read_task(conn, review.task)
    counts = dict(zip(review.jobs, review.batches, strict=True))
    jobs = tuple(
        ReviewJob(job.id, job_url(conn.url, info.id, job.id, job.start), counts.get(job.id, 0), job.assignee)
        for job in info.annotation_jobs
    )
    return ReviewReport(
        task=review.task,
        created=created,
        form=review.form,
        questions=len(review.asked),
        clicks=sum(question.price for question in review.questions),
        kinds=dict(Counter(question.kind for question in review.questions)),
        jobs=jobs,
        notes=tuple(notes),
    )
