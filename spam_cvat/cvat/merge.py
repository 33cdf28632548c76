"""Three-way merge of one CVAT job's tracks: what we pushed, what is there now, what we want to push.

In: *base*, the tracks we left in the job as they were read back then; *theirs*, the tracks in the job now; *ours*, the
new result. Out: a plan of creations, updates and deletions that carries our news and keeps every human edit. Pure
functions over CVAT's JSON; the writing is done elsewhere.

The rules, for one job and its frames:

* A track of ours that nobody touched takes the new result: it is updated in place (its id stays), or deleted where the
  new result has nothing like it.
* A track of ours that a human edited keeps each frame the human changed, its label and its attributes; its other frames
  take the new result. Where the new result has no counterpart at all the track stays as it is.
* A track of ours that a human deleted, merged or split does not come back.
* A track we did not write is a human's: it stays, and boxes of ours that say the same again are withheld.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import iou_matrix
from spam_cvat.cvat.spans import (
    Span,
    attribute_list,
    attribute_values,
    compose,
    differing_frames,
    read_span,
)

SAME_BOX = 0.5  # IoU from which a new box and a base or human box speak of one object
SAME_REMOVED = 0.8  # the same for boxes of a deleted track: withholding somebody else's box costs more there
VOTING_FRAMES = 400  # frames of a long job by which it is told which tracks go together
LEAST_SHARE = 0.25  # of an edited track's frames that a new track must share to be its continuation


@dataclass(frozen=True)
class Pushed:
    """One track as we left it in a job.

    Attributes:
        id: CVAT's track id.
        track: our identity.
        content: the track as read back after writing.
        human: frames in which it shows what a human drew; they stay the human's in every later merge.
        ours: for a track that a human edited: the result's boxes alone, those that the human replaced included. It
            finds the track's continuation, and keeps replaced boxes from coming back elsewhere.
        renamed: a human chose its label or attributes; they stay, too.
        result: digest of the result's track as it came, boxes that were withheld from the job included, so that the
            same result is known again. Empty where the content shows all of it.
    """

    id: int
    track: int
    content: Mapping[str, Any]
    human: tuple[int, ...] = ()
    ours: Mapping[str, Any] | None = None
    renamed: bool = False
    result: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; frames as ranges."""
        out: dict[str, Any] = {"id": self.id, "track": self.track, "content": dict(self.content)}
        if self.result:
            out["result"] = self.result
        if self.ours is not None:
            out |= {"human": to_ranges(self.human), "ours": dict(self.ours), "renamed": self.renamed}
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Pushed":
        """Read what :meth:`to_json` wrote."""
        human = from_ranges(data.get("human", ()))
        renamed = bool(data.get("renamed"))
        result = str(data.get("result") or "")
        return cls(int(data["id"]), int(data["track"]), data["content"], human, data.get("ours"), renamed, result)


def to_ranges(frames: Iterable[int]) -> list[list[int]]:
    """Ascending frames as [first, last] pairs.

    >>> to_ranges([3, 4, 5, 9])
    [[3, 5], [9, 9]]
    """
    out: list[list[int]] = []
    for frame in frames:
        if out and out[-1][1] == frame - 1:
            out[-1][1] = int(frame)
        else:
            out.append([int(frame), int(frame)])
    return out


def from_ranges(ranges: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The frames of [first, last] pairs."""
    return tuple(frame for first, last in ranges for frame in range(first, last + 1))


@dataclass(frozen=True)
class Write:
    """One track to be written.

    Attributes:
        track: our identity.
        content: the CVAT track without ids.
        id: the CVAT track that it replaces; None for a new one.
        human: frames whose content is a human's.
        ours: the result's part of a track that a human edited.
        renamed: whether label and attributes are a human's.
        result: digest of the result's track as it came; see :class:`Pushed`.
    """

    track: int
    content: Mapping[str, Any]
    id: int | None = None
    human: tuple[int, ...] = ()
    ours: Mapping[str, Any] | None = None
    renamed: bool = False
    result: str = ""

    def pushed(self, now: Mapping[str, Any]) -> Pushed:
        """The record of it once written; ``now`` is the track as read back."""
        return Pushed(int(now["id"]), self.track, now, self.human, self.ours, self.renamed, self.result)


@dataclass(frozen=True)
class Conflict:
    """A place where a human and the new result disagree. The human's version was kept.

    Attributes:
        id: the CVAT track.
        frames: the frames concerned.
        reason: in words.
    """

    id: int
    frames: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        """One line."""
        where = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in to_ranges(self.frames)[:4])
        more = ", ..." if len(to_ranges(self.frames)) > 4 else ""
        return f"track {self.id}, frame{'s' if len(self.frames) != 1 else ''} {where}{more}: {self.reason}"


@dataclass(frozen=True)
class JobPlan:
    """What to write into one job.

    Attributes:
        create: new tracks.
        update: tracks that keep their id.
        delete: tracks of ours, untouched, that the new result no longer has.
        keep: tracks of ours that stay as they are, with what we know of them; a deleted one stays on record.
        human: ids of tracks in the job that are a human's, wholly or in part.
        withheld: boxes of the new result not written because a human's track or deletion already decides them.
        conflicts: where a human's version was kept against the new result.
    """

    create: tuple[Write, ...] = ()
    update: tuple[Write, ...] = ()
    delete: tuple[Pushed, ...] = ()
    keep: tuple[Pushed, ...] = ()
    human: tuple[int, ...] = ()
    withheld: int = 0
    conflicts: tuple[Conflict, ...] = ()

    @property
    def writes(self) -> int:
        """Number of tracks the plan touches on the server."""
        return len(self.create) + len(self.update) + len(self.delete)


@dataclass(frozen=True)
class _Edited:
    """A base track that is still there: our result in it, the track now, the frames that are a human's."""

    base: Pushed
    now: Mapping[str, Any]
    result: Span
    after: Span
    changed: frozenset[int]

    @property
    def touched(self) -> bool:
        """Whether a human did anything to it that we must keep."""
        return bool(self.changed) or self.renamed

    @property
    def renamed(self) -> bool:
        """Whether a human chose its label or attributes."""
        return self.base.renamed or _heading(self.base.content) != _heading(self.now)


@dataclass
class _New:
    """A track of the new result on its way into the job."""

    track: int
    content: Mapping[str, Any]
    span: Span
    withheld: set[int] = field(default_factory=set)
    target: int | None = None

    @property
    def partly(self) -> str:
        """The :func:`_fingerprint` for the record of a track of which not all is shown; empty for others."""
        return _fingerprint(self.span) if self.withheld else ""

    def frames(self) -> NDArray[np.intp]:
        """Frames in which it may be shown."""
        if not self.withheld:
            return self.span.visible
        return np.setdiff1d(self.span.visible, sorted(self.withheld))


def _heading(track: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a track says besides its boxes. ``source`` and ``group`` are CVAT's own bookkeeping."""
    return int(track["label_id"]), tuple(sorted(attribute_values(track.get("attributes", ())).items()))


def is_ours(track: Mapping[str, Any]) -> bool:
    """Whether a track was written by a program and no human has moved a box of it since.

    The page turns ``source`` to ``semi-auto`` on an edit of a box and to ``manual`` on a merge or split; a changed
    label or attribute leaves no trace there.
    """
    return track.get("source") == "auto" and all(shape.get("type") == "rectangle" for shape in track.get("shapes", ()))


def merge_job(
    base: Sequence[Pushed],
    theirs: Sequence[Mapping[str, Any]],
    ours: Sequence[tuple[int, Mapping[str, Any]]],
    start: int,
    stop: int,
    *,
    restore: bool = False,
) -> JobPlan:
    """Plan the writes that bring ``ours`` into a job without losing what a human did there.

    Args:
        base: what we left in the job.
        theirs: its tracks now, as CVAT gives them (with ids).
        ours: (identity, CVAT track without ids) of the new result, clipped to the job.
        start: the job's first frame.
        stop: its last frame, included.
        restore: write again what a human deleted; for a fresh run on a job that was emptied on purpose.

    Returns:
        The plan. Merging again after it was carried out gives an empty plan.
    """
    now = {int(track["id"]): track for track in theirs}
    edited = [_edited(pushed, now[pushed.id], start, stop) for pushed in base if pushed.id in now]
    gone = [] if restore else [pushed for pushed in base if pushed.id not in now]
    removed = [read_span(pushed.content, start, stop) for pushed in gone]
    known = {pushed.id for pushed in base}
    foreign = {identity: read_span(track, start, stop) for identity, track in now.items() if identity not in known}
    news = [_New(identity, content, read_span(content, start, stop)) for identity, content in ours]

    spent: list[Pushed] = []
    while True:
        targets, kept = _decide(news, edited, removed, foreign)
        empty = {
            item.base.id
            for item in edited
            if not item.touched and item.base.id in targets and not len(targets[item.base.id].frames())
        }
        if not empty:
            plan = _plan(edited, gone, news, targets, kept, foreign, start, stop)
            return replace(plan, delete=(*plan.delete, *spent))
        # What continued these tracks is shown in full by a human's: it may be the continuation of that one.
        spent += [item.base for item in edited if item.base.id in empty]
        edited = [item for item in edited if item.base.id not in empty]
        news = [_New(new.track, new.content, new.span) for new in news]


def _decide(
    news: Sequence[_New], edited: Sequence[_Edited], removed: Sequence[Span], foreign: Mapping[int, Span]
) -> tuple[dict[int, _New], set[int]]:
    """What continues which track and what is withheld, noted in ``news``; which edited tracks nothing continues."""
    targets = _matched(news, edited)
    decided = np.unique(
        np.concatenate(
            [np.zeros(0, np.intp), *(sorted(item.changed) for item in edited), *(s.visible for s in removed)]
        )
    ).astype(np.intp)
    ids = np.array([*(item.base.id for item in edited), *(-1 for _ in removed)], np.int64)
    own = np.array([-2 if new.target is None else new.target for new in news], np.int64)[:, None] == ids
    lineage = _pairs([new.span for new in news], [*(item.result for item in edited), *removed], decided, own)
    kept = {item.base.id for item in edited if item.touched and item.base.id not in targets}
    _withhold_removed(news, lineage, removed, len(edited))
    _withhold_edited(news, edited, lineage)
    _withhold_repeated(news, [*foreign.items(), *_drawn(edited, kept)])
    return targets, kept


def _edited(pushed: Pushed, now: Mapping[str, Any], start: int, stop: int) -> _Edited:
    before = read_span(pushed.content, start, stop)
    same = pushed.content.get("shapes") == now.get("shapes")
    after = before if same else read_span(now, start, stop)
    changed = set() if same else {int(frame) for frame in differing_frames(before, after)}
    result = before if pushed.ours is None else read_span(pushed.ours, start, stop)
    return _Edited(pushed, now, result, after, frozenset(changed | set(pushed.human)))


def _table(
    spans: Sequence[Span], frames: NDArray[np.intp] | None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """All boxes of several tracks, of some frames alone where given, by frame: frame, track index, box."""
    parts = [span.visible if frames is None else np.intersect1d(span.visible, frames) for span in spans]
    frame = np.concatenate(parts) if parts else np.zeros(0, np.intp)
    index = np.repeat(np.arange(len(spans)), [len(part) for part in parts])
    box = np.concatenate([span.box[part - span.start] for span, part in zip(spans, parts, strict=True)] or [_NONE])
    order = np.argsort(frame, kind="stable")
    return frame[order], index[order], box[order]


_NONE = np.zeros((0, 4))


def _pairs(
    left: Sequence[Span],
    right: Sequence[Span],
    frames: NDArray[np.intp] | None = None,
    own: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """One object in two sets of tracks: (K, 4) rows of frame, left index, right index, IoU; in all frames or in some.

    Frame by frame left and right boxes are paired one to one, the best overlap first, from an IoU of :data:`SAME_BOX`.
    ``own``, (left, right), marks what belongs together anyway: it goes first.
    """
    out = [_NONE]
    if not left or not right or (frames is not None and not len(frames)):
        return _NONE
    frame_l, index_l, box_l = _table(left, frames)
    frame_r, index_r, box_r = _table(right, frames)
    for frame in np.intersect1d(frame_l, frame_r):
        rows_l = slice(*np.searchsorted(frame_l, [frame, frame + 1]))
        rows_r = slice(*np.searchsorted(frame_r, [frame, frame + 1]))
        iou = iou_matrix(box_l[rows_l], box_r[rows_r])
        prior = np.zeros_like(iou) if own is None else own[np.ix_(index_l[rows_l], index_r[rows_r])]
        i, j = _best_first(np.where(iou >= SAME_BOX, iou + prior, 0.0))
        out.append(np.stack([np.full(len(i), frame), index_l[rows_l][i], index_r[rows_r][j], iou[i, j]], 1))
    return np.concatenate(out)


def _best_first(rank: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Greedy one-to-one pairs (row, column) of positive entries, by rounds of those that lead their row and column."""
    rank = rank.copy()
    rows, columns = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    while rank.max() > 0:
        best_r, best_l = rank.argmax(1), rank.argmax(0)
        i = np.flatnonzero((best_l[best_r] == np.arange(len(best_r))) & (rank.max(1) > 0))
        rows.append(i)
        columns.append(best_r[i])
        rank[i] = rank[:, best_r[i]] = 0.0
    return np.concatenate(rows), np.concatenate(columns)


def _sample(spans: Sequence[Span]) -> NDArray[np.intp]:
    """Frames enough to tell which tracks go together: all of a short job, some hundreds of a long one."""
    ends = [frame for span in spans if len(span.visible) for frame in span.visible[[0, len(span.visible) // 2, -1]]]
    if not ends:
        return np.zeros(0, np.intp)
    step = max(1, (max(ends) - min(ends)) // VOTING_FRAMES)
    return np.union1d(np.arange(min(ends), max(ends) + 1, step), ends).astype(np.intp)


def _matched(news: Sequence[_New], edited: Sequence[_Edited]) -> dict[int, _New]:
    """Which new track continues which base track, one to one.

    What is the same as before goes first, so that an unchanged result writes nothing; then edited tracks choose, then
    the number of shared frames decides, until nothing is left that shares any.
    """
    targets: dict[int, _New] = {}
    unchanged: dict[str, list[_New]] = {}
    for new in reversed(news):
        unchanged.setdefault(_fingerprint(new.span), []).append(new)
    for item in edited:
        if twins := unchanged.get(item.base.result or _fingerprint(item.result)):
            targets[item.base.id] = twins.pop()
            targets[item.base.id].target = item.base.id
    while _vote(news, edited, targets):
        pass
    return targets


def _vote(news: Sequence[_New], edited: Sequence[_Edited], targets: dict[int, _New]) -> bool:
    """One round of matching by shared frames, into ``targets``; whether it found any."""
    loose = [new for new in news if new.target is None]
    open_ends = [item for item in edited if item.base.id not in targets]
    frames = _sample([*(new.span for new in loose), *(item.result for item in open_ends)])
    pairs = _pairs([new.span for new in loose], [item.result for item in open_ends], frames)
    votes = Counter((int(i), int(j)) for _, i, j, _ in pairs)
    by_rank = sorted(votes.items(), key=lambda item: (not open_ends[item[0][1]].touched, -item[1], item[0]))
    found = False
    for (i, j), count in by_rank:
        new, item = loose[i], open_ends[j]
        if new.target is not None or item.base.id in targets:
            continue
        if item.touched and count < LEAST_SHARE * max(int(np.isin(item.result.visible, frames).sum()), 1):
            continue
        new.target, targets[item.base.id] = item.base.id, new
        found = True
    return found


def _fingerprint(span: Span) -> str:
    """Equal for tracks that show the same boxes."""
    first = span.visible[0] if len(span.visible) else 0
    stop = span.visible[-1] + 1 if len(span.visible) else 0
    boxes = span.window(first, stop).round(1) + 0.0  # no negative zero
    return hashlib.sha256(int(first).to_bytes(8, "big", signed=True) + boxes.tobytes()).hexdigest()[:32]


def _withhold_removed(news: Sequence[_New], lineage: NDArray[np.float64], removed: Sequence[Span], offset: int) -> None:
    """A human deleted these tracks: their boxes do not come back."""
    pairs = lineage[(lineage[:, 2] >= offset) & (lineage[:, 3] >= SAME_REMOVED)] - [0, 0, offset, 0]
    _withhold(news, removed, pairs)


def _withhold_edited(news: Sequence[_New], edited: Sequence[_Edited], lineage: NDArray[np.float64]) -> None:
    """Frames a human changed stay in the edited track: other new tracks give them up."""
    for frame, i, j, _ in lineage:
        if j < len(edited):
            item, new = edited[int(j)], news[int(i)]
            if int(frame) in item.changed and new.target != item.base.id:
                new.withheld.add(int(frame))


def _drawn(edited: Sequence[_Edited], kept: set[int]) -> Iterator[tuple[int, Span]]:
    """What humans drew in tracks of ours: all of a track that stays as it is, else the frames they changed."""
    for item in edited:
        if item.base.id in kept:
            yield item.base.id, item.after
        elif item.changed:
            yield item.base.id, _only(item.after, item.changed)


def _withhold_repeated(news: Sequence[_New], humans: Sequence[tuple[int, Span]]) -> None:
    """Leave out boxes that a human's track already shows; a track's own continuation is no repetition."""
    pairs = _pairs([new.span for new in news], [span for _, span in humans])
    own = [news[int(i)].target == humans[int(j)][0] for _, i, j, _ in pairs]
    _withhold(news, [span for _, span in humans], pairs[~np.array(own, bool)])


def _withhold(news: Sequence[_New], spans: Sequence[Span], pairs: NDArray[np.float64]) -> None:
    """Leave out the paired boxes, (K, 4) as :func:`_pairs` gives them.

    Where a new track and a human's are mostly the same object, the human has decided about it from the first to the
    last frame: what the new result fills into gaps of the human's track is left out too.
    """
    for frame, i, _, _ in pairs:
        news[int(i)].withheld.add(int(frame))
    for (i, j), count in Counter((int(i), int(j)) for _, i, j, _ in pairs).items():
        new, there = news[i].span.visible, spans[j].visible
        if 2 * count > np.intersect1d(new, there).size:
            inside = new[(new >= there[0]) & (new <= there[-1])]
            news[i].withheld.update(np.setdiff1d(inside, there).tolist())


def _only(span: Span, frames: frozenset[int]) -> Span:
    """The span with boxes in these frames alone."""
    box = span.box.copy()
    box[[frame not in frames for frame in range(span.start, span.stop)]] = np.nan
    return replace(span, box=box)


def _plan(
    edited: Sequence[_Edited],
    gone: Sequence[Pushed],
    news: Sequence[_New],
    targets: Mapping[int, _New],
    kept: set[int],
    foreign: Mapping[int, Span],
    start: int,
    stop: int,
) -> JobPlan:
    update: list[Write] = []
    delete: list[Pushed] = []
    keep: list[Pushed] = list(gone)
    conflicts: list[Conflict] = []
    for item in edited:
        new = targets.get(item.base.id)
        if item.base.id in kept:
            keep.append(item.base)
            conflicts.append(_kept_conflict(item))
        elif item.touched and new is not None:
            write, conflict = _merged(item, new, start, stop)
            conflicts += [conflict] if conflict else []
            if write.id is None:
                keep.append(write.pushed(item.now))
            else:
                update.append(write)
        elif new is not None:
            replaced = _replaced(item, new, start, stop)
            if replaced is None:
                keep.append(Pushed(item.base.id, new.track, item.now, result=new.partly))
            else:
                update.append(replaced)
        else:
            delete.append(item.base)
    create = [
        Write(new.track, _cut(new, start, stop), result=new.partly)
        for new in news
        if new.target is None and len(new.frames())
    ]
    touched = [item.base.id for item in edited if item.touched]
    return JobPlan(
        create=tuple(create),
        update=tuple(update),
        delete=tuple(delete),
        keep=tuple(keep),
        human=tuple(sorted([*foreign, *touched])),
        withheld=sum(len(new.span.visible) - len(new.frames()) for new in news),
        conflicts=tuple(conflicts),
    )


def _kept_conflict(item: _Edited) -> Conflict:
    frames = tuple(sorted(item.changed)) or tuple(int(frame) for frame in item.after.visible)
    return Conflict(item.base.id, frames, "edited by a human, not in the new result: kept as it is")


def _merged(item: _Edited, new: _New, start: int, stop: int) -> tuple[Write, Conflict | None]:
    """An edited track: the human's frames, and the new result elsewhere. A write without id changes nothing."""
    pick = np.full(stop - start + 1, -1, np.intp)
    pick[new.frames() - start] = 1
    mine = np.array(sorted(item.changed), np.intp)
    mine = mine[(mine >= start) & (mine <= stop)]
    pick[mine - start] = 0
    shapes = [_with_attributes(shape, item) for shape in compose([item.after, new.span], pick, start)]
    news = {int(frame) for frame in differing_frames(item.result, new.span, boxes_only=True)}
    against = news & {int(frame) for frame in differing_frames(item.after, new.span, boxes_only=True)}
    clash = tuple(sorted(against & item.changed))
    conflict = Conflict(item.base.id, clash, "changed by a human and by the new result: the human's kept")
    content = _content(item.now, shapes, item.now)
    same = not len(differing_frames(read_span(content, start, stop), item.after))
    write = Write(
        track=new.track,
        content=content,
        id=None if same or not shapes else item.base.id,
        human=tuple(int(frame) for frame in mine),
        ours=_content(new.content, compose([item.result, new.span], pick, start), new.content),
        renamed=item.renamed,
        result=_fingerprint(new.span),
    )
    return write, (conflict if clash else None)


def _with_attributes(shape: dict[str, Any], item: _Edited) -> dict[str, Any]:
    """A keyframe with the mutable attributes that the job shows there now; the new result knows none."""
    row = min(max(shape["frame"] - item.after.start, 0), len(item.after.key) - 1)
    origin = item.after.shapes[item.after.key[row]] if row >= 0 else {"attributes": []}
    return {**shape, "attributes": list(origin["attributes"])}


def _replaced(item: _Edited, new: _New, start: int, stop: int) -> Write | None:
    """An untouched track takes the new result; None where that changes nothing."""
    cut = _cut(new, start, stop)
    if int(cut["label_id"]) == int(item.now["label_id"]):
        content = _content(cut, cut["shapes"], item.now)
        if not len(differing_frames(read_span(content, start, stop), item.after, boxes_only=True)):
            return None
    else:
        content = dict(cut)
    return Write(new.track, content, item.base.id, result=new.partly)


def _cut(new: _New, start: int, stop: int) -> Mapping[str, Any]:
    """The new track without the frames that were withheld."""
    if not new.withheld:
        return new.content
    pick = np.full(stop - start + 1, -1, np.intp)
    pick[new.frames() - start] = 0
    return _content(new.content, compose([new.span], pick, start), new.content)


def _content(
    track: Mapping[str, Any], shapes: Sequence[Mapping[str, Any]], heading: Mapping[str, Any]
) -> dict[str, Any]:
    """A CVAT track with these keyframes, under the heading (attributes, group) of one that is there."""
    return {
        "label_id": int(track["label_id"]),
        "frame": int(shapes[0]["frame"]) if shapes else int(track.get("frame", 0)),
        "group": int(heading.get("group") or 0),
        "source": str(track.get("source") or "auto"),
        "attributes": attribute_list(attribute_values(heading.get("attributes", ()))),
        "shapes": [dict(shape) for shape in shapes],
    }
