"""Answers: what humans said about detections, and what all of it together means now.

In: a log of :class:`Answer`, oldest first. Out: :func:`resolve` turns it into :class:`Clamps`, rows of one Detections
table that the engine must keep, drop, join or hold apart. The clamps can always be satisfied together: of two answers
that contradict each other the later counts, and the other is reported in words.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import iou_matrix
from spam_cvat.detections import Detections
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks

KINDS = ("accept", "reject", "refine", "same", "different", "split", "assign", "mixed", "withdraw")
# A box that a new run of the detector moved a little is still the box the human saw; below this it is another one.
REBIND_IOU = 0.7
_ANOTHER_BOX = "called one person, which has another box in the same frame"
_EXACTLY_TWO = ("different", "split")


@dataclass(frozen=True)
class Answer:
    """One thing a human said.

    ====================  ==============================================================================================
    ``accept``            these detections are real
    ``reject``            these detections are not real (or duplicates of others)
    ``refine``            this one detection is real, and ``box`` is where it should be
    ``same``              two or more detections, one person; a chain in time order
    ``different``         these two are never one person
    ``split``             these two, neighbours in one automatic track, belong to different people
    ``assign``            all of these belong to the person named ``identity``; other names are other people
    ``mixed``             these are more than one person; where the person changes is not said yet, so it joins nobody
    ``withdraw``          the earlier reply to ``question`` no longer counts (no detections)
    ====================  ==============================================================================================

    Attributes:
        kind: one of :data:`KINDS`.
        detections: stable ids (``Detections.id``) as plain integers.
        box: x1 y1 x2 y2 in pixels, for ``refine`` alone.
        identity: a name that is unique in the video, for ``assign`` alone.
        by: who answered.
        at: when, in ISO 8601. All answers of one reply carry the same time.
        job: where: a CVAT job, a file, "simulated".
        clicks: what it cost; a reply that gives several answers charges the first.
        question: id of the question it answers. A later reply to a question (another ``at``) replaces the earlier one.
        context: per detection ``(frame, x1, y1, x2, y2)`` as the human saw it; lets the answer find its boxes again
            after another detector run. Empty, or as long as ``detections``.
    """

    kind: str
    detections: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    identity: str | None = None
    by: str = ""
    at: str = ""
    job: str = ""
    clicks: float = 0.0
    question: str | None = None
    context: tuple[tuple[float, float, float, float, float], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse what has no meaning; the message names the kind and the fault."""
        fault = self._fault()
        if fault:
            raise InputError(f"answer {self.kind!r}: {fault}")

    def _fault(self) -> str:
        count = len(self.detections)
        if self.kind not in KINDS:
            return f"not one of {', '.join(KINDS)}"
        if not all(isinstance(i, int) and 0 <= i < 1 << 64 for i in self.detections):
            return "detection ids are unsigned 64-bit integers"
        if self.context and len(self.context) != count:
            return f"{len(self.context)} boxes of context for {count} detections"
        if not (math.isfinite(self.clicks) and self.clicks >= 0):
            return f"cannot have cost {self.clicks} clicks"
        if (self.box is not None) != (self.kind == "refine"):
            return "a refined box goes with refine, and only with it"
        if self.box is not None and not (
            len(self.box) == 4
            and all(map(math.isfinite, self.box))
            and self.box[2] > self.box[0]
            and self.box[3] > self.box[1]
        ):
            return f"box {list(self.box)} has no area"
        if bool(self.identity) != (self.kind == "assign"):
            return "an identity goes with assign, and only with it"
        if self.kind == "withdraw":
            return "" if self.question and not count else "names a question and no detections"
        least = 2 if self.kind in (*_EXACTLY_TWO, "same", "mixed") else 1
        if count < least or (self.kind in _EXACTLY_TWO and count != 2) or (self.kind == "refine" and count != 1):
            return f"{count} detections are not what it is about"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line of the log; ids as 16 hexadecimal digits, empty fields left out."""
        out: dict[str, Any] = {"kind": self.kind, "detections": [f"{i:016x}" for i in self.detections]}
        if self.box is not None:
            out["box"] = list(self.box)
        if self.identity is not None:
            out["identity"] = self.identity
        out |= {"by": self.by, "at": self.at, "job": self.job, "clicks": self.clicks}
        if self.question is not None:
            out["question"] = self.question
        if self.context:
            out["context"] = [list(row) for row in self.context]
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Answer":
        """Read what :meth:`to_json` wrote; unknown fields are ignored, so newer logs can be read.

        Raises:
            InputError: a field is missing, of the wrong type, or makes no sense.
        """
        try:
            box, identity, question = data.get("box"), data.get("identity"), data.get("question")
            corners = None if box is None else tuple(float(value) for value in box)
            seen = tuple(tuple(float(value) for value in row) for row in data.get("context", ()))
            if any(len(row) != 5 for row in seen) or (corners is not None and len(corners) != 4):
                raise InputError("answer: a box has four numbers, a box of context a frame and four numbers")
            return cls(
                kind=str(data["kind"]),
                detections=tuple(int(text, 16) for text in data.get("detections", ())),
                box=corners,
                identity=None if identity is None else str(identity),
                by=str(data.get("by", "")),
                at=str(data.get("at", "")),
                job=str(data.get("job", "")),
                clicks=float(data.get("clicks", 0)),
                question=None if question is None else str(question),
                context=seen,  # type: ignore[arg-type]  # five numbers each, checked above
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"answer: {type(error).__name__} {error}; not an answer of this program") from error


def digest(answers: Iterable[Answer]) -> str:
    """SHA-256 over the answers in their order, 64 hexadecimal digits; goes into an annotation's provenance."""
    state = hashlib.sha256()
    for answer in answers:
        state.update(json.dumps(answer.to_json(), sort_keys=True).encode() + b"\n")
    return state.hexdigest()


@dataclass(frozen=True)
class Clamps:
    """What the log means for one Detections table. All of it can hold at once.

    Attributes:
        gate: (N,) int8: 1 real, 0 not real, -1 nobody said. Every row of ``must`` and ``boxes`` is 1.
        must: (K, 2) int64 rows, earlier and later box of one person; per person a chain through all its clamped boxes
            in frame order, so consecutive pairs say it all.
        cannot: (K, 2) int64 rows, smaller first, never one person; holds for everybody joined to either by ``must``.
        boxes: corrected box per row, x1 y1 x2 y2 in pixels.
        mixed: sets of rows that ``must`` never joins into one person; which of them to hold apart is not known yet.
        conflicts: answers, or parts of them, that do not count because a later one contradicts them; in words.
        unknown: answers, or parts of them, about detections that the table does not have; in words.
        replaced: earlier replies to questions that were answered again or withdrawn; in words.
        rebound: id given -> row, for boxes found again by their place.
    """

    gate: NDArray[np.int8]
    must: NDArray[np.int64]
    cannot: NDArray[np.int64]
    boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    mixed: list[tuple[int, ...]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    rebound: dict[int, int] = field(default_factory=dict)

    @classmethod
    def none(cls, count: int) -> "Clamps":
        """Nobody said anything about ``count`` detections."""
        return cls(np.full(count, -1, np.int8), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64))

    def __bool__(self) -> bool:
        """Whether anything is clamped at all."""
        return bool(len(self.must) or len(self.cannot) or (self.gate >= 0).any())

    @cached_property
    def person(self) -> NDArray[np.int64]:
        """(N,) rows joined by ``must`` share a number: the smallest of their rows. Others have their own row."""
        out = np.arange(len(self.gate), dtype=np.int64)
        # Each person's chain runs upwards through its rows, so one pass in row order is enough.
        for earlier, later in self.must[np.argsort(self.must[:, 0], kind="stable")]:
            out[later] = out[earlier]
        return out

    def violations(self, tracks: Tracks) -> list[str]:
        """What in ``tracks`` (made from the same detections) contradicts the clamps, in words; empty when all is kept.

        A real box must be in a track, a rejected one in none, joined boxes in one, held-apart boxes in two, and a
        corrected box must have been used.
        """
        track = np.zeros(len(self.gate), np.int64)
        own = tracks.detection >= 0
        track[tracks.detection[own]] = tracks.track[own]
        out = [
            f"detection {row}: answered real, in no track" for row in np.flatnonzero((self.gate == 1) & (track == 0))
        ]
        out += [f"detection {row}: rejected, in a track" for row in np.flatnonzero((self.gate == 0) & (track > 0))]
        for a, b in self.must:
            if track[a] != track[b]:
                out.append(f"detections {a} and {b}: one person, in tracks {track[a]} and {track[b]}")
        for a, b in self.cannot:
            if track[a] == track[b] > 0:
                out.append(f"detections {a} and {b}: two people, both in track {track[a]}")
        place = dict(zip(tracks.detection[own].tolist(), np.flatnonzero(own).tolist(), strict=True))
        for row, box in self.boxes.items():
            if row in place and not np.allclose(tracks.box[place[row]], box, atol=0.01):
                out.append(f"detection {row}: corrected box not used")
        return out


def current(answers: Sequence[Answer]) -> tuple[list[Answer], list[str]]:
    """The answers that still count, oldest first, after later replies replaced earlier ones to the same question.

    Returns:
        The answers, without withdrawn ones and ``withdraw`` itself, and what was replaced, in words.
    """
    newest: dict[str, Answer] = {}
    for answer in answers:
        if answer.question is not None:
            newest[answer.question] = answer
    kept: list[Answer] = []
    replaced: dict[tuple[str, str], str] = {}
    for answer in answers:
        last = newest.get(answer.question or "", answer)
        if answer.kind == "withdraw":
            continue
        if last.at != answer.at or last.kind == "withdraw":
            what = "withdrawn" if last.kind == "withdraw" else "answered again"
            replaced[str(answer.question), answer.at] = (
                f"question {answer.question}: reply of {answer.at or 'unknown time'} was {what}"
            )
        else:
            kept.append(answer)
    return kept, list(replaced.values())


def resolve(answers: Sequence[Answer], detections: Detections) -> Clamps:
    """What the log means now, for these detections.

    The rule: later replies replace earlier replies to the same question; then answers are read from the newest to the
    oldest, and each single statement (this box is real, these two are one person, ...) counts unless it contradicts
    the newer ones that count. So a new ``different`` between boxes that older ``same`` joined through others breaks
    the oldest of those links and leaves the rest. What contradicts what:

    * real against not real; who is joined with somebody or has a corrected box is real;
    * one person against two people, through any chain of joined boxes; two identities of ``assign`` are two people;
    * one person has one box in a frame; a box of a longer ``same`` that newer answers gave to somebody else, who has
      another box in a frame of it, drops out of it, and the rest stays one person.

    Args:
        answers: the log, oldest first.
        detections: the table; ids that are not in it are looked for by place where the answer says where it was.

    Returns:
        The clamps. Without contradictions they do not depend on the order of the answers.
    """
    counting, replaced = current(answers)
    rows = _Rows(detections)
    state = _State(detections.frame)
    for answer in reversed(counting):
        found = rows.find(answer)
        before = len(state.refused)
        for statement in _statements(answer, found):
            state.add(*statement)
        if len(state.refused) > before:
            state.conflicts.append(_words(answer, state.refused[before:], detections))
    return Clamps(
        gate=state.gate,
        must=state.chains(),
        cannot=state.apart(),
        boxes=dict(sorted(state.boxes.items())),
        mixed=sorted(state.mixed),
        conflicts=state.conflicts[::-1],
        unknown=rows.unknown[::-1],
        replaced=replaced,
        rebound=rows.rebound,
    )


_Statement = tuple[str, int, Any]


def _statements(answer: Answer, rows: Sequence[int | None]) -> Iterator[_Statement]:
    """The single statements of one answer: (what, row, argument)."""
    known = [row for row in rows if row is not None]
    if answer.kind in ("accept", "reject"):
        yield from (("gate", row, int(answer.kind == "accept")) for row in known)
    elif answer.kind == "refine":
        yield from (("box", row, answer.box) for row in known)
    elif answer.kind == "assign":
        yield from (("identity", row, answer.identity) for row in known)
    elif answer.kind == "same":
        yield ("chain", -1, sorted(set(known)))
    elif answer.kind == "mixed":
        yield ("mixed", -1, tuple(sorted(set(known))))
    elif len(known) == 2:
        yield ("apart", known[0], known[1])


def _words(answer: Answer, refused: Sequence[tuple[int, str]], detections: Detections) -> str:
    """One line about the parts of an answer that lost against later ones."""
    row, why = refused[0]
    where = f"frame {detections.frame[row]}" if row >= 0 else "an unknown frame"
    who = f" by {answer.by}" if answer.by else ""
    question = f" to question {answer.question}" if answer.question else ""
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"answer {answer.kind}{who}{question}, {where}: {why}{more}"


class _Rows:
    """Finds the rows that answers speak of, by id or by place."""

    def __init__(self, detections: Detections) -> None:
        self.detections = detections
        self.order = np.argsort(detections.id)
        self.sorted_ids = detections.id[self.order]
        self.unknown: list[str] = []
        self.rebound: dict[int, int] = {}

    def find(self, answer: Answer) -> list[int | None]:
        """Row per detection of the answer, None where there is none; those are noted in ``unknown``."""
        ids = np.array(answer.detections, np.uint64)
        place = np.searchsorted(self.sorted_ids, ids)
        out: list[int | None] = []
        missing = 0
        for index, (identity, at) in enumerate(zip(ids, place, strict=True)):
            row: int | None = None
            if at < len(self.order) and self.sorted_ids[at] == identity:
                row = int(self.order[at])
            elif answer.context:
                row = self._near(answer.context[index])
                if row is not None:
                    self.rebound[int(identity)] = row
            missing += row is None
            out.append(row)
        if missing:
            first = next(i for i, row in zip(answer.detections, out, strict=True) if row is None)
            question = f" to question {answer.question}" if answer.question else ""
            self.unknown.append(
                f"answer {answer.kind}{question}: {missing} of {len(out)} detections are not in this annotation "
                f"(first {first:016x}); annotate with the same detections to use it"
            )
        return out

    def _near(self, seen: Sequence[float]) -> int | None:
        frame = int(seen[0])
        if not 0 <= frame < self.detections.video.num_frames:
            return None
        start, stop = self.detections.frame_start[frame : frame + 2]
        overlap = iou_matrix(np.array([seen[1:]], np.float32), self.detections.box[start:stop])[0]
        if not overlap.size or overlap.max() < REBIND_IOU:
            return None
        return int(start + overlap.argmax())


class _State:
    """The statements that count so far, newest first: a union-find of people with who they cannot be.

    Only rows that somebody spoke of take part. A person holds its frames (one box each) and at most one identity.
    """

    def __init__(self, frame: NDArray[np.int32]) -> None:
        self.frame = frame
        self.gate = np.full(len(frame), -1, np.int8)
        self.boxes: dict[int, tuple[float, float, float, float]] = {}
        self.refused: list[tuple[int, str]] = []
        self.conflicts: list[str] = []
        self.parent: dict[int, int] = {}
        self.members: dict[int, list[int]] = {}
        self.frames: dict[int, set[int]] = {}
        self.enemies: dict[int, set[int]] = {}
        self.name: dict[int, str] = {}
        self.named: dict[str, int] = {}
        self.pairs: set[tuple[int, int]] = set()
        self.mixed: list[tuple[int, ...]] = []
        self.mixed_people: list[int] = []
        self.mixed_of: dict[int, set[int]] = {}

    def add(self, what: str, row: int, argument: Any) -> None:
        """Let one statement count, or note in ``refused`` why it does not."""
        if what == "gate":
            self._set_gate(row, argument)
        elif what == "box":
            self._set_box(row, argument)
        elif what == "identity":
            self._set_identity(row, argument)
        elif what == "apart":
            self._hold_apart(row, argument)
        elif what == "mixed":
            self._mix(argument)
        else:
            self._chain(argument)

    def _refuse(self, row: int, why: str) -> None:
        self.refused.append((row, why))

    def _set_gate(self, row: int, value: int) -> bool:
        if self.gate[row] == 1 - value:
            self._refuse(row, f"called {'real' if value else 'not real'}, a later answer says otherwise")
            return False
        self.gate[row] = value
        return True

    def _set_box(self, row: int, box: tuple[float, float, float, float]) -> None:
        if self.boxes.get(row, box) != box:
            self._refuse(row, "box corrected again by a later answer")
        elif self._set_gate(row, 1):
            self.boxes[row] = box

    def _find(self, row: int) -> int:
        if row not in self.parent:
            self.parent[row] = row
            self.members[row], self.frames[row], self.enemies[row] = [row], {int(self.frame[row])}, set()
            self.mixed_of[row] = set()
        root = row
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[row] != root:
            self.parent[row], row = root, self.parent[row]
        return root

    def _obstacle(self, a: int, b: int) -> str:
        """Why the people ``a`` and ``b`` (roots) cannot be one; empty where they can."""
        if b in self.enemies[a]:
            return "called one person, later answers say two"
        if a in self.name and b in self.name and self.name[a] != self.name[b]:
            return f"called one person, later answers name {self.name[a]!r} and {self.name[b]!r}"
        if any(self.mixed_people[index] == 2 for index in self.mixed_of[a] & self.mixed_of[b]):
            return "called one person, a later answer says mixed"
        small, large = sorted((self.frames[a], self.frames[b]), key=len)
        return "" if small.isdisjoint(large) else _ANOTHER_BOX

    def _join(self, row: int, other: int) -> str:
        """Two rows are one person; why that cannot be, empty where it can."""
        a, b = self._find(row), self._find(other)
        if a == b:
            return ""
        why = self._obstacle(a, b)
        if why:
            self._refuse(other, why)
            return why
        if len(self.members[a]) < len(self.members[b]):
            a, b = b, a
        self.parent[b] = a
        self.members[a] += self.members.pop(b)
        self.frames[a] |= self.frames.pop(b)
        for index in self.mixed_of[a] & self.mixed_of[b]:
            self.mixed_people[index] -= 1
        self.mixed_of[a] |= self.mixed_of.pop(b)
        for enemy in self.enemies.pop(b):
            self.enemies[enemy].discard(b)
            self.enemies[enemy].add(a)
            self.enemies[a].add(enemy)
        if b in self.name:
            self.name[a] = self.name.pop(b)
            self.named[self.name[a]] = a
        return ""

    def _chain(self, rows: Sequence[int]) -> None:
        """Rows ascend, hence so do their frames; rejected boxes drop out of the chain.

        So do boxes that later answers gave to somebody who was elsewhere when this person was seen: a track that was
        looked at as a whole may show somebody else for a moment, and goes on after it.
        """
        real = [row for row in rows if self._set_gate(row, 1)]
        twins = [later for earlier, later in itertools.pairwise(real) if self.frame[earlier] == self.frame[later]]
        for row in twins:
            self._refuse(row, _ANOTHER_BOX)
        last = -1
        for row in sorted(set(real) - set(twins)):
            if last < 0 or self._join(last, row) != _ANOTHER_BOX:
                last = row

    def _set_identity(self, row: int, identity: str) -> None:
        if not self._set_gate(row, 1):
            return
        root = self._find(row)
        if identity in self.named:
            self._join(self.named[identity], row)
        elif root in self.name:
            self._refuse(row, f"named {identity!r}, a later answer names it {self.name[root]!r}")
        else:
            self.name[root], self.named[identity] = identity, root

    def _hold_apart(self, a: int, b: int) -> None:
        first, second = self._find(a), self._find(b)
        if first == second:
            self._refuse(b, "called two people, later answers say one")
            return
        self.enemies[first].add(second)
        self.enemies[second].add(first)
        self.pairs.add((min(a, b), max(a, b)))

    def _mix(self, rows: tuple[int, ...]) -> None:
        people = {self._find(row) for row in rows}
        if len(rows) < 2 or rows in self.mixed:
            return
        if len(people) == 1:
            self._refuse(rows[0], "called mixed, later answers say one person")
            return
        for root in people:
            self.mixed_of[root].add(len(self.mixed))
        self.mixed.append(rows)
        self.mixed_people.append(len(people))

    def chains(self) -> NDArray[np.int64]:
        """(K, 2) per person consecutive rows, ascending."""
        pairs = []
        for members in self.members.values():
            ordered = sorted(members)
            pairs += list(itertools.pairwise(ordered))
        return np.array(sorted(pairs), np.int64).reshape(-1, 2)

    def apart(self) -> NDArray[np.int64]:
        """(K, 2) pairs held apart, those of different identities by their first rows."""
        first = sorted(min(self.members[root]) for root in self.name)
        named = {(a, b) for index, a in enumerate(first) for b in first[index + 1 :]}
        return np.array(sorted(self.pairs | named), np.int64).reshape(-1, 2)
