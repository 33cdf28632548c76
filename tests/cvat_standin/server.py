"""The stand-in itself: an HTTP server on this machine that answers as a CVAT server does.

In: HTTP requests of the cvat-sdk, of a browserless test or of a serverless function. Out: CVAT's answers. Everything is
in memory; closing the server forgets it.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cvat_standin.api import Api
from cvat_standin.faults import Fault, Faults
from cvat_standin.functions import Functions, Queue
from cvat_standin.media import encode_video
from cvat_standin.page import Page
from cvat_standin.protocol import Call, Reply
from cvat_standin.routes.data import make_task
from cvat_standin.state import ROLES, Clock, Job, Organization, State, Task, User

if TYPE_CHECKING:
    from cvat_standin.schema import Schema

Json = dict[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def _open_schema(path: Path) -> "Schema":
    """Read an OpenAPI file; jsonschema is needed for this alone."""
    from cvat_standin.schema import Schema

    return Schema(path)


@dataclass(frozen=True)
class Record:
    """One call the server has seen: what a test looks at to learn what a client did."""

    method: str
    path: str
    query: str
    user: str | None
    status: int
    seconds: float
    sent: int
    received: int


class CvatStandin:
    """A CVAT server for tests. Use it as a context manager::

        with CvatStandin() as server:
            server.add_user("anna")
            client = make_client(server.url, access_token=server.token("anna", read_only=False))

    There is one administrator, ``admin`` with the password ``admin``.

    Args:
        strict: an OpenAPI file; every JSON answer is checked against it, and what does not fit is put into
            ``violations`` and answered with 500. Needs the package ``jsonschema``.
        nuclio: base address of a Nuclio dashboard whose functions the server offers.
        invoke: how functions are called, ``direct`` or through the ``dashboard``.
        function_timeout: seconds one call of a function may take.
        annotation_workers: requests for annotation served at the same time.
        clock: the server's clock.
    """

    def __init__(
        self,
        *,
        strict: Path | None = None,
        nuclio: str | None = None,
        invoke: Literal["direct", "dashboard"] = "direct",
        function_timeout: float = 120.0,
        annotation_workers: int = 1,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.state = State(self.clock)
        self.functions = Functions(nuclio, invoke, function_timeout)
        self.queue = Queue(self.state, self.functions, annotation_workers)
        self.api = Api(self.state, self.functions, self.queue)
        self.faults = Faults()
        self.calls: list[Record] = []
        self.violations: list[str] = []
        self._schema = _open_schema(strict) if strict else None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._port = 0
        self.admin = self.state.add_user("admin", "admin", is_superuser=True)

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base address, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Listen; the second time on the same port as before."""
        # asyncio turns off Nagle's delay (40 ms an answer) only where the protocol is named.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server, self._socket = uvicorn.Server(config), listener
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True, name="cvat-standin")
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the stand-in's HTTP server did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop listening; what the server knows is kept, and :meth:`start` goes on with it."""
        if self._server is not None and self._thread is not None and self._socket is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(timeout=10)
            self._socket.close()
            self._server = self._thread = self._socket = None

    def close(self) -> None:
        """Stop listening and stop the annotation workers."""
        self.stop()
        self.queue.close()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The server is gone (connections are refused) while the block runs, and comes back with all it knew."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def failing(self, route: str = "*", method: str = "*", **fault: Any) -> Iterator[Fault]:
        """A fault is in force while the block runs; arguments as for :class:`Fault`."""
        rule = self.faults.add(route, method, **({"count": None} | fault))
        try:
            yield rule
        finally:
            self.faults.remove(rule)

    # --- setting the scene --------------------------------------------------------------------------------------------

    def add_user(self, username: str, password: str | None = None, *, is_superuser: bool = False) -> User:
        """Register an account."""
        return self.state.add_user(username, password, is_superuser=is_superuser, first_name=username.capitalize())

    def user(self, user: User | str) -> User:
        """An account by name.

        Raises:
            KeyError: there is none.
        """
        found = user if isinstance(user, User) else self.state.user_named(user)
        if found is None:
            raise KeyError(user)
        return found

    def token(self, user: User | str = "admin", *, read_only: bool = True, expires_in: float | None = None) -> str:
        """An access token; read-only unless asked otherwise, as on the real server."""
        expiry = None if expires_in is None else self.clock.now() + timedelta(seconds=expires_in)
        owner = self.user(user)
        return self.state.add_token(owner, f"token of {owner.username}", read_only=read_only, expiry=expiry).value

    def expire_token(self, token: str) -> None:
        """From now on, a token is refused with 401."""
        self.state.tokens[token].expiry = self.clock.now()

    def add_organization(self, slug: str, owner: User | str = "admin") -> Organization:
        """Found an organisation."""
        return self.state.add_organization(slug, self.user(owner))

    def add_member(self, organization: Organization, user: User | str, role: str) -> None:
        """Make a user a ``worker``, ``supervisor``, ``maintainer`` or ``owner`` of an organisation.

        Raises:
            ValueError: there is no such role.
        """
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not one of {', '.join(ROLES)}")
        organization.members[self.user(user).id] = role

    def create_task_from_video(
        self,
        video: Path | Sequence[np.ndarray],
        *,
        name: str = "video",
        labels: Sequence[str | Json] = ("person",),
        owner: User | str = "admin",
        organization: Organization | None = None,
        segment_size: int = 0,
        overlap: int | None = None,
        **data: Any,
    ) -> Task:
        """Make a task without going through HTTP; ``data`` are data parameters such as ``frame_filter="step=3"``.

        Args:
            video: a file, or pictures (H, W, 3) uint8, blue green red.
        """
        files = {video.name: video.read_bytes()} if isinstance(video, Path) else {"clip.avi": encode_video(video)}
        return self._create_task(name, labels, owner, organization, segment_size, overlap, files, data)

    def create_task_from_images(
        self,
        files: dict[str, bytes],
        *,
        name: str = "images",
        labels: Sequence[str | Json] = ("person",),
        owner: User | str = "admin",
        organization: Organization | None = None,
        segment_size: int = 0,
        overlap: int | None = None,
        **data: Any,
    ) -> Task:
        """Make a task of pictures, given by file name; see :meth:`create_task_from_video`."""
        return self._create_task(name, labels, owner, organization, segment_size, overlap, files, data)

    def _create_task(
        self,
        name: str,
        labels: Sequence[str | Json],
        owner: User | str,
        organization: Organization | None,
        segment_size: int,
        overlap: int | None,
        files: dict[str, bytes],
        data: Json,
    ) -> Task:
        specifications = [
            {"name": label, "type": "rectangle", "attributes": []} if isinstance(label, str) else label
            for label in labels
        ]
        return make_task(
            self.api,
            self.user(owner),
            name,
            specifications,
            files,
            data,
            organization=organization,
            segment_size=segment_size,
            overlap=overlap,
        )

    def jobs(self, task: Task | int) -> list[Job]:
        """The jobs of a task in the order of their frames."""
        return self.state.jobs_of(self.state.tasks[task] if isinstance(task, int) else task)

    def assign(self, job: Job | int, user: User | str) -> None:
        """Give a job to an annotator."""
        record = self.state.jobs[job] if isinstance(job, int) else job
        record.assignee, record.assignee_updated = self.user(user), self.clock.now()
        self.state.touch(record)

    def open_page(self, user: User | str, job: Job | int) -> Page:
        """The annotation page of a user on a job."""
        number = job if isinstance(job, int) else job.id
        return Page(self.url, self.token(user, read_only=False), number)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until no request for annotation is queued or running."""
        return self.queue.wait(timeout)

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.monotonic()
        request = Request(scope, receive)
        body = await request.body()
        call = Call(
            method=request.method,
            path=request.url.path,
            query=dict(request.query_params),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            base=self.url,
        )
        call.path = scope["path"]
        fault = self.faults.strike(call.method, call.path.rstrip("/"))
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind == "status":
            reply = Reply(fault.status, {"detail": "The server is not available at the moment."})
        elif fault is not None and fault.kind == "drop":
            reply = Reply(0)
        else:
            reply = await run_in_threadpool(self.api.answer, call)
            reply = self._checked(call, reply)
        response = self._response(reply)
        name = call.user.username if call.user else None
        self.calls.append(
            Record(
                call.method,
                call.path.rstrip("/"),
                request.url.query,
                name,
                reply.status,
                time.monotonic() - started,
                len(response.body),
                len(body),
            )
        )
        if fault is not None and fault.kind in ("drop", "drop-after"):
            # Uvicorn hands its own bound method as ``send``: its transport is the only way to break a connection.
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            # Uvicorn complains of a missing answer unless it has seen that nobody waits for one.
            while (await receive())["type"] != "http.disconnect":
                continue
            return
        await response(scope, receive, send)

    def _checked(self, call: Call, reply: Reply) -> Reply:
        if self._schema is None or reply.json is None:
            return reply
        found = self._schema.violations(call.path, call.method, reply.status, reply.json)
        self.violations += found
        return Reply(500, {"detail": found}) if found else reply

    def _response(self, reply: Reply) -> Response:
        response: Response
        if reply.blob is not None:
            response = Response(reply.blob.content, reply.status, reply.headers, reply.blob.type)
        elif reply.json is None:
            response = Response(None, reply.status or 200, reply.headers)
        else:
            media_type = "application/vnd.cvat+json" if reply.status < 400 else "application/json"
            response = JSONResponse(reply.json, reply.status, reply.headers, media_type)
        for name, value in reply.cookies.items():
            response.set_cookie(name, value)
        return response
