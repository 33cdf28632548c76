"""Open ends of tracks are judged once more by what is clear of other tracks."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam_cvat.annotation import Annotation, candidate_edges
from spam_cvat.answers import Answer, Clamps, resolve
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.engine import annotate
from spam_cvat.hierarchy import levels
from spam_cvat.hierarchy.assignment import Guard, People
from spam_cvat.hierarchy.ends import Opened, clear_ends, link_ends
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.levels import AMENDED_ENDS, ENDS, ClipResult, GeometryScorer, Policy
from spam_cvat.hierarchy.motion_fit import Members, measure_motion
from spam_cvat.training.synthetic import Scene, generate_scene, preset

VIDEO = VideoInfo("street", 60, 1280, 720, 30.0)
SURE, UNSURE = 0.9, 0.5


def _walk(*parts: tuple[Iterable[int], float, float]) -> tuple[Clip, np.ndarray]:
    """A clip of tracks that walk to the right at one speed, and each row's track.

    Of each its frames, by how many pixels it is ahead, and its confidence; no two of these are alike.
    """
    rows = [(k, number, 100 + 4 * k + ahead, sure) for number, (some, ahead, sure) in enumerate(parts) for k in some]
    rows.sort(key=lambda row: (row[0], -row[3]))
    frame, track, left, score = zip(*rows, strict=True)
    detections = Detections.create(VIDEO, frame, [[x, 200, x + 60, 380] for x in left], score)
    assert detections.score.tolist() == np.float32(score).tolist()
    return Clip.create(detections, None), np.array(track)


def _linked(clip: Clip, node: np.ndarray, gate: float = 3.0) -> ClipResult:
    node = levels.compact(node)
    motion = measure_motion(clip, Members.of(node))
    return ClipResult(node, np.full(len(clip), gate), np.full(node.max() + 1, gate), (), motion, np.full(20, 0.5))


def test_a_person_seen_as_before_and_as_next_at_once_is_one_track() -> None:
    clip, node = _walk((range(0, 32), 0, UNSURE), (range(28, 60), 12, SURE))
    found = link_ends(clip, _linked(clip, node), GeometryScorer(), Policy())
    assert found.track_gate.tolist() == [3.0]
    # The surer boxes are kept where there are two in a frame.
    kept = found.node == 0
    assert np.bincount(clip.frame[kept]).tolist() == [1] * 60
    assert (clip.score[kept & (clip.frame >= 28)] == np.float32(SURE)).all()
    [record] = found.levels
    assert (record.stage, record.decision.tolist()) == (ENDS, [True])
    # What the record says is found again from two successive boxes of the track.
    rows = np.flatnonzero(kept)
    before, after = rows[:-1], rows[1:]
    known = candidate_edges(found.levels).lookup(before, after)
    assert clip.frame[before[~np.isnan(known)]].tolist() == [27]


def test_two_people_who_stay_together_for_longer_are_two() -> None:
    clip, node = _walk((range(0, 41), 0, SURE), (range(20, 60), 12, SURE))
    before = _linked(clip, node)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before


def test_who_begins_after_another_and_ends_before_is_no_continuation() -> None:
    clip, node = _walk((range(0, 60), 0, SURE), (range(28, 32), 12, SURE))
    before = _linked(clip, node)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before


def test_tracks_of_nobody_are_not_joined() -> None:
    clip, node = _walk((range(0, 32), 0, SURE), (range(28, 60), 12, SURE))
    before = _linked(clip, node, gate=-1.0)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before
    # Without a gate there are no such tracks.
    assert len(link_ends(clip, before, GeometryScorer(), Policy(gate=-np.inf)).track_gate) == 1


def test_boxes_close_to_others_do_not_speak_for_an_end() -> None:
    # The second walks beside the first from frame 50 on, and a third is alone.
    clip, node = _walk((range(0, 60), 0, SURE), (range(50, 60), 12, SURE), (range(0, 10), 900, SURE))
    ends = clear_ends(clip, node)
    assert ends.first.tolist() == [0, 50, 0]
    assert ends.last.tolist() == [59, 59, 9]
    assert ends.until.tolist() == [49, 59, 9]
    # All of the second's boxes are contested, so it is judged as a whole.
    assert ends.clear.tolist() == [0, 50, 0]


def test_an_end_is_cut_back_for_a_moment_at_most() -> None:
    clip, node = _walk((range(0, 60), 0, SURE), (range(20, 60), 12, SURE))
    ends = clear_ends(clip, node)
    assert ends.until.tolist() == [59 - 18] * 2
    assert ends.clear.tolist() == [0, 20 + 18]


@given(st.lists(st.sets(st.integers(0, 24), min_size=2), min_size=2, max_size=4), st.integers(1, 30))
def test_nobody_is_at_two_places_at_once(frames: list[set[int]], offset: int) -> None:
    clip, node = _walk(*((some, offset * number, SURE - number / 9) for number, some in enumerate(frames)))
    found = link_ends(clip, _linked(clip, node), GeometryScorer(), Policy(end=-9.0))
    there = found.node >= 0
    assert len({*zip(found.node[there], clip.frame[there], strict=True)}) == there.sum()
    assert len(found.track_gate) == found.node.max() + 1
    for record in found.levels:
        last, first = record.boxes().T
        assert (clip.frame[last] < clip.frame[first]).all()
        assert ((found.node[last] == found.node[first]) | ~record.decision).all()


def _opened(
    clip: Clip, node: np.ndarray, held: list[tuple[int, int]], apart: list[tuple[int, int]], opened: bool = True
) -> Opened:
    """All ends opened (or none) by answers that hold boxes, (track, frame), and call tracks different."""
    places = list(zip(node.tolist(), clip.frame.tolist(), strict=True))
    mask = np.isin(np.arange(len(clip)), [places.index(place) for place in held])
    cannot = [(int(np.argmax(node == a)), int(np.argmax(node == b))) for a, b in apart]
    clamps = Clamps(np.where(mask, 1, -1).astype(np.int8), np.zeros((0, 2), np.int64), np.array(cannot).reshape(-1, 2))
    every = np.full(len(clip), opened)
    return Opened(every, every, mask, Guard(People(clamps, clip.frame), clip.frame))


def test_boxes_that_answers_speak_of_stay_where_one_track_takes_over_from_another() -> None:
    clip, node = _walk((range(0, 32), 0, UNSURE), (range(28, 60), 12, SURE))
    opened = _opened(clip, node, [(0, 30)], [])
    found = link_ends(clip, _linked(clip, node), GeometryScorer(), Policy(), opened)
    kept = found.node == 0
    assert np.bincount(clip.frame[kept]).tolist() == [1] * 60
    assert clip.frame[kept & (node == 1)].min() == 31
    assert found.levels[-1].stage == AMENDED_ENDS


@pytest.mark.parametrize(
    ("held", "apart", "opened"),
    [
        ([(0, 31), (1, 28)], [], True),  # each has a box that stays while the other is there
        ([], [(0, 1)], True),  # a human said that they are two
        ([], [], False),  # no answer has opened these ends
    ],
)
def test_answers_keep_tracks_that_overlap_apart(
    held: list[tuple[int, int]], apart: list[tuple[int, int]], opened: bool
) -> None:
    clip, node = _walk((range(0, 32), 0, UNSURE), (range(28, 60), 12, SURE))
    before = _linked(clip, node)
    assert link_ends(clip, before, GeometryScorer(), Policy(), _opened(clip, node, held, apart, opened)) is before


@given(
    st.lists(st.sets(st.integers(0, 24), min_size=2), min_size=2, max_size=4),
    st.integers(1, 30),
    st.lists(st.integers(0, 99), max_size=6),
)
def test_nothing_that_answers_hold_is_left_out(frames: list[set[int]], offset: int, some: list[int]) -> None:
    clip, node = _walk(*((some, offset * number, SURE - number / 9) for number, some in enumerate(frames)))
    places = list(zip(node.tolist(), clip.frame.tolist(), strict=True))
    opened = _opened(clip, node, [places[k % len(places)] for k in some], [])
    found = link_ends(clip, _linked(clip, node), GeometryScorer(), Policy(end=-9.0), opened)
    assert (found.node[opened.held] >= 0).all()
    there = found.node >= 0
    assert len({*zip(found.node[there], clip.frame[there], strict=True)}) == there.sum()


@pytest.fixture(scope="module", params=[("moving", 3), ("moving", 6), ("dance", 1)], ids=str)
def scene(request: pytest.FixtureRequest) -> Scene:
    kind, seed = request.param
    return generate_scene(seed, preset(kind, num_frames=120, people=14))


@pytest.fixture(scope="module")
def annotation(scene: Scene) -> Annotation:
    return annotate(scene.detections, warps=scene.warps)


def test_what_is_joined_can_be_asked_about(scene: Scene, annotation: Annotation) -> None:
    record = annotation.levels[-1]
    assert record.stage == ENDS
    last, first = record.boxes().T
    assert (scene.detections.frame[last] < scene.detections.frame[first]).all()
    track = np.full(len(scene.detections), -1)
    seen = annotation.tracks.detection >= 0
    track[annotation.tracks.detection[seen]] = annotation.tracks.track[seen]
    both = (track[last] >= 0) & (track[first] >= 0)
    assert record.decision.any()
    assert ((track[last] == track[first]) == record.decision)[both].all()


@pytest.mark.parametrize("said", ["same", "different"])
def test_answers_about_ends_are_kept(scene: Scene, annotation: Annotation, said: str) -> None:
    record = annotation.levels[-1]
    ids = scene.detections.id
    taken_first = np.argsort(~record.decision, kind="stable")
    for boxes in record.boxes()[taken_first[:5]]:
        answers = [Answer(said, tuple(int(ids[row]) for row in boxes))]
        result = annotate(scene.detections, warps=scene.warps, answers=answers)
        assert not resolve(answers, scene.detections).violations(result.tracks)
