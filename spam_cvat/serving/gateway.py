"""The gateway: the function over HTTP without Nuclio, for a CVAT server that is pointed at a bare machine.

In: what a CVAT server with ``CVAT_SERVERLESS=1`` sends to Nuclio. Out: what Nuclio would answer. It speaks the part of
Nuclio's dashboard API that CVAT uses (``GET /api/functions``, ``GET /api/functions/NAME``,
``POST /api/function_invocations``) and is the function's own port at the same time (``POST /``). ``GET /`` shows a page
that says whether it works, ``GET /health`` the same as JSON.

As in Nuclio one call is served at a time, JSON is parsed for exactly ``application/json``, and a call that finds no
free worker in time is answered with 503. There is no login, as there is none in Nuclio: keep the port inside your
network.
"""

import asyncio
import contextlib
import html
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Self

import nuclio_sdk
import nuclio_sdk.json_encoder
import nuclio_sdk.logger
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from spam_cvat import __version__
from spam_cvat.errors import InputError
from spam_cvat.serving import function as default_function

DEFAULT_PORT = 8070
"""Where CVAT looks for Nuclio's dashboard unless told otherwise."""

WORKER_SECONDS = 110.0
"""How long a call waits for the worker; the function files say the same."""

MAX_BODY = 134_217_728
"""Bytes of a request: a 4K image as PNG in base64 takes up to 34 MB; the function files say the same."""

ANNOTATIONS = {"name": "SPAM tracks (people)", "type": "detector", "framework": "pytorch", "version": "1"}
"""What CVAT reads from a function's annotations, besides ``spec``; the function files say the same."""

DESCRIPTION = "Tracks for a whole video: detections linked by a graph hierarchy (SPAM), written into the task"

log = logging.getLogger(__name__)


def function_object(name: str, port: int, namespace: str = "nuclio") -> dict[str, Any]:
    """The function as Nuclio's dashboard describes it, with all that CVAT reads."""
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"nuclio.io/project-name": "cvat"},
            "annotations": {**ANNOTATIONS, "spec": json.dumps(list(default_function.LABELS))},
        },
        "spec": {"description": DESCRIPTION, "handler": "spam_cvat.serving.function:handler", "runtime": "python:3.11"},
        "status": {"state": "ready", "httpPort": port},
    }


@dataclass
class Gateway:
    """The function behind HTTP; a context manager that serves in a thread, or :func:`serve` for a process of its own.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        name: the function's name, by default as its settings say.
        worker_seconds: how long a call waits for the worker.
        module: holds ``init_context`` and ``handler``.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    name: str | None = None
    worker_seconds: float = WORKER_SECONDS
    module: ModuleType = default_function
    _context: Any = field(default=None, init=False)
    _server: uvicorn.Server | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "worker"), init=False)
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _begun: float = field(default_factory=time.monotonic, init=False)

    # --- running ---

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        """Load the function and serve in a thread."""
        listener = self._listen()
        server = self._make_server()
        self._thread = threading.Thread(target=server.run, args=([listener],), daemon=True, name="gateway")
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the gateway did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop serving."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()

    def run(self) -> None:
        """Load the function and serve until the process is told to end."""
        listener = self._listen()
        server = self._make_server()
        log.info("serving %s on %s", self.function_name, self.url)
        server.run([listener])

    def _listen(self) -> socket.socket:
        # asyncio turns off Nagle's delay (40 ms an answer) only where the protocol is named.
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
        except OSError as error:
            listener.close()
            reason = error.strerror or error
            raise InputError(f"cannot listen on {self.host}:{self.port}: {reason}; choose another --port") from error
        self.port = listener.getsockname()[1]
        return listener

    def _make_server(self) -> uvicorn.Server:
        logger = nuclio_sdk.Logger(logging.INFO, "nuclio.worker")
        logger.set_handler("default", sys.stderr, nuclio_sdk.logger.HumanReadableFormatter())
        self._context = nuclio_sdk.Context(logger, nuclio_sdk.Platform("local", "nuclio"), worker_id=0)
        self.module.init_context(self._context)
        config = uvicorn.Config(
            self._app(),
            log_level="warning",
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=int(self.worker_seconds),
        )
        self._server = uvicorn.Server(config)
        return self._server

    @property
    def function_name(self) -> str:
        """The name under which CVAT sees the function."""
        return self.name or self._context.user_data.function.settings.function_names[0]

    # --- HTTP ---

    def _app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            self._worker.shutdown(wait=True)
            self._context.user_data.function.close()

        routes = [
            Route("/", self._page, methods=["GET"]),
            Route("/", self._invoke, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/api/functions", self._list, methods=["GET"]),
            Route("/api/functions/{name}", self._get, methods=["GET"]),
            Route("/api/function_invocations", self._invoke_by_name, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    async def _list(self, request: Request) -> Response:
        return JSONResponse({self.function_name: self._object(request)})

    async def _get(self, request: Request) -> Response:
        if request.path_params["name"] != self.function_name:
            return _not_found(request.path_params["name"])
        return JSONResponse(self._object(request))

    def _object(self, request: Request) -> dict[str, Any]:
        namespace = request.headers.get("x-nuclio-function-namespace", "nuclio")
        return function_object(self.function_name, self.port, namespace)

    async def _invoke_by_name(self, request: Request) -> Response:
        name = request.headers.get("x-nuclio-function-name", "")
        if name != self.function_name:
            return _not_found(name)
        return await self._invoke(request, request.headers.get("x-nuclio-path", "/"))

    async def _invoke(self, request: Request, path: str = "/") -> Response:
        body = await _body(request)
        if body is None:
            return JSONResponse({"error": f"the request has more than {MAX_BODY} bytes"}, 413)
        event = _event(body, request.method, request.headers, path)
        try:
            await asyncio.wait_for(self._busy.acquire(), self.worker_seconds)
        except TimeoutError:
            return JSONResponse({"error": f"no worker was free for {self.worker_seconds:g} s"}, 503)
        try:
            call = asyncio.get_running_loop().run_in_executor(self._worker, self._call, event)
            # A client that hangs up must not let go of the worker before it is done.
            answer = await asyncio.shield(call)
        finally:
            self._busy.release()
        return answer

    def _call(self, event: nuclio_sdk.Event) -> Response:
        encoder = nuclio_sdk.json_encoder.Encoder()
        try:
            output = self.module.handler(self._context, event)
        except Exception as error:
            # Nuclio answers so to whatever a handler lets escape.
            log.exception("the handler failed")
            return Response(f"Exception caught in handler: {error}", 500, media_type="text/plain")
        answer = nuclio_sdk.Response.from_entrypoint_output(encoder.encode, output)
        headers = {name: str(value) for name, value in answer["headers"].items()}
        return Response(answer["body"], answer["status_code"], headers, answer["content_type"])

    async def _health(self, request: Request) -> Response:
        return JSONResponse(self._state())

    async def _page(self, request: Request) -> Response:
        state = self._state()
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(state)
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(_text(value))}</td></tr>"
            for name, value in state.items()
        )
        return HTMLResponse(
            "<!doctype html><meta charset=utf-8><title>spam-cvat</title><style>body{font:16px sans-serif;margin:2em}"
            "th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}</style>"
            f"<h1>{html.escape(self.function_name)}</h1><table>{rows}</table>"
        )

    def _state(self) -> dict[str, Any]:
        since = datetime.fromtimestamp(time.time() - (time.monotonic() - self._begun), UTC)
        return {
            **self._context.user_data.function.health(),
            "function": self.function_name,
            "busy": self._busy.locked(),
            "since": since.isoformat(timespec="seconds"),
        }


def serve(host: str = "127.0.0.1", port: int = DEFAULT_PORT, *, name: str | None = None) -> None:
    """Serve the function until the process is told to end.

    Point a CVAT server at it with ``CVAT_SERVERLESS=1``, ``CVAT_NUCLIO_HOST`` and ``CVAT_NUCLIO_PORT``; unless both run
    on one machine, also ``CVAT_NUCLIO_INVOKE_METHOD=dashboard``.

    Args:
        host: address to listen on; ``0.0.0.0`` for all.
        port: 0 takes a free one.
        name: the function's name in CVAT.

    Raises:
        InputError: the port is taken, or the environment cannot be used.
    """
    Gateway(host, port, name).run()


async def _body(request: Request) -> bytes | None:
    """The request's body, None where it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _event(body: bytes, method: str, headers: Mapping[str, str], path: str) -> nuclio_sdk.Event:
    """The event as Nuclio's Python wrapper makes it: parsed JSON or, where it is not to be parsed or is none, bytes."""
    content_type = headers.get("content-type", "")
    value: Any = body
    if content_type == "application/json":
        with contextlib.suppress(ValueError):
            value = json.loads(body)
    return nuclio_sdk.Event(
        body=value,
        content_type=content_type,
        trigger=nuclio_sdk.TriggerInfo("http", "gateway"),
        headers=dict(headers),
        method=method,
        path=path,
        size=len(body),
        timestamp=datetime.now(UTC),
        version=__version__,
    )


def _not_found(name: str) -> Response:
    return JSONResponse({"error": f"no function {name!r} here"}, 404)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
