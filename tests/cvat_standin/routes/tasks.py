"""Operations on projects, labels and tasks."""

from typing import TYPE_CHECKING

from cvat_standin import access, serialize
from cvat_standin.protocol import Call, HttpError, Json, Reply, invalid, listed, need, route
from cvat_standin.state import Organization, Project, Task

if TYPE_CHECKING:
    from cvat_standin.api import Api


def _owned_by(api: "Api", call: Call) -> Organization | None:
    need(access.may_create(call.me, call.context))
    return call.context if isinstance(call.context, Organization) else None


def _label_specs(given: Json) -> list[Json]:
    """Labels sent with a task or project.

    Raises:
        HttpError: 400 for a name twice, a nameless attribute or one of no known type.
    """
    labels = given.get("labels") or []
    names = [label.get("name") for label in labels]
    if len(set(names)) != len(names) or not all(names):
        raise invalid("labels", "All label names must be unique and not empty")
    for label in labels:
        for spec in label.get("attributes", []):
            if len(str(spec.get("name") or "")) not in range(1, 65):
                raise invalid("labels", "Ensure an attribute's name has 1 to 64 characters.")
            if spec.get("input_type") not in ("checkbox", "radio", "number", "text", "select"):
                raise invalid("labels", f'"{spec.get("input_type")}" is not a valid choice.')
            if len(str(spec.get("default_value") or "")) > 128:
                raise invalid("labels", "Ensure this field has no more than 128 characters.")
    return labels


@route("GET", "/api/projects")
def list_projects(api: "Api", call: Call) -> Reply:
    shown = [
        p
        for p in api.state.projects.values()
        if access.in_context(p.organization, call.context)
        and (
            call.me.is_superuser
            or access.has_part(p, call.me)
            or (isinstance(call.context, Organization) and access.leads(call.context, call.me))
        )
    ]
    return listed(call, (serialize.project(p, api.state, call.base) for p in shown), "name", "owner", "assignee")


@route("POST", "/api/projects")
def create_project(api: "Api", call: Call) -> Reply:
    given = call.json()
    if not given.get("name"):
        raise invalid("name", "This field is required.")
    labels = _label_specs(given)
    with api.state.lock:
        now = api.state.clock.now()
        project = Project(
            id=api.state.next_id("project"),
            name=given["name"],
            owner=call.me,
            created=now,
            updated=now,
            organization=_owned_by(api, call),
            assignee=api.user(given.get("assignee_id"), "assignee_id"),
            bug_tracker=given.get("bug_tracker", ""),
        )
        api.state.projects[project.id] = project
        api.state.add_labels(labels, project_id=project.id)
    return Reply(201, serialize.project(project, api.state, call.base))


@route("GET", "/api/projects/{id}")
def get_project(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.project(api.project(call, id), api.state, call.base))


@route("PATCH", "/api/projects/{id}")
def patch_project(api: "Api", call: Call, id: int | str) -> Reply:
    project, given = api.project(call, id), call.json()
    with api.state.lock:
        _add_or_drop_labels(api, _label_specs({"labels": given.get("labels")}), project_id=project.id)
        project.name = given.get("name", project.name)
        if "assignee_id" in given:
            project.assignee = api.user(given["assignee_id"], "assignee_id")
            project.assignee_updated = api.state.clock.now()
        project.updated = api.state.clock.now()
    return Reply(json=serialize.project(project, api.state, call.base))


@route("DELETE", "/api/projects/{id}")
def delete_project(api: "Api", call: Call, id: int | str) -> Reply:
    project = api.project(call, id)
    with api.state.lock:
        for task in [task for task in api.state.tasks.values() if task.project is project]:
            _drop_task(api, task)
        del api.state.projects[project.id]
    return Reply(204)


def _add_or_drop_labels(api: "Api", given: list[Json], **owner: int) -> None:
    api.state.add_labels([label for label in given if "id" not in label], **owner)
    for label in given:
        if "id" in label and label.get("deleted"):
            api.state.labels.pop(label["id"], None)
        elif "id" in label and label["id"] in api.state.labels:
            api.state.labels[label["id"]].name = label.get("name", api.state.labels[label["id"]].name)


@route("GET", "/api/labels")
def list_labels(api: "Api", call: Call) -> Reply:
    number = {key: int(call.query[key]) for key in ("task_id", "job_id", "project_id") if call.query.get(key)}
    if "job_id" in number:
        shown = list(api.state.labels_of(api.job(call, number["job_id"]).task).values())
    elif "task_id" in number:
        shown = list(api.state.labels_of(api.task(call, number["task_id"])).values())
    elif "project_id" in number:
        project = api.project(call, number["project_id"])
        shown = [label for label in api.state.labels.values() if label.project_id == project.id]
    else:
        shown = list(api.state.labels.values()) if call.me.is_superuser else []
    call.query.setdefault("sort", "id")
    return listed(call, (serialize.label(label) for label in shown), "name", "type")


@route("GET", "/api/labels/{id}")
def get_label(api: "Api", call: Call, id: int | str) -> Reply:
    label = api.state.labels.get(id) if isinstance(id, int) else None
    if label is None:
        raise HttpError(404, "Not found.")
    if label.task_id is not None:
        api.task(call, label.task_id)
    return Reply(json=serialize.label(label))


@route("GET", "/api/tasks")
def list_tasks(api: "Api", call: Call) -> Reply:
    shown = [task for task in api.state.tasks.values() if access.lists_task(task, call.me, call.context)]
    rows = (serialize.task(task, api.state, call.base) for task in shown)
    return listed(call, rows, "name", "project_id", "owner", "assignee", "status", "mode", "subset")


@route("POST", "/api/tasks")
def create_task(api: "Api", call: Call) -> Reply:
    given = call.json()
    if not given.get("name"):
        raise invalid("name", "This field is required.")
    project = api.project(call, given["project_id"]) if given.get("project_id") else None
    labels = _label_specs(given)
    if project is not None and labels:
        raise HttpError(400, ["Label set can be specified only for a task without project"])
    with api.state.lock:
        now = api.state.clock.now()
        task = Task(
            id=api.state.next_id("task"),
            name=given["name"],
            owner=call.me,
            created=now,
            updated=now,
            project=project,
            organization=project.organization if project else _owned_by(api, call),
            assignee=api.user(given.get("assignee_id"), "assignee_id"),
            bug_tracker=given.get("bug_tracker") or "",
            subset=given.get("subset") or "",
            segment_size=int(given.get("segment_size") or 0),
            overlap=given.get("overlap"),
        )
        task.assignee_updated = now if task.assignee else None
        api.state.tasks[task.id] = task
        api.state.add_labels(labels, task_id=task.id)
    return Reply(201, serialize.task(task, api.state, call.base))


@route("GET", "/api/tasks/{id}")
def get_task(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.task(api.task(call, id), api.state, call.base))


@route("PATCH", "/api/tasks/{id}")
def patch_task(api: "Api", call: Call, id: int | str) -> Reply:
    task, given = api.task(call, id), call.json()
    labels = _label_specs({"labels": given.get("labels")})
    with api.state.lock:
        _add_or_drop_labels(api, labels, task_id=task.id)
        for name in ("name", "bug_tracker", "subset"):
            setattr(task, name, given.get(name, getattr(task, name)))
        now = api.state.clock.now()
        if "assignee_id" in given:
            task.assignee, task.assignee_updated = api.user(given["assignee_id"], "assignee_id"), now
        task.updated = now
    return Reply(json=serialize.task(task, api.state, call.base))


def _drop_task(api: "Api", task: Task) -> None:
    for job_id in task.job_ids:
        del api.state.jobs[job_id]
    api.state.labels = {id: label for id, label in api.state.labels.items() if label.task_id != task.id}
    del api.state.tasks[task.id]


@route("DELETE", "/api/tasks/{id}")
def delete_task(api: "Api", call: Call, id: int | str) -> Reply:
    task = api.task(call, id)
    with api.state.lock:
        _drop_task(api, task)
    return Reply(204)
