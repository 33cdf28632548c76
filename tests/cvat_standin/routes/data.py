"""Uploading the data of a task, and reading frames, chunks and their meta."""

import base64
import binascii
import re
import threading
import uuid
from typing import TYPE_CHECKING

from cvat_standin import annotations, serialize
from cvat_standin.media import MediaError, VideoFrames, make_frames
from cvat_standin.protocol import Call, HttpError, Json, Reply, invalid, listed, need, route
from cvat_standin.state import (
    Background,
    Job,
    Media,
    Organization,
    Task,
    User,
    stamp,
)

if TYPE_CHECKING:
    from cvat_standin.api import Api


_VIDEO_CHUNK = 36
_IMAGE_CHUNK = 72
_DEFAULT_OVERLAP = {"interpolation": 5, "annotation": 0}


@route("POST", "/api/tasks/{id}/data")
def upload(api: "Api", call: Call, id: int | str) -> Reply:
    """The client's uploads: start, several files at once, a large file by TUS, finish; or all in one request."""
    task = api.task(call, id)
    if "upload-length" in call.headers:
        return _tus_create(api, call, task)
    if task.media is not None:
        raise HttpError(400, "Adding more data is not supported")
    pending = api.state.uploads.setdefault(task.id, {})
    if "upload-start" in call.headers:
        return Reply(202)
    fields, files = call.form()
    pending.update(files)
    if "upload-multiple" in call.headers:
        return Reply(200)
    return Reply(202, {"rq_id": _start_creation(api, call, task, fields, pending)})


def _tus_create(api: "Api", call: Call, task: Task) -> Reply:
    pairs = (pair.split(" ") for pair in call.headers.get("upload-metadata", "").split(","))
    metadata = {pair[0]: base64.b64decode(pair[1]).decode() for pair in pairs if len(pair) == 2}
    key, name = uuid.uuid4().hex, metadata.get("filename", "").rsplit("/", 1)[-1]
    if not name:
        raise HttpError(400, "File upload has no filename")
    api.state.tus[key] = (task.id, name, int(call.headers["upload-length"]), bytearray())
    location = f"{call.base}/api/tasks/{task.id}/data/{key}"
    return Reply(201, headers={"Location": location, "Upload-Filename": name, "Tus-Resumable": "1.0.0"})


def _tus(api: "Api", call: Call, id: int | str, key: int | str) -> tuple[int, str, int, bytearray]:
    api.task(call, id)
    if str(key) not in api.state.tus:
        raise HttpError(404, "Not found.")
    return api.state.tus[str(key)]


@route("HEAD", "/api/tasks/{id}/data/{key}")
def tus_offset(api: "Api", call: Call, id: int | str, key: int | str) -> Reply:
    _, _, length, content = _tus(api, call, id, key)
    headers = {"Upload-Offset": str(len(content)), "Upload-Length": str(length), "Tus-Resumable": "1.0.0"}
    return Reply(200, headers=headers)


@route("PATCH", "/api/tasks/{id}/data/{key}")
def tus_append(api: "Api", call: Call, id: int | str, key: int | str) -> Reply:
    task_id, name, length, content = _tus(api, call, id, key)
    if int(call.headers.get("upload-offset", -1)) != len(content):
        return Reply(409, headers={"Upload-Offset": str(len(content))})
    if len(content) + len(call.body) > length:
        raise HttpError(413, "The upload is longer than announced")
    content += call.body
    if len(content) == length:
        api.state.uploads.setdefault(task_id, {})[name] = bytes(content)
    headers = {"Upload-Offset": str(len(content)), "Upload-Filename": name, "Tus-Resumable": "1.0.0"}
    return Reply(204, headers=headers)


def _start_creation(api: "Api", call: Call, task: Task, given: Json, files: dict[str, bytes]) -> str:
    step = _frame_step(given)
    mapping = given.get("job_file_mapping")
    if mapping:
        names = [name for job in mapping for name in job]
        if len(set(names)) != len(names):
            raise invalid("job_file_mapping", "The same file cannot be used multiple times")
        ordered = str(given.get("sorting_method") or "lexicographical") != "lexicographical"
        framed = given.get("start_frame") or given.get("stop_frame") is not None or step != 1
        if task.segment_size or task.overlap or ordered or framed:
            raise invalid(
                "job_file_mapping",
                "can't be used together with segment_size, overlap, sorting, start, stop or step",
            )
    request = Background(
        id=f"action=create&target=task&target_id={task.id}",
        kind="create:task",
        owner=call.me,
        created=api.state.clock.now(),
        project_id=task.project.id if task.project else None,
        task_id=task.id,
    )
    api.state.background[request.id] = request
    arguments = (api, request, task, given, dict(files), step)
    threading.Thread(target=_create_data, args=arguments, daemon=True).start()
    return request.id


def _frame_step(given: Json) -> int:
    text = str(given.get("frame_filter") or "")
    if not text:
        return 1
    found = re.fullmatch(r"step\s*=\s*([1-9]\d*)", text)
    if found is None:
        raise invalid("frame_filter", "The filter must look like step=N")
    return int(found.group(1))


def _create_data(api: "Api", request: Background, task: Task, given: Json, files: dict[str, bytes], step: int) -> None:
    request.started, request.status = api.state.clock.now(), "started"
    try:
        _attach(api, task, given, files, step)
    except MediaError as error:
        request.message, request.status = str(error), "failed"
    else:
        request.status = "finished"
    request.finished = api.state.clock.now()


def _attach(api: "Api", task: Task, given: Json, files: dict[str, bytes], step: int) -> None:
    """Turn uploaded files into the frames and jobs of a task.

    Raises:
        MediaError: the files cannot become a task.
    """
    frames = make_frames(files, given, step)
    video = isinstance(frames, VideoFrames)
    with api.state.lock:
        task.media = Media(
            id=api.state.next_id("media"),
            frames=frames,
            mode="interpolation" if video else "annotation",
            chunk_size=int(given.get("chunk_size") or (_VIDEO_CHUNK if video else _IMAGE_CHUNK)),
            chunk_type="video" if video else "imageset",
            image_quality=int(given.get("image_quality") or 70),
            updated=api.state.clock.now(),
            start_frame=int(given.get("start_frame") or 0),
            step=step,
            frame_filter=str(given.get("frame_filter") or ""),
        )
        for start, stop in _segments(task, given):
            now = api.state.clock.now()
            job = Job(api.state.next_id("job"), task, start, stop, now, now, annotations.JobAnnotations())
            api.state.jobs[job.id] = job
            task.job_ids.append(job.id)
        task.updated = api.state.clock.now()
        api.state.uploads.pop(task.id, None)


def make_task(
    api: "Api",
    owner: User,
    name: str,
    labels: list[Json],
    files: dict[str, bytes],
    given: Json,
    *,
    organization: Organization | None = None,
    segment_size: int = 0,
    overlap: int | None = None,
) -> Task:
    """Create a task with its data at once, without HTTP.

    Raises:
        MediaError: the files cannot become a task.
    """
    with api.state.lock:
        now = api.state.clock.now()
        task = Task(api.state.next_id("task"), name, owner, now, now, organization=organization)
        task.segment_size, task.overlap = segment_size, overlap
        api.state.tasks[task.id] = task
        api.state.add_labels(labels, task_id=task.id)
    _attach(api, task, given, files, _frame_step(given))
    return task


def _segments(task: Task, given: Json) -> list[tuple[int, int]]:
    """First and last frame of each job; neighbours share ``overlap`` frames (5 by default in a video)."""
    assert task.media is not None
    size = task.media.size
    if given.get("job_file_mapping"):
        task.overlap = 0
        stops = [len(names) for names in given["job_file_mapping"]]
        return [(sum(stops[:n]), sum(stops[: n + 1]) - 1) for n in range(len(stops))]
    if not 0 < task.segment_size < size:
        task.overlap, task.segment_size = 0, task.segment_size or size
        return [(0, size - 1)]
    wanted = _DEFAULT_OVERLAP[task.media.mode] if task.overlap is None else task.overlap
    task.overlap = min(wanted, task.segment_size // 2)
    starts = range(0, size - task.overlap, task.segment_size - task.overlap)
    return [(start, min(start + task.segment_size - 1, size - 1)) for start in starts]


@route("GET", "/api/requests")
def list_requests(api: "Api", call: Call) -> Reply:
    shown = [r for r in api.state.background.values() if r.owner is call.me or call.me.is_superuser]
    call.query.setdefault("sort", "-created_date")
    return listed(call, (serialize.background(r) for r in shown), "status")


@route("GET", "/api/requests/{id}")
def get_request(api: "Api", call: Call, id: int | str) -> Reply:
    request = api.state.background.get(str(id))
    if request is None:
        raise HttpError(404, "There is no request with specified id")
    need(request.owner is call.me or call.me.is_superuser)
    return Reply(json=serialize.background(request))


def _media(api: "Api", task: Task) -> Media:
    if task.media is None:
        raise HttpError(404, "There is no data attached to the task yet")
    return task.media


def _frames(api: "Api", call: Call, media: Media, first: int, last: int, job: Job | None) -> Reply:
    """``type=frame`` and ``type=chunk`` of a task or of the frames ``first`` .. ``last`` of a job."""
    kind, quality = call.query.get("type"), call.query.get("quality", "compressed")
    number = call.query.get("number", call.query.get("index", ""))
    if not number.isdigit() or quality not in ("compressed", "original") or kind not in ("frame", "chunk"):
        raise HttpError(400, "The frame type, quality or number is missing or wrong")
    place = int(number)
    if kind == "frame":
        if not first <= place <= last:
            raise HttpError(400 if job else 404, f"The frame number {place} is not in [{first}; {last}]")
        blob = media.frames.original(place) if quality == "original" else media.frames.compressed(place)
        return Reply(blob=blob)
    offset = first if job is not None and "index" in call.query else 0
    start = offset + place * media.chunk_size
    numbers = [n for n in range(start, start + media.chunk_size) if first <= n <= last]
    if not numbers:
        raise HttpError(404, f"There is no chunk {place}")
    blob = media.frames.chunk(numbers, quality)
    checksum = f"{binascii.crc32(blob.content):08x}"
    return Reply(blob=blob, headers={"X-Checksum": checksum, "X-Updated-Date": stamp(media.updated) or ""})


@route("GET", "/api/tasks/{id}/data")
def task_data(api: "Api", call: Call, id: int | str) -> Reply:
    media = _media(api, api.task(call, id))
    return _frames(api, call, media, 0, media.size - 1, None)


@route("GET", "/api/jobs/{id}/data")
def job_data(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    return _frames(api, call, _media(api, job.task), job.start, job.stop, job)


@route("GET", "/api/tasks/{id}/preview")
def task_preview(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(blob=_media(api, api.task(call, id)).frames.compressed(0))


@route("GET", "/api/jobs/{id}/preview")
def job_preview(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    return Reply(blob=_media(api, job.task).frames.compressed(job.start))


@route("GET", "/api/tasks/{id}/data/meta")
def task_meta(api: "Api", call: Call, id: int | str) -> Reply:
    media = _media(api, api.task(call, id))
    return Reply(json=serialize.meta(media, 0, media.size - 1))


@route("GET", "/api/jobs/{id}/data/meta")
def job_meta(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    return Reply(json=serialize.meta(_media(api, job.task), job.start, job.stop))


def _deleted(given: Json, first: int, last: int) -> list[int]:
    frames = given.get("deleted_frames", [])
    if not all(isinstance(n, int) and first <= n <= last for n in frames):
        raise invalid("deleted_frames", f"Frames must be in [{first}; {last}]")
    return frames


@route("PATCH", "/api/tasks/{id}/data/meta")
def patch_task_meta(api: "Api", call: Call, id: int | str) -> Reply:
    task = api.task(call, id)
    media = _media(api, task)
    with api.state.lock:
        media.deleted_frames = sorted(set(_deleted(call.json(), 0, media.size - 1)))
        task.updated = api.state.clock.now()
    return Reply(json=serialize.meta(media, 0, media.size - 1))


@route("PATCH", "/api/jobs/{id}/data/meta")
def patch_job_meta(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    media = _media(api, job.task)
    with api.state.lock:
        mine = _deleted(call.json(), job.start, job.stop)
        others = [n for n in media.deleted_frames if not job.start <= n <= job.stop]
        media.deleted_frames = sorted({*mine, *others})
        api.state.touch(job)
    return Reply(json=serialize.meta(media, job.start, job.stop))
