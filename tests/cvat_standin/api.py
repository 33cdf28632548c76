"""The REST API: one small function for each operation, over the records of ``state``.

In: a :class:`Call` (who asks, path, query, body). Out: a :class:`Reply` with the fields, the status codes and the order
of listings seen on a real server.
"""

import base64
import binascii
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cvat_standin import access, annotations, serialize
from cvat_standin.functions import FunctionError, Functions, Queue, Request
from cvat_standin.media import Blob, MediaError, VideoFrames, make_frames
from cvat_standin.state import (
    ROLES,
    Asset,
    Background,
    Comment,
    Guide,
    Issue,
    Job,
    Media,
    Organization,
    Project,
    State,
    Task,
    Token,
    User,
    stamp,
)

Json = dict[str, Any]
STATES = ("new", "in progress", "completed", "rejected")
STAGES = ("annotation", "validation", "acceptance")
_VIDEO_CHUNK = 36
_IMAGE_CHUNK = 72
_DEFAULT_OVERLAP = {"interpolation": 5, "annotation": 0}


class HttpError(Exception):
    """An answer with an error status; ``detail`` is a text or the body's JSON."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.body = detail if isinstance(detail, dict | list) else {"detail": detail}


@dataclass(frozen=True)
class Reply:
    """An answer: JSON unless ``blob`` is given."""

    status: int = 200
    json: Any = None
    blob: Blob | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request, with the user it comes from."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base: str
    user: User | None = None
    token: Token | None = None
    context: access.Context = None

    @property
    def me(self) -> User:
        """The user; handlers behind the login can rely on it."""
        assert self.user is not None
        return self.user

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            HttpError: 400 when it is none.
        """
        if not self.body:
            return {}
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise HttpError(400, f"JSON parse error - {error}") from error

    def form(self) -> tuple[Json, dict[str, bytes]]:
        """The body as fields and files, from JSON, a URL-encoded form or a multipart form."""
        kind = self.headers.get("content-type", "")
        if "multipart/form-data" not in kind:
            if "x-www-form-urlencoded" in kind:
                return dict(parse_qsl(self.body.decode())), {}
            return self.json(), {}
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + self.body)
        fields: Json = {}
        files: dict[str, bytes] = {}
        for part in message.iter_parts():
            content = part.get_payload(decode=True)
            content = content if isinstance(content, bytes) else b""
            filename = part.get_filename()
            if filename:
                files[filename.replace("\\", "/").rsplit("/", 1)[-1]] = content
            else:
                fields[str(part.get_param("name", header="content-disposition"))] = content.decode()
        return fields, files


Handler = Callable[..., Reply]
_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler for a path such as ``/api/jobs/{id}``; numbers arrive as int."""
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", re.escape(template).replace(r"\{", "{").replace(r"\}", "}"))

    def register(handler: Handler) -> Handler:
        _ROUTES.append((method, re.compile(pattern + "$"), handler))
        # A path spelled out goes before one with a placeholder: data/meta is not the upload named "meta".
        _ROUTES.sort(key=lambda entry: entry[1].groups)
        return handler

    return register


def _need(condition: bool, message: str = "You do not have permission to perform this action.") -> None:
    if not condition:
        raise HttpError(403, message)


def _invalid(field_name: str, message: str) -> HttpError:
    return HttpError(400, {field_name: [message]})


def _paged(call: Call, rows: list[Json]) -> Reply:
    """One page of a listing, with the links a client follows."""
    size = int(call.query.get("page_size") or 10)
    page = int(call.query.get("page") or 1)
    pages = max(1, -(-len(rows) // size))
    if not 1 <= page <= pages:
        raise HttpError(404, "Invalid page.")

    def link(number: int) -> str | None:
        if not 1 <= number <= pages:
            return None
        query = call.query | {"page": str(number)}
        return f"{call.base}{call.path}?{urlencode(query)}"

    return Reply(
        json={
            "count": len(rows),
            "next": link(page + 1),
            "previous": link(page - 1),
            "results": rows[(page - 1) * size : page * size],
        }
    )


def _rule(row: Json, logic: Any) -> bool:
    """Evaluate the listing's ``filter``: JSON logic with and, or, !, ==, in and var, which is what clients send."""
    if not isinstance(logic, dict):
        return bool(logic)
    operator, operands = next(iter(logic.items()))
    if operator == "and":
        return all(_rule(row, item) for item in operands)
    if operator == "or":
        return any(_rule(row, item) for item in operands)
    if operator == "!":
        return not _rule(row, operands[0] if isinstance(operands, list) else operands)

    def value(item: Any) -> Any:
        if not (isinstance(item, dict) and "var" in item):
            return item
        found = row.get(item["var"])
        return found.get("username") if isinstance(found, dict) and "username" in found else found

    left, right = (value(item) for item in operands)
    if operator == "==":
        return str(left) == str(right)
    if operator == "in":
        return str(left) in right if isinstance(right, str) else left in right
    raise HttpError(400, f"filter: operator {operator} is not supported")


def _listed(call: Call, rows: Iterable[Json], *fields: str) -> Reply:
    """Filter by query, ``filter`` and ``search``, sort (newest first unless asked otherwise), and page."""
    rows = list(rows)
    for name in fields:
        if name in call.query:
            wanted = call.query[name]

            def own(row: Json, name: str = name) -> str:
                value = row.get(name)
                return str(value.get("username") if isinstance(value, dict) else value)

            rows = [row for row in rows if own(row) == wanted]
    if "filter" in call.query:
        logic = json.loads(call.query["filter"])
        rows = [row for row in rows if _rule(row, logic)]
    if "search" in call.query:
        wanted = call.query["search"].lower()
        rows = [row for row in rows if any(wanted in str(row.get(k, "")).lower() for k in ("name", "username", "slug"))]
    key = call.query.get("sort") or "-id"
    name = key.lstrip("-").split(",")[0]
    rows.sort(key=lambda row: (row.get(name) is not None, row.get(name)), reverse=key.startswith("-"))
    return _paged(call, rows)


class Api:
    """All operations. Construct it once a server; :meth:`answer` may be called from many threads.

    Args:
        state: the records.
        functions: the serverless functions on offer.
        queue: the requests for annotation.
    """

    def __init__(self, state: State, functions: Functions, queue: Queue) -> None:
        self.state = state
        self.functions = functions
        self.queue = queue
        self.writer = annotations.Writer(state.next_id, self._taken)

    def _taken(self, kind: str, id: int) -> bool:
        return any(id in job.annotations.table(kind) for job in self.state.jobs.values())

    def answer(self, call: Call) -> Reply:
        """Serve one call; errors come back as replies."""
        call.path = call.path.rstrip("/") or "/"
        try:
            self._identify(call)
            allowed = False
            for method, pattern, handler in _ROUTES:
                found = pattern.match(call.path)
                if found and method == call.method:
                    arguments = {k: int(v) if v.isdigit() else v for k, v in found.groupdict().items()}
                    return handler(self, call, **arguments)
                allowed = allowed or found is not None
            if allowed:
                raise HttpError(405, f'Method "{call.method}" not allowed.')
            raise HttpError(404, "Not found.")
        except HttpError as error:
            return Reply(error.status, error.body)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _identify(self, call: Call) -> None:
        """Find user, token and organisation.

        Raises:
            HttpError: 401 without valid credentials, 403 for a change with a read-only token or without the CSRF
                header, 404 for an unknown organisation.
        """
        if call.path in ("/api/server/about", "/api/auth/login", "/api/auth/register", "/api/schema"):
            return
        scheme, _, value = call.headers.get("authorization", "").partition(" ")
        unsafe = call.method not in ("GET", "HEAD", "OPTIONS")
        cookies = dict(part.strip().partition("=")[::2] for part in call.headers.get("cookie", "").split(";"))
        if scheme.lower() in ("bearer", "token"):
            token = self.state.tokens.get(value)
            now = self.state.clock.now()
            if token is None or (token.expiry is not None and token.expiry <= now):
                raise HttpError(401, "Invalid token.")
            token.last_used = now
            call.user, call.token = token.owner, token
            _need(not (unsafe and token.read_only))
        elif scheme.lower() == "basic":
            call.user = self._basic(value)
        elif cookies.get("sessionid") in self.state.sessions:
            call.user = self.state.sessions[cookies["sessionid"]]
            _need(not unsafe or bool(call.headers.get("x-csrftoken")), "CSRF Failed: CSRF token missing.")
        else:
            raise HttpError(401, "Authentication credentials were not provided.")
        call.context = self._context(call)

    def _basic(self, value: str) -> User:
        try:
            name, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise HttpError(401, "Invalid basic header.") from error
        user = self.state.user_named(name)
        if user is None or user.password != password:
            raise HttpError(401, "Invalid username/password.")
        return user

    def _context(self, call: Call) -> access.Context:
        slug = call.headers.get("x-organization", call.query.get("org"))
        number = call.query.get("org_id")
        if slug is None and number is None:
            return None
        if not slug and not number:
            return ""
        for organization in self.state.organizations.values():
            if organization.slug == slug or str(organization.id) == number:
                member = call.me.id in organization.members or call.me.is_superuser
                _need(member, "You should be an active member in the current organization.")
                return organization
        raise HttpError(404, f"{slug or number} organization does not exist.")

    # --- finding records ----------------------------------------------------------------------------------------------

    def task(self, call: Call, id: int | str) -> Task:
        """A task the user may see.

        Raises:
            HttpError: 404 where there is none, 403 where it is not his.
        """
        task = self.state.tasks.get(id) if isinstance(id, int) else None
        if task is None:
            raise HttpError(404, "Not found.")
        _need(access.may_see_task(task, call.me))
        return task

    def job(self, call: Call, id: int | str) -> Job:
        """A job the user may see; see :meth:`task`."""
        job = self.state.jobs.get(id) if isinstance(id, int) else None
        if job is None:
            raise HttpError(404, "Not found.")
        _need(access.may_see_job(job, call.me))
        return job

    def project(self, call: Call, id: int | str) -> Project:
        """A project the user may see; see :meth:`task`."""
        project = self.state.projects.get(id) if isinstance(id, int) else None
        if project is None:
            raise HttpError(404, "Not found.")
        _need(access.may_see_project(project, call.me))
        return project

    def user(self, value: Any, field_name: str) -> User | None:
        """A user by id, or None.

        Raises:
            HttpError: 400 where there is none of that id.
        """
        if value is None:
            return None
        if value not in self.state.users:
            raise _invalid(field_name, f'Invalid pk "{value}" - object does not exist.')
        return self.state.users[value]

    # --- server, login, users -----------------------------------------------------------------------------------------

    @route("GET", "/api/server/about")
    def about(self, call: Call) -> Reply:
        return Reply(json=serialize.about(call.base))

    @route("GET", "/api/server/plugins")
    def plugins(self, call: Call) -> Reply:
        return Reply(json={"GIT_INTEGRATION": False, "ANALYTICS": False, "MODELS": True, "PREDICT": False})

    @route("GET", "/api/server/health")
    def health(self, call: Call) -> Reply:
        return Reply(json={"Cache backend: default": "working", "DatabaseBackend": "working"})

    @route("GET", "/api/schema")
    def schema(self, call: Call) -> Reply:
        return Reply(json={"openapi": "3.0.3", "info": {"title": "CVAT REST API", "version": "2.54"}, "paths": {}})

    @route("POST", "/api/auth/login")
    def login(self, call: Call) -> Reply:
        fields, _ = call.form()
        user = self.state.user_named(str(fields.get("username") or ""))
        if user is None or user.password != fields.get("password"):
            raise HttpError(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
        user.last_login = self.state.clock.now()
        session = uuid.uuid4().hex
        self.state.sessions[session] = user
        return Reply(json={"key": uuid.uuid4().hex}, cookies={"csrftoken": uuid.uuid4().hex, "sessionid": session})

    @route("POST", "/api/auth/logout")
    def logout(self, call: Call) -> Reply:
        for session in [key for key, user in self.state.sessions.items() if user is call.user]:
            del self.state.sessions[session]
        return Reply(json={"detail": "Successfully logged out."})

    @route("GET", "/api/auth/access_tokens")
    def list_tokens(self, call: Call) -> Reply:
        mine = [token for token in self.state.tokens.values() if token.owner is call.me]
        return _listed(call, (serialize.token(token, call.base) for token in mine), "name")

    @route("POST", "/api/auth/access_tokens")
    def create_token(self, call: Call) -> Reply:
        given = call.json()
        if not given.get("name"):
            raise _invalid("name", "This field is required.")
        expiry = datetime.fromisoformat(given["expiry_date"]) if given.get("expiry_date") else None
        read_only = bool(given.get("read_only", True))
        token = self.state.add_token(call.me, given["name"], read_only=read_only, expiry=expiry)
        return Reply(201, serialize.token(token, call.base) | {"value": token.value})

    @route("GET", "/api/auth/access_tokens/self")
    def own_token(self, call: Call) -> Reply:
        if call.token is None:
            raise HttpError(404, "Not found.")
        return Reply(json=serialize.token(call.token, call.base))

    def _own_token(self, call: Call, id: int | str) -> Token:
        for token in self.state.tokens.values():
            if token.id == id and token.owner is call.me:
                return token
        raise HttpError(404, "Not found.")

    @route("GET", "/api/auth/access_tokens/{id}")
    def get_token(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.token(self._own_token(call, id), call.base))

    @route("DELETE", "/api/auth/access_tokens/{id}")
    def delete_token(self, call: Call, id: int | str) -> Reply:
        del self.state.tokens[self._own_token(call, id).value]
        return Reply(204)

    @route("GET", "/api/users/self")
    def self_user(self, call: Call) -> Reply:
        return Reply(json=serialize.user(call.me, call.base))

    @route("GET", "/api/users")
    def list_users(self, call: Call) -> Reply:
        """A plain user finds himself and the members of his organisations; in an organisation, its members."""
        shown = {call.me.id}
        for organization in self.state.organizations.values():
            if call.me.id in organization.members and access.in_context(organization, call.context or None):
                shown |= set(organization.members)
        everyone = call.me.is_superuser and not isinstance(call.context, Organization)
        users = [user for user in self.state.users.values() if everyone or user.id in shown]
        detailed = call.me.is_superuser
        rows = [
            serialize.user(user, call.base) if detailed or user is call.me else serialize.person(user, call.base)
            for user in users
        ]
        return _listed(call, (row for row in rows if row is not None), "id", "username", "first_name", "last_name")

    @route("GET", "/api/users/{id}")
    def get_user(self, call: Call, id: int | str) -> Reply:
        user = self.state.users.get(id) if isinstance(id, int) else None
        if user is None:
            raise HttpError(404, "Not found.")
        return Reply(
            json=serialize.user(user, call.base) if call.me.is_superuser else serialize.person(user, call.base)
        )

    # --- organisations ------------------------------------------------------------------------------------------------

    @route("GET", "/api/organizations")
    def list_organizations(self, call: Call) -> Reply:
        mine = [o for o in self.state.organizations.values() if call.me.is_superuser or call.me.id in o.members]
        return _listed(call, (serialize.organization(o, call.base) for o in mine), "slug", "name")

    @route("POST", "/api/organizations")
    def create_organization(self, call: Call) -> Reply:
        given = call.json()
        if not re.fullmatch(r"[-a-zA-Z0-9_]+", str(given.get("slug") or "")):
            raise _invalid("slug", "Enter a valid slug.")
        if any(o.slug == given["slug"] for o in self.state.organizations.values()):
            raise _invalid("slug", "organization with this slug already exists.")
        made = self.state.add_organization(
            given["slug"], call.me, name=given.get("name", ""), description=given.get("description", "")
        )
        return Reply(201, serialize.organization(made, call.base))

    def _organization(self, call: Call, id: int | str) -> Organization:
        found = self.state.organizations.get(id) if isinstance(id, int) else None
        if found is None:
            raise HttpError(404, "Not found.")
        _need(call.me.is_superuser or call.me.id in found.members)
        return found

    @route("GET", "/api/organizations/{id}")
    def get_organization(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.organization(self._organization(call, id), call.base))

    @route("GET", "/api/memberships")
    def list_memberships(self, call: Call) -> Reply:
        rows = []
        for organization in self.state.organizations.values():
            if access.in_context(organization, call.context) and call.me.id in organization.members:
                rows += serialize.memberships(organization, self.state.users, call.base)
        return _listed(call, rows, "user", "role")

    # --- projects -----------------------------------------------------------------------------------------------------

    def _owned_by(self, call: Call) -> Organization | None:
        _need(access.may_create(call.me, call.context))
        return call.context if isinstance(call.context, Organization) else None

    def _label_specs(self, given: Json) -> list[Json]:
        """Labels sent with a task or project.

        Raises:
            HttpError: 400 for a name twice, a nameless attribute or one of no known type.
        """
        labels = given.get("labels") or []
        names = [label.get("name") for label in labels]
        if len(set(names)) != len(names) or not all(names):
            raise _invalid("labels", "All label names must be unique and not empty")
        for label in labels:
            for spec in label.get("attributes", []):
                if len(str(spec.get("name") or "")) not in range(1, 65):
                    raise _invalid("labels", "Ensure an attribute's name has 1 to 64 characters.")
                if spec.get("input_type") not in ("checkbox", "radio", "number", "text", "select"):
                    raise _invalid("labels", f'"{spec.get("input_type")}" is not a valid choice.')
                if len(str(spec.get("default_value") or "")) > 128:
                    raise _invalid("labels", "Ensure this field has no more than 128 characters.")
        return labels

    @route("GET", "/api/projects")
    def list_projects(self, call: Call) -> Reply:
        shown = [
            p
            for p in self.state.projects.values()
            if access.in_context(p.organization, call.context)
            and (
                call.me.is_superuser
                or access.has_part(p, call.me)
                or (isinstance(call.context, Organization) and access.leads(call.context, call.me))
            )
        ]
        return _listed(call, (serialize.project(p, self.state, call.base) for p in shown), "name", "owner", "assignee")

    @route("POST", "/api/projects")
    def create_project(self, call: Call) -> Reply:
        given = call.json()
        if not given.get("name"):
            raise _invalid("name", "This field is required.")
        labels = self._label_specs(given)
        with self.state.lock:
            now = self.state.clock.now()
            project = Project(
                id=self.state.next_id("project"),
                name=given["name"],
                owner=call.me,
                created=now,
                updated=now,
                organization=self._owned_by(call),
                assignee=self.user(given.get("assignee_id"), "assignee_id"),
                bug_tracker=given.get("bug_tracker", ""),
            )
            self.state.projects[project.id] = project
            self.state.add_labels(labels, project_id=project.id)
        return Reply(201, serialize.project(project, self.state, call.base))

    @route("GET", "/api/projects/{id}")
    def get_project(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.project(self.project(call, id), self.state, call.base))

    @route("PATCH", "/api/projects/{id}")
    def patch_project(self, call: Call, id: int | str) -> Reply:
        project, given = self.project(call, id), call.json()
        with self.state.lock:
            self._add_or_drop_labels(self._label_specs({"labels": given.get("labels")}), project_id=project.id)
            project.name = given.get("name", project.name)
            if "assignee_id" in given:
                project.assignee = self.user(given["assignee_id"], "assignee_id")
                project.assignee_updated = self.state.clock.now()
            project.updated = self.state.clock.now()
        return Reply(json=serialize.project(project, self.state, call.base))

    @route("DELETE", "/api/projects/{id}")
    def delete_project(self, call: Call, id: int | str) -> Reply:
        project = self.project(call, id)
        with self.state.lock:
            for task in [task for task in self.state.tasks.values() if task.project is project]:
                self._drop_task(task)
            del self.state.projects[project.id]
        return Reply(204)

    def _add_or_drop_labels(self, given: list[Json], **owner: int) -> None:
        self.state.add_labels([label for label in given if "id" not in label], **owner)
        for label in given:
            if "id" in label and label.get("deleted"):
                self.state.labels.pop(label["id"], None)
            elif "id" in label and label["id"] in self.state.labels:
                self.state.labels[label["id"]].name = label.get("name", self.state.labels[label["id"]].name)

    # --- labels -------------------------------------------------------------------------------------------------------

    @route("GET", "/api/labels")
    def list_labels(self, call: Call) -> Reply:
        number = {key: int(call.query[key]) for key in ("task_id", "job_id", "project_id") if call.query.get(key)}
        if "job_id" in number:
            shown = list(self.state.labels_of(self.job(call, number["job_id"]).task).values())
        elif "task_id" in number:
            shown = list(self.state.labels_of(self.task(call, number["task_id"])).values())
        elif "project_id" in number:
            project = self.project(call, number["project_id"])
            shown = [label for label in self.state.labels.values() if label.project_id == project.id]
        else:
            shown = list(self.state.labels.values()) if call.me.is_superuser else []
        call.query.setdefault("sort", "id")
        return _listed(call, (serialize.label(label) for label in shown), "name", "type")

    @route("GET", "/api/labels/{id}")
    def get_label(self, call: Call, id: int | str) -> Reply:
        label = self.state.labels.get(id) if isinstance(id, int) else None
        if label is None:
            raise HttpError(404, "Not found.")
        if label.task_id is not None:
            self.task(call, label.task_id)
        return Reply(json=serialize.label(label))

    # --- tasks --------------------------------------------------------------------------------------------------------

    @route("GET", "/api/tasks")
    def list_tasks(self, call: Call) -> Reply:
        shown = [task for task in self.state.tasks.values() if access.lists_task(task, call.me, call.context)]
        rows = (serialize.task(task, self.state, call.base) for task in shown)
        return _listed(call, rows, "name", "project_id", "owner", "assignee", "status", "mode", "subset")

    @route("POST", "/api/tasks")
    def create_task(self, call: Call) -> Reply:
        given = call.json()
        if not given.get("name"):
            raise _invalid("name", "This field is required.")
        project = self.project(call, given["project_id"]) if given.get("project_id") else None
        labels = self._label_specs(given)
        if project is not None and labels:
            raise HttpError(400, ["Label set can be specified only for a task without project"])
        with self.state.lock:
            now = self.state.clock.now()
            task = Task(
                id=self.state.next_id("task"),
                name=given["name"],
                owner=call.me,
                created=now,
                updated=now,
                project=project,
                organization=project.organization if project else self._owned_by(call),
                assignee=self.user(given.get("assignee_id"), "assignee_id"),
                bug_tracker=given.get("bug_tracker") or "",
                subset=given.get("subset") or "",
                segment_size=int(given.get("segment_size") or 0),
                overlap=given.get("overlap"),
            )
            task.assignee_updated = now if task.assignee else None
            self.state.tasks[task.id] = task
            self.state.add_labels(labels, task_id=task.id)
        return Reply(201, serialize.task(task, self.state, call.base))

    @route("GET", "/api/tasks/{id}")
    def get_task(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.task(self.task(call, id), self.state, call.base))

    @route("PATCH", "/api/tasks/{id}")
    def patch_task(self, call: Call, id: int | str) -> Reply:
        task, given = self.task(call, id), call.json()
        labels = self._label_specs({"labels": given.get("labels")})
        with self.state.lock:
            self._add_or_drop_labels(labels, task_id=task.id)
            for name in ("name", "bug_tracker", "subset"):
                setattr(task, name, given.get(name, getattr(task, name)))
            now = self.state.clock.now()
            if "assignee_id" in given:
                task.assignee, task.assignee_updated = self.user(given["assignee_id"], "assignee_id"), now
            task.updated = now
        return Reply(json=serialize.task(task, self.state, call.base))

    def _drop_task(self, task: Task) -> None:
        for job_id in task.job_ids:
            del self.state.jobs[job_id]
        self.state.labels = {id: label for id, label in self.state.labels.items() if label.task_id != task.id}
        del self.state.tasks[task.id]

    @route("DELETE", "/api/tasks/{id}")
    def delete_task(self, call: Call, id: int | str) -> Reply:
        task = self.task(call, id)
        with self.state.lock:
            self._drop_task(task)
        return Reply(204)

    # --- data of a task -----------------------------------------------------------------------------------------------

    @route("POST", "/api/tasks/{id}/data")
    def upload(self, call: Call, id: int | str) -> Reply:
        """The client's uploads: start, several files at once, a large file by TUS, finish; or all in one request."""
        task = self.task(call, id)
        if "upload-length" in call.headers:
            return self._tus_create(call, task)
        if task.media is not None:
            raise HttpError(400, "Adding more data is not supported")
        pending = self.state.uploads.setdefault(task.id, {})
        if "upload-start" in call.headers:
            return Reply(202)
        fields, files = call.form()
        pending.update(files)
        if "upload-multiple" in call.headers:
            return Reply(200)
        return Reply(202, {"rq_id": self._start_creation(call, task, fields, pending)})

    def _tus_create(self, call: Call, task: Task) -> Reply:
        pairs = (pair.split(" ") for pair in call.headers.get("upload-metadata", "").split(","))
        metadata = {pair[0]: base64.b64decode(pair[1]).decode() for pair in pairs if len(pair) == 2}
        key, name = uuid.uuid4().hex, metadata.get("filename", "").rsplit("/", 1)[-1]
        if not name:
            raise HttpError(400, "File upload has no filename")
        self.state.tus[key] = (task.id, name, int(call.headers["upload-length"]), bytearray())
        location = f"{call.base}/api/tasks/{task.id}/data/{key}"
        return Reply(201, headers={"Location": location, "Upload-Filename": name, "Tus-Resumable": "1.0.0"})

    def _tus(self, call: Call, id: int | str, key: int | str) -> tuple[int, str, int, bytearray]:
        self.task(call, id)
        if str(key) not in self.state.tus:
            raise HttpError(404, "Not found.")
        return self.state.tus[str(key)]

    @route("HEAD", "/api/tasks/{id}/data/{key}")
    def tus_offset(self, call: Call, id: int | str, key: int | str) -> Reply:
        _, _, length, content = self._tus(call, id, key)
        headers = {"Upload-Offset": str(len(content)), "Upload-Length": str(length), "Tus-Resumable": "1.0.0"}
        return Reply(200, headers=headers)

    @route("PATCH", "/api/tasks/{id}/data/{key}")
    def tus_append(self, call: Call, id: int | str, key: int | str) -> Reply:
        task_id, name, length, content = self._tus(call, id, key)
        if int(call.headers.get("upload-offset", -1)) != len(content):
            return Reply(409, headers={"Upload-Offset": str(len(content))})
        if len(content) + len(call.body) > length:
            raise HttpError(413, "The upload is longer than announced")
        content += call.body
        if len(content) == length:
            self.state.uploads.setdefault(task_id, {})[name] = bytes(content)
        headers = {"Upload-Offset": str(len(content)), "Upload-Filename": name, "Tus-Resumable": "1.0.0"}
        return Reply(204, headers=headers)

    def _start_creation(self, call: Call, task: Task, given: Json, files: dict[str, bytes]) -> str:
        step = self._frame_step(given)
        mapping = given.get("job_file_mapping")
        if mapping:
            names = [name for job in mapping for name in job]
            if len(set(names)) != len(names):
                raise _invalid("job_file_mapping", "The same file cannot be used multiple times")
            ordered = str(given.get("sorting_method") or "lexicographical") != "lexicographical"
            framed = given.get("start_frame") or given.get("stop_frame") is not None or step != 1
            if task.segment_size or task.overlap or ordered or framed:
                raise _invalid(
                    "job_file_mapping",
                    "can't be used together with segment_size, overlap, sorting, start, stop or step",
                )
        request = Background(
            id=f"action=create&target=task&target_id={task.id}",
            kind="create:task",
            owner=call.me,
            created=self.state.clock.now(),
            project_id=task.project.id if task.project else None,
            task_id=task.id,
        )
        self.state.background[request.id] = request
        arguments = (request, task, given, dict(files), step)
        threading.Thread(target=self._create_data, args=arguments, daemon=True).start()
        return request.id

    @staticmethod
    def _frame_step(given: Json) -> int:
        text = str(given.get("frame_filter") or "")
        if not text:
            return 1
        found = re.fullmatch(r"step\s*=\s*([1-9]\d*)", text)
        if found is None:
            raise _invalid("frame_filter", "The filter must look like step=N")
        return int(found.group(1))

    def _create_data(self, request: Background, task: Task, given: Json, files: dict[str, bytes], step: int) -> None:
        request.started, request.status = self.state.clock.now(), "started"
        try:
            self._attach(task, given, files, step)
        except MediaError as error:
            request.message, request.status = str(error), "failed"
        else:
            request.status = "finished"
        request.finished = self.state.clock.now()

    def _attach(self, task: Task, given: Json, files: dict[str, bytes], step: int) -> None:
        """Turn uploaded files into the frames and jobs of a task.

        Raises:
            MediaError: the files cannot become a task.
        """
        frames = make_frames(files, given, step)
        video = isinstance(frames, VideoFrames)
        with self.state.lock:
            task.media = Media(
                id=self.state.next_id("media"),
                frames=frames,
                mode="interpolation" if video else "annotation",
                chunk_size=int(given.get("chunk_size") or (_VIDEO_CHUNK if video else _IMAGE_CHUNK)),
                chunk_type="video" if video else "imageset",
                image_quality=int(given.get("image_quality") or 70),
                updated=self.state.clock.now(),
                start_frame=int(given.get("start_frame") or 0),
                step=step,
                frame_filter=str(given.get("frame_filter") or ""),
            )
            for start, stop in self._segments(task, given):
                now = self.state.clock.now()
                job = Job(self.state.next_id("job"), task, start, stop, now, now, annotations.JobAnnotations())
                self.state.jobs[job.id] = job
                task.job_ids.append(job.id)
            task.updated = self.state.clock.now()
            self.state.uploads.pop(task.id, None)

    def make_task(
        self,
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
        with self.state.lock:
            now = self.state.clock.now()
            task = Task(self.state.next_id("task"), name, owner, now, now, organization=organization)
            task.segment_size, task.overlap = segment_size, overlap
            self.state.tasks[task.id] = task
            self.state.add_labels(labels, task_id=task.id)
        self._attach(task, given, files, self._frame_step(given))
        return task

    @staticmethod
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
    def list_requests(self, call: Call) -> Reply:
        shown = [r for r in self.state.background.values() if r.owner is call.me or call.me.is_superuser]
        call.query.setdefault("sort", "-created_date")
        return _listed(call, (serialize.background(r) for r in shown), "status")

    @route("GET", "/api/requests/{id}")
    def get_request(self, call: Call, id: int | str) -> Reply:
        request = self.state.background.get(str(id))
        if request is None:
            raise HttpError(404, "There is no request with specified id")
        _need(request.owner is call.me or call.me.is_superuser)
        return Reply(json=serialize.background(request))

    def _media(self, task: Task) -> Media:
        if task.media is None:
            raise HttpError(404, "There is no data attached to the task yet")
        return task.media

    def _frames(self, call: Call, media: Media, first: int, last: int, job: Job | None) -> Reply:
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
    def task_data(self, call: Call, id: int | str) -> Reply:
        media = self._media(self.task(call, id))
        return self._frames(call, media, 0, media.size - 1, None)

    @route("GET", "/api/jobs/{id}/data")
    def job_data(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        return self._frames(call, self._media(job.task), job.start, job.stop, job)

    @route("GET", "/api/tasks/{id}/preview")
    def task_preview(self, call: Call, id: int | str) -> Reply:
        return Reply(blob=self._media(self.task(call, id)).frames.compressed(0))

    @route("GET", "/api/jobs/{id}/preview")
    def job_preview(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        return Reply(blob=self._media(job.task).frames.compressed(job.start))

    @route("GET", "/api/tasks/{id}/data/meta")
    def task_meta(self, call: Call, id: int | str) -> Reply:
        media = self._media(self.task(call, id))
        return Reply(json=serialize.meta(media, 0, media.size - 1))

    @route("GET", "/api/jobs/{id}/data/meta")
    def job_meta(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        return Reply(json=serialize.meta(self._media(job.task), job.start, job.stop))

    @staticmethod
    def _deleted(given: Json, first: int, last: int) -> list[int]:
        frames = given.get("deleted_frames", [])
        if not all(isinstance(n, int) and first <= n <= last for n in frames):
            raise _invalid("deleted_frames", f"Frames must be in [{first}; {last}]")
        return frames

    @route("PATCH", "/api/tasks/{id}/data/meta")
    def patch_task_meta(self, call: Call, id: int | str) -> Reply:
        task = self.task(call, id)
        media = self._media(task)
        with self.state.lock:
            media.deleted_frames = sorted(set(self._deleted(call.json(), 0, media.size - 1)))
            task.updated = self.state.clock.now()
        return Reply(json=serialize.meta(media, 0, media.size - 1))

    @route("PATCH", "/api/jobs/{id}/data/meta")
    def patch_job_meta(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        media = self._media(job.task)
        with self.state.lock:
            mine = self._deleted(call.json(), job.start, job.stop)
            others = [n for n in media.deleted_frames if not job.start <= n <= job.stop]
            media.deleted_frames = sorted({*mine, *others})
            self.state.touch(job)
        return Reply(json=serialize.meta(media, job.start, job.stop))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    @route("GET", "/api/jobs")
    def list_jobs(self, call: Call) -> Reply:
        """Newest first. A task's jobs can be asked for by those who see the task and, as far as theirs, by others."""
        shown = [job for job in self.state.jobs.values() if access.lists_job(job, call.me, call.context)]
        if call.query.get("task_id") and call.context is None:
            task = self.state.tasks.get(int(call.query["task_id"]))
            if task is not None and access.may_see_task(task, call.me):
                shown = self.state.jobs_of(task)
        rows = (serialize.job(job, self.state, call.base) for job in shown)
        fields = ("task_id", "project_id", "state", "stage", "type", "assignee", "dimension")
        return _listed(call, rows, *fields)

    @route("GET", "/api/jobs/{id}")
    def get_job(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.job(self.job(call, id), self.state, call.base))

    @route("PATCH", "/api/jobs/{id}")
    def patch_job(self, call: Call, id: int | str) -> Reply:
        job, given = self.job(call, id), call.json()
        if "assignee" in given or "stage" in given:
            _need(access.may_see_task(job.task, call.me))
        if given.get("state", job.state) not in STATES:
            raise _invalid("state", f'"{given["state"]}" is not a valid choice.')
        if given.get("stage", job.stage) not in STAGES:
            raise _invalid("stage", f'"{given["stage"]}" is not a valid choice.')
        with self.state.lock:
            if "assignee" in given:
                job.assignee = self.user(given["assignee"], "assignee")
                job.assignee_updated = self.state.clock.now()
            if given.get("stage", job.stage) != job.stage:
                job.stage, job.state = given["stage"], "new"
            job.state = given.get("state", job.state)
            self.state.touch(job)
        return Reply(json=serialize.job(job, self.state, call.base))

    # --- annotations --------------------------------------------------------------------------------------------------

    def _parsed(self, call: Call) -> Json:
        try:
            return annotations.parse(call.json())
        except annotations.AnnotationError as error:
            raise HttpError(400, str(error)) from error

    def _write(self, task: Task, parts: list[tuple[Job, Json]], action: str) -> Json:
        """Apply one action to each job with its part of the data; the answers follow each other in job order."""
        result = annotations.empty()
        labels = self.state.labels_of(task)
        before = [(job, job.annotations.copy()) for job, _ in parts]
        try:
            for job, data in parts:
                held = not job.annotations.is_empty()
                if action == "put":
                    annotations.check_no_ids(data)
                    self.writer.clear(job.annotations)
                done = self.writer.delete(job.annotations, data) if action in ("update", "delete") else data
                if action != "delete":
                    done = self.writer.create(job.annotations, data, labels)
                if not annotations.is_empty(done) or (action == "put" and held):
                    self.state.touch(job)
                for kind in ("tags", "shapes", "tracks"):
                    result[kind] += done[kind]
        except (annotations.AnnotationError, annotations.ClashError) as error:
            for job, old in before:
                job.annotations = old
            refused = isinstance(error, annotations.AnnotationError)
            raise HttpError(400 if refused else 500, [str(error)]) from error
        return result

    def _action(self, call: Call) -> str:
        action = call.query.get("action", "")
        if action not in ("create", "update", "delete"):
            raise HttpError(400, "Please specify a correct 'action' for the request")
        return action

    @route("GET", "/api/jobs/{id}/annotations")
    def job_annotations(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        with self.state.lock:
            return Reply(json=annotations.read(job.annotations, self.state.labels_of(job.task)))

    @route("PATCH", "/api/jobs/{id}/annotations")
    def patch_job_annotations(self, call: Call, id: int | str) -> Reply:
        job, action, data = self.job(call, id), self._action(call), self._parsed(call)
        with self.state.lock:
            return Reply(json=self._write(job.task, [(job, data)], action))

    @route("PUT", "/api/jobs/{id}/annotations")
    def put_job_annotations(self, call: Call, id: int | str) -> Reply:
        job, data = self.job(call, id), self._parsed(call)
        with self.state.lock:
            return Reply(json=self._write(job.task, [(job, data)], "put"))

    @route("DELETE", "/api/jobs/{id}/annotations")
    def delete_job_annotations(self, call: Call, id: int | str) -> Reply:
        job = self.job(call, id)
        with self.state.lock:
            self._write(job.task, [(job, annotations.empty())], "put")
        return Reply(204)

    def _cut(self, task: Task, data: Json) -> list[tuple[Job, Json]]:
        return [(job, annotations.cut(data, job.start, job.stop)) for job in self.state.jobs_of(task)]

    @route("GET", "/api/tasks/{id}/annotations")
    def task_annotations(self, call: Call, id: int | str) -> Reply:
        task = self.task(call, id)
        with self.state.lock:
            labels = self.state.labels_of(task)
            parts = [(job.start, annotations.read(job.annotations, labels)) for job in self.state.jobs_of(task)]
            return Reply(json=annotations.stitch(parts, task.overlap or 0))

    @route("PATCH", "/api/tasks/{id}/annotations")
    def patch_task_annotations(self, call: Call, id: int | str) -> Reply:
        task, action, data = self.task(call, id), self._action(call), self._parsed(call)
        with self.state.lock:
            return Reply(json=self._write(task, self._cut(task, data), action))

    @route("PUT", "/api/tasks/{id}/annotations")
    def put_task_annotations(self, call: Call, id: int | str) -> Reply:
        task, data = self.task(call, id), self._parsed(call)
        with self.state.lock:
            return Reply(json=self._write(task, self._cut(task, data), "put"))

    @route("DELETE", "/api/tasks/{id}/annotations")
    def delete_task_annotations(self, call: Call, id: int | str) -> Reply:
        task = self.task(call, id)
        with self.state.lock:
            self._write(task, [(job, annotations.empty()) for job in self.state.jobs_of(task)], "put")
        return Reply(204)

    # --- guides, assets, issues ---------------------------------------------------------------------------------------

    @route("POST", "/api/guides")
    def create_guide(self, call: Call) -> Reply:
        given = call.json()
        task = self.task(call, given["task_id"]) if given.get("task_id") else None
        project = self.project(call, given["project_id"]) if given.get("project_id") else None
        if (task is None) == (project is None):
            raise HttpError(400, "Either task or project must be specified")
        owner: Task | Project = task or project  # type: ignore[assignment]
        if owner.guide_id is not None:
            raise HttpError(400, "Annotation guide already exists")
        with self.state.lock:
            now = self.state.clock.now()
            guide = Guide(self.state.next_id("guide"), now, now, given.get("markdown") or "")
            guide.task_id, guide.project_id = (task.id, None) if task else (None, owner.id)
            self.state.guides[guide.id] = guide
            owner.guide_id = guide.id
        return Reply(201, serialize.guide(guide))

    def _guide(self, call: Call, id: int | str, *, write: bool = False) -> Guide:
        """A guide; the assignee of any of the task's jobs may read it."""
        guide = self.state.guides.get(id) if isinstance(id, int) else None
        if guide is None:
            raise HttpError(404, "Not found.")
        if guide.task_id is not None and not write:
            task = self.state.tasks[guide.task_id]
            _need(
                access.may_see_task(task, call.me) or any(job.assignee is call.me for job in self.state.jobs_of(task))
            )
        elif guide.task_id is not None:
            self.task(call, guide.task_id)
        elif guide.project_id is not None:
            self.project(call, guide.project_id)
        return guide

    @route("GET", "/api/guides/{id}")
    def get_guide(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.guide(self._guide(call, id)))

    @route("PATCH", "/api/guides/{id}")
    def patch_guide(self, call: Call, id: int | str) -> Reply:
        guide = self._guide(call, id, write=True)
        with self.state.lock:
            guide.markdown = call.json().get("markdown", guide.markdown)
            guide.updated = self.state.clock.now()
        return Reply(json=serialize.guide(guide))

    @route("DELETE", "/api/guides/{id}")
    def delete_guide(self, call: Call, id: int | str) -> Reply:
        guide = self._guide(call, id, write=True)
        with self.state.lock:
            owners: list[Task | Project] = [*self.state.tasks.values(), *self.state.projects.values()]
            for owner in owners:
                owner.guide_id = None if owner.guide_id == guide.id else owner.guide_id
            del self.state.guides[guide.id]
        return Reply(204)

    @route("POST", "/api/assets")
    def create_asset(self, call: Call) -> Reply:
        fields, files = call.form()
        if not files or not str(fields.get("guide_id", "")).isdigit():
            raise _invalid("file", "No file was submitted.")
        guide = self._guide(call, int(fields["guide_id"]), write=True)
        name, content = next(iter(files.items()))
        asset = Asset(str(uuid.uuid4()), name, content, call.me, guide.id, self.state.clock.now())
        self.state.assets[asset.uuid] = asset
        return Reply(201, serialize.asset(asset, call.base))

    @route("GET", "/api/assets/{key}")
    def get_asset(self, call: Call, key: int | str) -> Reply:
        asset = self.state.assets.get(str(key))
        if asset is None:
            raise HttpError(404, "Not found.")
        self._guide(call, asset.guide_id)
        kind = "image/png" if asset.filename.lower().endswith("png") else "image/jpeg"
        return Reply(blob=Blob(asset.content, kind))

    @route("DELETE", "/api/assets/{key}")
    def delete_asset(self, call: Call, key: int | str) -> Reply:
        if str(key) not in self.state.assets:
            raise HttpError(404, "Not found.")
        self._guide(call, self.state.assets[str(key)].guide_id, write=True)
        del self.state.assets[str(key)]
        return Reply(204)

    @route("GET", "/api/issues")
    def list_issues(self, call: Call) -> Reply:
        shown = [issue for issue in self.state.issues.values() if access.may_see_job(issue.job, call.me)]
        if "job_id" in call.query:
            shown = [issue for issue in shown if str(issue.job.id) == call.query["job_id"]]
        if "task_id" in call.query:
            shown = [issue for issue in shown if str(issue.job.task.id) == call.query["task_id"]]
        return _listed(call, (serialize.issue(i, self.state, call.base) for i in shown), "resolved")

    @route("POST", "/api/issues")
    def create_issue(self, call: Call) -> Reply:
        given = call.json()
        for name in ("frame", "position", "job", "message"):
            if given.get(name) is None:
                raise _invalid(name, "This field is required.")
        job = self.job(call, given["job"])
        with self.state.lock:
            now = self.state.clock.now()
            position = [float(value) for value in given["position"]]
            issue = Issue(self.state.next_id("issue"), given["frame"], position, job, call.me, now, now)
            issue.assignee = self.user(given.get("assignee"), "assignee")
            issue.resolved = bool(given.get("resolved", False))
            self.state.issues[issue.id] = issue
            self._comment(issue, call.me, given["message"])
        return Reply(201, serialize.issue(issue, self.state, call.base))

    def _comment(self, issue: Issue, owner: User, message: str) -> Comment:
        now = self.state.clock.now()
        comment = Comment(self.state.next_id("comment"), issue, owner, message, now, now)
        self.state.comments[comment.id] = comment
        return comment

    def _issue(self, call: Call, id: int | str) -> Issue:
        issue = self.state.issues.get(id) if isinstance(id, int) else None
        if issue is None:
            raise HttpError(404, "Not found.")
        _need(access.may_see_job(issue.job, call.me))
        return issue

    @route("GET", "/api/issues/{id}")
    def get_issue(self, call: Call, id: int | str) -> Reply:
        return Reply(json=serialize.issue(self._issue(call, id), self.state, call.base))

    @route("PATCH", "/api/issues/{id}")
    def patch_issue(self, call: Call, id: int | str) -> Reply:
        issue, given = self._issue(call, id), call.json()
        with self.state.lock:
            issue.resolved = bool(given.get("resolved", issue.resolved))
            issue.position = given.get("position", issue.position)
            if "assignee" in given:
                issue.assignee = self.user(given["assignee"], "assignee")
            issue.updated = self.state.clock.now()
        return Reply(json=serialize.issue(issue, self.state, call.base))

    @route("DELETE", "/api/issues/{id}")
    def delete_issue(self, call: Call, id: int | str) -> Reply:
        issue = self._issue(call, id)
        with self.state.lock:
            del self.state.issues[issue.id]
            self.state.comments = {k: c for k, c in self.state.comments.items() if c.issue is not issue}
        return Reply(204)

    @route("GET", "/api/comments")
    def list_comments(self, call: Call) -> Reply:
        shown = [c for c in self.state.comments.values() if access.may_see_job(c.issue.job, call.me)]
        if "issue_id" in call.query:
            shown = [c for c in shown if str(c.issue.id) == call.query["issue_id"]]
        if "job_id" in call.query:
            shown = [c for c in shown if str(c.issue.job.id) == call.query["job_id"]]
        return _listed(call, (serialize.comment(c, call.base) for c in shown))

    @route("POST", "/api/comments")
    def create_comment(self, call: Call) -> Reply:
        given = call.json()
        issue = self._issue(call, given.get("issue", 0))
        with self.state.lock:
            made = self._comment(issue, call.me, str(given.get("message") or ""))
        return Reply(201, serialize.comment(made, call.base))

    # --- serverless functions -----------------------------------------------------------------------------------------

    @route("GET", "/api/lambda/functions")
    def list_functions(self, call: Call) -> Reply:
        try:
            return Reply(json=[function.to_json() for function in self.functions.all()])
        except FunctionError as error:
            raise HttpError(error.status, str(error)) from error

    @route("GET", "/api/lambda/functions/{name}")
    def get_function(self, call: Call, name: int | str) -> Reply:
        try:
            return Reply(json=self.functions.get(str(name)).to_json())
        except FunctionError as error:
            raise HttpError(error.status, str(error)) from error

    @route("POST", "/api/lambda/functions/{name}")
    def call_function(self, call: Call, name: int | str) -> Reply:
        """One frame, at once, as the page's AI tools ask for it."""
        given = call.json()
        job = self.job(call, given["job"]) if given.get("job") is not None else None
        task = job.task if job else self.task(call, given.get("task", 0))
        try:
            function = self.functions.get(str(name))
            return Reply(json=self.queue.call(function, task, int(given["frame"]), given.get("threshold")))
        except FunctionError as error:
            raise HttpError(error.status, str(error)) from error

    @route("GET", "/api/lambda/requests")
    def list_annotation_requests(self, call: Call) -> Reply:
        found = [
            request.to_json()
            for request in self.queue.all()
            if request.task in self.state.tasks
            and access.lists_task(self.state.tasks[request.task], call.me, call.context)
        ]
        return Reply(json=found)

    @route("POST", "/api/lambda/requests")
    def create_annotation_request(self, call: Call) -> Reply:
        given = call.json()
        for name in ("function", "task"):
            if given.get(name) is None:
                raise _invalid(name, "This field is required.")
        task = self.task(call, given["task"])
        if given.get("job") is not None and self.job(call, given["job"]).task is not task:
            raise HttpError(400, f"The job {given['job']} does not belong to the task {task.id}")
        try:
            self.functions.get(given["function"])
        except FunctionError as error:
            raise HttpError(error.status, str(error)) from error
        request = self.queue.add(
            Request(
                id=f"action=autoannotate&target=task&target_id={task.id}",
                function=given["function"],
                task=task.id,
                job=given.get("job"),
                threshold=given.get("threshold"),
                mapping=given.get("mapping"),
                cleanup=bool(given.get("cleanup", False)),
                enqueued=self.state.clock.now(),
                owner=call.me.id,
            )
        )
        if request is None:
            raise HttpError(409, f"Only one running request is allowed for the same task #{task.id}")
        return Reply(json=request.to_json())

    @route("GET", "/api/lambda/requests/{id}")
    def get_annotation_request(self, call: Call, id: int | str) -> Reply:
        request = self.queue.find(str(id))
        if request is None:
            raise HttpError(404, f"{id} lambda job is not found")
        return Reply(json=request.to_json())

    @route("DELETE", "/api/lambda/requests/{id}")
    def cancel_annotation_request(self, call: Call, id: int | str) -> Reply:
        if not self.queue.cancel(str(id)):
            raise HttpError(404, f"{id} lambda job is not found")
        return Reply(204)


def expire(state: State, token: str, seconds: float = 0.0) -> None:
    """Let a token run out ``seconds`` from now."""
    state.tokens[token].expiry = state.clock.now() + timedelta(seconds=seconds)


def check_role(role: str) -> str:
    """A membership role.

    Raises:
        ValueError: it is none of CVAT's.
    """
    if role not in ROLES:
        raise ValueError(f"role {role!r} is not one of {', '.join(ROLES)}")
    return role
