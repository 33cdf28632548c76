"""Operations on jobs, and reading and writing annotations of jobs and tasks."""

from typing import TYPE_CHECKING

from cvat_standin import access, annotations, serialize
from cvat_standin.protocol import Call, HttpError, Json, Reply, invalid, listed, need, route
from cvat_standin.state import Job, Task

if TYPE_CHECKING:
    from cvat_standin.api import Api


STATES = ("new", "in progress", "completed", "rejected")
STAGES = ("annotation", "validation", "acceptance")


@route("GET", "/api/jobs")
def list_jobs(api: "Api", call: Call) -> Reply:
    """Newest first. A task's jobs can be asked for by those who see the task and, as far as theirs, by others."""
    shown = [job for job in api.state.jobs.values() if access.lists_job(job, call.me, call.context)]
    if call.query.get("task_id") and call.context is None:
        task = api.state.tasks.get(int(call.query["task_id"]))
        if task is not None and access.may_see_task(task, call.me):
            shown = api.state.jobs_of(task)
    rows = (serialize.job(job, api.state, call.base) for job in shown)
    fields = ("task_id", "project_id", "state", "stage", "type", "assignee", "dimension")
    return listed(call, rows, *fields)


@route("GET", "/api/jobs/{id}")
def get_job(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.job(api.job(call, id), api.state, call.base))


@route("PATCH", "/api/jobs/{id}")
def patch_job(api: "Api", call: Call, id: int | str) -> Reply:
    job, given = api.job(call, id), call.json()
    if "assignee" in given or "stage" in given:
        need(access.may_see_task(job.task, call.me))
    if given.get("state", job.state) not in STATES:
        raise invalid("state", f'"{given["state"]}" is not a valid choice.')
    if given.get("stage", job.stage) not in STAGES:
        raise invalid("stage", f'"{given["stage"]}" is not a valid choice.')
    with api.state.lock:
        if "assignee" in given:
            job.assignee = api.user(given["assignee"], "assignee")
            job.assignee_updated = api.state.clock.now()
        if given.get("stage", job.stage) != job.stage:
            job.stage, job.state = given["stage"], "new"
        job.state = given.get("state", job.state)
        api.state.touch(job)
    return Reply(json=serialize.job(job, api.state, call.base))


def _parsed(call: Call) -> Json:
    try:
        return annotations.parse(call.json())
    except annotations.AnnotationError as error:
        raise HttpError(400, str(error)) from error


def _write(api: "Api", task: Task, parts: list[tuple[Job, Json]], action: str) -> Json:
    """Apply one action to each job with its part of the data; the answers follow each other in job order."""
    result = annotations.empty()
    labels = api.state.labels_of(task)
    before = [(job, job.annotations.copy()) for job, _ in parts]
    try:
        for job, data in parts:
            held = not job.annotations.is_empty()
            if action == "put":
                annotations.check_no_ids(data)
                api.state.writer.clear(job.annotations)
            done = api.state.writer.delete(job.annotations, data) if action in ("update", "delete") else data
            if action != "delete":
                done = api.state.writer.create(job.annotations, data, labels)
            if not annotations.is_empty(done) or (action == "put" and held):
                api.state.touch(job)
            for kind in ("tags", "shapes", "tracks"):
                result[kind] += done[kind]
    except (annotations.AnnotationError, annotations.ClashError) as error:
        for job, old in before:
            job.annotations = old
        refused = isinstance(error, annotations.AnnotationError)
        raise HttpError(400 if refused else 500, [str(error)]) from error
    return result


def _action(call: Call) -> str:
    action = call.query.get("action", "")
    if action not in ("create", "update", "delete"):
        raise HttpError(400, "Please specify a correct 'action' for the request")
    return action


@route("GET", "/api/jobs/{id}/annotations")
def job_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    with api.state.lock:
        return Reply(json=annotations.read(job.annotations, api.state.labels_of(job.task)))


@route("PATCH", "/api/jobs/{id}/annotations")
def patch_job_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    job, action, data = api.job(call, id), _action(call), _parsed(call)
    with api.state.lock:
        return Reply(json=_write(api, job.task, [(job, data)], action))


@route("PUT", "/api/jobs/{id}/annotations")
def put_job_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    job, data = api.job(call, id), _parsed(call)
    with api.state.lock:
        return Reply(json=_write(api, job.task, [(job, data)], "put"))


@route("DELETE", "/api/jobs/{id}/annotations")
def delete_job_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    job = api.job(call, id)
    with api.state.lock:
        _write(api, job.task, [(job, annotations.empty())], "put")
    return Reply(204)


def _cut(api: "Api", task: Task, data: Json) -> list[tuple[Job, Json]]:
    return [(job, annotations.cut(data, job.start, job.stop)) for job in api.state.jobs_of(task)]


@route("GET", "/api/tasks/{id}/annotations")
def task_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    task = api.task(call, id)
    with api.state.lock:
        labels = api.state.labels_of(task)
        parts = [(job.start, annotations.read(job.annotations, labels)) for job in api.state.jobs_of(task)]
        return Reply(json=annotations.stitch(parts, task.overlap or 0))


@route("PATCH", "/api/tasks/{id}/annotations")
def patch_task_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    task, action, data = api.task(call, id), _action(call), _parsed(call)
    with api.state.lock:
        return Reply(json=_write(api, task, _cut(api, task, data), action))


@route("PUT", "/api/tasks/{id}/annotations")
def put_task_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    task, data = api.task(call, id), _parsed(call)
    with api.state.lock:
        return Reply(json=_write(api, task, _cut(api, task, data), "put"))


@route("DELETE", "/api/tasks/{id}/annotations")
def delete_task_annotations(api: "Api", call: Call, id: int | str) -> Reply:
    task = api.task(call, id)
    with api.state.lock:
        _write(api, task, [(job, annotations.empty()) for job in api.state.jobs_of(task)], "put")
    return Reply(204)
