"""Which edges are true, and probabilities brought to a clip by what its own tracks say."""

from dataclasses import replace

import numpy as np
import pytest

from spam_cvat.answers import Answer
from spam_cvat.engine import annotate
from spam_cvat.hierarchy.calibration import logit, sigmoid
from spam_cvat.hierarchy.edge_labels import true_edges
from spam_cvat.hierarchy.ends import link_clip
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.levels import LIKE, Policy
from spam_cvat.hierarchy.recalibration import SETTLED, intercept, recalibrate, shifted
from spam_cvat.hierarchy.weights import load
from spam_cvat.training.synthetic import Scene, generate_scene, preset


@pytest.fixture(scope="module")
def scene() -> Scene:
    return generate_scene(4, preset("dance", num_frames=160, people=9))


def test_an_edge_is_true_between_successive_tracklets_of_one_person() -> None:
    # Person 1: nodes 0 (frames 0-1), 1 (frame 3), 3 (frame 5). Person 2: node 2 (frame 3). Node 4 (frame 6) is false.
    frame = np.array([0, 1, 3, 3, 5, 6])
    node = np.array([0, 0, 1, 2, 3, 4])
    identity = np.array([1, 1, 1, 2, 1, 0])
    edge = np.array([[0, 1], [0, 2], [0, 3], [1, 3], [2, 3], [3, 4]])
    assert true_edges(edge, node, frame, identity).tolist() == [True, False, False, True, False, False]


def test_a_tracklet_is_judged_by_the_ends_that_an_edge_joins() -> None:
    # Node 0 is person 1 first and person 2 at its end.
    frame = np.array([0, 1, 2, 3, 4, 5, 7])
    node = np.array([0, 0, 0, 0, 0, 0, 1])
    identity = np.array([1, 1, 1, 2, 2, 2, 2])
    assert true_edges(np.array([[0, 1]]), node, frame, identity).tolist() == [True]


def test_the_intercept_expects_as_many_links_as_held() -> None:
    rng = np.random.default_rng(3)
    log_odds = rng.normal(-1, 2, 5000)
    held = rng.random(5000) < sigmoid(log_odds + 0.8)
    assert intercept(log_odds, held) == pytest.approx(0.8, abs=0.1)
    assert sigmoid(log_odds + intercept(log_odds, held, prior=1e-6)).sum() == pytest.approx(held.sum(), abs=0.01)


def test_few_links_move_nothing_far_and_none_nothing_at_all() -> None:
    assert 0 < intercept(np.zeros(3), np.ones(3, bool)) < 0.1
    assert -0.1 < intercept(np.zeros(3), np.zeros(3, bool)) < 0
    assert intercept(np.zeros(0), np.zeros(0, bool)) == 0.0
    # However wrong all are, it ends where 1000 sigmoid(30 + d) = -20 d.
    assert intercept(np.full(1000, 30.0), np.zeros(1000, bool)) == pytest.approx(-29.63, abs=0.01)


def test_stages_move_as_one_and_no_decision_changes(scene: Scene) -> None:
    clip = Clip.create(scene.detections, scene.warps.astype(np.float64))
    found = link_clip(clip, load(), Policy())
    moved = recalibrate(clip, found, Policy())
    np.testing.assert_array_equal(moved.node, found.node)
    assert any(abs(by) > 0.05 for by in moved.shift.values())
    for before, after in zip(found.levels, moved.levels, strict=True):
        np.testing.assert_array_equal(after.decision, before.decision)
        assert (before.stage in moved.shift) == (before.stage not in SETTLED and len(before.edge) > 0)
        by = moved.shift.get(before.stage, 0.0)
        between = (before.probability > 1e-4) & (before.probability < 1 - 1e-4)
        change = logit(after.probability.astype(float)) - logit(before.probability.astype(float))
        np.testing.assert_allclose(change[between], by, atol=0.01)


def test_what_a_detector_is_surer_of_than_it_should_be_comes_down() -> None:
    scene = generate_scene(4, preset("dance", num_frames=240))
    clip = Clip.create(scene.detections, scene.warps.astype(np.float64))
    scorer = load()
    sure = {stage: (slope, offset + 1.5) for stage, (slope, offset) in scorer.calibration.joint.items()}
    found = link_clip(clip, replace(scorer, calibration=replace(scorer.calibration, joint=sure)), Policy())
    moved = recalibrate(clip, found, Policy())
    both = [
        (before.probability, after.probability)
        for before, after in zip(found.levels, moved.levels, strict=True)
        if before.stage.startswith("level") and before.stage not in SETTLED
    ]
    stated, brought = (np.concatenate(column) for column in zip(*both, strict=True))
    assert len(stated) > 100
    assert (brought < stated).mean() > 0.9


def test_links_that_answers_open_are_moved_like_those_of_their_level(scene: Scene) -> None:
    free = annotate(scene.detections, warps=scene.warps)
    tracks = free.tracks
    rows = [tracks.detection[(tracks.track == t) & (tracks.detection >= 0)] for t in np.unique(tracks.track)]
    one = max(rows, key=len)
    ids = tuple(int(scene.detections.id[row]) for row in one[[len(one) // 2 - 1, len(one) // 2]])
    amended = annotate(scene.detections, warps=scene.warps, answers=[Answer("different", ids)])
    assert [level.stage for level in amended.levels[: len(free.levels)]] == [level.stage for level in free.levels]
    for before, after in zip(free.levels, amended.levels, strict=False):
        np.testing.assert_array_equal(after.probability, before.probability)
    record = next(level for level in amended.levels if level.stage in LIKE and len(level.edge))
    by = {LIKE[record.stage]: 1.0}
    change = logit(shifted(record, by).probability.astype(float)) - logit(record.probability.astype(float))
    between = (record.probability > 1e-4) & (record.probability < 1 - 1e-3)
    assert between.any()
    np.testing.assert_allclose(change[between], 1.0, atol=0.01)
