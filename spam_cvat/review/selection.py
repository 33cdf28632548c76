"""Selection: which questions to ask for a budget of clicks.

In: an Annotation, the answers so far, a budget. Out: questions, best first. All kinds compete in one queue by expected
gain per click; SPAM's rule, plain entropy and chance are there to compare with.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer
from spam_cvat.errors import InputError
from spam_cvat.review.proposals import propose
from spam_cvat.review.questions import Question
from spam_cvat.review.uncertainty import binary_entropy

CLICKS_PER_BOX = 3.0
"""Full manual work: two clicks to place a box, one to say who it is."""

STRATEGIES = ("gain", "spam", "entropy", "random")


@dataclass(frozen=True)
class Budget:
    """How much human work may be spent: ``clicks``, or a ``share`` of full manual work; exactly one is set."""

    clicks: float | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``3%``, ``0.5 %`` or ``120`` (clicks).

        Raises:
            InputError: it is neither, or not a positive number, or more than everything.

        >>> Budget.parse("3%").of(1000)
        90.0
        """
        number = text.strip()
        is_share = number.endswith("%")
        try:
            value = float(number.removesuffix("%"))
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf") or (is_share and value > 100):
            raise InputError(f"budget {text!r}: give clicks (120) or a share of full manual work (3%)")
        return cls(share=value / 100) if is_share else cls(clicks=value)

    def of(self, boxes: int) -> float:
        """Clicks for a video of that many boxes, at three clicks a box for full manual work."""
        if self.clicks is not None:
            return self.clicks
        return round((self.share or 0.0) * CLICKS_PER_BOX * boxes, 6)


def select_questions(
    annotation: Annotation,
    budget: Budget,
    *,
    strategy: str = "gain",
    exclude: Collection[str] = (),
    answers: Sequence[Answer] = (),
    boxes: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """The questions to ask now.

    Args:
        annotation: what the engine knows, with ``answers`` clamped.
        budget: how much may be spent on this batch.
        strategy: one of :data:`STRATEGIES`: ``gain`` expected gain per click, ``spam`` the largest link entropy at
            the nodes involved, ``entropy`` that of "is the model wrong here", ``random``.
        exclude: ids of questions asked before, and topics (:attr:`Question.topic`) of those answered ``unsure``.
        answers: the log, oldest first; what it implies is not asked.
        boxes: what a share is of; by default the boxes of the current tracks.
        seed: of ``random``.

    Returns:
        Questions, best first; their prices add up to the budget at most.

    Raises:
        InputError: there is no such strategy.
    """
    clicks = budget.of(len(annotation.tracks) if boxes is None else boxes)
    return choose(propose(annotation, answers), clicks, strategy=strategy, exclude=exclude, seed=seed)


def choose(
    proposals: Iterable[Question],
    clicks: float,
    *,
    strategy: str = "gain",
    exclude: Collection[str] = (),
    seed: int = 0,
) -> list[Question]:
    """The best questions that a number of clicks pays for, no two of them about the same link.

    Raises:
        InputError: there is no such strategy.
    """
    value = _value(strategy, seed)
    asked: set[tuple[str, int]] = set()
    out: list[Question] = []
    left = clicks
    for question in sorted(proposals, key=lambda q: (-value(q), q.id)):
        claims = _claims(question)
        if question.price > left + 1e-9 or not asked.isdisjoint(claims):
            continue
        if question.id in exclude or question.topic in exclude:
            continue
        asked |= claims
        left -= question.price
        out.append(question)
    return out


def _value(strategy: str, seed: int) -> Callable[[Question], float]:
    """What questions are ordered by, per strategy."""
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {strategy!r}: not one of {', '.join(STRATEGIES)}")
    if strategy == "gain":
        return lambda q: q.gain / q.price
    if strategy == "spam":
        return lambda q: q.entropy
    if strategy == "entropy":
        return lambda q: float(binary_entropy(np.array([q.probability]))[0])
    return lambda q: int(hashlib.sha256(f"{seed} {q.id}".encode()).hexdigest()[:12], 16)


def _claims(question: Question) -> set[tuple[str, int]]:
    """What a question is about; two questions with a claim in common are not asked in one batch.

    A film strip claims both sides of the links it is cut at; a pick claims the end it continues and, so that two ends
    do not ask for one start, the first box of its likeliest candidate.
    """
    if question.kind == "SAME":
        return {("end", question.subject[-1]), ("start", question.candidates[question.likeliest][0])}
    return (
        {("track", question.subject[0])}
        | {("end", a) for a, _ in question.cuts}
        | {("start", b) for _, b in question.cuts}
    )
