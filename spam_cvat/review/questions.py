"""Questions: what a human is asked, what he can reply, and what each reply means.

In: stable ids of detections, chosen by :mod:`spam_cvat.review.selection`. Out: questions that can be stored and drawn,
and the answers that a reply amounts to. Nothing here knows pixels or CVAT.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from spam_cvat.answers import Answer
from spam_cvat.detections import Detections
from spam_cvat.errors import InputError

MAX_CANDIDATES = 6
MAX_MOMENTS = 8
UNSURE = "unsure"

# What the annotator is asked, and the replies in the order of their number keys: the first is key 1.
LABELS = {"TRACK": "REAL person?", "SAME": "SAME person?", "SWITCH": "SWITCH at?", "FIX": "FIX the box"}
REPLIES: dict[str, tuple[str, ...]] = {
    "TRACK": ("real", "false", "mixed", UNSURE),
    "SAME": (*(f"cand {k}" for k in range(1, MAX_CANDIDATES + 1)), "none", UNSURE),
    "SWITCH": ("one person", *(f"crop {k}" for k in range(2, MAX_MOMENTS + 1)), UNSURE),
    "FIX": ("ok", "fixed", "not a person"),
}
# Clicks: one look at a film strip, one pick, a split, a box drawn again (economy of full manual work: 3 a box).
PRICES = {"TRACK": 1.0, "SAME": 1.0, "SWITCH": 2.0, "FIX": 2.0}


@dataclass(frozen=True)
class Reply:
    """What an annotator replied: one of :data:`REPLIES` of the question's kind; ``box`` (pixels) with ``fixed``."""

    value: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Question:
    """One question about detections, named by their stable ids.

    ==========  ========================================================================================================
    ``TRACK``   is ``subject``, a tracklet shown at ``moments``, one real person?
    ``SAME``    which of ``candidates`` is the first to show the person of ``subject`` again?
    ``SWITCH``  at which of ``moments`` does ``subject`` first show somebody else, or nobody?
    ``FIX``     is the one box of ``subject`` right?
    ==========  ========================================================================================================

    Attributes:
        kind: see above.
        subject: the tracklet, in frame order; for ``SAME`` its part before the gap.
        candidates: up to six tracklets after the gap, by the frame they start in.
        moments: boxes of the subject to show, at most eight, in frame order.
        candidate_moments: boxes to show of each candidate.
        likeliest: index of the candidate that the model believes in most; not shown.
        cuts: for each pair of successive moments the two neighbouring boxes between which the model would cut.
        price: clicks.
        probability: that the model is wrong here.
        gain: expected number of boxes that the reply puts right.
        entropy: of the most uncertain probability involved, in bits.
    """

    kind: str
    subject: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...] = ()
    moments: tuple[int, ...] = ()
    candidate_moments: tuple[tuple[int, ...], ...] = ()
    likeliest: int = field(default=0, compare=False)
    cuts: tuple[tuple[int, int], ...] = ()
    price: float = 1.0
    probability: float = field(default=0.0, compare=False)
    gain: float = field(default=0.0, compare=False)
    entropy: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        """Refuse a question that cannot be asked."""
        if self.kind not in REPLIES:
            raise InputError(f"question of kind {self.kind!r}: not one of {', '.join(REPLIES)}")
        if not self.subject or (self.kind == "SAME") != bool(self.candidates):
            raise InputError(f"question {self.kind}: subject or candidates missing")
        if len(self.candidates) > MAX_CANDIDATES or len(self.moments) > MAX_MOMENTS:
            raise InputError(f"question {self.kind}: at most {MAX_CANDIDATES} candidates and {MAX_MOMENTS} moments")
        if len(self.candidate_moments) != len(self.candidates) or (
            self.cuts and len(self.cuts) != len(self.moments) - 1
        ):
            raise InputError(f"question {self.kind}: moments and cuts do not fit")

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: a digest of what is asked, equal in every run that would ask the same."""
        content = {
            "TRACK": [self.subject],
            "SAME": [self.subject[-1], [rows[0] for rows in self.candidates]],
            "SWITCH": [self.moments, self.cuts],
            "FIX": [self.subject],
        }[self.kind]
        return hashlib.sha256(json.dumps([self.kind, content]).encode()).hexdigest()[:16]

    @property
    def topic(self) -> str:
        """What it is about, whatever the candidates or crops: who was unsure here once will be so again."""
        about = self.subject[-1] if self.kind == "SAME" else self.subject[len(self.subject) // 2]
        return f"{self.kind} {about:016x}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The replies this question can have; those of its kind without candidates or crops that it does not show."""
        shown = len(self.candidates) if self.kind == "SAME" else len(self.moments)
        return tuple(
            value
            for value in REPLIES[self.kind]
            if not value.startswith(("cand ", "crop ")) or int(value.split()[1]) <= shown
        )

    @property
    def shown(self) -> tuple[int, ...]:
        """Ids of all boxes that are shown."""
        return self.moments + tuple(i for rows in self.candidate_moments for i in rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ids as 16 hexadecimal digits."""
        return {
            "id": self.id,
            "kind": self.kind,
            "subject": _hex(self.subject),
            "candidates": [_hex(rows) for rows in self.candidates],
            "moments": _hex(self.moments),
            "candidate_moments": [_hex(rows) for rows in self.candidate_moments],
            "likeliest": self.likeliest,
            "cuts": [_hex(pair) for pair in self.cuts],
            "price": self.price,
            "probability": self.probability,
            "gain": self.gain,
            "entropy": self.entropy,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Question":
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: a field is missing or makes no sense, or the id is not that of the content.
        """
        try:
            question = cls(
                kind=str(data["kind"]),
                subject=_ids(data["subject"]),
                candidates=tuple(_ids(rows) for rows in data["candidates"]),
                moments=_ids(data["moments"]),
                candidate_moments=tuple(_ids(rows) for rows in data["candidate_moments"]),
                likeliest=int(data["likeliest"]),
                cuts=tuple((int(a, 16), int(b, 16)) for a, b in data["cuts"]),
                price=float(data["price"]),
                probability=float(data["probability"]),
                gain=float(data["gain"]),
                entropy=float(data["entropy"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"question: {type(error).__name__} {error}; not a question of this program") from error
        if question.id != data.get("id", question.id):
            raise InputError(f"question {data['id']}: its content was changed")
        return question


def _hex(ids: Iterable[int]) -> list[str]:
    return [f"{i:016x}" for i in ids]


def _ids(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(int(text, 16) for text in texts)


def to_answers(
    question: Question,
    reply: Reply,
    by: str = "",
    at: str = "",
    job: str = "",
    detections: Detections | None = None,
) -> list[Answer]:
    """What a reply says about detections.

    ``unsure``, an unknown value, or a candidate that the sheet does not show say nothing. ``cand k`` also says that
    the candidates that start before the chosen one are other people, since the first to show the person is asked for.

    Args:
        question: the question.
        reply: the reply.
        by: who replied.
        at: when, ISO 8601; the same for all answers of a reply.
        job: where.
        detections: where the boxes are; when given, answers carry their place and survive another detector run.

    Returns:
        Answers, the first of which carries the price; empty when the reply says nothing.

    Raises:
        InputError: ``fixed`` without a usable box.
    """
    if reply.value not in question.choices:
        return []
    place: dict[int, tuple[float, float, float, float, float]] = {}
    if detections is not None:
        place = _places(question, detections)
    out: list[Answer] = []
    for kind, ids, box in _meaning(question, reply):
        context = tuple(place[i] for i in ids) if all(i in place for i in ids) else ()
        price = 0.0 if out else cost(question, reply)
        out.append(Answer(kind, tuple(ids), box, None, by, at, job, price, question.id, context))
    return out


def cost(question: Question, reply: Reply) -> float:
    """Clicks that a reply took: the price, but one look where a box needed no drawing or no switch was found."""
    if question.kind == "FIX" and reply.value != "fixed":
        return min(1.0, question.price)
    if question.kind == "SWITCH" and reply.value in ("one person", UNSURE):
        return min(1.0, question.price)
    return question.price


_Meaning = tuple[str, tuple[int, ...], tuple[float, float, float, float] | None]


def _meaning(question: Question, reply: Reply) -> list[_Meaning]:
    """(kind, ids, box) of the answers that a reply amounts to."""
    subject, value = question.subject, reply.value
    if value in ("real", "one person"):
        return _confirmed(question)
    if value in ("false", "not a person"):
        return [("reject", subject, None)]
    if value == "mixed":
        # Every moment shown, so that the boxes between which the person changes are among them.
        ids = question.moments if len(question.moments) > 1 else subject
        return [("mixed", ids, None)] if len(ids) > 1 else []
    if question.kind == "SAME" and value != UNSURE:
        chosen = question.candidates[int(value.split()[1]) - 1] if value != "none" else None
        pick: list[_Meaning] = [] if chosen is None else [("same", (subject[-1], chosen[0]), None)]
        others = question.candidates if chosen is None else question.candidates[: question.candidates.index(chosen)]
        return pick + [("different", (subject[-1], rows[0]), None) for rows in others]
    if question.kind == "SWITCH" and value != UNSURE:
        return _switched(question, int(value.split()[1]) - 1)
    if value == "ok":
        return [("accept", subject, None)]
    if value == "fixed":
        if reply.box is None or not all(map(math.isfinite, reply.box)):
            raise InputError(f"question {question.id}: fixed, but without a box")
        return [("refine", subject, reply.box)]
    return []


def _confirmed(question: Question) -> list[_Meaning]:
    """One person from the first crop shown to the last; what lies outside was not seen, and stays the model's."""
    subject, moments = question.subject, question.moments
    seen = subject[subject.index(moments[0]) : subject.index(moments[-1]) + 1] if moments else subject
    return [("same" if len(seen) > 1 else "accept", seen, None)]


def _switched(question: Question, moment: int) -> list[_Meaning]:
    """What the boxes show changes between the moments ``moment - 1`` and ``moment``: those two are different.

    At which box between them it changes nobody saw; the engine parts them at the link that it believes least. Whether
    what comes before is a person is not said either, since it can be background that a person walks out of.
    """
    return [("different", (question.moments[moment - 1], question.moments[moment]), None)]


def _places(question: Question, detections: Detections) -> dict[int, tuple[float, float, float, float, float]]:
    ids = {*question.subject, *question.moments}
    ids |= {rows[0] for rows in question.candidates}
    wanted = np.flatnonzero(np.isin(detections.id, np.fromiter(ids, np.uint64, len(ids))))
    boxes = detections.box[wanted].astype(float).round(1).tolist()
    return {
        int(detections.id[row]): (float(detections.frame[row]), box[0], box[1], box[2], box[3])
        for row, box in zip(wanted, boxes, strict=True)
    }


def review_labels() -> list[dict[str, Any]]:
    """The CVAT labels of a review task, one per kind of question, as ``POST /api/tasks`` takes them.

    Each is a tag (``FIX``: a rectangle) with one radio attribute whose values are numbered from 0 by the keys of the
    page: ``?``, not answered, comes first and is the default, so nothing is preset.
    """
    colours = {"TRACK": "#ffcc00", "SAME": "#00e5ff", "SWITCH": "#ff4dff", "FIX": "#ff8800"}
    return [
        {
            "name": LABELS[kind],
            "color": colours[kind],
            "type": "rectangle" if kind == "FIX" else "tag",
            "attributes": [
                {
                    "name": "answer",
                    "mutable": False,
                    "input_type": "radio",
                    "default_value": "?",
                    "values": ["?", *REPLIES[kind]],
                }
            ],
        }
        for kind in REPLIES
    ]
