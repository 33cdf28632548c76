"""Store: what the function and the companion remember of each CVAT task, in one folder or fsspec URL.

In: annotations, push records, backups, run reports. Out: the same, whole or not at all: files are written beside their
place and moved into it, and a JSON file keeps its predecessor, so that a torn or damaged one is survived.

Layout, one place per server and task::

    ROOT/<server>/task-<id>/annotation.spam        the last Annotation of the task (annotation-job-<id>.spam: of a job)
    ROOT/<server>/task-<id>/answers.jsonl          the answers log: the only file here that holds human work
    ROOT/<server>/task-<id>/push.json              which CVAT tracks carry which of our tracks
    ROOT/<server>/task-<id>/review.json            the questions asked, and in which review task
    ROOT/<server>/task-<id>/backups/<time>-*.json  what a write replaced
    ROOT/<server>/task-<id>/frames/...             detections of a run that is going on
    ROOT/runs.jsonl                                how the last runs of the function ended
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import platformdirs

from spam_cvat.annotation import Annotation
from spam_cvat.errors import SpamError

LOCK_SECONDS = 60.0
"""How long to wait for another process to let go of a task, by default."""

LEASE_SECONDS = 900.0
"""A lock in a bucket that is older than this is taken for one left behind by a crash."""

RUNS_KEPT = 200
"""Lines of ``runs.jsonl`` that are kept."""


def utc_now() -> str:
    """Now, as ISO 8601 text in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def server_key(url: str) -> str:
    """A server's place in the store: host, port and path in lower case, without scheme, credentials or default port.

    ``SPAM_SERVER_NAME`` replaces it where the function and the companion know one server by different addresses.

    >>> server_key("https://CVAT.example.org:443/"), server_key("http://10.0.0.5:8080")
    ('cvat.example.org', '10.0.0.5_8080')
    """
    name = os.environ.get("SPAM_SERVER_NAME")
    if not name:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else None
        name = (parts.hostname or "server") + (f":{port}" if port else "") + parts.path.rstrip("/")
    return re.sub(r"[^a-z0-9.\-]+", "_", name.lower()).strip("._") or "server"


class Store:
    """Everything remembered, of all servers and tasks.

    Args:
        root: a folder or an fsspec URL (``s3://bucket/prefix``); by default ``SPAM_STORE``, else a folder under the
            user's data directory.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        """Point at the place; nothing is created before the first write."""
        chosen = root or os.environ.get("SPAM_STORE") or platformdirs.user_data_path("spam-cvat") / "store"
        self._files = _open_files(str(chosen))

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self._files.location

    def task(self, server_url: str, task_id: int) -> "TaskStore":
        """The place of one task."""
        return TaskStore(self._files.within(f"{server_key(server_url)}/task-{int(task_id)}"))

    def check_writable(self) -> None:
        """Write and delete a small file. Raises SpamError where that fails."""
        name = f".probe-{uuid.uuid4().hex}"
        self._files.write(name, b"spam-cvat")
        self._files.delete(name)

    def report_run(self, report: Mapping[str, Any]) -> None:
        """Remember how a run ended: ``{"status": "done" | "failed" | "cancelled", "task", "error", ...}``."""
        with self._files.lock("runs", LOCK_SECONDS):
            lines = self._run_lines()[-RUNS_KEPT + 1 :]
            lines.append(json.dumps({"at": utc_now(), **report}))
            self._files.write("runs.jsonl", ("\n".join(lines) + "\n").encode())

    def runs(self) -> list[dict[str, Any]]:
        """Reports of the last runs, oldest first; lines that cannot be read are left out."""
        reports = []
        for line in self._run_lines():
            with contextlib.suppress(json.JSONDecodeError):
                reports.append(json.loads(line))
        return reports

    def _run_lines(self) -> list[str]:
        return (self._files.read("runs.jsonl") or b"").decode(errors="replace").splitlines()


class TaskStore:
    """What is remembered of one task."""

    def __init__(self, files: "_Files") -> None:
        """Made by :meth:`Store.task`."""
        self._files = files

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self._files.location

    def annotation(self, job: int | None = None) -> Annotation | None:
        """The last Annotation of the task, or of one job run; None where there is none.

        Raises:
            InputError: the file is damaged or of another version.
        """
        name = _annotation_name(job)
        data = self._files.read(name)
        return None if data is None else Annotation.from_bytes(data, f"{self.location}/{name}")

    def save_annotation(self, annotation: Annotation, job: int | None = None) -> None:
        """Replace the Annotation in one move."""
        self._files.write(_annotation_name(job), annotation.to_bytes())

    @contextlib.contextmanager
    def answers_file(self) -> Iterator[Path]:
        """The answers log as a local file, to read from or append to; appended lines are brought back to a bucket.

        Hold :meth:`lock` around appending when the store is a bucket: the last writer of a whole file wins there.
        """
        if isinstance(self._files, _Folder):
            self._files.root.mkdir(parents=True, exist_ok=True)
            yield self._files.root / "answers.jsonl"
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answers.jsonl"
            before = self._files.read("answers.jsonl")
            if before is not None:
                path.write_bytes(before)
            try:
                yield path
            finally:
                after = path.read_bytes() if path.exists() else None
                if after is not None and after != before:
                    self._files.write("answers.jsonl", after)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object by name (``push``, ``review``, ...), None where there is none.

        A damaged file gives its predecessor.

        Raises:
            SpamError: the file is damaged and there is no predecessor.
        """
        data = self._files.read(f"{name}.json")
        if data is None:
            return None
        for content in (data, self._files.read(f"{name}.previous.json")):
            with contextlib.suppress(ValueError):
                value = json.loads(content or b"")
                if isinstance(value, dict):
                    return value
        raise SpamError(
            f"{self.location}/{name}.json is damaged and so is its predecessor: restore it from a copy, or move it "
            "away to start over (tracks written earlier are then taken for a human's)"
        )

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON object in one move, keeping the one before as ``NAME.previous.json``."""
        before = self._files.read(f"{name}.json")
        data = json.dumps(value, indent=1).encode()
        if before == data:
            return
        if before is not None and _is_json(before):
            self._files.write(f"{name}.previous.json", before)
        self._files.write(f"{name}.json", data)

    def backup(self, kind: str, value: Mapping[str, Any]) -> str:
        """Keep what is about to be replaced; returns the backup's name, which sorts by time."""
        stamp = re.sub(r"[-:.]", "", utc_now())
        name = f"{stamp}-{kind}-{uuid.uuid4().hex[:6]}"
        content = {"format": "spam-cvat backup", "version": 1, "kind": kind, "at": utc_now(), **value}
        self._files.write(f"backups/{name}.json", json.dumps(content).encode())
        return name

    def backups(self) -> list[str]:
        """Names of the backups, oldest first."""
        return sorted(name[:-5] for name in self._files.names("backups") if name.endswith(".json"))

    def read_backup(self, name: str) -> dict[str, Any]:
        """A backup's content. Raises SpamError where there is none or it is damaged."""
        data = self._files.read(f"backups/{name}.json")
        if data is None:
            raise SpamError(f"{self.location}: no backup {name}; there are {', '.join(self.backups()) or 'none'}")
        if not _is_json(data):
            raise SpamError(f"{self.location}/backups/{name}.json is damaged")
        return json.loads(data)

    def read_bytes(self, name: str) -> bytes | None:
        """A file's content, None where there is none."""
        return self._files.read(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file in one move."""
        self._files.write(name, data)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder of this place."""
        return self._files.names(folder)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        self._files.delete(name)

    @contextlib.contextmanager
    def lock(self, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Keep other processes and threads off this task's record while it and CVAT are changed.

        Not re-entrant. In a folder the lock ends with its process; in a bucket it is a lease that others take over
        after 15 minutes.

        Raises:
            SpamError: another process held it for all of ``timeout`` seconds.
        """
        with self._files.lock("task", timeout):
            yield


def _annotation_name(job: int | None) -> str:
    return "annotation.spam" if job is None else f"annotation-job-{job}.spam"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


# --- Files: a folder of this machine, or anything fsspec reaches -----------------------------------------------------


class _Files:
    """A place that holds named files."""

    location: str

    def within(self, folder: str) -> "_Files":
        raise NotImplementedError

    def read(self, name: str) -> bytes | None:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def names(self, folder: str) -> list[str]:
        raise NotImplementedError

    def lock(self, name: str, timeout: float) -> contextlib.AbstractContextManager[None]:
        raise NotImplementedError


def _open_files(root: str) -> _Files:
    if root.startswith("file://"):
        return _Folder(Path(root.removeprefix("file://")))
    if "://" not in root:
        return _Folder(Path(root).expanduser())
    try:
        system, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError, OSError) as error:
        raise SpamError(f"store {root}: cannot be opened: {error}; set SPAM_STORE to a folder or fsspec URL") from error
    return _Bucket(system, path.rstrip("/"), root.rstrip("/"))


class _Folder(_Files):
    """Files in a folder of this machine (or of a volume it mounts)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def within(self, folder: str) -> "_Folder":
        return _Folder(self.root / folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("read", name, error) from error

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise self._failure("write", name, error) from error

    def delete(self, name: str) -> None:
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failure("delete", name, error) from error

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(
                entry.name for entry in (self.root / folder).iterdir() if entry.is_file() and entry.name[0] != "."
            )
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[None]:
        path = self.root / f".{name}.lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+")
        except OSError as error:
            raise self._failure("lock", path.name, error) from error
        with stream:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    # flock is tied to the open file, so it holds between threads of one process as well.
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise _busy(self.location, timeout) from None
                    time.sleep(0.05)
            yield

    def _failure(self, verb: str, name: str, error: OSError) -> SpamError:
        return SpamError(
            f"store {self.location}: cannot {verb} {name}: {error.strerror or error}; free space or rights there, or "
            "set SPAM_STORE to another place"
        )


class _Bucket(_Files):
    """Files reached by fsspec; object stores replace an object in one move."""

    _local = threading.Lock()

    def __init__(self, system: fsspec.AbstractFileSystem, path: str, location: str) -> None:
        self._system, self._path, self.location = system, path, location

    def within(self, folder: str) -> "_Bucket":
        return _Bucket(self._system, f"{self._path}/{folder}", f"{self.location}/{folder}")

    def read(self, name: str) -> bytes | None:
        try:
            return self._system.cat_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("read", name, error) from error

    def write(self, name: str, data: bytes) -> None:
        path = f"{self._path}/{name}"
        try:
            self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._system.pipe_file(path, data)
        except OSError as error:
            raise self._failure("write", name, error) from error

    def delete(self, name: str) -> None:
        try:
            self._system.rm_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure("delete", name, error) from error

    def names(self, folder: str) -> list[str]:
        try:
            self._system.invalidate_cache()
            entries = self._system.ls(f"{self._path}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[None]:
        """A lease in an object; two writers in the same instant are told apart by reading it back."""
        owner, lease = uuid.uuid4().hex, f".{name}.lock"
        deadline = time.monotonic() + timeout
        while not self._take(lease, owner):
            if time.monotonic() >= deadline:
                raise _busy(self.location, timeout)
            time.sleep(0.1)
        try:
            yield
        finally:
            if self._holder(lease) == owner:
                self.delete(lease)

    def _take(self, lease: str, owner: str) -> bool:
        with self._local:
            if self._holder(lease) is not None:
                return False
            self.write(lease, json.dumps({"owner": owner, "at": time.time()}).encode())
        # Object stores order writes: after a moment everybody sees the last writer.
        time.sleep(0.05)
        return self._holder(lease) == owner

    def _holder(self, lease: str) -> str | None:
        try:
            content = json.loads(self.read(lease) or b"null")
        except ValueError:
            return None
        if not isinstance(content, dict) or time.time() - content.get("at", 0) > LEASE_SECONDS:
            return None
        return content.get("owner")

    def _failure(self, verb: str, name: str, error: OSError) -> SpamError:
        return SpamError(f"store {self.location}: cannot {verb} {name}: {error}; check the bucket and its credentials")


def _busy(location: str, timeout: float) -> SpamError:
    return SpamError(
        f"{location} is in use by another spam-cvat for over {timeout:.0f} s; wait for it, or end it, and run again"
    )


def digest_of(value: Any) -> str:
    """Hexadecimal SHA-256, cut to 24 digits, of a plain value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
