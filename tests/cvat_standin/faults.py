"""Failures on demand: what a client meets when a server is away, slow, or breaks at the n-th call.

In: rules (which calls, how many, what happens). Out: for each request, the rule that strikes, if any.
"""

import fnmatch
import threading
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["status", "drop", "drop-after", "slow"]


@dataclass
class Fault:
    """One rule.

    Attributes:
        route: glob over the path, such as ``/api/jobs/*/annotations``.
        method: HTTP method, or ``*``.
        kind: ``status`` answers with ``status`` and does nothing; ``drop`` closes the connection and does nothing;
            ``drop-after`` does the work, then closes the connection without an answer; ``slow`` waits ``seconds``, then
            answers as usual.
        after: let this many matching calls pass first.
        count: strike this many times, then pass; None strikes for ever.
        struck: how often it has struck.
    """

    route: str = "*"
    method: str = "*"
    kind: Kind = "status"
    status: int = 503
    seconds: float = 0.0
    after: int = 0
    count: int | None = 1
    struck: int = 0
    _seen: int = field(default=0, repr=False)

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about this call."""
        return self.method in ("*", method) and fnmatch.fnmatchcase(path, self.route)

    def strikes(self) -> bool:
        """Count a matching call and say whether it is struck."""
        self._seen += 1
        if self._seen <= self.after or (self.count is not None and self.struck >= self.count):
            return False
        self.struck += 1
        return True


class Faults:
    """The rules in force, tried in the order they were added."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        route: str = "*",
        method: str = "*",
        kind: Kind = "status",
        *,
        status: int = 503,
        seconds: float = 0.0,
        after: int = 0,
        count: int | None = 1,
    ) -> Fault:
        """Put a rule in force; see :class:`Fault` for the arguments."""
        rule = Fault(route, method, kind, status, seconds, after, count)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Fault) -> None:
        """Lift one rule."""
        with self._lock:
            self._rules = [other for other in self._rules if other is not rule]

    def clear(self) -> None:
        """Lift all rules."""
        with self._lock:
            self._rules.clear()

    def strike(self, method: str, path: str) -> Fault | None:
        """The rule that strikes this call."""
        with self._lock:
            for rule in self._rules:
                if rule.matches(method, path) and rule.strikes():
                    return rule
        return None
