"""Proposals: every question that could be asked about an annotation, with what its reply is expected to put right.

In: an Annotation and the answers given so far. Out: :class:`~spam_cvat.review.questions.Question` objects, unordered;
:mod:`spam_cvat.review.selection` chooses among them. The expected gain is p(wrong) x boxes affected, in boxes:

* a track that is no object puts its n boxes right; a track of two people that is cut into n and m boxes, or two pieces
  of one person that are joined, put 2 n m / (n + m) right (see :func:`spam_cvat.review.uncertainty.join_gain`);
* boxes that the gate dropped, strung together, win n boxes if they are real after all.

What the answers already imply is not asked again.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Annotation, Edges, candidate_edges
from spam_cvat.answers import Answer, Clamps, resolve
from spam_cvat.boxes import area, clip_boxes, iou_matrix, iou_pairs
from spam_cvat.detections import comparable
from spam_cvat.review.questions import MAX_CANDIDATES, MAX_MOMENTS, PRICES, Question
from spam_cvat.review.uncertainty import (
    Links,
    binary_entropy,
    join_gain,
    links,
    real_probability,
    row_entropy,
)

Rows = NDArray[np.int64]

# A link believed less than this ends a piece: crops beyond it may show somebody else.
WEAK = 0.9
# Film strips are cut at links believed less than this before they are cut in the middle of long stretches.
DOUBTFUL = 0.995
# What the hierarchy's doubts come to in the end, measured on the first halves of MOT17: a link of a final track has
# outlived its alternatives, so it is wrong less often than its edge said, along a track even less (doubts go together);
# a link that it is sure of joins two people now and then; a string of dropped boxes is mostly dropped with reason.
LINK_DOUBT, TRACK_DOUBT, UNSEEN_SWITCH, RECOVERED = 0.6, 0.25, 0.0005, 0.3
# Nobody has said yet that there is a person in the box.
UNCONFIRMED = 0.6
# The first and the last crop of a film strip lie this near to the track's ends, in boxes.
END_BOXES = 5
# Crops before and after a gap come from this near to it, in seconds: further away somebody else may be in the box.
NEAR = 0.8
# A crop shows well if it shows at least this share of what the best one does.
SHOWS_WELL = 0.7
# Two tracks of one person may overlap in time by this much, in seconds: the first went on with somebody else.
OVERLAP = 0.6
# A corrected box is taken to speak for the boxes this many seconds around it.
FIX_REACH = 1.0
# Overlap (IoU) that a box lacks: a part for all, and a part for what the detector was unsure of (MOT17 first halves).
FIX_LOSS, FIX_LOSS_PER_SCORE = 0.08, 0.25
# How much of a correction helps the boxes around, and below which score a box is too bad to stand for others.
CARRIED_OVER, MIN_FIXED_SCORE = 0.15, 0.3
FIX_PRIOR = 10
# The longest stretch of a track that eight crops can stand for, in seconds.
STRIP_SECONDS = 16.0
# The longest absence over which a person is looked for, in seconds.
HORIZON = 8.0
# Dropped boxes must string together over at least this many frames to be worth a look.
MIN_RECOVERED = 5
# A dropped box that a track's box overlaps this much (IoU), or covers this much, shows somebody who is tracked already.
TAKEN_IOU, TAKEN_COVER = 0.4, 0.75
# What is expected to put fewer boxes right per click than this is not worth anybody's time.
MIN_GAIN = 0.25


@dataclass(frozen=True)
class Track:
    """One final track's detections in frame order, with the belief in each of its links. ``rows``: (n,)."""

    number: int
    rows: Rows
    link: NDArray[np.float64]


class Scene:
    """An annotation prepared for questions; everything is computed once and only when needed."""

    def __init__(self, annotation: Annotation, answers: Sequence[Answer] = ()) -> None:
        """Bind the answers to the annotation's detections; the rest is computed when asked for."""
        self.annotation = annotation
        self.detections = annotation.detections
        self.clamps: Clamps = resolve(answers, annotation.detections)
        # Boxes that a human looked at one by one.
        alone = {answer.detections[0] for answer in answers if answer.kind in ("accept", "refine") and answer.question}
        self.judged = np.isin(self.detections.id, np.array(sorted(alone), np.uint64))

    @cached_property
    def edges(self) -> Edges:
        """Candidate edges of the hierarchy."""
        return candidate_edges(self.annotation.levels)

    @cached_property
    def links(self) -> Links:
        """Links of the final tracks."""
        return links(self.annotation, self.edges, self.clamps)

    @cached_property
    def real(self) -> NDArray[np.float64]:
        """(N,) probability that each detection is real."""
        return real_probability(self.annotation, self.clamps)

    @cached_property
    def entropy(self) -> NDArray[np.float64]:
        """(N,) SPAM's uncertainty per detection, in bits."""
        return row_entropy(self.annotation)

    @cached_property
    def tracks(self) -> list[Track]:
        """Final tracks that have detections."""
        tracks = self.annotation.tracks
        out, done = [], 0
        for start, stop in zip(tracks.track_start[:-1], tracks.track_start[1:], strict=True):
            rows = tracks.detection[start:stop]
            rows = rows[rows >= 0]
            if len(rows):
                belief = self.links.probability[done : done + len(rows) - 1]
                out.append(Track(int(tracks.track[start]), rows, belief))
                done += len(rows) - 1
        return out

    @cached_property
    def tracked(self) -> NDArray[np.bool_]:
        """(N,) whether a detection is in a final track."""
        out = np.zeros(len(self.detections), bool)
        own = self.annotation.tracks.detection
        out[own[own >= 0]] = True
        return out

    @cached_property
    def visibility(self) -> NDArray[np.float64]:
        """(N,) how well a crop shows its person: score, size, inside the image, not covered by a nearer tracked box.

        Of two boxes the one that reaches lower is taken to be nearer to the camera.
        """
        det = self.detections
        inside = area(clip_boxes(det.box, det.video.width, det.video.height)) / area(det.box)
        covered = np.zeros(len(det))
        for _, frame in det.by_frame():
            rows = np.arange(frame.start, frame.stop)
            near = rows[self.tracked[rows]]
            if len(near) and len(rows):
                overlap = iou_matrix(det.box[rows], det.box[near])
                overlap[det.box[near][None, :, 3] <= det.box[rows][:, None, 3]] = 0
                covered[rows] = overlap.max(1)
        height = det.box[:, 3] - det.box[:, 1]
        return (0.2 + det.score) * np.sqrt(height) * inside * (1 - covered)

    def ids(self, rows: Sequence[int] | Rows) -> tuple[int, ...]:
        """Stable ids of rows, as plain integers."""
        return tuple(int(i) for i in self.detections.id[np.asarray(rows, np.int64)])

    def id_pairs(self, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Stable ids of pairs of rows."""
        return tuple((int(self.detections.id[a]), int(self.detections.id[b])) for a, b in pairs)

    def best(self, rows: Rows) -> int:
        """The row nearest to the middle of those that show well; the very best would favour one of two people."""
        shows = self.visibility[rows]
        well = np.flatnonzero(shows >= SHOWS_WELL * shows.max())
        return int(rows[well[np.argmin(np.abs(well - (len(rows) - 1) / 2))]])

    def spread(self, rows: Rows, count: int) -> list[int]:
        """``count`` rows (or fewer) spread over a piece, each the best of its part."""
        return [self.best(part) for part in np.array_split(rows, min(count, len(rows))) if len(part)]


def propose(annotation: Annotation, answers: Sequence[Answer] = ()) -> list[Question]:
    """Every question that could be asked, each with probability, gain, price and entropy.

    Args:
        annotation: what the engine knows now, with ``answers`` clamped.
        answers: the log, oldest first.
    """
    scene = Scene(annotation, answers)
    everything = [
        *track_questions(scene),
        *recovery_questions(scene),
        *same_questions(scene),
        *fix_questions(scene),
    ]
    return [question for question in everything if question.gain >= MIN_GAIN * question.price]


def _weakest(link: NDArray[np.float64], start: int, stop: int) -> int:
    """Index of the weakest link between the boxes ``start`` and ``stop`` of a track; of equal ones the middle."""
    inside = np.arange(start, stop)
    return int(inside[np.lexsort((np.abs(inside - (start + stop - 1) / 2), link[inside]))[0]])


def film_strip(scene: Scene, track: Track) -> tuple[list[int], list[tuple[int, int]]]:
    """Up to eight moments of a track, and the links between successive moments at which it would be cut.

    The strip is cut at the links that weigh most (doubt x boxes they join), then long stretches are cut at the weakest
    link around their middle; each part is shown by the box that shows most, the outer parts near the track's ends.

    Returns:
        Rows of the moments, in frame order; pairs of rows (last before, first after the cut), one fewer.
    """
    rows, link = track.rows, track.link
    weight = (1 - link) * join_gain(np.arange(1, len(rows)), np.arange(len(rows) - 1, 0, -1))
    order = np.argsort(-weight, kind="stable")
    cuts = [int(i) for i in order[: MAX_MOMENTS - 1] if link[i] < DOUBTFUL]
    while len(cuts) < MAX_MOMENTS - 1:
        bounds = [0, *(i + 1 for i in sorted(cuts)), len(rows)]
        longest = int(np.argmax(np.diff(bounds)))
        start, stop = bounds[longest], bounds[longest + 1]
        if stop - start < 10:
            break
        quarter = (stop - start) // 4
        cuts.append(_weakest(link, start + quarter, stop - quarter - 1))
    bounds = [0, *(i + 1 for i in sorted(cuts)), len(rows)]
    parts = [rows[a:b] for a, b in itertools.pairwise(bounds)]
    parts[0] = parts[0][:END_BOXES]
    parts[-1] = parts[-1][-END_BOXES:] if len(parts) > 1 else parts[-1]
    moments = [scene.best(part) for part in parts]
    return moments, [(int(rows[i]), int(rows[i + 1])) for i in sorted(cuts)]


def track_questions(scene: Scene) -> Iterator[Question]:
    """``TRACK`` for each stretch of each track, ``SWITCH`` where a human called it mixed and it still is one track."""
    for track in scene.tracks:
        # Boxes whose identity a cut after each link would put right.
        at = np.arange(1, len(track.rows))
        cut_gain = join_gain(at, len(track.rows) - at)
        for start, stop in _stretches(scene, track):
            stretch = Track(track.number, track.rows[start:stop], track.link[start : stop - 1])
            if (stretch.link < 1).any() or (scene.clamps.gate[stretch.rows] != 1).any():
                yield _track_question(scene, stretch, cut_gain[start : stop - 1])


def _stretches(scene: Scene, track: Track) -> list[tuple[int, int]]:
    """A track in stretches that eight crops can show, cut at weak links; (start, stop) indices of its boxes."""
    frame = scene.detections.frame[track.rows]
    longest = STRIP_SECONDS * scene.detections.video.fps
    count = int(np.ceil((frame[-1] - frame[0] + 1) / longest))
    ideal = np.searchsorted(frame, frame[0] + np.arange(1, count) * (frame[-1] - frame[0] + 1) / count)
    slack = max(1, len(track.rows) // (6 * count))
    bounds = {_weakest(track.link, max(i - slack, 1), min(i + slack, len(track.rows) - 1)) + 1 for i in ideal.tolist()}
    return list(itertools.pairwise(sorted({0, *bounds, len(track.rows)})))


def _track_question(scene: Scene, track: Track, cut_gain: NDArray[np.float64]) -> Question:
    mixed = _mixed_moments(scene, track)
    moments, cuts = mixed or film_strip(scene, track)
    n = len(track.rows)
    real = float(scene.real[track.rows].mean())
    doubt = np.where(track.link == 1, 0, np.maximum(TRACK_DOUBT * (1 - track.link), UNSEEN_SWITCH))
    switch = float(1 - np.prod(1 - doubt))
    affected = float((doubt * cut_gain).sum() / max(doubt.sum(), 1e-9))
    question = Question(
        "TRACK",
        subject=scene.ids(track.rows),
        moments=scene.ids(moments),
        cuts=scene.id_pairs(cuts),
        entropy=float(max(scene.entropy[track.rows].max(), binary_entropy(track.link).max(initial=0))),
    )
    if mixed:
        return replace(question, kind="SWITCH", price=PRICES["SWITCH"], probability=1.0, gain=max(affected, n / 3))
    # A mixed track gains only after a second question, whose price counts.
    later = PRICES["TRACK"] / (PRICES["TRACK"] + switch * PRICES["SWITCH"])
    gain = (1 - real) * n + real * switch * affected * later
    return replace(question, price=PRICES["TRACK"], probability=1 - real * (1 - switch), gain=gain)


def _mixed_moments(scene: Scene, track: Track) -> tuple[list[int], list[tuple[int, int]]] | None:
    """Moments and cuts of a track that a human called mixed: the moments he saw, cut at the weakest links between."""
    place = {int(row): index for index, row in enumerate(track.rows)}
    for rows in scene.clamps.mixed:
        seen = [row for row in rows if scene.clamps.gate[row] != 0]
        if 2 <= len(seen) <= MAX_MOMENTS and all(row in place for row in seen):
            at = [place[row] for row in seen]
            cuts = [_weakest(track.link, a, b) for a, b in itertools.pairwise(at)]
            return seen, [(int(track.rows[i]), int(track.rows[i + 1])) for i in cuts]
    return None


def recovery_questions(scene: Scene) -> Iterator[Question]:
    """``TRACK`` for strings of boxes that were dropped, long enough to be worth a look."""
    for rows in dropped_strings(scene):
        real = RECOVERED * float(scene.real[rows].mean())
        track = Track(0, rows, np.ones(len(rows) - 1))
        moments, cuts = film_strip(scene, track)
        yield Question(
            "TRACK",
            subject=scene.ids(rows),
            moments=scene.ids(moments),
            cuts=scene.id_pairs(cuts),
            price=PRICES["TRACK"],
            probability=real,
            gain=real * len(rows),
            entropy=float(scene.entropy[rows].max()),
        )


def dropped_strings(scene: Scene, overlap: float = 0.5, max_gap: int = 3) -> list[Rows]:
    """Dropped boxes that follow each other (IoU >= ``overlap`` over at most ``max_gap`` frames), as rows in order.

    Boxes of people who are tracked already stay out, as do boxes a human rejected.
    """
    det = scene.detections
    tracks = scene.annotation.tracks
    order = np.argsort(tracks.frame, kind="stable")
    bounds = np.searchsorted(tracks.frame[order], np.arange(det.video.num_frames + 1))
    open_strings: list[list[int]] = []
    done: list[list[int]] = []
    for number, frame in det.by_frame():
        rows = np.arange(frame.start, frame.stop)
        kept = rows[~scene.tracked[rows] & (scene.clamps.gate[rows] != 0)]
        kept = kept[~_taken(det.box[kept], tracks.box[order[bounds[number] : bounds[number + 1]]])]
        still = [string for string in open_strings if number - det.frame[string[-1]] <= max_gap]
        done += [string for string in open_strings if number - det.frame[string[-1]] > max_gap]
        free = set(kept.tolist())
        if still and len(kept):
            iou = iou_matrix(det.box[[string[-1] for string in still]], det.box[kept])
            for flat in np.argsort(-iou, axis=None, kind="stable"):
                a, b = np.unravel_index(flat, iou.shape)
                if iou[a, b] < overlap:
                    break
                row = int(kept[b])
                if row in free and det.frame[still[a][-1]] < number:
                    still[a].append(row)
                    free.discard(row)
        open_strings = still + [[row] for row in sorted(free)]
    done += open_strings
    return [np.array(string, np.int64) for string in done if len(string) >= MIN_RECOVERED]


def _taken(box: NDArray[np.float32], tracked: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes show somebody who has a track's box already. (N, 4), (M, 4) -> (N,)."""
    if not len(box) or not len(tracked):
        return np.zeros(len(box), bool)
    iou = iou_matrix(box, tracked)
    own, other = area(box)[:, None], area(tracked)[None]
    cover = iou * (own + other) / (1 + iou) / np.maximum(np.minimum(own, other), 1e-6)
    taken: NDArray[np.bool_] = np.any((iou >= TAKEN_IOU) | (cover >= TAKEN_COVER), axis=1)
    return taken


@dataclass(frozen=True)
class _End:
    """The last box of a piece, which may go on elsewhere.

    Attributes:
        track: its track.
        index: of the last box in the track.
        linked: belief in the link to the track's next box; 0 at the track's end.
        until: the last frame in which somebody may start who goes on from here.
    """

    track: Track
    index: int
    linked: float
    until: float = np.inf

    @property
    def row(self) -> int:
        return int(self.track.rows[self.index])

    @property
    def before(self) -> int:
        return self.index + 1


def _piece_before(track: Track, index: int, longest: int) -> Rows:
    """The boxes up to ``index`` that surely show one person."""
    weak = np.flatnonzero(track.link[:index] < WEAK)
    start = max(int(weak[-1]) + 1 if len(weak) else 0, index + 1 - longest)
    return track.rows[start : index + 1]


def _piece_after(track: Track, index: int, longest: int) -> Rows:
    """The boxes from ``index`` on that surely show one person."""
    weak = np.flatnonzero(track.link[index:] < WEAK)
    stop = min(index + int(weak[0]) + 1 if len(weak) else len(track.rows), index + longest)
    return track.rows[index:stop]


class _Continuations:
    """Where pieces end, where others start, and how likely each end goes on at each start."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        fps, frame = scene.detections.video.fps, scene.detections.frame
        self.horizon = max(int(HORIZON * fps), 2)
        self.ends: list[_End] = []
        starts: list[tuple[int, Track, int]] = []
        for track in scene.tracks:
            inner = np.flatnonzero(track.link < WEAK)
            gaps = np.diff(frame[track.rows]) > 2
            for i in np.flatnonzero((track.link < WEAK) | gaps).tolist():
                # A sure link over a gap leaves only those to ask for who start inside the gap.
                until = np.inf if track.link[i] < WEAK else float(frame[track.rows[i + 1]]) - 1
                self.ends.append(_End(track, i, float(track.link[i]), until))
            self.ends.append(_End(track, len(track.rows) - 1, 0.0))
            starts += [(int(track.rows[i + 1]), track, int(i) + 1) for i in inner]
            starts.append((int(track.rows[0]), track, 0))
        starts.sort(key=lambda start: start[0])
        self.starts = starts
        self.start_row = np.array([row for row, _, _ in starts], np.int64)
        self.start_frame = frame[self.start_row]
        self.ends += [end for track in scene.tracks for end in self._overlapped(track)]
        self.start_of = {row: k for k, row in enumerate(self.start_row.tolist())}
        self.apart = {
            pair
            for a, b in scene.clamps.cannot
            for pair in [(int(scene.clamps.person[a]), int(scene.clamps.person[b]))]
            for pair in [pair, pair[::-1]]
        }

    def _overlapped(self, track: Track) -> Iterator[_End]:
        """Ends before the last boxes of a track, where another track starts that may take over from there."""
        frame = self.scene.detections.frame[track.rows]
        last = int(frame[-1])
        tail = max(2, round(OVERLAP * self.scene.detections.video.fps))
        low, high = np.searchsorted(self.start_frame, [last - tail, last + 1])
        for start in np.unique(self.start_frame[low:high]).tolist():
            index = int(np.searchsorted(frame, start)) - 1
            if index >= 0 and index < len(frame) - 1 and track.link[index] >= WEAK:
                yield _End(track, index, float(track.link[index]), float(last))

    def __iter__(self) -> Iterator[tuple[_End, list[tuple[int, float]]]]:
        """Each end with (index into ``starts``, probability), the link it has not among them."""
        moved = self._by_motion()
        believed: dict[int, list[tuple[int, float]]] = {}
        edges = self.scene.edges
        for last, first, probability in zip(edges.last, edges.first, edges.probability, strict=True):
            if int(first) in self.start_of:
                believed.setdefault(int(last), []).append((self.start_of[int(first)], float(probability)))
        person = self.scene.clamps.person
        for number, end in enumerate(self.ends):
            by_motion = dict(moved[number])
            both = {k: 0.7 * p for k, p in by_motion.items()}
            for k, p in believed.get(end.row, []):
                both[k] = p + 0.3 * by_motion.get(k, 0.0) * (1 - p)
            follower = int(end.track.rows[end.index + 1]) if end.before < len(end.track.rows) else -1
            possible = [
                (k, p)
                for k, p in both.items()
                if self.start_row[k] != follower
                and self.start_frame[k] <= end.until
                and (int(person[end.row]), int(person[self.start_row[k]])) not in self.apart
                and self.starts[k][1] is not end.track
            ]
            yield end, sorted(possible, key=lambda item: (-item[1], item[0]))

    def _by_motion(self) -> list[list[tuple[int, float]]]:
        """Per end the starts that lie where it was going, with a probability from place, size and looks alone.

        A Gaussian around the extrapolated centre, wider the longer the gap, against a constant chance that the person
        is gone; normalised over the starts of an end and over the ends of a start.
        """
        det = self.scene.detections
        fps = det.video.fps
        box = det.box.astype(np.float64)
        centre, height = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 3] - box[:, 1], 1)
        looks = det.embedding
        weights: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []
        total = np.zeros(len(self.starts))
        for end in self.ends:
            row = end.row
            low, high = np.searchsorted(self.start_frame, [det.frame[row] + 1, det.frame[row] + self.horizon + 1])
            k = np.arange(low, high)
            to = self.start_row[k]
            gap = (det.frame[to] - det.frame[row]) / fps
            speed = self._velocity(_piece_before(end.track, end.index, 12))
            ahead = centre[row] + speed * np.minimum(gap, 1.0)[:, None]
            size = np.sqrt(height[row] * height[to])
            width = 0.3 + 0.8 * np.minimum(gap, 4.0)
            off = np.linalg.norm(centre[to] - ahead, axis=1) / size / width
            stretch = np.log(height[to] / height[row]) / (0.15 + 0.1 * np.minimum(gap, 3.0))
            weight = np.exp(-(off**2 + stretch**2) / 2) / (1 + gap) / width
            if looks is not None:
                weight = weight * np.exp(3 * (looks[to] @ looks[row] - 0.6))
            keep = np.argsort(-weight, kind="stable")[: 2 * MAX_CANDIDATES]
            keep = keep[weight[keep] > 1e-3]
            weights.append((k[keep], weight[keep]))
            total[k[keep]] += weight[keep]
        gone = 0.3
        return [
            list(zip(k.tolist(), (w / np.sqrt((gone + w.sum()) * (gone + total[k]))).tolist(), strict=True))
            for k, w in weights
        ]

    def _velocity(self, rows: Rows) -> NDArray[np.float64]:
        """Pixels a second, over the last boxes of a piece."""
        det = self.scene.detections
        if len(rows) < 2:
            return np.zeros(2)
        first, last = det.box[rows[0]].astype(np.float64), det.box[rows[-1]].astype(np.float64)
        moved = ((last[:2] + last[2:]) - (first[:2] + first[2:])) / 2
        return moved / (det.frame[rows[-1]] - det.frame[rows[0]]) * det.video.fps


def same_questions(scene: Scene) -> Iterator[Question]:
    """``SAME`` for every uncertain link inside a track and every track end that may go on elsewhere."""
    continuations = _Continuations(scene)
    for end, others in continuations:
        question = _same_question(scene, continuations, end, others)
        if question is not None:
            yield question


def _same_question(
    scene: Scene, continuations: _Continuations, end: _End, others: list[tuple[int, float]]
) -> Question | None:
    doubted = end.before < len(end.track.rows) and end.linked < WEAK
    if not doubted and not others:
        return None
    options: list[tuple[Track, int, float]] = []
    if doubted:
        options.append((end.track, end.before, 1 - LINK_DOUBT * (1 - end.linked)))
    for k, probability in others[: MAX_CANDIDATES - len(options)]:
        _, track, index = continuations.starts[k]
        options.append((track, index, probability))
    scale = max(1.0, sum(p for _, _, p in options))
    linked = options[0][2] / scale if doubted else 0.0
    near = max(8, round(NEAR * scene.detections.video.fps))
    subject = _piece_before(end.track, end.index, near)
    real = float(scene.real[subject].mean()) * (1.0 if scene.clamps.gate[end.row] == 1 else UNCONFIRMED)
    # Beyond a sure link the track goes on, whoever fills its gap.
    n = end.before if doubted else len(end.track.rows)
    gain = float(join_gain(n, len(end.track.rows) - n)) * (1 - linked) if doubted else 0.0
    for track, index, probability in options[1 if doubted else 0 :]:
        alive = float(scene.real[_piece_after(track, index, near)].mean())
        gain += probability / scale * alive * float(join_gain(n, len(track.rows) - index))
    wrong = 1 - linked if doubted else sum(p for _, _, p in options) / scale
    options.sort(key=lambda option: (int(scene.detections.frame[option[0].rows[option[1]]]), -option[2]))
    pieces = [_piece_after(track, index, near) for track, index, _ in options]
    crops = 3 if len(options) <= 2 else 2
    probabilities = np.array([probability for _, _, probability in options])
    return Question(
        "SAME",
        subject=scene.ids(subject),
        candidates=tuple(scene.ids(rows) for rows in pieces),
        moments=scene.ids(scene.spread(subject, 3)),
        candidate_moments=tuple(scene.ids(scene.spread(rows, crops)) for rows in pieces),
        likeliest=int(probabilities.argmax()),
        price=PRICES["SAME"],
        probability=wrong,
        gain=real * gain,
        entropy=float(binary_entropy(probabilities).max()),
    )


def fix_questions(scene: Scene) -> Iterator[Question]:
    """``FIX`` for boxes in the middle of stretches of tracks in which no box was looked at.

    A correction is carried over to its neighbours (:func:`spam_cvat.tracks.spread_corrections`), so it lifts the
    overlap of the boxes around it: expected boxes right = overlap missing x boxes reached x what carries over. How
    much overlap is missing is learned from the boxes answered so far.
    """
    det = scene.detections
    score = comparable(det).score.astype(np.float64)
    missing = FIX_LOSS + FIX_LOSS_PER_SCORE * (1 - score)
    missing *= _measured_loss(scene, missing)
    reach = max(FIX_REACH * det.video.fps, 1)
    for track in scene.tracks:
        frame = det.frame[track.rows]
        known = frame[scene.judged[track.rows]]
        bounds = np.array([frame[0], *known, frame[-1] + 1], np.float64)
        for start, stop in itertools.pairwise(np.unique(bounds)):
            parts = max(1, int(np.ceil((stop - start) / (2 * reach))))
            for middle in start + (np.arange(parts) + 0.5) * (stop - start) / parts:
                index = int(np.argmin(np.abs(frame - middle)))
                row = int(track.rows[index])
                reached = min((stop - start) / parts, 2 * reach)
                if scene.judged[row] or reached < 2 or score[row] < MIN_FIXED_SCORE:
                    continue
                # Refining boxes of somebody else's stretch does damage: confirmed tracks come first.
                real = 1.0 if scene.clamps.gate[row] == 1 else 0.5 * float(scene.real[track.rows].mean())
                identity = scene.ids([row])
                yield Question(
                    "FIX",
                    subject=identity,
                    moments=identity,
                    price=PRICES["FIX"],
                    probability=min(1.0, 4 * float(missing[row])),
                    gain=real * float(missing[row]) * CARRIED_OVER * reached,
                    entropy=float(scene.entropy[row]),
                )


def _measured_loss(scene: Scene, expected: NDArray[np.float64]) -> float:
    """What boxes that a human looked at lacked, against what was expected of them; 1 before any was.

    A box that was let pass lacks nothing; ``FIX_PRIOR`` boxes that are as expected stand at the beginning.
    """
    looked = np.flatnonzero(scene.judged)
    moved = np.array([row for row in looked if int(row) in scene.clamps.boxes], np.int64)
    drawn = np.array([scene.clamps.boxes[int(row)] for row in moved], np.float64).reshape(-1, 4)
    lacked = float((1 - iou_pairs(scene.detections.box[moved].astype(np.float64), drawn)).sum())
    prior = FIX_PRIOR * float(expected.mean()) if len(expected) else 1.0
    return (prior + lacked) / (prior + float(expected[looked].sum()))
