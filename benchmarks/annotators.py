"""Annotators for benchmarks and tests: people who answer review jobs in the stand-in's annotation page.

In: a stand-in with a review task, the review's record, and somebody who knows the replies (the simulated annotator).
Out: the same requests to the server as CVAT's page sends when a human answers: keys pressed, boxes dragged, tracks
merged, split and deleted, jobs finished.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cvat_standin import CvatStandin, Page

from spam_cvat.cvat.review_record import Asked, Review
from spam_cvat.cvat.review_tasks import tracklets_of
from spam_cvat.review.questions import Question, Reply

Replier = Callable[[Question], Reply]


@dataclass(frozen=True)
class Work:
    """What an annotator did.

    Attributes:
        jobs: finished.
        questions: answered.
        by_hand: of these, by gestures instead of a key.
    """

    jobs: int
    questions: int
    by_hand: int


def answer_review(
    server: CvatStandin,
    review: Review,
    reply: Replier,
    *,
    user: str = "admin",
    jobs: Iterable[int] | None = None,
    by_hand: bool = False,
) -> Work:
    """Answer a review's questions in the page, job by job, and finish the jobs.

    Args:
        server: the stand-in.
        review: the record of the review.
        reply: what to reply.
        user: who answers.
        jobs: only these jobs.
        by_hand: in a review of tracklets, merge, split and delete tracks where a gesture says what the key would.
    """
    wanted = set(review.jobs if jobs is None else jobs)
    done = hands = 0
    for index, job in enumerate(review.jobs):
        if job not in wanted:
            continue
        page = server.open_page(user, job)
        try:
            for asked in review.batch(index):
                hands += answer_question(page, asked, reply(asked.question), by_hand=by_hand)
                done += 1
            page.save()
            page.finish()
        finally:
            page.close()
    return Work(len(wanted), done, hands)


def answer_question(page: Page, asked: Asked, reply: Reply, *, by_hand: bool = False) -> bool:
    """Answer one question in an open job; returns whether it was done by a gesture."""
    names = {page.frame_name(frame): frame for frame in range(page.job["start_frame"], page.job["stop_frame"] + 1)}
    frames = [names[name] for name in asked.files]
    if asked.question.kind == "FIX":
        [shape] = [row for row in page.of_kind("shapes") if row["frame"] == frames[0]]
        if reply.box is not None:
            page.move_box(shape["id"], reply.box)
        page.answer(shape["id"], reply.value, kind="shapes")
        return False
    if not asked.objects:
        [tag] = [row for row in page.of_kind("tags") if row["frame"] == frames[0]]
        page.answer(tag["id"], reply.value)
        return False
    tracks = {role: number for number, role in asked.objects.items()}
    if by_hand and _by_hand(page, asked, reply, tracks, frames):
        return True
    page.answer(tracks["asked"], reply.value, kind="tracks")
    return False


def _by_hand(page: Page, asked: Asked, reply: Reply, tracks: dict[str, int], frames: list[int]) -> bool:
    """Do what the reply says with the tracks themselves, where there is a gesture for it."""
    value = reply.value
    if asked.question.kind == "TRACK" and value == "false":
        page.delete(tracks["asked"], kind="tracks")
        return True
    if value in tracks and value != "asked":
        page.merge([tracks["asked"], tracks[value]])
        return True
    if asked.question.kind == "SWITCH" and value.startswith("crop "):
        moment = asked.question.moments[int(value.split()[1]) - 1]
        place = _frame_of(asked, moment, frames, page, tracks["asked"])
        if place is not None:
            page.split(tracks["asked"], place)
            return True
    return False


def _frame_of(asked: Asked, moment: int, frames: list[int], page: Page, track: int) -> int | None:
    """The job's frame that shows a moment of the subject: moments are in frame order, and all of them are shown."""
    moments = list(asked.question.moments)
    shown = dict(tracklets_of(asked.question))["asked"]
    if moment not in shown or len(moments) != len(frames):
        return None
    return frames[moments.index(moment)]
