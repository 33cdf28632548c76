"""Boxes put into gaps: what they are worth by what the scene shows, and which are left out."""

import numpy as np
from scene_clips import HEIGHT, clip_of

from spam_cvat.annotation import UNKNOWN_LINK, Edges
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.evaluation import evaluate
from spam_cvat.hierarchy.filling import Rows, fill
from spam_cvat.hierarchy.gaps import believable, confidence, measure_predictability
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.training.synthetic import generate_scene, random_config

NO_LINKS = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def three_with_gaps(unsure: float) -> tuple[Clip, np.ndarray]:
    """One unseen for a second behind another, one in the open; ``unsure`` boxes for a sure one elsewhere."""
    x = np.array([[400.0], [415.0], [900.0], [1500.0]]) + np.zeros((4, 100))
    y = np.array([[300.0], [310.0], [300.0], [300.0]]) + np.zeros((4, 100))
    clip, node = clip_of(x, y)
    clip.score[node == 3] = np.where(clip.frame[node == 3] < 300 * unsure, 0.35, 0.05)
    away = (clip.frame >= 40) & (clip.frame < 65)
    return clip, np.where((node == 3) | (away & ((node == 0) | (node == 2))), -1, node)


def test_long_gaps_of_a_watchful_detector_are_filled_where_somebody_stands_in_front() -> None:
    clip, node = three_with_gaps(0.2)
    rows = fill(clip, node, clip.box)
    shown = believable(clip, rows)
    np.testing.assert_array_equal(shown, (rows.row >= 0) | (rows.track == 0))
    assert (~shown).sum() == 25


def test_all_gaps_of_a_detector_that_reports_nothing_unsure_are_filled() -> None:
    clip, node = three_with_gaps(0.0)
    assert believable(clip, fill(clip, node, clip.box)).all()


def test_gaps_of_a_detector_that_often_overlooks_people_are_filled() -> None:
    clip, node = three_with_gaps(0.2)
    blinks = (node == 1) & (clip.frame % 10 == 5)
    assert believable(clip, fill(clip, np.where(blinks, -1, node), clip.box)).all()


def turning(period: float, every: int = 1) -> tuple[Clip, Rows]:
    """Four people who go to and fro over two heights, so many seconds for each time; seen in one frame of so many."""
    phase = 2 * np.pi * (np.arange(400) / 25 / period + np.arange(4)[:, None] / 4)
    clip, node = clip_of(600 + 300 * np.arange(4)[:, None] + HEIGHT * np.sin(phase))
    return clip, fill(clip, np.where(clip.frame % every == 0, node, -1), clip.box)


def test_a_line_says_where_people_are_for_as_long_as_they_do_not_turn() -> None:
    fast, slow = (measure_predictability(turning(period)[1]) for period in (1.0, 16.0))
    middle = np.array([2.0, 12.0, 25.0])
    assert (slow.of(middle, middle) > 0.9).all()
    near, half, far = fast.of(middle, middle)
    assert near > 0.9
    assert half < 0.3
    assert far <= half


def test_places_near_either_end_of_a_gap_are_surer_than_its_middle() -> None:
    known = measure_predictability(turning(1.0)[1])
    one, other = np.array([1.0, 6.0, 11.0]), np.array([11.0, 6.0, 1.0])
    start, middle, end = known.of(one, other)
    assert start == end > middle + 0.2


def test_where_the_detector_skips_frames_it_is_measured_on_those_it_looks_at() -> None:
    middle = np.array([12.0])
    whole, skipped = (measure_predictability(turning(1.0, every)[1]).of(middle, middle) for every in (1, 3))
    np.testing.assert_allclose(skipped, whole, atol=0.15)


def test_nothing_is_known_where_there_is_nothing_to_predict() -> None:
    clip, node = clip_of(np.array([[400.0, 402.0]]))
    known = measure_predictability(fill(clip, node, clip.box))
    np.testing.assert_array_equal(known.of(np.ones(2), np.ones(2)), 1.0)


def test_a_filled_box_is_worth_what_its_link_is_and_a_seen_one_what_it_says() -> None:
    clip, node = clip_of(400 + np.arange(100) * 1.0 + np.arange(2)[:, None] * 500)
    away = (node == 1) & (clip.frame >= 40) & (clip.frame < 50)
    rows = fill(clip, np.where(away, -1, node), clip.box)
    last, following = (np.flatnonzero((node == 1) & (clip.frame == k)) for k in (39, 50))
    links = Edges(last + 7, following + 7, np.array([0.6]))
    np.testing.assert_allclose(confidence(rows, links, 7), np.where(rows.row < 0, 0.6, 1.0), atol=0.01)
    np.testing.assert_allclose(confidence(rows, NO_LINKS, 0)[rows.row < 0], UNKNOWN_LINK, atol=0.01)


def test_boxes_that_players_run_away_from_are_not_put_into_gaps() -> None:
    seed = 700_000
    scene = generate_scene(seed, random_config(np.random.default_rng(seed), 240, kind="sport"))
    every, shown = (
        annotate(scene.detections, warps=scene.warps, config=EngineConfig(gap_confidence=least)).tracks
        for least in (0.0, 0.5)
    )
    left_out = len(every) - len(shown)
    assert left_out > 10
    assert (every.detection >= 0).sum() == (shown.detection >= 0).sum()
    wrong = [evaluate(scene.ground_truth, tracks, "plain").clear.fp for tracks in (every, shown)]
    assert wrong[0] - wrong[1] > 0.7 * left_out
