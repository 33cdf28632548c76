"""The record of a review: which questions were asked where, kept in the store.

In: questions and what CVAT made of them. Out: the same, after a restart. It is written before anything is created in
CVAT, so that a creation that was cut off is resumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spam_cvat.cvat.store import TaskStore
from spam_cvat.errors import CvatError
from spam_cvat.review.questions import Question

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A question in a review task.

    Attributes:
        question: what is asked.
        files: names of its frames, in order.
        sources: per frame the frame of the annotated video, -1 for a sheet.
        objects: CVAT id -> who it is: ``asked`` or the number of a candidate; for tracks and boxes.
    """

    question: Question
    files: tuple[str, ...]
    sources: tuple[int, ...]
    objects: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """Plain values."""
        return {
            "question": self.question.to_json(),
            "files": list(self.files),
            "sources": list(self.sources),
            "objects": {str(number): role for number, role in self.objects.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Asked":
        """Read what :meth:`to_json` wrote."""
        objects = {int(number): str(role) for number, role in data.get("objects", {}).items()}
        return cls(Question.from_json(data["question"]), tuple(data["files"]), tuple(data["sources"]), objects)


@dataclass(frozen=True)
class Review:
    """A review task.

    Attributes:
        key: digest of form and questions; part of the task's name.
        form: ``sheets`` or ``tracklets``.
        state: ``creating``, ``open``, ``done`` (every job completed and read) or ``lost`` (the task is gone).
        task: CVAT's number, None before it exists.
        created: when.
        asked: the questions, in the order of their frames.
        batches: the number of questions in each job.
        jobs: the review task's jobs, in the order of their frames.
        before: annotations of each job as they were handed out.
        read: each job's time of change when it was last read.
        unsure: ids of questions that were answered with "unsure".
    """

    key: str
    form: str
    state: str
    created: str
    asked: tuple[Asked, ...]
    batches: tuple[int, ...]
    task: int | None = None
    jobs: tuple[int, ...] = ()
    before: Mapping[int, Json] = field(default_factory=dict)
    read: Mapping[int, str] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()

    @property
    def questions(self) -> list[Question]:
        """What is asked."""
        return [asked.question for asked in self.asked]

    @property
    def ids(self) -> set[str]:
        """Ids of the questions."""
        return {asked.question.id for asked in self.asked}

    def batch(self, index: int) -> tuple[Asked, ...]:
        """The questions of one job."""
        first = sum(self.batches[:index])
        return self.asked[first : first + self.batches[index]]

    def to_json(self) -> Json:
        """Plain values."""
        return {
            "key": self.key,
            "form": self.form,
            "state": self.state,
            "created": self.created,
            "asked": [asked.to_json() for asked in self.asked],
            "batches": list(self.batches),
            "task": self.task,
            "jobs": list(self.jobs),
            "before": {str(job): value for job, value in self.before.items()},
            "read": {str(job): at for job, at in self.read.items()},
            "unsure": list(self.unsure),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Review":
        """Read what :meth:`to_json` wrote."""
        return cls(
            key=data["key"],
            form=data["form"],
            state=data["state"],
            created=data["created"],
            asked=tuple(map(Asked.from_json, data["asked"])),
            batches=tuple(data["batches"]),
            task=data["task"],
            jobs=tuple(data["jobs"]),
            before={int(job): value for job, value in data["before"].items()},
            read={int(job): at for job, at in data["read"].items()},
            unsure=tuple(data["unsure"]),
        )


def load_reviews(store: TaskStore) -> list[Review]:
    """The reviews of a task, oldest first."""
    value = store.read_json("review") or {}
    try:
        return [Review.from_json(item) for item in value.get("reviews", ())]
    except (KeyError, TypeError) as error:
        raise CvatError(f"{store.location}/review.json is not a review record ({error}); move it away") from error


def save_review(store: TaskStore, review: Review) -> None:
    """Keep a review, in place of an earlier state of it."""
    reviews = [other for other in load_reviews(store) if other.key != review.key] + [review]
    reviews.sort(key=lambda item: item.created)
    store.write_json(
        "review",
        {"format": "spam-cvat reviews", "version": 1, "reviews": [item.to_json() for item in reviews]},
    )
