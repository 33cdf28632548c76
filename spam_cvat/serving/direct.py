"""Direct calls: ``{"task": 7}`` annotates a whole task (or ``{"job": 9}`` a job) without the page's button.

In: the number of a task or job. Out: an answer with the progress while the work goes on, and with its result or error
at the end. Asking again while it goes on waits on, asking after the end begins anew, which finds nothing to change
where nothing has changed. This is the fastest way: frames come in chunks, and there is no time limit.
"""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from spam_cvat.cvat.store import Store
from spam_cvat.cvat.tasks import read_task, task_of_job
from spam_cvat.errors import InputError, SpamError
from spam_cvat.serving.harvest import Perception
from spam_cvat.serving.session import Login, Outcome, VideoRun
from spam_cvat.serving.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class _Work:
    """One run in the background."""

    task: int | None
    job: int | None
    ended: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    total: int | None = None
    outcome: Outcome | None = None
    error: Exception | None = None


@dataclass
class DirectRuns:
    """The runs that were asked for by direct calls.

    Args:
        login: to CVAT.
        store: where things are remembered.
        perception: looks at pixels; None where the rectangles in the task are to be used.
        settings: of the function.
    """

    login: Login
    store: Store
    perception: Perception | None
    settings: Settings
    _going: dict[tuple[str, int], _Work] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, body: dict[str, Any]) -> dict[str, Any]:
        """Begin a run or wait for one that is going on.

        Args:
            body: ``task`` or ``job``, and perhaps ``threshold`` (leave out tracks that are nowhere as sure as this) and
                ``wait`` (seconds before the answer comes, though there is more to do).

        Returns:
            ``{"status": "running", "progress": 0..1, ...}`` or ``{"status": "done", ...}``.

        Raises:
            InputError: the body cannot be understood.
            SpamError: the run failed; nothing was written twice, and a new call carries on.
        """
        kind, number = _target(body)
        threshold = _fraction(body, "threshold")
        wait = _seconds(body, self.settings.wait_seconds)
        with self._lock:
            work = self._going.get((kind, number))
            if work is None:
                work = _Work(number if kind == "task" else None, number if kind == "job" else None)
                self._going[kind, number] = work
                threading.Thread(target=self._run, args=(work, threshold), daemon=True, name=f"{kind}-{number}").start()
        work.ended.wait(wait)
        if not work.ended.is_set():
            share = work.done / work.total if work.total else 0.0
            again = f'call again with {{"{kind}": {number}}} to wait on'
            return {"status": "running", kind: number, "frames": work.done, "progress": round(share, 3), "next": again}
        with self._lock:
            if self._going.get((kind, number)) is work:
                del self._going[kind, number]
        if work.error is not None:
            raise work.error
        assert work.outcome is not None
        return {"status": "done", "progress": 1.0, **work.outcome.to_json()}

    @property
    def progress(self) -> list[str]:
        """One line for each run that is going on."""
        return [f"{kind} {number}: {work.done} of {work.total} frames" for (kind, number), work in self._going.items()]

    def _run(self, work: _Work, threshold: float | None) -> None:
        try:
            work.outcome = self._annotate(work, threshold)
        except Exception as error:
            # Raised again in the call that waits for it, and noted for the doctor.
            work.error = error
            if not isinstance(error, SpamError):
                log.exception("direct call for task %s, job %s", work.task, work.job)
        finally:
            self._report(work)
            work.ended.set()

    def _annotate(self, work: _Work, threshold: float | None) -> Outcome:
        connection = self.login.connection
        if work.task is None:
            assert work.job is not None
            work.task = task_of_job(connection, work.job)
        task = read_task(connection, work.task, fps=self.settings.fps)
        job = None if work.job is None else task.job(work.job)
        video = VideoRun(connection, self.store, task, job, self.perception, self.settings)
        work.total = len(video.frames)
        known = work.total - len(video.missing())

        def count(done: int) -> None:
            work.done = known + done

        count(0)
        try:
            video.fetch_missing(count)
            return video.conclude(threshold=threshold, provenance={"asked": "direct call"})
        except SpamError:
            video.harvest.flush()
            raise

    def _report(self, work: _Work) -> None:
        report = {
            "status": "done" if work.error is None else "failed",
            "kind": "direct call",
            "task": work.task,
            "job": work.job,
            "error": str(work.error) if work.error else None,
            "outcome": work.outcome.to_json() if work.outcome else None,
        }
        try:
            self.store.report_run(report)
        except SpamError as problem:
            log.error("how the run ended could not be noted: %s", problem)


def _target(body: dict[str, Any]) -> tuple[str, int]:
    named = [kind for kind in ("task", "job") if kind in body]
    if len(named) != 1:
        raise InputError('give either "task" or "job", not both')
    number = body[named[0]]
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f'"{named[0]}" must be the number of a {named[0]}, not {number!r}')
    return named[0], number


def _fraction(body: dict[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f'"{name}" must be a number in 0..1, not {value!r}')
    return float(value)


def _seconds(body: dict[str, Any], default: float) -> float:
    value = body.get("wait", default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 86_400:
        raise InputError(f'"wait" must be a number of seconds, not {value!r}')
    return float(value)
