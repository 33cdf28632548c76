"""The review loop with a simulated annotator: quality against clicks.

In: videos with ground truth. Out: one :class:`EconomyRow` per budget. A round is what a real one is: choose questions,
get replies, clamp the answers, annotate again. All videos share one queue, as the jobs of one project do.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer
from spam_cvat.detections import Detections
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.errors import InputError
from spam_cvat.evaluation import Scores, combine, evaluate
from spam_cvat.formats.mot import GroundTruth
from spam_cvat.formats.mot import Sequence as MotSequence
from spam_cvat.review.oracle import SimulatedAnnotator
from spam_cvat.review.proposals import propose
from spam_cvat.review.questions import UNSURE, Question, Reply, cost, to_answers
from spam_cvat.review.selection import CLICKS_PER_BOX, Budget, choose
from spam_cvat.tracks import Tracks


@dataclass(frozen=True)
class Case:
    """One video to review.

    Attributes:
        detections: candidate boxes.
        ground_truth: who is who; of a MOTChallenge table the scored pedestrians.
        warps: (num_frames, 2, 3) camera motion, or None.
    """

    detections: Detections
    ground_truth: GroundTruth | Tracks
    warps: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, sequence: MotSequence) -> "Case":
        """A MOTChallenge sequence as a case. Raises InputError where it has no ground truth."""
        if sequence.ground_truth is None:
            raise InputError(f"{sequence.folder}: has no gt/gt.txt, so nobody can be simulated to know the answers")
        return cls(sequence.detections, sequence.ground_truth, sequence.warps)

    @property
    def people(self) -> Tracks:
        """The people whom scores count."""
        return self.ground_truth.tracks() if isinstance(self.ground_truth, GroundTruth) else self.ground_truth

    @property
    def visible(self) -> Tracks:
        """Everybody whom an annotator sees, those whom scores leave out among them."""
        truth = self.ground_truth
        return truth.tracks(unscored=True) if isinstance(truth, GroundTruth) else truth


@dataclass(frozen=True)
class EconomyRow:
    """Quality after a number of clicks.

    Attributes:
        data: name of the data.
        strategy: of the selection.
        share: clicks as a share of full manual work, 0.01 for 1 %.
        clicks: spent so far.
        seed: of the annotator's errors and of the random strategy.
        error_rate: share of wrong replies.
        questions: asked so far.
        HOTA, DetA, AssA, MOTA, IDF1: scores, 0..1.
    """

    data: str
    strategy: str
    share: float
    clicks: float
    seed: int
    error_rate: float
    questions: int
    HOTA: float
    DetA: float
    AssA: float
    MOTA: float
    IDF1: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """One question that was asked, in which round and of which case, and what came back."""

    round: int
    case: int
    question: Question
    reply: Reply


@dataclass
class Simulation:
    """The loop's state; :meth:`spend` goes on where it stands.

    Attributes:
        cases: the videos.
        strategy: see :func:`spam_cvat.review.selection.select_questions`.
        error_rate: share of wrong replies.
        seed: of errors and of the random strategy.
        preset: of the evaluation.
        config: of the engine.
        weights: of the engine, None for the shipped ones.
        progress: called with a line of text after each round.
        annotations: the engine's present results, one per case.
        answers: the logs, one per case.
        asked: every question so far.
        clicks: spent so far.
    """

    cases: Sequence[Case]
    strategy: str = "gain"
    error_rate: float = 0.0
    seed: int = 0
    preset: str = "plain"
    config: EngineConfig | None = None
    weights: Path | None = None
    progress: Callable[[str], None] | None = None
    annotations: list[Annotation] = field(init=False)
    answers: list[list[Answer]] = field(init=False)
    asked: list[Asked] = field(init=False, default_factory=list)
    clicks: float = field(init=False, default=0.0)
    rounds: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Annotate every case without answers."""
        self.answers = [[] for _ in self.cases]
        self.annotations = [self._annotate(index) for index in range(len(self.cases))]
        self._annotators = [
            SimulatedAnnotator(case.visible, case.detections, self.error_rate, self.seed) for case in self.cases
        ]

    @property
    def boxes(self) -> int:
        """Ground-truth boxes: what full manual work would draw."""
        return sum(len(case.people) for case in self.cases)

    def spend(self, clicks: float, rounds: int = 1) -> None:
        """Ask for that many clicks more, in equal rounds.

        What a round could not use up (one batch asks only once about a link) goes to the next ones and, after the
        last, to as many more; it stops early when there is nothing left to ask.
        """
        goal = self.clicks + clicks
        for number in range(2 * rounds):
            left = goal - self.clicks
            if left < 1 or not self._round(left / max(rounds - number, 1)):
                break

    def _round(self, clicks: float) -> bool:
        before = {(asked.case, asked.question.id) for asked in self.asked}
        before |= {(asked.case, asked.question.topic) for asked in self.asked if asked.reply.value == UNSURE}
        owner: dict[str, int] = {}
        proposals: list[Question] = []
        for index, annotation in enumerate(self.annotations):
            for question in propose(annotation, self.answers[index]):
                if before.isdisjoint({(index, question.id), (index, question.topic)}):
                    owner[question.id] = index
                    proposals.append(question)
        chosen = choose(proposals, clicks, strategy=self.strategy, seed=self.seed)
        self.rounds += 1
        at = f"round {self.rounds:04d}"
        for question in chosen:
            index = owner[question.id]
            reply = self._annotators[index].reply(question)
            self.asked.append(Asked(self.rounds, index, question, reply))
            self.answers[index] += to_answers(question, reply, by="simulated", at=at, job="simulated")
            self.clicks += cost(question, reply)
        for index in sorted({owner[question.id] for question in chosen}):
            self.annotations[index] = self._annotate(index)
        if self.progress and chosen:
            self.progress(f"round {self.rounds}: {len(chosen)} questions, {self.clicks:g} clicks so far")
        return bool(chosen)

    def _annotate(self, index: int) -> Annotation:
        case = self.cases[index]
        return annotate(
            case.detections, config=self.config, warps=case.warps, answers=self.answers[index], weights=self.weights
        )

    def scores(self) -> Scores:
        """Present quality over all cases."""
        return combine(
            [
                evaluate(case.ground_truth, annotation.tracks, preset=self.preset)
                for case, annotation in zip(self.cases, self.annotations, strict=True)
            ]
        )

    def row(self, data: str) -> EconomyRow:
        """Present quality as a row."""
        scores = self.scores()
        return EconomyRow(
            data=data,
            strategy=self.strategy,
            share=self.clicks / (CLICKS_PER_BOX * max(self.boxes, 1)),
            clicks=self.clicks,
            seed=self.seed,
            error_rate=self.error_rate,
            questions=len(self.asked),
            **{name: float(getattr(scores, name)) for name in ("HOTA", "DetA", "AssA", "MOTA", "IDF1")},
        )


def simulate(
    cases: Sequence[Case],
    budgets: Sequence[Budget],
    *,
    data: str = "",
    rounds: int = 4,
    **options: Any,
) -> list[EconomyRow]:
    """Quality against clicks.

    Args:
        cases: videos with ground truth, reviewed as one project.
        budgets: how much to spend in all, each counted from the start; a share is of 3 clicks a ground-truth box.
        data: name of the data for the rows.
        rounds: how often questions are chosen between one budget and the next.
        options: fields of :class:`Simulation`: strategy, error_rate, seed, preset, config, weights, progress.

    Returns:
        A row without any review, then one per budget in rising order; ``share`` and ``clicks`` are what was spent,
        less than the budget where there was nothing left to ask.
    """
    simulation = Simulation(cases, **options)
    rows = [simulation.row(data)]
    for clicks in sorted(budget.of(simulation.boxes) for budget in budgets):
        simulation.spend(max(clicks - simulation.clicks, 0.0), rounds)
        rows.append(simulation.row(data))
    return rows
