"""Open ends of tracks are judged once more by what is clear of other tracks."""

import numpy as np
import pytest

from spam_cvat.annotation import Annotation, candidate_edges
from spam_cvat.answers import Answer, resolve
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.engine import annotate
from spam_cvat.hierarchy import levels
from spam_cvat.hierarchy.ends import clear_ends, link_ends
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.levels import ENDS, ClipResult, GeometryScorer, Policy
from spam_cvat.hierarchy.motion_fit import Members, measure_motion
from spam_cvat.training.synthetic import Scene, generate_scene, preset

VIDEO = VideoInfo("street", 60, 1280, 720, 30.0)
SURE, UNSURE = 0.9, 0.5


def _walk(*parts: tuple[int, int, float, float]) -> tuple[Clip, np.ndarray]:
    """A clip of tracks that walk to the right at one speed, and each row's track: (first, last, offset, score) each."""
    frame, track, left, score = [], [], [], []
    for number, (first, last, offset, confidence) in enumerate(parts):
        for k in range(first, last + 1):
            frame.append(k)
            track.append(number)
            left.append(100 + 4 * k + offset)
            score.append(confidence)
    # Given as rows' numbers, so that it can be found again in the order that Detections have.
    box = np.array([[x, 200, x + 60, 380] for x in left], float)
    detections = Detections.create(VIDEO, frame, box, score)
    order = np.lexsort((-np.array(score), frame))
    assert (detections.box == box[order].astype(np.float32)).all()
    return Clip.create(detections, None), np.array(track)[order]


def _linked(clip: Clip, node: np.ndarray, gate: float = 3.0) -> ClipResult:
    node = levels.compact(node)
    motion = measure_motion(clip, Members.of(node))
    return ClipResult(node, np.full(len(clip), gate), np.full(node.max() + 1, gate), (), motion, np.full(20, 0.5))


def test_a_person_seen_as_before_and_as_next_at_once_is_one_track() -> None:
    clip, node = _walk((0, 31, 0, UNSURE), (28, 59, 12, SURE))
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
    clip, node = _walk((0, 40, 0, SURE), (20, 59, 12, SURE))
    before = _linked(clip, node)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before


def test_who_begins_after_another_and_ends_before_is_no_continuation() -> None:
    clip, node = _walk((0, 59, 0, SURE), (28, 31, 12, SURE))
    before = _linked(clip, node)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before


def test_tracks_of_nobody_are_not_joined() -> None:
    clip, node = _walk((0, 31, 0, SURE), (28, 59, 12, SURE))
    before = _linked(clip, node, gate=-1.0)
    assert link_ends(clip, before, GeometryScorer(), Policy()) is before
    # Without a gate there are no such tracks.
    assert len(link_ends(clip, before, GeometryScorer(), Policy(gate=-np.inf)).track_gate) == 1


def test_boxes_close_to_others_do_not_speak_for_an_end() -> None:
    # The second walks beside the first from frame 50 on, and a third is alone.
    clip, node = _walk((0, 59, 0, SURE), (50, 59, 12, SURE), (0, 9, 900, SURE))
    ends = clear_ends(clip, node)
    assert ends.first.tolist() == [0, 50, 0]
    assert ends.last.tolist() == [59, 59, 9]
    assert ends.until.tolist() == [49, 59, 9]
    # All of the second's boxes are contested, so it is judged as a whole.
    assert ends.clear.tolist() == [0, 50, 0]


def test_an_end_is_cut_back_for_a_moment_at_most() -> None:
    clip, node = _walk((0, 59, 0, SURE), (20, 59, 12, SURE))
    ends = clear_ends(clip, node)
    assert ends.until.tolist() == [59 - 18] * 2
    assert ends.clear.tolist() == [0, 20 + 18]


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
