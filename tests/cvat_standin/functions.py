"""CVAT's side of serverless functions: the list of functions, the queue of requests, and the worker that calls them.

In: functions (found on a Nuclio dashboard, or given by a test as a URL or a callable) and requests to annotate a task
or a job. Out: calls made exactly as CVAT makes them, one frame after the other, and shapes from what they return. The
records of requests behave as seen on a real server, odd cases included: see :class:`Queue`.
"""

import base64
import copy
import hashlib
import json
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import urllib3

from cvat_standin import annotations
from cvat_standin.state import Job, Label, State, Task, stamp

Json = dict[str, Any]
Handler = Callable[[Json], Any]
USER_AGENT = "CVAT/2.54.1.dev20260131064356 python-requests/2.32.4"
KINDS = ("detector", "interactor", "reid", "tracker")
_FINISHED_FOR = timedelta(minutes=30)
_FAILED_FOR = timedelta(hours=3)
_SUBMIT_EVERY = 100
_PLAIN = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate", "Accept": "*/*", "Connection": "keep-alive"}


class FunctionError(Exception):
    """A function or the dashboard cannot be reached or answered with an error; ``status`` is what CVAT reports."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Function:
    """A function as CVAT knows it. ``handler`` stands for an HTTP call in tests that need none."""

    id: str
    name: str = ""
    kind: str = "detector"
    labels: list[Json] = field(default_factory=list)
    description: str = ""
    version: int = 1
    url: str = ""
    handler: Handler | None = None

    def to_json(self) -> Json:
        """The function as ``GET /api/lambda/functions`` lists it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "labels_v2": copy.deepcopy(self.labels),
            "description": self.description,
            "name": self.name or self.id,
            "version": self.version,
        }


def function_from_dashboard(data: Json, host: str) -> Function | None:
    """Read one entry of the dashboard's ``/api/functions``; None for what CVAT hides (no or unknown kind)."""
    metadata, notes = data.get("metadata", {}), data.get("metadata", {}).get("annotations", {}) or {}
    if notes.get("type") not in KINDS:
        return None
    labels = [
        {
            "name": label["name"],
            "type": label.get("type", "unknown"),
            "attributes": [
                {
                    "name": spec["name"],
                    "input_type": spec.get("input_type", "text"),
                    "values": [str(value) for value in spec.get("values", [])],
                }
                for spec in label.get("attributes", [])
            ],
        }
        for label in json.loads(notes.get("spec") or "[]")
    ]
    return Function(
        id=metadata["name"],
        name=notes.get("name", metadata["name"]),
        kind=notes["type"],
        labels=labels,
        description=data.get("spec", {}).get("description", ""),
        version=int(notes.get("version", 1)),
        url=f"http://{host}:{data.get('status', {}).get('httpPort', 0)}/",
    )


class Functions:
    """The functions a CVAT server offers: those on its Nuclio dashboard, if it has one, and those added here.

    Args:
        dashboard: base address of a Nuclio dashboard, such as ``http://127.0.0.1:8070``.
        invoke: ``direct`` posts to the function's port, ``dashboard`` to ``/api/function_invocations``.
        timeout: seconds a call may take (120 on a real server).
    """

    def __init__(
        self,
        dashboard: str | None = None,
        invoke: Literal["direct", "dashboard"] = "direct",
        timeout: float = 120.0,
    ) -> None:
        self.dashboard = dashboard.rstrip("/") if dashboard else None
        self.invoke_method = invoke
        self.timeout = timeout
        self._added: dict[str, Function] = {}
        self._pool = urllib3.PoolManager(retries=False)

    def add(
        self,
        id: str,
        handler: Handler | str,
        *,
        labels: Sequence[str | Json] = ("person",),
        kind: str = "detector",
        name: str = "",
        description: str = "",
    ) -> Function:
        """Offer a function: a URL that is called over HTTP, or a callable from the JSON body to the JSON answer."""
        specifications = [
            {"name": label, "type": "rectangle", "attributes": []} if isinstance(label, str) else label
            for label in labels
        ]
        url, call = (handler, None) if isinstance(handler, str) else ("", handler)
        function = Function(id, name, kind, specifications, description, url=url, handler=call)
        self._added[id] = function
        return function

    def _fetch(self, path: str) -> Json:
        try:
            reply = self._pool.request(
                "GET", f"{self.dashboard}{path}", headers=_PLAIN | self._nuclio_headers(), timeout=self.timeout
            )
        except urllib3.exceptions.HTTPError as error:
            raise FunctionError(f"the Nuclio dashboard {self.dashboard} cannot be reached: {error}") from error
        if reply.status >= 400:
            raise FunctionError(f"{reply.status} Error for url: {self.dashboard}{path}", reply.status)
        return json.loads(reply.data)

    def _nuclio_headers(self) -> dict[str, str]:
        return {
            "x-nuclio-project-name": "cvat",
            "x-nuclio-function-namespace": "nuclio",
            "x-nuclio-invoke-via": "domain-name",
            "X-Nuclio-Invoke-Timeout": f"{int(self.timeout)}s",
        }

    def all(self) -> list[Function]:
        """All functions.

        Raises:
            FunctionError: the dashboard does not answer.
        """
        found = list(self._added.values())
        if self.dashboard:
            host = urlsplit(self.dashboard).hostname or "127.0.0.1"
            entries = (function_from_dashboard(data, host) for data in self._fetch("/api/functions").values())
            found += [function for function in entries if function is not None]
        return found

    def get(self, id: str) -> Function:
        """One function.

        Raises:
            FunctionError: there is none of that name, or the dashboard does not answer.
        """
        if id in self._added:
            return self._added[id]
        if self.dashboard:
            host = urlsplit(self.dashboard).hostname or "127.0.0.1"
            function = function_from_dashboard(self._fetch(f"/api/functions/{id}"), host)
            if function is not None:
                return function
        raise FunctionError(f"404 Client Error: Not Found for function {id}", 404)

    def invoke(self, function: Function, body: Json) -> Any:
        """Call a function once, as CVAT does: no retry, one time limit.

        Raises:
            FunctionError: no answer in time, no connection, a status of 400 or more, or an answer that is no JSON.
        """
        if function.handler is not None:
            return function.handler(body)
        headers, url = dict(_PLAIN), function.url
        if self.invoke_method == "dashboard" and self.dashboard:
            url = f"{self.dashboard}/api/function_invocations"
            headers |= self._nuclio_headers() | {"x-nuclio-function-name": function.id, "x-nuclio-path": "/"}
        headers["Content-Type"] = "application/json"
        try:
            reply = self._pool.request("POST", url, body=json.dumps(body), headers=headers, timeout=self.timeout)
        except urllib3.exceptions.TimeoutError as error:
            raise FunctionError(f"requests.exceptions.ReadTimeout: {url}: {error}", 504) from error
        except urllib3.exceptions.HTTPError as error:
            raise FunctionError(f"requests.exceptions.ConnectionError: {url}: {error}", 503) from error
        if reply.status >= 400:
            kind = "Server" if reply.status >= 500 else "Client"
            raise FunctionError(
                f"requests.exceptions.HTTPError: {reply.status} {kind} Error for url: {url}", reply.status
            )
        try:
            return json.loads(reply.data)
        except ValueError as error:
            raise FunctionError(f"requests.exceptions.JSONDecodeError: {url}: {error}", 500) from error


@dataclass
class Request:
    """One request for automatic annotation, as it lies in the queue's store."""

    id: str
    function: str
    task: int
    job: int | None
    threshold: float | None
    mapping: Json | None
    cleanup: bool
    enqueued: datetime
    owner: int
    status: str = "queued"
    progress: int | None = None
    started: datetime | None = None
    ended: datetime | None = None
    exc_info: str | None = None

    def to_json(self) -> Json:
        """The request as the API shows it; ``job`` is there for job runs only."""
        target = {"id": self.function, "task": self.task}
        if self.job is not None:
            target["job"] = self.job
        return {
            "id": self.id,
            "function": target | {"threshold": self.threshold},
            "status": self.status,
            "progress": self.progress,
            "enqueued": stamp(self.enqueued),
            "started": stamp(self.started),
            "ended": stamp(self.ended),
            "exc_info": self.exc_info,
        }


class Queue:
    """The queue of annotation requests and the workers that serve it.

    The worker holds a copy of the request it runs and the store holds another, as CVAT's queue library does. From that
    follow the odd cases: a cancelled request is gone (404) while its call is in flight and is written back as
    ``finished`` when the call returns; if the same task is asked for again meanwhile, the old loop takes the new record
    for its own, runs on to the end under status ``queued``, and writes itself over the new record, so that the new run
    starts at its first frame under the old ``enqueued``. With more than one worker both loops run at once; that follows
    from the same two copies, but has not been watched on a real server.
    """

    def __init__(self, state: State, functions: Functions, workers: int = 1) -> None:
        self.state = state
        self.functions = functions
        self.store: dict[str, Request] = {}
        self.failed: dict[str, Request] = {}
        self._waiting: list[str] = []
        self._running = 0
        self._changed = threading.Condition(state.lock)
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, daemon=True, name=f"annotation-{n}") for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the workers after the call in flight."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until no request is queued or running; False when that took longer than ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, timeout)

    def add(self, request: Request) -> Request | None:
        """Queue a request; None when one for the same task is queued or running already (409)."""
        with self._changed:
            other = self.store.get(request.id)
            if other is not None and other.status != "finished":
                return None
            self.failed.pop(request.id, None)
            self.store[request.id] = request
            self._waiting.append(request.id)
            self._changed.notify_all()
            return copy.copy(request)

    def find(self, id: str) -> Request | None:
        """A request by id: queued, running, finished in the last half hour or failed in the last three hours."""
        with self._changed:
            self._expire()
            found = self.store.get(id) or self.failed.get(id)
            return copy.copy(found)

    def all(self) -> list[Request]:
        """All but failed requests, in an arbitrary order that does not tell which is newest."""
        with self._changed:
            self._expire()
            found = [copy.copy(request) for request in self.store.values()]
        return sorted(found, key=lambda request: hashlib.sha1(request.id.encode()).digest())

    def cancel(self, id: str) -> bool:
        """Remove a request; a call in flight is not interrupted."""
        with self._changed:
            known = self.store.pop(id, None) or self.failed.pop(id, None)
            if id in self._waiting:
                self._waiting.remove(id)
            self._changed.notify_all()
            return known is not None

    def _expire(self) -> None:
        now = self.state.clock.now()
        for requests, kept in ((self.store, _FINISHED_FOR), (self.failed, _FAILED_FOR)):
            for id in [id for id, request in requests.items() if request.ended and now - request.ended > kept]:
                del requests[id]

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                id = self._waiting.pop(0)
                stored = self.store.get(id)
                if stored is None:
                    continue
                self._running += 1
                mine = copy.copy(stored)
                mine.status, mine.started, mine.ended = "started", self.state.clock.now(), None
                self.store[id] = copy.copy(mine)
            try:
                self._run(mine)
            # Whatever goes wrong in a run ends as a failed request, as in CVAT's worker.
            except Exception as error:
                self._fail(mine, error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _fail(self, mine: Request, error: Exception) -> None:
        with self._changed:
            trace = "".join(traceback.format_exception(error))
            mine.status, mine.ended, mine.exc_info = "failed", self.state.clock.now(), trace
            self.store.pop(mine.id, None)
            self.failed[mine.id] = mine

    def _finish(self, mine: Request) -> None:
        with self._changed:
            # The queue library stamps the start again when it closes a job: clients cannot use it as a key.
            mine.started = self.state.clock.now() if mine.started is None else mine.started + timedelta(milliseconds=2)
            mine.status, mine.ended = "finished", self.state.clock.now()
            self.store[mine.id] = mine

    def _report(self, mine: Request, progress: int) -> bool:
        """Store the progress; False when the request has been cancelled and nothing stands in its place."""
        with self._changed:
            mine.progress = progress
            stored = self.store.get(mine.id)
            if stored is not None:
                stored.progress = progress
            return stored is not None and not self._closing

    def _run(self, mine: Request) -> None:
        state = self.state
        with state.lock:
            task = state.tasks[mine.task]
            job = state.jobs[mine.job] if mine.job is not None else None
            if mine.cleanup:
                for target in [job] if job else state.jobs_of(task):
                    self.state.writer.clear(target.annotations)
                    state.touch(target)
            media = task.media
        function = self.functions.get(mine.function)
        if media is None:
            raise FunctionError(f"task {task.id} has no data", 400)
        if function.kind == "detector":
            self._detect(mine, function, task, job)
        elif function.kind == "reid":
            raise NotImplementedError("the stand-in runs detectors only")
        # Any other kind "finishes" without having done anything, as on the real server.
        self._finish(mine)

    def _detect(self, mine: Request, function: Function, task: Task, job: Job | None) -> None:
        media = task.media
        assert media is not None
        frames = range(job.start, job.stop + 1) if job else range(media.size)
        results: list[Json] = []
        for frame in frames:
            if frame in media.deleted_frames:
                continue
            answer = self.call(function, task, frame, mine.threshold)
            if not self._report(mine, int((frame + 1) / media.size * 100)):
                break
            results += self._shapes(answer, frame, task, function, mine.mapping)
            if frame and frame % _SUBMIT_EVERY == 0:
                self._submit(results, task, job)
                results = []
        self._submit(results, task, job)

    def call(self, function: Function, task: Task, frame: int, threshold: float | None) -> Any:
        """One call with one frame: the body is the image in base64, and the threshold where the user set one."""
        assert task.media is not None
        image = task.media.frames.original(frame).content
        body: Json = {"image": base64.b64encode(image).decode()}
        if threshold is not None:
            body["threshold"] = threshold
        return self.functions.invoke(function, body)

    def _shapes(self, answer: Any, frame: int, task: Task, function: Function, mapping: Json | None) -> list[Json]:
        """Shapes from a detector's answer: labels by the user's mapping or by equal names; confidence is ignored."""
        by_name = {label.name: label for label in self.state.labels_of(task).values()}
        if mapping is None:
            mapping = {label["name"]: {"name": label["name"]} for label in function.labels}
        shapes = []
        for item in answer:
            chosen = by_name.get(mapping.get(item["label"], {}).get("name", ""))
            if chosen is None:
                continue
            renamed = mapping[item["label"]].get("attributes")
            shapes.append(
                {
                    "id": None,
                    "frame": frame,
                    "label_id": chosen.id,
                    "type": item["type"],
                    "points": item["points"],
                    "group": item.get("group_id"),
                    "source": "auto",
                    "attributes": _attributes(item.get("attributes", []), chosen, renamed),
                }
            )
        return shapes

    def _submit(self, shapes: list[Json], task: Task, job: Job | None) -> None:
        if not shapes:
            return
        data = annotations.parse({"shapes": shapes})
        with self.state.lock:
            labels = self.state.labels_of(task)
            for target in [job] if job else self.state.jobs_of(task):
                mine = data if job else annotations.cut(data, target.start, target.stop)
                if mine["shapes"]:
                    self.state.writer.create(target.annotations, mine, labels)
                    self.state.touch(target)


def _attributes(given: list[Json], label: Label, renamed: Json | None) -> list[Json]:
    """Attribute values a detector may set: known names, and values the specification allows."""
    specs = {spec["name"]: spec for spec in label.attributes}
    values = []
    for item in given:
        name = item["name"] if renamed is None else renamed.get(item["name"], "")
        if name in specs and _allowed(item["value"], specs[name]):
            values.append({"spec_id": specs[name]["id"], "value": str(item["value"])})
    return values


def _allowed(value: Any, spec: Json) -> bool:
    if spec["input_type"] == "number":
        low, high, step = (int(bound) for bound in spec["values"])
        return str(value).lstrip("-").isdigit() and low <= int(value) <= high and (int(value) - low) % step == 0
    if spec["input_type"] == "checkbox":
        return str(value).lower() in ("true", "false")
    return spec["input_type"] == "text" or value in spec["values"]
