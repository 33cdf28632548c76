"""The simulated annotator: replies to questions as somebody would who sees the sheet and knows who is who.

In: ground truth tracks and the detections that questions speak of. Out: replies. It looks only at the boxes that a
sheet shows, matches them with the ground truth by IoU, and errs at a given rate.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from spam_cvat.boxes import iou_matrix
from spam_cvat.detections import Detections
from spam_cvat.review.questions import UNSURE, Question, Reply
from spam_cvat.tracks import Tracks

SEEN = 0.5
"""A crop shows a person whose ground-truth box it overlaps this much (IoU)."""
GLIMPSED = 0.3
"""Less than this, and nobody is in the box; in between it is hard to tell, and no reason to call a track broken."""
FEW = 0.25
"""Up to this share of crops that do not fit the rest is overlooked where it shows nobody."""
FITS = 0.85
"""A box is called right from this IoU on."""
FIXABLE = 0.3
"""A box is moved onto a person that it overlaps at least this much."""


class SimulatedAnnotator:
    """Replies from ground truth, deterministic in the seed and the question, whatever the order of questions."""

    def __init__(self, ground_truth: Tracks, detections: Detections, error_rate: float = 0.0, seed: int = 0) -> None:
        """Take the truth and the boxes asked about; ``error_rate`` is the share of replies replaced by another one."""
        self.truth = ground_truth
        self.detections = detections
        self.error_rate = error_rate
        self.seed = seed
        self._row = {int(identity): row for row, identity in enumerate(detections.id)}
        order = np.argsort(ground_truth.frame, kind="stable")
        self._order = order
        self._start = np.searchsorted(ground_truth.frame[order], np.arange(detections.video.num_frames + 1))

    def reply(self, question: Question) -> Reply:
        """What the annotator says.

        ``TRACK``: ``false`` where hardly a crop shows anybody, ``mixed`` where they show two people, or a person and
        background. ``SAME``: the first candidate that shows the subject's person. ``SWITCH``: the first crop that
        shows somebody else, or nobody any more.
        ``unsure`` where nobody can be seen.
        """
        replies: dict[str, Callable[[Question], Reply]] = {
            "TRACK": self._track,
            "SAME": self._same,
            "SWITCH": self._switch,
            "FIX": self._fix,
        }
        right = replies[question.kind](question)
        digest = hashlib.sha256(f"{self.seed} {question.id}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        if rng.random() >= self.error_rate:
            return right
        wrong = [value for value in question.choices if value not in (right.value, UNSURE, "fixed")]
        return Reply(str(rng.choice(wrong)))

    def _overlaps(self, identity: int) -> dict[int, tuple[float, int]]:
        """Ground-truth identities at a detection: identity -> (IoU, row of the truth). Empty for an unknown id."""
        row = self._row.get(identity)
        if row is None:
            return {}
        frame = self.detections.frame[row]
        truth = self._order[self._start[frame] : self._start[frame + 1]]
        overlap = iou_matrix(self.detections.box[row : row + 1], self.truth.box[truth])[0]
        return {int(self.truth.track[t]): (float(v), int(t)) for v, t in zip(overlap, truth, strict=True) if v > 0}

    def people(self, ids: Sequence[int]) -> list[set[int]]:
        """Per crop everybody whose box it fits; in a crowd that can be two."""
        return [{who for who, (iou, _) in self._overlaps(i).items() if iou >= SEEN} for i in ids]

    def _empty(self, identity: int) -> bool:
        """Whether there is nobody in the box."""
        return max((iou for iou, _ in self._overlaps(identity).values()), default=0.0) < GLIMPSED

    def _majority(self, ids: Sequence[int]) -> int | None:
        """The person most crops show; of equal ones the best overlapped."""
        votes: Counter[int] = Counter()
        overlap: Counter[float] = Counter()
        for i in ids:
            for who, (iou, _) in self._overlaps(i).items():
                if iou >= SEEN:
                    votes[who] += 1
                    overlap[who] += iou  # type: ignore[assignment]  # a Counter also sums fractions
        return max(votes, key=lambda who: (votes[who], overlap[who], -who), default=None)

    def _track(self, question: Question) -> Reply:
        shown = [who for who in self.people(question.moments) if who]
        empty = sum(self._empty(i) for i in question.moments)
        if not shown or len(shown) <= FEW * (len(shown) + empty):
            return Reply("false")
        person = self._majority(question.moments)
        one = all(person in who for who in shown) and empty <= FEW * (len(shown) + empty)
        return Reply("real" if one else "mixed")

    def _same(self, question: Question) -> Reply:
        person = self._majority(question.moments)
        if person is None:
            return Reply(UNSURE)
        for number, moments in enumerate(question.candidate_moments, 1):
            if self._majority(moments) == person:
                return Reply(f"cand {number}")
        return Reply("none")

    def _switch(self, question: Question) -> Reply:
        people = self.people(question.moments)
        if not any(people):
            return Reply(UNSURE)
        # What a crop shows: the people it fits, {0} for nobody, nothing where it is hard to tell.
        states = [who or ({0} if self._empty(i) else set()) for i, who in zip(question.moments, people, strict=True)]
        possible: set[int] = set()
        for number, state in enumerate(states, 1):
            if state and possible and not state & possible:
                return Reply(f"crop {number}")
            possible = (state & possible) or state or possible
        return Reply("one person")

    def _fix(self, question: Question) -> Reply:
        overlaps = self._overlaps(question.subject[0])
        iou, row = max(overlaps.values(), default=(0.0, -1))
        if iou < FIXABLE:
            return Reply("not a person")
        if iou >= FITS:
            return Reply("ok")
        x1, y1, x2, y2 = (float(v) for v in self.truth.box[row])
        return Reply("fixed", (x1, y1, x2, y2))
