"""What the stand-in remembers: users, tokens, organisations, projects, labels, tasks, jobs, issues, guides.

In: values given by the API handlers or by a test. Out: plain records that the handlers serialise. All state is in
memory and goes with the server; one lock guards it.
"""

import itertools
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cvat_standin.annotations import JobAnnotations, Writer
from cvat_standin.media import Frames

ROLES = ("worker", "supervisor", "maintainer", "owner")


class Clock:
    """The server's clock: real time plus what a test has added with :meth:`advance`. No two readings are equal."""

    def __init__(self) -> None:
        self._offset = timedelta()
        self._last = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The current time, later than any time given before."""
        with self._lock:
            self._last = max(datetime.now(UTC) + self._offset, self._last + timedelta(microseconds=1))
            return self._last

    def advance(self, seconds: float) -> None:
        """Let time pass: tokens expire, finished requests leave the list."""
        with self._lock:
            self._offset += timedelta(seconds=seconds)


def stamp(moment: datetime | None) -> str | None:
    """A time as the server writes it: ``2026-11-22T10:55:33.105811Z``."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class User:
    """An account. ``password`` serves the login; tokens are the usual way in."""

    id: int
    username: str
    password: str
    joined: datetime
    is_superuser: bool = False
    first_name: str = ""
    last_name: str = ""
    last_login: datetime | None = None


@dataclass
class Token:
    """A personal access token; read-only unless asked otherwise, as on the real server."""

    id: int
    value: str
    name: str
    owner: User
    created: datetime
    updated: datetime
    read_only: bool = True
    expiry: datetime | None = None
    last_used: datetime | None = None


@dataclass
class Organization:
    """An organisation and the role of each member, by user id."""

    id: int
    slug: str
    owner: User
    created: datetime
    name: str = ""
    description: str = ""
    contact: dict[str, Any] = field(default_factory=dict)
    members: dict[int, str] = field(default_factory=dict)


@dataclass
class Label:
    """A label of a project or of a task, with its attribute specifications as the API shows them."""

    id: int
    name: str
    color: str
    type: str
    attributes: list[dict[str, Any]]
    project_id: int | None = None
    task_id: int | None = None

    def specs(self, *, mutable: bool | None = None) -> list[dict[str, Any]]:
        """Attribute specifications, all or only the mutable or immutable ones."""
        return [spec for spec in self.attributes if mutable is None or spec["mutable"] == mutable]


@dataclass
class Project:
    """A project: labels shared by its tasks."""

    id: int
    name: str
    owner: User
    created: datetime
    updated: datetime
    organization: Organization | None = None
    assignee: User | None = None
    assignee_updated: datetime | None = None
    bug_tracker: str = ""
    guide_id: int | None = None


@dataclass
class Media:
    """The frames of a task and how they were cut from the source."""

    id: int
    frames: Frames
    mode: str
    chunk_size: int
    chunk_type: str
    image_quality: int
    updated: datetime
    start_frame: int = 0
    step: int = 1
    frame_filter: str = ""
    deleted_frames: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of frames of the task."""
        return self.frames.size


@dataclass
class Task:
    """A task. ``media`` is None until its data have been processed."""

    id: int
    name: str
    owner: User
    created: datetime
    updated: datetime
    project: Project | None = None
    organization: Organization | None = None
    assignee: User | None = None
    assignee_updated: datetime | None = None
    bug_tracker: str = ""
    subset: str = ""
    segment_size: int = 0
    overlap: int | None = None
    guide_id: int | None = None
    media: Media | None = None
    job_ids: list[int] = field(default_factory=list)


@dataclass
class Job:
    """A job: frames ``start`` .. ``stop`` (both included) of a task, and the annotations on them."""

    id: int
    task: Task
    start: int
    stop: int
    created: datetime
    updated: datetime
    annotations: JobAnnotations
    stage: str = "annotation"
    state: str = "new"
    assignee: User | None = None
    assignee_updated: datetime | None = None


@dataclass
class Issue:
    """A remark on a frame of a job."""

    id: int
    frame: int
    position: list[float]
    job: Job
    owner: User
    created: datetime
    updated: datetime
    assignee: User | None = None
    resolved: bool = False


@dataclass
class Comment:
    """One message of an issue."""

    id: int
    issue: Issue
    owner: User
    message: str
    created: datetime
    updated: datetime


@dataclass
class Guide:
    """Markdown shown to the assignee of a new job."""

    id: int
    created: datetime
    updated: datetime
    markdown: str = ""
    task_id: int | None = None
    project_id: int | None = None


@dataclass
class Asset:
    """A picture used by a guide."""

    uuid: str
    filename: str
    content: bytes
    owner: User
    guide_id: int
    created: datetime


@dataclass
class Background:
    """A background request, such as the creation of a task from its data."""

    id: str
    kind: str
    owner: User
    created: datetime
    project_id: int | None = None
    task_id: int | None = None
    status: str = "queued"
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None


class State:
    """All records, with the counters that number them. Counters start apart, so that no test mixes ids up."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.lock = threading.RLock()
        self.clock = clock or Clock()
        self.users: dict[int, User] = {}
        self.tokens: dict[str, Token] = {}
        self.sessions: dict[str, User] = {}
        self.organizations: dict[int, Organization] = {}
        self.projects: dict[int, Project] = {}
        self.labels: dict[int, Label] = {}
        self.tasks: dict[int, Task] = {}
        self.jobs: dict[int, Job] = {}
        self.issues: dict[int, Issue] = {}
        self.comments: dict[int, Comment] = {}
        self.guides: dict[int, Guide] = {}
        self.assets: dict[str, Asset] = {}
        self.background: dict[str, Background] = {}
        self.uploads: dict[int, dict[str, bytes]] = {}
        self.tus: dict[str, tuple[int, str, int, bytearray]] = {}
        starts = {
            "user": 1,
            "token": 1,
            "organization": 5,
            "project": 3,
            "label": 21,
            "spec": 51,
            "task": 11,
            "media": 11,
            "job": 101,
            "issue": 1,
            "comment": 1,
            "guide": 1,
            # Tags, shapes and tracks are numbered apart on the real server: the same id may mean one of each.
            "tag": 301,
            "shape": 301,
            "track": 301,
            "tracked_shape": 5001,
            "attribute_value": 90001,
        }
        self._counters: dict[str, Iterator[int]] = {name: itertools.count(start) for name, start in starts.items()}

        self.writer = Writer(self.next_id, self.has_annotation)

    def has_annotation(self, kind: str, id: int) -> bool:
        """Whether any job holds a tag, shape or track (``kind``: the plural) of that id."""
        return any(id in job.annotations.table(kind) for job in self.jobs.values())

    def next_id(self, kind: str) -> int:
        """The next number of a kind of record."""
        return next(self._counters[kind])

    def add_user(
        self,
        username: str,
        password: str | None = None,
        *,
        is_superuser: bool = False,
        first_name: str = "",
        last_name: str = "",
    ) -> User:
        """Register an account."""
        with self.lock:
            user = User(
                id=self.next_id("user"),
                username=username,
                password=password or secrets.token_hex(8),
                joined=self.clock.now(),
                is_superuser=is_superuser,
                first_name=first_name,
                last_name=last_name,
            )
            self.users[user.id] = user
            return user

    def user_named(self, username: str) -> User | None:
        """The account of that name."""
        return next((user for user in self.users.values() if user.username == username), None)

    def add_token(self, owner: User, name: str, *, read_only: bool = True, expiry: datetime | None = None) -> Token:
        """Issue an access token."""
        with self.lock:
            now = self.clock.now()
            token = Token(
                id=self.next_id("token"),
                value=f"{secrets.token_hex(4)}.{secrets.token_urlsafe(24)}",
                name=name,
                owner=owner,
                created=now,
                updated=now,
                read_only=read_only,
                expiry=expiry,
            )
            self.tokens[token.value] = token
            return token

    def add_organization(self, slug: str, owner: User, *, name: str = "", description: str = "") -> Organization:
        """Found an organisation; its owner becomes its first member."""
        with self.lock:
            organization = Organization(
                id=self.next_id("organization"),
                slug=slug,
                owner=owner,
                created=self.clock.now(),
                name=name or slug,
                description=description,
                members={owner.id: "owner"},
            )
            self.organizations[organization.id] = organization
            return organization

    def add_labels(
        self, specifications: list[dict[str, Any]], *, project_id: int | None = None, task_id: int | None = None
    ) -> list[Label]:
        """Create labels from the JSON that a client sends with a project or a task."""
        with self.lock:
            made = []
            for given in specifications:
                attributes = [
                    {
                        "id": self.next_id("spec"),
                        "name": spec["name"],
                        "mutable": bool(spec.get("mutable", False)),
                        "input_type": spec["input_type"],
                        "default_value": spec.get("default_value", ""),
                        "values": list(spec.get("values", [])) or [""],
                    }
                    for spec in given.get("attributes", [])
                ]
                label = Label(
                    id=self.next_id("label"),
                    name=given["name"],
                    color=given.get("color") or "#ff6037",
                    type=given.get("type") or "any",
                    attributes=attributes,
                    project_id=project_id,
                    task_id=task_id,
                )
                self.labels[label.id] = label
                made.append(label)
            return made

    def labels_of(self, task: Task) -> dict[int, Label]:
        """The labels that annotations of a task may carry, by id: the project's where there is one."""
        return {
            label.id: label
            for label in self.labels.values()
            if (label.project_id == task.project.id if task.project else label.task_id == task.id)
        }

    def jobs_of(self, task: Task) -> list[Job]:
        """The jobs of a task in the order of their frames."""
        return [self.jobs[job_id] for job_id in task.job_ids]

    def touch(self, job: Job) -> None:
        """Note that a job, and with it its task and project, was changed."""
        now = self.clock.now()
        job.updated = now
        job.task.updated = now
        if job.task.project:
            job.task.project.updated = now
