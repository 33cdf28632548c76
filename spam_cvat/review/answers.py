"""The answers log on disk: one JSON object a line, only ever appended to.

In: answers of humans, from sheets, jobs or a simulated annotator. Out: the same, oldest first, for
:func:`spam_cvat.answers.resolve`. The file is all there is of human work, so an append reaches the disk before it
returns, writers take turns, and a line torn by a crash is told of and stepped over, never deleted.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spam_cvat.answers import Answer, digest
from spam_cvat.errors import InputError, SpamError
from spam_cvat.review.questions import to_answers

__all__ = ["AnswersLog", "LogContent", "to_answers"]


@dataclass(frozen=True)
class LogContent:
    """What a log holds.

    Attributes:
        answers: oldest first.
        problems: lines that are no answers (torn by a crash, written by another program), in words with their number.
    """

    answers: list[Answer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class AnswersLog:
    """An append-only file of answers; it need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        """Name the file; nothing is read or written."""
        self.path = Path(path)

    def append(self, answers: Iterable[Answer]) -> int:
        """Write answers at the end, all in one piece, and wait until the disk has them.

        Processes that append at the same time take turns (an advisory lock on the file).

        Returns:
            How many were written.

        Raises:
            SpamError: the file cannot be written (no space, no right); what it held before is unharmed.
        """
        lines = [json.dumps(answer.to_json(), separators=(",", ":")) for answer in answers]
        if not lines:
            return 0
        data = ("\n".join(lines) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with self._locked(os.O_RDWR | os.O_CREAT | os.O_APPEND) as handle:
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) != b"\n":
                    data = b"\n" + data  # A torn last line ends here and stays a problem of its own.
                try:
                    _write_all(handle, data)
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, size)
                    raise
            if is_new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise SpamError(f"{self.path}: cannot write answers: {error.strerror or error}") from error
        return len(lines)

    def read(self) -> LogContent:
        """Everything in the log; an absent file is an empty log.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            with self._locked(os.O_RDONLY, shared=True) as handle:
                data = b"".join(_chunks(handle))
        except FileNotFoundError:
            return LogContent()
        except OSError as error:
            raise InputError(f"{self.path}: cannot read answers: {error.strerror or error}") from error
        content = LogContent()
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                content.answers.append(Answer.from_json(json.loads(line)))
            except (ValueError, InputError) as error:
                torn = "torn, the program ended while writing it" if number == len(lines) else str(error)
                content.problems.append(f"{self.path}:{number}: not an answer ({torn}); left out")
        return content

    def answers(self) -> list[Answer]:
        """The answers alone, oldest first; see :meth:`read`."""
        return self.read().answers

    def digest(self) -> str:
        """SHA-256 of the answers in their order; equal for equal content."""
        return digest(self.answers())

    @contextmanager
    def _locked(self, flags: int, shared: bool = False) -> Iterator[int]:
        handle = os.open(self.path, flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _chunks(handle: int) -> Iterator[bytes]:
    while chunk := os.read(handle, 1 << 20):
        yield chunk


def _sync_folder(folder: Path) -> None:
    """A new file's name must reach the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
