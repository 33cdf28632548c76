"""Doctor: what works here, and what to do about what does not.

In: the environment. Out: one :class:`Check` a line: torch, GPU, weights, detector, onnxruntime, store, CVAT with the
rights of its token, the function, and how its last run ended, which CVAT's page does not tell.
"""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import httpx

from spam_cvat.appearance import open_embedder
from spam_cvat.cvat.connect import Connection, connect
from spam_cvat.cvat.store import Store
from spam_cvat.detectors import open_detector
from spam_cvat.errors import InputError, SpamError
from spam_cvat.hierarchy import weights as weight_files
from spam_cvat.serving.settings import Settings, on_device

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: ``ok``, ``warning`` (works, with a limit), ``failed``, or ``skipped`` (not asked for).
        detail: one line: what was found, and the way out where something is wrong.
    """

    name: str
    status: Status
    detail: str


def diagnose(
    *, server: str | None = None, token: str | None = None, organization: str | None = None, function: str | None = None
) -> list[Check]:
    """Look at everything; never raises for what it finds.

    Args:
        server: the CVAT server, by default as the environment says.
        token: its access token, by default as the environment says.
        organization: to look from, by default as the environment says.
        function: address of the function or gateway, by default ``SPAM_FUNCTION_URL``; where there is none it is not
            looked at.
    """
    settings = Settings()
    checks = []
    try:
        settings = Settings.from_environment()
    except InputError as error:
        checks.append(Check("settings", "failed", str(error)))
    checks += [_program(), _torch(), _onnxruntime(), _weights(settings), _detector(settings), _embedder(settings)]
    store_check, store = _store()
    checks.append(store_check)
    checks += _cvat(server, token, organization)
    checks.append(_function(function or os.environ.get("SPAM_FUNCTION_URL")))
    checks.append(_last_run(store))
    return checks


def _program() -> Check:
    try:
        version = metadata.version("spam-cvat")
    except metadata.PackageNotFoundError:
        return Check("spam-cvat", "warning", "runs without being installed; pip install it for its command")
    return Check("spam-cvat", "ok", f"{version} on Python {platform.python_version()}, {os.cpu_count()} processors")


def _torch() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("torch", "ok", f"{torch.__version__}, {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    built = "was built for CUDA, but no GPU can be used" if torch.version.cuda else "is a build without CUDA"
    return Check("torch", "ok", f"{torch.__version__} {built}: the CPU is used")


def _onnxruntime() -> Check:
    try:
        import onnxruntime
    except ImportError:
        return Check(
            "onnxruntime", "skipped", "not installed; needed for onnx:FILE only: pip install 'spam-cvat[onnx]' or [gpu]"
        )
    providers = onnxruntime.get_available_providers()
    return Check("onnxruntime", "ok", f"{onnxruntime.__version__} with {', '.join(providers)}")


def _attempt(name: str, look: Callable[[], str]) -> Check:
    """The check that a look makes, whose SpamError is the finding."""
    try:
        return Check(name, "ok", look())
    except SpamError as error:
        return Check(name, "failed", str(error))


def _weights(settings: Settings) -> Check:
    def look() -> str:
        scorer = weight_files.load(settings.weights_path)
        return f"{settings.weights or 'shipped'}, {scorer.digest}"

    return _attempt("weights", look)


def _detector(settings: Settings) -> Check:
    if settings.detector == "task":
        return Check("detector", "ok", "rectangles that are in the task")

    def look() -> str:
        return open_detector(on_device(settings.detector, settings.device), threshold=settings.threshold).name

    return _attempt("detector", look)


def _embedder(settings: Settings) -> Check:
    def look() -> str:
        embedder = open_embedder(on_device(settings.embedder, settings.device))
        return embedder.name if embedder else "none: boxes are told apart by where they are alone"

    return _attempt("embedder", look)


def _store() -> tuple[Check, Store | None]:
    try:
        store = Store()
        store.check_writable()
    except SpamError as error:
        return Check("store", "failed", str(error)), None
    hint = "" if os.environ.get("SPAM_STORE") else "; set SPAM_STORE to share it between function and companion"
    return Check("store", "ok", f"{store.location} can be written{hint}"), store


def _cvat(server: str | None, token: str | None, organization: str | None) -> list[Check]:
    try:
        connection = connect(server, token, organization=organization)
    except InputError as error:
        return [Check("CVAT", "skipped", f"{error}; the function is a plain detector without a login")]
    except SpamError as error:
        return [Check("CVAT", "failed", str(error))]
    with connection:
        try:
            return list(_rights(connection))
        except SpamError as error:
            return [Check("CVAT", "failed", str(error))]


def _rights(connection: Connection) -> Iterator[Check]:
    user = connection.user
    place = f", organization {connection.organization}" if connection.organization else ""
    yield Check("CVAT", "ok", f"{connection.url}, version {connection.version}, as {user['username']}{place}")
    read_only = connection.token_is_read_only()
    if read_only:
        yield Check("token", "failed", 'is read-only, as new tokens are by default; make one with "read_only": false')
    elif read_only is None:
        yield Check("token", "warning", "a password is used, or the server does not tell what the token may do")
    else:
        yield Check("token", "ok", "may write")
    if connection.organization is not None:
        known = [entry["slug"] for entry in connection.pages("/api/organizations", what="our organizations")]
        if connection.organization not in known:
            listed = ", ".join(known) or "none"
            yield Check("organization", "failed", f"{connection.organization}: not one of this account's ({listed})")
    tasks = connection.get("/api/tasks", {"page_size": 1}, what="tasks")["count"]
    status: Status = "ok" if tasks else "warning"
    yield Check("tasks", status, f"{tasks} to be seen" + ("" if tasks else "; the account must be their assignee or"
                " a maintainer of their organization (SPAM_CVAT_ORGANIZATION)"))  # fmt: skip
    yield _listed_functions(connection)


def _listed_functions(connection: Connection) -> Check:
    """Whether CVAT offers the function under a name by which it knows its requests."""
    try:
        functions = connection.get("/api/lambda/functions", what="CVAT's functions", timeout=30.0)
    except SpamError as error:
        return Check("functions in CVAT", "warning", f"{error}; serverless functions may be off (CVAT_SERVERLESS=1)")
    ids = [entry["id"] for entry in functions]
    ours = [name for name in ids if name in Settings.from_environment().function_names]
    if ours:
        return Check("functions in CVAT", "ok", f"{', '.join(ours)} is offered")
    listed = ", ".join(ids) or "none"
    return Check("functions in CVAT", "warning", f"ours is not among those CVAT offers ({listed}); deploy it, or set "
                 "SPAM_FUNCTION_NAME to its name")  # fmt: skip


def _function(address: str | None) -> Check:
    if not address:
        return Check("function", "skipped", "give its address (SPAM_FUNCTION_URL) to have it asked")
    try:
        answer = httpx.get(address, timeout=20.0, follow_redirects=True)
        answer.raise_for_status()
        state = answer.json()
        mode, perception = state["mode"], state["perception"]
    except httpx.HTTPError as error:
        return Check("function", "failed", f"{address}: {error}; is it deployed, and its port open from here?")
    except (ValueError, KeyError, TypeError) as error:
        return Check("function", "failed", f"{address}: not this function ({error!r})")
    if mode != "tracks":
        return Check("function", "warning", f"{address}: {state.get('reason')}")
    return Check(
        "function", "ok", f"{address}: version {state.get('version')}, {perception}, store {state.get('store')}"
    )


def _last_run(store: Store | None) -> Check:
    if store is None:
        return Check("last run", "skipped", "the store cannot be read")
    try:
        runs = store.runs()
    except SpamError as error:
        return Check("last run", "failed", str(error))
    if not runs:
        return Check("last run", "skipped", f"none is noted in {store.location}")
    last = runs[-1]
    what = f"{last['at']}, {last.get('kind', 'run')} of task {last.get('task')}"
    if last["status"] == "failed":
        return Check("last run", "failed", f"{what}: {last.get('error')}")
    before = [run for run in runs if run["status"] == "failed"]
    earlier = f"; the last that failed: {before[-1]['at']}, {before[-1].get('error')}" if before else ""
    return Check("last run", "ok", f"{what}: {last['status']}{earlier}")
