"""What a human did in CVAT's page, read from a job's annotations before and after.

In: two versions of a job's tracks. Out: gestures (moved, hidden, merged, split, deleted, drawn, ...), and the answers
they amount to. Pure functions.

Ids survive most edits; a merge or split leaves new ids, whose boxes tell where they came from.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spam_cvat.answers import Answer
from spam_cvat.cvat.spans import TOLERANCE, Span, attribute_values, differing_frames, read_span

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Gesture:
    """One thing a human did.

    ==============  ====================================================================================================
    ``move``        a box was moved, resized or drawn again: ``box`` in ``frame``
    ``outside``     a box was hidden (key O) in ``frame``
    ``inside``      a box now shows in ``frame`` where there was none
    ``occluded``    the box in ``frame`` was marked as occluded, or no longer (``value``)
    ``delete``      the track is gone
    ``merge``       the tracks, earlier first, became one: ``frame`` ends the first, ``until`` begins the other
    ``split``       the track became two between the frames ``frame`` and ``until``
    ``label``       the track has another label, ``value``
    ``attribute``   the attribute ``spec`` says ``value`` (in ``frame``, where it may change from frame to frame)
    ``draw``        something new was drawn: ``tracks`` is empty, ``box`` in ``frame``
    ==============  ====================================================================================================
    """

    kind: str
    tracks: tuple[int, ...] = ()
    frame: int | None = None
    until: int | None = None
    box: Box | None = None
    spec: int | None = None
    value: str | int | bool | None = None


def interpret(before: Mapping[str, Any], after: Mapping[str, Any], start: int, stop: int) -> list[Gesture]:
    """What happened between two versions of a job's annotations.

    Args:
        before: ``{"tracks": [...], "shapes": [...]}`` as CVAT gives it, with ids.
        after: the same, later.
        start: the job's first frame.
        stop: its last frame, included.

    Returns:
        Gestures by track and frame; none where nothing of meaning changed (ids of shapes, order, ``source``).
    """
    was = {int(track["id"]): track for track in before.get("tracks", ())}
    now = {int(track["id"]): track for track in after.get("tracks", ())}
    spans_was = {number: read_span(track, start, stop) for number, track in was.items()}
    spans_now = {number: read_span(track, start, stop) for number, track in now.items()}
    out: list[Gesture] = []
    for number in was:
        if number in now:
            out += _edits(number, was[number], now[number], spans_was[number], spans_now[number])
    gone = {number: span for number, span in spans_was.items() if number not in now}
    made = {number: span for number, span in spans_now.items() if number not in was}
    out += _rebuilt(gone, made)
    out += _drawn_shapes(before.get("shapes", ()), after.get("shapes", ()))
    return out


def _edits(number: int, was: Mapping[str, Any], now: Mapping[str, Any], before: Span, after: Span) -> Iterator[Gesture]:
    if was["label_id"] != now["label_id"]:
        yield Gesture("label", (number,), value=int(now["label_id"]))
    else:
        old, new = attribute_values(was.get("attributes", ())), attribute_values(now.get("attributes", ()))
        for spec, value in new.items():
            if old.get(spec, value) != value:
                yield Gesture("attribute", (number,), spec=spec, value=value)
    relabelled = was["label_id"] != now["label_id"]
    for frame in map(int, differing_frames(before, after)):
        here, there = before.at(frame), after.at(frame)
        if there is None:
            yield Gesture("outside", (number,), frame)
        elif after.is_key[frame - after.start]:
            if here is None or np.abs(here - there).max() > TOLERANCE:
                yield Gesture("inside" if here is None else "move", (number,), frame, box=_box(there))
            if here is not None:
                yield from _properties(number, frame, before, after, relabelled)


def _properties(number: int, frame: int, before: Span, after: Span, relabelled: bool) -> Iterator[Gesture]:
    (hid, _, old), (hides, _, new) = before.property_at(frame), after.property_at(frame)
    if hid != hides:
        yield Gesture("occluded", (number,), frame, value=hides)
    if not relabelled:
        known = dict(old)
        for spec, value in new:
            if known.get(spec, value) != value:
                yield Gesture("attribute", (number,), frame, spec=spec, value=value)


def _box(values: Iterable[float]) -> Box:
    x1, y1, x2, y2 = (round(float(value), 2) for value in values)
    return x1, y1, x2, y2


def _rebuilt(gone: Mapping[int, Span], made: Mapping[int, Span]) -> Iterator[Gesture]:
    """Deletions, merges and splits: where the boxes of tracks that are gone have gone to."""
    owner: dict[int, dict[int, int]] = {number: {} for number in gone}  # old track -> frame -> new track
    for new, span in made.items():
        frames: list[tuple[int, int]] = []
        for frame in map(int, span.visible):
            old = _origin(gone, frame, span.at(frame))
            if old is not None:
                frames.append((frame, old))
                owner[old][frame] = new
        for (frame, first), (until, second) in itertools.pairwise(frames):
            if first != second:
                yield Gesture("merge", (first, second), frame, until)
        if not frames:
            first = int(span.visible[0]) if len(span.visible) else span.start
            box = span.at(first)
            yield Gesture("draw", (), first, box=None if box is None else _box(box))
    for old, places in owner.items():
        if not places:
            yield Gesture("delete", (old,))
            continue
        kept = sorted(places)
        for frame, until in itertools.pairwise(kept):
            if places[frame] != places[until]:
                yield Gesture("split", (old,), frame, until)
        for frame in map(int, gone[old].visible):
            if frame not in places:
                yield from _moved_or_hidden(old, frame, [made[new] for new in dict.fromkeys(places.values())])


def _origin(gone: Mapping[int, Span], frame: int, box: Any) -> int | None:
    for old, span in gone.items():
        there = span.at(frame)
        if there is not None and np.abs(there - box).max() <= TOLERANCE:
            return old
    return None


def _moved_or_hidden(old: int, frame: int, heirs: Sequence[Span]) -> Iterator[Gesture]:
    """A box of a merged or split track that none of its heirs shows as it was."""
    for span in heirs:
        box = span.at(frame)
        if box is not None:
            if span.is_key[frame - span.start]:
                yield Gesture("move", (old,), frame, box=_box(box))
            return
    yield Gesture("outside", (old,), frame)


def _drawn_shapes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[Gesture]:
    known = {shape["id"] for shape in before}
    for shape in after:
        if shape["id"] not in known and shape.get("type") == "rectangle":
            yield Gesture("draw", (), int(shape["frame"]), box=_box(shape["points"]))


@dataclass(frozen=True)
class Meaning:
    """What gestures amount to.

    Attributes:
        answers: for the log.
        notes: gestures that no answer can express, in words.
        drawn: (frame, box) of what was drawn where no detection is.
    """

    answers: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: tuple[tuple[int, Box], ...] = ()


@dataclass(frozen=True)
class Places:
    """How the boxes of a job's tracks are called.

    Attributes:
        at: (track, frame) -> the detection that the box shows, None where it was interpolated.
        whole: track -> all detections it stands for, shown or not, in frame order.
        near: (frame, box) -> a detection at this place that is in none of the tracks, None where there is none.
        source: frame of the job -> frame of the annotated video.
        context: detection -> (frame, x1, y1, x2, y2) of it.
    """

    at: Callable[[int, int], int | None]
    whole: Callable[[int], tuple[int, ...]]
    near: Callable[[int, Box], int | None] = lambda frame, box: None
    source: Callable[[int], int] = lambda frame: frame
    context: Callable[[int], tuple[float, float, float, float, float] | None] = lambda detection: None


# What each gesture takes in the page, in clicks (merge and split: two and one clicks and a key each).
CLICKS = {"merge": 2.0, "split": 2.0, "move": 2.0, "draw": 3.0}


def meaning(
    gestures: Sequence[Gesture],
    places: Places,
    *,
    by: str = "",
    at: str = "",
    job: str = "",
    question: str | None = None,
    hidden_is_false: bool = True,
) -> Meaning:
    """The answers that gestures amount to.

    A moved box refines its detection, a hidden one is not real (where ``hidden_is_false``), a deleted track is not real
    as a whole, merged tracks are one person, a split one is two, a box marked occluded is real. A new label says that
    the object is real; which label is told in the notes. What is drawn at the place of a detection that was left out
    makes that detection real, with the drawn box; elsewhere it is reported as drawn.

    Args:
        gestures: as :func:`interpret` gives them.
        places: how boxes are called.
        by: who.
        at: when.
        job: where.
        question: the question that was asked there.
        hidden_is_false: whether hiding a box says that there is nothing; else only that it is not this person, which
            needs no answer.
    """
    out: list[Answer] = []
    notes: list[str] = []
    drawn: list[tuple[int, Box]] = []

    def say(kind: str, ids: Sequence[int], box: Box | None = None, clicks: float = 1.0) -> None:
        context = [places.context(i) for i in ids]
        known = tuple(row for row in context if row is not None)
        complete = known if len(known) == len(ids) else ()
        out.append(Answer(kind, tuple(ids), box, None, by, at, job, clicks, question, complete))

    for gesture in gestures:
        clicks = CLICKS.get(gesture.kind, 1.0)
        frame = gesture.frame if gesture.frame is not None else -1
        if gesture.kind == "draw":
            _say_drawn(gesture, places, say, drawn)
        elif gesture.kind == "delete":
            ids = places.whole(gesture.tracks[0])
            if ids:
                say("reject", ids)
        elif gesture.kind in ("merge", "split"):
            pair = _border(gesture, places)
            if pair is None:
                notes.append(f"{gesture.kind} at frame {places.source(frame)}: no detection there, left out")
            else:
                say("same" if gesture.kind == "merge" else "split", pair, clicks=clicks)
        elif gesture.kind in ("move", "outside", "occluded", "inside"):
            found = places.at(gesture.tracks[0], frame)
            if found is None:
                if gesture.kind in ("move", "inside"):
                    _say_drawn(gesture, places, say, drawn)
            elif gesture.kind in ("move", "inside"):
                say("refine", [found], gesture.box, clicks)
            elif gesture.kind == "occluded":
                say("accept", [found])
            elif hidden_is_false:
                say("reject", [found])
        elif gesture.kind == "label":
            ids = places.whole(gesture.tracks[0])
            if ids:
                say("accept", ids)
            notes.append(f"track {gesture.tracks[0]} was given the label {gesture.value}: taken as real")
    return Meaning(tuple(out), tuple(notes), tuple(drawn))


def _say_drawn(gesture: Gesture, places: Places, say: Callable[..., None], drawn: list[tuple[int, Box]]) -> None:
    if gesture.box is None or gesture.frame is None:
        return
    found = places.near(gesture.frame, gesture.box)
    if found is None:
        drawn.append((places.source(gesture.frame), gesture.box))
    else:
        say("refine", [found], gesture.box, CLICKS["draw"])


def _border(gesture: Gesture, places: Places) -> tuple[int, int] | None:
    """The detections on both sides of a merge or split, the nearest that are there."""
    assert gesture.frame is not None
    assert gesture.until is not None
    first, second = gesture.tracks[0], gesture.tracks[-1]
    before = _nearest(places, first, range(gesture.frame, gesture.frame - 1000, -1))
    after = _nearest(places, second, range(gesture.until, gesture.until + 1000))
    return None if before is None or after is None or before == after else (before, after)


def _nearest(places: Places, track: int, frames: Iterable[int]) -> int | None:
    return next((found for frame in frames if (found := places.at(track, frame)) is not None), None)
