"""Guides with their pictures, issues and comments."""

import uuid
from typing import TYPE_CHECKING

from cvat_standin import access, serialize
from cvat_standin.media import Blob
from cvat_standin.protocol import Call, HttpError, Reply, invalid, listed, need, route
from cvat_standin.state import Asset, Comment, Guide, Issue, Project, Task, User

if TYPE_CHECKING:
    from cvat_standin.api import Api


@route("POST", "/api/guides")
def create_guide(api: "Api", call: Call) -> Reply:
    given = call.json()
    task = api.task(call, given["task_id"]) if given.get("task_id") else None
    project = api.project(call, given["project_id"]) if given.get("project_id") else None
    if (task is None) == (project is None):
        raise HttpError(400, "Either task or project must be specified")
    owner: Task | Project = task or project  # type: ignore[assignment]
    if owner.guide_id is not None:
        raise HttpError(400, "Annotation guide already exists")
    with api.state.lock:
        now = api.state.clock.now()
        guide = Guide(api.state.next_id("guide"), now, now, given.get("markdown") or "")
        guide.task_id, guide.project_id = (task.id, None) if task else (None, owner.id)
        api.state.guides[guide.id] = guide
        owner.guide_id = guide.id
    return Reply(201, serialize.guide(guide))


def _guide(api: "Api", call: Call, id: int | str, *, write: bool = False) -> Guide:
    """A guide; the assignee of any of the task's jobs may read it."""
    guide = api.state.guides.get(id) if isinstance(id, int) else None
    if guide is None:
        raise HttpError(404, "Not found.")
    if guide.task_id is not None and not write:
        task = api.state.tasks[guide.task_id]
        need(access.may_see_task(task, call.me) or any(job.assignee is call.me for job in api.state.jobs_of(task)))
    elif guide.task_id is not None:
        api.task(call, guide.task_id)
    elif guide.project_id is not None:
        api.project(call, guide.project_id)
    return guide


@route("GET", "/api/guides/{id}")
def get_guide(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.guide(_guide(api, call, id)))


@route("PATCH", "/api/guides/{id}")
def patch_guide(api: "Api", call: Call, id: int | str) -> Reply:
    guide = _guide(api, call, id, write=True)
    with api.state.lock:
        guide.markdown = call.json().get("markdown", guide.markdown)
        guide.updated = api.state.clock.now()
    return Reply(json=serialize.guide(guide))


@route("DELETE", "/api/guides/{id}")
def delete_guide(api: "Api", call: Call, id: int | str) -> Reply:
    guide = _guide(api, call, id, write=True)
    with api.state.lock:
        owners: list[Task | Project] = [*api.state.tasks.values(), *api.state.projects.values()]
        for owner in owners:
            owner.guide_id = None if owner.guide_id == guide.id else owner.guide_id
        del api.state.guides[guide.id]
    return Reply(204)


@route("POST", "/api/assets")
def create_asset(api: "Api", call: Call) -> Reply:
    fields, files = call.form()
    if not files or not str(fields.get("guide_id", "")).isdigit():
        raise invalid("file", "No file was submitted.")
    guide = _guide(api, call, int(fields["guide_id"]), write=True)
    name, content = next(iter(files.items()))
    asset = Asset(str(uuid.uuid4()), name, content, call.me, guide.id, api.state.clock.now())
    api.state.assets[asset.uuid] = asset
    return Reply(201, serialize.asset(asset, call.base))


@route("GET", "/api/assets/{key}")
def get_asset(api: "Api", call: Call, key: int | str) -> Reply:
    asset = api.state.assets.get(str(key))
    if asset is None:
        raise HttpError(404, "Not found.")
    _guide(api, call, asset.guide_id)
    kind = "image/png" if asset.filename.lower().endswith("png") else "image/jpeg"
    return Reply(blob=Blob(asset.content, kind))


@route("DELETE", "/api/assets/{key}")
def delete_asset(api: "Api", call: Call, key: int | str) -> Reply:
    if str(key) not in api.state.assets:
        raise HttpError(404, "Not found.")
    _guide(api, call, api.state.assets[str(key)].guide_id, write=True)
    del api.state.assets[str(key)]
    return Reply(204)


@route("GET", "/api/issues")
def list_issues(api: "Api", call: Call) -> Reply:
    shown = [issue for issue in api.state.issues.values() if access.may_see_job(issue.job, call.me)]
    if "job_id" in call.query:
        shown = [issue for issue in shown if str(issue.job.id) == call.query["job_id"]]
    if "task_id" in call.query:
        shown = [issue for issue in shown if str(issue.job.task.id) == call.query["task_id"]]
    return listed(call, (serialize.issue(i, api.state, call.base) for i in shown), "resolved")


@route("POST", "/api/issues")
def create_issue(api: "Api", call: Call) -> Reply:
    given = call.json()
    for name in ("frame", "position", "job", "message"):
        if given.get(name) is None:
            raise invalid(name, "This field is required.")
    job = api.job(call, given["job"])
    with api.state.lock:
        now = api.state.clock.now()
        position = [float(value) for value in given["position"]]
        issue = Issue(api.state.next_id("issue"), given["frame"], position, job, call.me, now, now)
        issue.assignee = api.user(given.get("assignee"), "assignee")
        issue.resolved = bool(given.get("resolved", False))
        api.state.issues[issue.id] = issue
        _comment(api, issue, call.me, given["message"])
    return Reply(201, serialize.issue(issue, api.state, call.base))


def _comment(api: "Api", issue: Issue, owner: User, message: str) -> Comment:
    now = api.state.clock.now()
    comment = Comment(api.state.next_id("comment"), issue, owner, message, now, now)
    api.state.comments[comment.id] = comment
    return comment


def _issue(api: "Api", call: Call, id: int | str) -> Issue:
    issue = api.state.issues.get(id) if isinstance(id, int) else None
    if issue is None:
        raise HttpError(404, "Not found.")
    need(access.may_see_job(issue.job, call.me))
    return issue


@route("GET", "/api/issues/{id}")
def get_issue(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.issue(_issue(api, call, id), api.state, call.base))


@route("PATCH", "/api/issues/{id}")
def patch_issue(api: "Api", call: Call, id: int | str) -> Reply:
    issue, given = _issue(api, call, id), call.json()
    with api.state.lock:
        issue.resolved = bool(given.get("resolved", issue.resolved))
        issue.position = given.get("position", issue.position)
        if "assignee" in given:
            issue.assignee = api.user(given["assignee"], "assignee")
        issue.updated = api.state.clock.now()
    return Reply(json=serialize.issue(issue, api.state, call.base))


@route("DELETE", "/api/issues/{id}")
def delete_issue(api: "Api", call: Call, id: int | str) -> Reply:
    issue = _issue(api, call, id)
    with api.state.lock:
        del api.state.issues[issue.id]
        api.state.comments = {k: c for k, c in api.state.comments.items() if c.issue is not issue}
    return Reply(204)


@route("GET", "/api/comments")
def list_comments(api: "Api", call: Call) -> Reply:
    shown = [c for c in api.state.comments.values() if access.may_see_job(c.issue.job, call.me)]
    if "issue_id" in call.query:
        shown = [c for c in shown if str(c.issue.id) == call.query["issue_id"]]
    if "job_id" in call.query:
        shown = [c for c in shown if str(c.issue.job.id) == call.query["job_id"]]
    return listed(call, (serialize.comment(c, call.base) for c in shown))


@route("POST", "/api/comments")
def create_comment(api: "Api", call: Call) -> Reply:
    given = call.json()
    issue = _issue(api, call, given.get("issue", 0))
    with api.state.lock:
        made = _comment(api, issue, call.me, str(given.get("message") or ""))
    return Reply(201, serialize.comment(made, call.base))
