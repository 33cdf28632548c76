"""Tasks: what a CVAT task is, its frames, and the tracks and boxes it holds. :mod:`spam_cvat.cvat.push` writes.

In: a connection and a task's number. Out: :class:`TaskInfo`, frames as a Video, Tracks, Detections.

Frames are numbered as in the task, from 0, and ranges are half open; CVAT's own ``stop_frame`` is inclusive and is
turned at the border. A deleted frame keeps its number.
"""

import io
import itertools
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from spam_cvat import video as pixels
from spam_cvat.boxes import iou_pairs
from spam_cvat.cvat.connect import Connection
from spam_cvat.cvat.store import digest_of
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.errors import CvatError, InputError
from spam_cvat.formats import cvat as cvat_format
from spam_cvat.tracks import Tracks
from spam_cvat.video import Image, check_range

DEFAULT_FPS = 30.0
"""CVAT does not tell a video's rate."""

ANNOTATIONS_SECONDS = 300.0
"""How long reading or writing all annotations of a job or task may take."""

log = logging.getLogger(__name__)


# --- What a task is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """An attribute of a label.

    Attributes:
        id: what CVAT calls ``spec_id``.
        name: as in the task.
        mutable: whether it may change from frame to frame.
        input_type: select, radio, checkbox, number or text.
        default: the value that CVAT fills in.
        values: what may be chosen.
    """

    id: int
    name: str
    mutable: bool
    input_type: str
    default: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Label:
    """A label of a task.

    Attributes:
        id: CVAT's number.
        name: as people see it.
        type: rectangle, any, tag, ...
        attributes: of the label.
    """

    id: int
    name: str
    type: str
    attributes: tuple[Attribute, ...] = ()

    @property
    def takes_rectangles(self) -> bool:
        """Whether boxes may carry it."""
        return self.type in ("rectangle", "any")


@dataclass(frozen=True)
class JobInfo:
    """A job of a task.

    Attributes:
        id: CVAT's number.
        start: first frame.
        stop: one past the last frame.
        state: new, in progress, completed or rejected.
        stage: annotation, validation or acceptance.
        assignee: user name or None.
        updated: time of the last change, ISO 8601.
        type: annotation, ground_truth or consensus_replica.
    """

    id: int
    start: int
    stop: int
    state: str
    stage: str
    assignee: str | None
    updated: str
    type: str = "annotation"


@dataclass(frozen=True)
class TaskInfo:
    """A task, without its annotations.

    Attributes:
        server: address of the server.
        id: CVAT's number.
        name: as people see it.
        project: number of its project or None.
        organization: number of its organization or None.
        size: frames are numbered 0 .. size - 1.
        start: frame of the source that is frame 0.
        step: frames of the source from one frame of the task to the next.
        deleted: numbers of the deleted frames.
        chunk_size: frames in one chunk of data.
        chunk_type: ``video`` or ``imageset``, of the original chunks.
        jobs: in order of their frames; only those of type annotation hold the task's own annotations.
        labels: of the task or its project.
        width: of the widest frame in pixels.
        height: of the highest frame in pixels.
        fps: frames of the task a second.
        frame_names: file name of each frame; a single one for a video.
        digest: changes when the frames do.
    """

    server: str
    id: int
    name: str
    project: int | None
    organization: int | None
    size: int
    start: int
    step: int
    deleted: tuple[int, ...]
    chunk_size: int
    chunk_type: str
    jobs: tuple[JobInfo, ...]
    labels: tuple[Label, ...]
    width: int
    height: int
    fps: float
    frame_names: tuple[str, ...]
    digest: str

    @property
    def video(self) -> VideoInfo:
        """The task as a video."""
        return VideoInfo(f"task {self.id} ({self.name})", self.size, self.width, self.height, self.fps)

    @property
    def annotation_jobs(self) -> tuple[JobInfo, ...]:
        """The jobs that hold the task's own annotations."""
        return tuple(job for job in self.jobs if job.type == "annotation")

    def source_frame(self, k: int) -> int:
        """Number in the source of frame k of the task."""
        return self.start + k * self.step

    def frames(self, job: JobInfo | None = None) -> list[int]:
        """The frames that are not deleted, of the task or of one job; the order in which CVAT calls a function."""
        gone = set(self.deleted)
        start, stop = (0, self.size) if job is None else (job.start, job.stop)
        return [k for k in range(start, stop) if k not in gone]

    def job(self, job_id: int) -> JobInfo:
        """A job by its number. Raises InputError where the task has no such job."""
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise InputError(f"task {self.id} has no job {job_id}; it has {', '.join(str(job.id) for job in self.jobs)}")

    @cached_property
    def attribute_defaults(self) -> dict[int, str]:
        """Default value of every attribute, by ``spec_id``."""
        return {attribute.id: attribute.default for label in self.labels for attribute in label.attributes}

    def match_labels(self, names: Sequence[str], aliases: Mapping[str, str] | None = None) -> dict[str, int]:
        """Label ids in this task for a detector's labels: by alias, by name, by name regardless of case.

        Where the detector knows one label and the task takes boxes with one label only, they are the same.
        Labels that the task does not have are left out.

        Args:
            names: of the detector's labels.
            aliases: the task's name for a detector's label.

        Raises:
            InputError: no label matches.
        """
        usable = [label for label in self.labels if label.takes_rectangles]
        exact = {label.name: label.id for label in usable}
        folded = {label.name.casefold(): label.id for label in usable}
        found: dict[str, int] = {}
        for name in names:
            wanted = (aliases or {}).get(name, name)
            match = exact.get(wanted, folded.get(wanted.casefold()))
            if match is not None:
                found[name] = match
        if not found and len(names) == 1 and len(usable) == 1 and not (aliases or {}).get(names[0]):
            log.info("task %d: %r is written as %r, its only label for boxes", self.id, names[0], usable[0].name)
            found = {names[0]: usable[0].id}
        if not found:
            known = ", ".join(repr(label.name) for label in self.labels) or "none"
            raise InputError(
                f"task {self.id} has no label for boxes named {' or '.join(map(repr, names))} (its labels: {known}); "
                "add one to the task, or name the right one by SPAM_LABELS=detector-label=task-label"
            )
        return found


def read_task(conn: Connection, task_id: int, *, fps: float = DEFAULT_FPS) -> TaskInfo:
    """Read a task, its frames' names, its jobs and labels.

    Args:
        conn: the server.
        task_id: CVAT's number.
        fps: frames a second of the source, which CVAT does not tell.

    Raises:
        CvatStatusError: there is no such task, or we may not see it.
        InputError: the task holds no frames yet.
    """
    what = f"task {task_id}"
    task = conn.get(f"/api/tasks/{task_id}", what=what)
    if not task.get("size"):
        raise InputError(f"task {task_id} ({task['name']}) holds no frames (yet); upload data or wait for CVAT")
    meta = conn.get(f"/api/tasks/{task_id}/data/meta", what=f"frames of {what}")
    organization = task.get("organization_id", task.get("organization"))
    jobs = _owned_list(conn, "/api/jobs", task_id, organization, f"jobs of {what}")
    labels = _owned_list(conn, "/api/labels", task_id, organization, f"labels of {what}")
    frames = meta["frames"]
    filtered = str(meta.get("frame_filter") or "")
    step = int(filtered.split("=", 1)[1]) if filtered.startswith("step=") else 1
    identity = [
        conn.url, task_id, meta.get("chunks_updated_date"), task["size"], meta["start_frame"], step,
        sorted(meta["deleted_frames"]), [frame["name"] for frame in frames],
    ]  # fmt: skip
    return TaskInfo(
        server=conn.url,
        id=task_id,
        name=task["name"],
        project=task.get("project_id"),
        organization=organization,
        size=task["size"],
        start=meta["start_frame"],
        step=step,
        deleted=tuple(sorted(meta["deleted_frames"])),
        chunk_size=task.get("data_chunk_size") or meta.get("chunk_size") or 36,
        chunk_type=task.get("data_original_chunk_type") or "imageset",
        jobs=tuple(sorted(map(_job_info, jobs), key=lambda job: (job.start, job.id))),
        labels=tuple(map(_label, labels)),
        width=max(frame["width"] for frame in frames),
        height=max(frame["height"] for frame in frames),
        fps=fps / step,
        frame_names=tuple(frame["name"] for frame in frames),
        digest=digest_of(identity),
    )


def task_of_job(conn: Connection, job_id: int) -> int:
    """Number of the task that a job belongs to. Raises CvatStatusError where it cannot be seen."""
    return int(conn.get(f"/api/jobs/{job_id}", what=f"job {job_id}")["task_id"])


def _owned_list(conn: Connection, path: str, task_id: int, organization: int | None, what: str) -> list[dict[str, Any]]:
    """A list of a task's things, asked for in the context of the task's organization whatever ours is."""
    context: dict[str, Any] = {"org": ""} if organization is None else {"org_id": organization}
    return conn.pages(path, {"task_id": task_id, **context}, what=what, no_organization=True)


def _job_info(job: Mapping[str, Any]) -> JobInfo:
    return JobInfo(
        id=job["id"],
        start=job["start_frame"],
        stop=job["stop_frame"] + 1,
        state=job["state"],
        stage=job["stage"],
        assignee=(job.get("assignee") or {}).get("username"),
        updated=job["updated_date"],
        type=job.get("type") or "annotation",
    )


def _label(label: Mapping[str, Any]) -> Label:
    return Label(
        id=label["id"],
        name=label["name"],
        type=label.get("type") or "any",
        attributes=tuple(
            Attribute(
                id=attribute["id"],
                name=attribute["name"],
                mutable=attribute["mutable"],
                input_type=attribute["input_type"],
                default=attribute.get("default_value", ""),
                values=tuple(attribute.get("values", ())),
            )
            for attribute in label.get("attributes", ())
        ),
    )


# --- Frames -----------------------------------------------------------------------------------------------------------


def frame_bytes(conn: Connection, task_id: int, k: int, *, timeout: float = 60.0) -> bytes:
    """The file of frame k in original quality: byte for byte the image that CVAT gives to a function."""
    return conn.request(
        "GET",
        f"/api/tasks/{task_id}/data/",
        query={"type": "frame", "number": k, "quality": "original"},
        what=f"frame {k} of task {task_id}",
        timeout=timeout,
    )


def decode_image(data: bytes, name: str) -> Image:
    """An image file's pixels, (height, width, 3) uint8 BGR. Raises CvatError where it cannot be decoded."""
    image = pixels.decode_image(data)
    if image is None:
        raise CvatError(f"{name}: the server sent {len(data)} bytes that are no image")
    return image


class TaskVideo:
    """A task's frames as a Video: chunks of original quality, streamed, the next one fetched while one is in use.

    Deleted frames are left out of :meth:`frames`, and the others keep their numbers.

    Args:
        conn: the server.
        task: the task.
        job: only this job's frames.
    """

    def __init__(self, conn: Connection, task: TaskInfo, job: JobInfo | None = None) -> None:
        """Fetch nothing yet."""
        self._conn, self._task, self._job = conn, task, job

    @property
    def info(self) -> VideoInfo:
        """The task as a video; its number of frames is that of the whole task."""
        return self._task.video

    @property
    def digest(self) -> str:
        """Changes when the task's frames do."""
        return self._task.digest

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Frames start, start + step, ... below stop that are not deleted, each with its number.

        Raises:
            InputError: the range reaches outside the task.
            CvatError: the server is away, or sent what cannot be decoded.
        """
        stop = self._task.size if stop is None else stop
        check_range(start, stop, step, self._task.size, self.info.name)
        return self.numbered([k for k in self._task.frames(self._job) if start <= k < stop and (k - start) % step == 0])

    def numbered(self, numbers: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """The frames of ascending numbers."""
        groups = [
            (chunk, list(members))
            for chunk, members in itertools.groupby(numbers, lambda k: k // self._task.chunk_size)
        ]
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._chunk, groups[0][0]) if groups else None
            for index, (chunk, members) in enumerate(groups):
                assert following is not None
                data = following.result()
                if index + 1 < len(groups):
                    following = pool.submit(self._chunk, groups[index + 1][0])
                yield from self._decoded(chunk, data, members)

    def frame(self, k: int) -> Image:
        """Frame k, exactly as CVAT gives it to a function. Raises InputError where it is deleted or outside."""
        if not 0 <= k < self._task.size or k in self._task.deleted:
            raise InputError(f"{self.info.name}: no frame {k}; it is deleted or outside 0..{self._task.size - 1}")
        return decode_image(frame_bytes(self._conn, self._task.id, k), f"frame {k} of task {self._task.id}")

    def close(self) -> None:
        """Nothing is kept open."""

    def __enter__(self) -> Self:
        """The video itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""

    def _chunk(self, number: int) -> bytes:
        return self._conn.request(
            "GET",
            f"/api/tasks/{self._task.id}/data/",
            query={"type": "chunk", "number": number, "quality": "original"},
            what=f"frames of task {self._task.id} (chunk {number})",
        )

    def _decoded(self, chunk: int, data: bytes, members: Sequence[int]) -> Iterator[tuple[int, Image]]:
        first = chunk * self._task.chunk_size
        wanted = {k - first for k in members}
        given = set()
        for offset, image in _chunk_images(data, self._task.chunk_type, wanted):
            given.add(offset)
            yield first + offset, image
        # A chunk that ends early would shift nothing: its missing frames are asked for one by one.
        for offset in sorted(wanted - given):
            yield first + offset, self.frame(first + offset)


def _chunk_images(data: bytes, kind: str, wanted: set[int]) -> Iterator[tuple[int, Image]]:
    """Images of a chunk at the wanted places, in order."""
    last = max(wanted)
    if kind == "video":
        try:
            with av.open(io.BytesIO(data), mode="r", metadata_errors="replace") as container:
                for offset, frame in enumerate(container.decode(video=0)):
                    if offset in wanted:
                        yield offset, np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
                    if offset >= last:
                        return
        except av.FFmpegError as error:
            raise CvatError(f"a chunk of {len(data)} bytes cannot be decoded: {error}") from error
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for offset, member in enumerate(archive.infolist()):
                if offset in wanted:
                    yield offset, decode_image(archive.read(member), member.filename)
    except zipfile.BadZipFile as error:
        raise CvatError(f"a chunk of {len(data)} bytes is no archive of images: {error}") from error


# --- Reading annotations ----------------------------------------------------------------------------------------------


def job_annotations(conn: Connection, job_id: int) -> dict[str, Any]:
    """A job's annotations as CVAT gives them: ``{"tags", "shapes", "tracks", ...}``, frames in the task's numbers."""
    return conn.get(
        f"/api/jobs/{job_id}/annotations/", what=f"annotations of job {job_id}", timeout=ANNOTATIONS_SECONDS
    )


def rectangle_tracks(annotations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tracks of boxes among a job's annotations."""
    return [
        track
        for track in annotations["tracks"]
        if track["shapes"] and not track.get("elements") and track["shapes"][0]["type"] == "rectangle"
    ]


def read_detections(conn: Connection, task: TaskInfo, labels: Sequence[str] | None = None) -> Detections:
    """The task's rectangles (shapes, not tracks) as detections: detector ``task``.

    The score is the shape's own where the server knows scores (2.80), else an attribute named score or confidence (in
    percent where above 1), else 1. A rotated rectangle gives the box around it.

    Args:
        conn: the server.
        task: the task.
        labels: only shapes with these labels.

    Returns:
        Detections; empty where the task holds no rectangles.
    """
    answer = conn.get(
        f"/api/tasks/{task.id}/annotations/", what=f"annotations of task {task.id}", timeout=ANNOTATIONS_SECONDS
    )
    chosen = [label for label in task.labels if label.takes_rectangles and (labels is None or label.name in labels)]
    index = {label.id: row for row, label in enumerate(chosen)}
    attributes = {attribute.id: attribute.name.casefold() for label in task.labels for attribute in label.attributes}
    gone = set(task.deleted)
    shapes = [
        shape
        for shape in answer["shapes"]
        if shape["type"] == "rectangle" and shape["label_id"] in index and shape["frame"] not in gone
        and not shape.get("outside")
    ]  # fmt: skip
    return Detections.create(
        task.video,
        [shape["frame"] for shape in shapes],
        np.array([cvat_format.upright_box(shape["points"], shape.get("rotation") or 0) for shape in shapes]).reshape(
            -1, 4
        ),
        [_shape_score(shape, attributes) for shape in shapes],
        [index[shape["label_id"]] for shape in shapes],
        labels=[label.name for label in chosen] or ["person"],
        drop_bad=True,
    )


def _shape_score(shape: Mapping[str, Any], attributes: Mapping[int, str]) -> float:
    score: float | None = shape.get("score")
    if score is None:
        for value in shape.get("attributes", ()):
            if attributes.get(value["spec_id"]) in ("score", "confidence"):
                try:
                    score = float(value["value"])
                except ValueError:
                    continue
                score = score / 100 if score > 1 else score
    return 1.0 if score is None else float(np.clip(score, 0, 1))


@dataclass(frozen=True)
class TaskTracks:
    """The tracks of boxes that a task holds.

    Attributes:
        by_job: CVAT's track objects of each annotation job.
        tracks: the same as boxes per frame, one identity over job borders.
        carriers: identity -> the (job, CVAT track id) that carry it.
    """

    by_job: dict[int, list[dict[str, Any]]]
    tracks: Tracks
    carriers: dict[int, tuple[tuple[int, int], ...]]


def read_tracks(conn: Connection, task: TaskInfo, known: Mapping[tuple[int, int], int] | None = None) -> TaskTracks:
    """Read the tracks of all annotation jobs and put their parts together.

    Parts in different jobs are one identity where ``known`` says so; where it does not name them, where one ends in the
    last frame of a job and another of the same label begins in the first of the next at nearly the same place (IoU of
    at least 0.5), which is how CVAT itself stitches.

    Args:
        conn: the server.
        task: the task.
        known: (job, CVAT track id) -> identity, as :attr:`spam_cvat.cvat.push.PushRecord.identities` gives it.
    """
    by_job = {job.id: rectangle_tracks(job_annotations(conn, job.id)) for job in task.annotation_jobs}
    return assemble_tracks(task, by_job, known)


def assemble_tracks(
    task: TaskInfo, by_job: Mapping[int, list[dict[str, Any]]], known: Mapping[tuple[int, int], int] | None = None
) -> TaskTracks:
    """What :func:`read_tracks` does, on track objects already read."""
    parts = _parts(task, by_job)
    identity = _identities(parts, known or {})
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("frame", "track", "box", "label")}
    carriers: dict[int, list[tuple[int, int]]] = {}
    taken: set[tuple[int, int]] = set()
    for part, track in zip(parts, identity, strict=True):
        carriers.setdefault(track, []).append((part.job.id, part.cvat_id))
        # Jobs may overlap: a frame that an earlier job gave is not given twice.
        rows = [row for row, frame in enumerate(part.tracks.frame) if (track, int(frame)) not in taken]
        taken |= {(track, int(part.tracks.frame[row])) for row in rows}
        columns["frame"].append(part.tracks.frame[rows])
        columns["track"].append(np.full(len(rows), track))
        columns["box"].append(part.tracks.box[rows])
        columns["label"].append(part.tracks.label[rows])
    labels = [label.name for label in task.labels] or ["person"]
    if not parts:
        return TaskTracks(dict(by_job), Tracks.empty(task.video, labels), {})
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    tracks = Tracks.create(task.video, **joined, labels=labels)
    return TaskTracks(dict(by_job), tracks, {track: tuple(ids) for track, ids in carriers.items()})


@dataclass(frozen=True)
class _Part:
    """What one CVAT track shows in its job: boxes of a single identity."""

    job: JobInfo
    cvat_id: int
    tracks: Tracks


def _parts(task: TaskInfo, by_job: Mapping[int, list[dict[str, Any]]]) -> list[_Part]:
    parts = []
    for job in task.annotation_jobs:
        for track in by_job.get(job.id, ()):
            boxes = boxes_of(task, track, job)
            if len(boxes):
                parts.append(_Part(job, track["id"], boxes))
    return parts


def boxes_of(task: TaskInfo, track: Mapping[str, Any], job: JobInfo) -> Tracks:
    """The boxes that a CVAT track shows in the frames of its job, as one identity of the task's video."""
    names = {label.id: label.name for label in task.labels}
    return cvat_format.tracks_from_cvat([track], task.video, names, start=job.start, stop=job.stop).tracks


def _identities(parts: Sequence[_Part], known: Mapping[tuple[int, int], int]) -> list[int]:
    """An identity for each part: the record's, that of the part it continues, or a new one."""
    identity: list[int] = []
    unused = itertools.count(max(known.values(), default=0) + 1)
    # Which part, by index, may still be continued by another: a later job's at its border.
    open_ends: list[int] = []
    for index, part in enumerate(parts):
        track = known.get((part.job.id, part.cvat_id))
        if track is None:
            before = _continued(parts, open_ends, part)
            if before is not None:
                track = identity[before]
                open_ends.remove(before)
        identity.append(next(unused) if track is None else track)
        open_ends.append(index)
    return identity


def _continued(parts: Sequence[_Part], candidates: Sequence[int], part: _Part) -> int | None:
    """Index of the part of an earlier job that ``part`` continues over the job border, if there is one."""
    best, best_overlap = None, 0.5
    for index in candidates:
        other = parts[index]
        if other.job.id == part.job.id or other.tracks.label[-1] != part.tracks.label[0]:
            continue
        shared = np.intersect1d(other.tracks.frame, part.tracks.frame)
        if shared.size:
            ours, theirs = (tracks.box[np.isin(tracks.frame, shared)] for tracks in (part.tracks, other.tracks))
        elif part.tracks.frame[0] - other.tracks.frame[-1] == 1:
            ours, theirs = part.tracks.box[:1], other.tracks.box[-1:]
        else:
            continue
        overlap = float(iou_pairs(ours, theirs).mean())
        if overlap >= best_overlap:
            best, best_overlap = index, overlap
    return best
