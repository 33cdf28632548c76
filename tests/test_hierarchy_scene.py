"""What the hierarchy measures in a scene without labels (how wide to smooth, what looks mean), cuts, and late links."""

import numpy as np
import pytest
from scene_clips import HEIGHT, clip_of

from spam_cvat.annotation import Level
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.filling import fill
from spam_cvat.hierarchy.finish import smoothed
from spam_cvat.hierarchy.geometry import Clip, to_corners
from spam_cvat.hierarchy.levels import (
    EXTENTS,
    FINAL_LEVEL,
    GeometryScorer,
    Policy,
    cut_contests,
    is_thing,
    link_weak,
    run_clip,
)
from spam_cvat.hierarchy.look import measure_look
from spam_cvat.hierarchy.motion_fit import Members, measure_motion
from spam_cvat.hierarchy.normalise import looked_at, people_shaped
from spam_cvat.training.synthetic import generate_scene, preset


def lasting_noise(rng: np.random.Generator, frames: int, size: float) -> np.ndarray:
    """Errors that last for some frames, as a detector's do."""
    noise = np.zeros(frames)
    for k in range(1, frames):
        noise[k] = 0.7 * noise[k - 1] + np.sqrt(1 - 0.7**2) * rng.normal(0, size)
    return noise


def test_smoothing_takes_out_errors_that_last_where_people_walk() -> None:
    rng = np.random.default_rng(3)
    true = 200 + np.arange(150) * 2.0 + np.arange(4)[:, None] * 300
    seen = true + np.stack([lasting_noise(rng, 150, 0.03 * HEIGHT) for _ in range(4)])
    clip, node = clip_of(seen)
    rows = fill(clip, node, clip.box)
    box, width = smoothed(clip, rows)
    before = np.abs(rows.box[:, 0] - true.ravel()).mean()
    assert width[0] >= 2
    assert np.abs(box[:, 0] - true.ravel()).mean() < 0.8 * before


def test_smoothing_leaves_a_dance_as_it_is() -> None:
    time = np.arange(150) / 25
    sway = 0.3 * HEIGHT * np.sin(2 * np.pi * 1.5 * time + np.arange(3)[:, None])
    clip, node = clip_of(500 + np.arange(3)[:, None] * 300 + sway)
    rows = fill(clip, node, clip.box)
    box, width = smoothed(clip, rows)
    assert width[0] <= 1
    assert np.abs(box[:, 0] - rows.box[:, 0]).mean() < 0.02 * HEIGHT


def test_clear_boxes_decide_where_a_hidden_person_is() -> None:
    rng = np.random.default_rng(5)
    true = 200 + np.arange(150) * 2.0 + np.arange(4)[:, None] * 300
    seen = true + rng.normal(0, 0.02 * HEIGHT, true.shape)
    seen[0, 70:90] += 0.15 * HEIGHT  # half hidden, so that the box is of what is left
    hidden = np.zeros(true.shape, bool)
    hidden[0, 70:90] = True
    clip, node = clip_of(seen)
    clip.score[:] = np.where(hidden, 0.4, 0.9).T.ravel()
    rows = fill(clip, node, clip.box)
    box, _ = smoothed(clip, rows)
    error = np.abs(box[:, 0] - true.ravel())
    assert error[70:90].mean() < 0.5 * 0.15 * HEIGHT
    assert error.mean() < np.abs(rows.box[:, 0] - true.ravel()).mean()


def test_filled_gaps_are_smoothed_with_what_surrounds_them() -> None:
    true = 200 + np.arange(100) * 2.0 + np.arange(3)[:, None] * 300
    clip, node = clip_of(true)
    node = np.where((node == 1) & (clip.frame > 40) & (clip.frame < 60), -1, node)
    rows = fill(clip, node, clip.box)
    box, _ = smoothed(clip, rows)
    np.testing.assert_allclose(box[:, 0], true.ravel(), atol=0.01 * HEIGHT)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_short_tracks_stay_where_they_are(frames: int) -> None:
    clip, node = clip_of(np.full((1, frames), 400.0) + np.arange(frames))
    rows = fill(clip, node, clip.box)
    box, _ = smoothed(clip, rows)
    np.testing.assert_allclose(box, rows.box, atol=0.05)


def test_who_comes_back_is_a_candidate_among_many_who_come_much_later() -> None:
    # Somebody is away for half a second; ten others begin two seconds later, each about where the motion would lead.
    back = {27 + k: 180.0 + 2 * (27 + k) for k in range(13)}
    places = [{frame: 200.0 + 2 * frame for frame in range(15)}, back]
    places += [{frame: 195.0 + k + 2 * frame for frame in range(50, 60)} for k in range(10)]
    row = [(frame, x, person) for person, path in enumerate(places) for frame, x in path.items()]
    frame, x, person = (np.array(column) for column in zip(*sorted(row), strict=True))
    half = np.array([20.0, 50.0])
    centre = np.stack([x, np.full(len(x), 300.0)], axis=1)
    box = np.concatenate([centre - half, centre + half], axis=1)
    video = VideoInfo("scene", 60, 1920, 1080, 25.0)
    clip = Clip.create(Detections.create(video, frame, box, np.full(len(x), 0.9)), None)
    nodes, members = graphs.tracklet_nodes(clip, person, np.ones(len(clip)))
    motion = measure_motion(clip, members)
    likely, hard = (graphs.tracklet_pairs(nodes, motion, clip, 64, hard=hard) for hard in (False, True))
    assert (likely == [0, 1]).all(1).any()
    assert not (hard == [0, 1]).all(1).any()
    assert (likely[:, 0] == 0).sum() == (hard[:, 0] == 0).sum() == graphs.NEIGHBOURS


@pytest.mark.parametrize("limit", [1, 50, 1000])
def test_candidates_are_the_same_however_few_are_weighed_at_a_time(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = generate_scene(3, preset("street", num_frames=60))
    clip = Clip.create(scene.detections, scene.warps)
    node = graphs.chains(clip, graphs.adjacent_pairs(clip))
    nodes, members = graphs.tracklet_nodes(clip, node, np.ones(len(clip)))
    motion = measure_motion(clip, members)
    every = graphs.tracklet_pairs(nodes, motion, clip, 32)
    assert len(every) > 500
    monkeypatch.setattr(graphs, "PAIR_LIMIT", limit)
    np.testing.assert_array_equal(graphs.tracklet_pairs(nodes, motion, clip, 32), every)


def looks(noise: float) -> tuple[Clip, np.ndarray]:
    """Three people apart, each with a look of its own and as much noise in every frame."""
    rng = np.random.default_rng(1)
    clip, node = clip_of(np.array([[200.0], [800], [1400]]) + np.zeros((3, 60)), look=np.eye(3, 32))
    assert clip.embedding is not None
    noisy = clip.embedding + rng.normal(0, noise / np.sqrt(32), clip.embedding.shape)
    clip.embedding[:] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return clip, node


@pytest.mark.parametrize("noise", [0.2, 0.6, 1.2])
def test_looks_mean_the_same_whatever_the_network(noise: float) -> None:
    clip, node = looks(noise)
    look = measure_look(clip, Members.of(node))
    assert clip.embedding is not None
    mine, other = clip.embedding[0::3], clip.embedding[1::3]
    one = 1 - (mine[:30] * mine[30:]).sum(1).mean()
    two = 1 - (mine[:30] * other[30:]).sum(1).mean()
    assert look.separation > 0.7
    assert look.units(np.array([one, two])) == pytest.approx([0, 1], abs=0.3)


def test_looks_that_say_nothing_are_worth_nothing() -> None:
    clip, node = looks(1e6)
    assert measure_look(clip, Members.of(node)).separation < 0.2
    bare, node = clip_of(np.zeros((2, 20)) + np.array([[200.0], [800]]))
    assert measure_look(bare, Members.of(node)).separation == 0


@pytest.mark.parametrize("kept", [True, False])
def test_tracks_are_cut_where_somebody_else_is_near(kept: bool) -> None:
    """Two people pass each other; the second one may be a box that the gate left out."""
    step = np.arange(80) * 10.0
    clip, node = clip_of(np.stack([100 + step, 900 - step]), np.stack([np.full(80, 300.0), np.full(80, 310.0)]))
    if not kept:
        node = np.where(node == 0, 0, -1)
    cuts = cut_contests(clip, node)
    assert len(cuts.link) == (2 if kept else 1)
    tail = clip.frame[(cuts.segment == cuts.link[0, 0]) & (node == 0)].max()
    assert abs(tail - 40) <= 2  # they meet half-way
    assert (cuts.clear[np.abs(clip.frame - 40) <= 1] == -1).all()


def test_who_meets_nobody_is_not_cut() -> None:
    clip, node = clip_of(np.array([[100.0], [900]]) + np.zeros((2, 40)))
    assert not len(cut_contests(clip, node).link)


def late(clip: Clip, node: np.ndarray, weak: np.ndarray) -> tuple[np.ndarray, list[Level]]:
    """Nodes after the weak detections were linked by geometry."""
    pairs = graphs.adjacent_pairs(clip)
    nodes, _, motion = graphs.detection_nodes(clip, graphs.chains(clip, pairs))
    _, logit = GeometryScorer().detections(graphs.build(nodes, pairs, motion, clip))
    levels: list[Level] = []
    lasting = np.ones(len(clip))
    policy = Policy()
    after = link_weak(clip, node, weak, pairs, logit, lasting, motion, GeometryScorer(), policy, levels, EXTENTS)
    return after, levels


def test_weak_detections_fill_gaps_extend_tracks_and_make_some() -> None:
    """One person is weak for a while and at the end, another one all the time."""
    step = np.arange(40) * 4.0
    clip, who = clip_of(np.stack([100 + step, 1500 - step]))
    weak = (who == 1) | ((clip.frame >= 15) & (clip.frame < 20)) | (clip.frame >= 34)
    after, levels = late(clip, np.where(weak, -1, 0), weak)
    assert len(levels) > 1
    assert (after[who == 0] == after[0]).all()
    other = after[who == 1]
    assert (other == other[0]).all()
    assert other[0] >= 0
    assert other[0] != after[0]


def test_second_boxes_of_tracked_people_stay_out() -> None:
    step = np.arange(30) * 4.0
    clip, who = clip_of(np.stack([100 + step, 104 + step]))
    after, _ = late(clip, np.where(who == 0, 0, -1), who == 1)
    assert (after[who == 1] == -1).all()
    assert (after[who == 0] == 0).all()


def test_a_lone_weak_detection_is_no_track() -> None:
    clip, who = clip_of(np.stack([100 + np.arange(20) * 4.0, np.full(20, 1500.0)]))
    weak = (who == 1) & (clip.frame == 7)
    after, _ = late(clip, np.where(who == 0, 0, -1), weak)
    assert (after[who == 1] == -1).all()


def test_a_sign_is_a_thing_and_a_still_person_is_not() -> None:
    """A sign, somebody who stands and sways, somebody who sits still in the open, and somebody who walks."""
    rng = np.random.default_rng(2)
    time = np.arange(200) / 25
    x = np.array([[100.0], [400], [800], [1200]]) + rng.normal(0, 0.5, (4, 200))
    x[1] += 0.05 * HEIGHT * np.sin(time)
    x[3] += 40 * time
    clip, node = clip_of(x)
    score = np.array([0.55, 0.56, 0.9, 0.57])[node]
    order = np.lexsort((-score, clip.frame))  # rows of a frame are sorted by falling score
    detections = Detections.create(
        VideoInfo("scene", 200, 1920, 1080, 25.0),
        clip.frame[order],
        to_corners(clip.box)[order],
        score[order],
    )
    assert is_thing(Clip.create(detections, None), node[order]).tolist() == [True, False, False, False]


class Doubtful(GeometryScorer):
    """Takes tracks as a whole for unlikely."""

    def tracklets(self, graph: graphs.Graph, level: int) -> tuple[np.ndarray, np.ndarray]:
        gate, logit = super().tracklets(graph, level)
        return (np.full_like(gate, -1.0) if level == FINAL_LEVEL else gate), logit


def test_a_track_of_sure_boxes_stays_whatever_it_looks_like_as_a_whole() -> None:
    step = np.arange(40) * 4.0
    for score, stays in ((0.95, True), (0.55, False)):
        clip, _ = clip_of((100 + step)[None], score=score)
        result = run_clip(clip, Doubtful(), Policy(gate=0.0, weak=0.0))
        assert (result.track_gate > 0).tolist() == [stays]


def _shaped(label: np.ndarray, ratio: np.ndarray) -> Detections:
    rng = np.random.default_rng(0)
    left, height = rng.uniform(0, 500, len(ratio)), rng.uniform(50, 90, len(ratio))
    box = np.stack([left, 10 + 0 * left, left + ratio * height, 10 + height], axis=1)
    video = VideoInfo("clip", 50, 640, 480)
    return Detections.create(video, np.arange(len(ratio)) % 50, box, np.full(len(ratio), 0.9), label, ("person", "car"))


def test_cars_are_squeezed_together_with_the_camera_motion() -> None:
    cars = _shaped(np.ones(200, int), np.full(200, 1.6))
    turn = np.array([[0.99, -0.02, 7.0], [0.03, 1.01, -4.0]])
    warps = np.tile(turn, (50, 1, 1))
    shaped, squeezed = people_shaped(cars, warps)
    size = shaped.box[:, 2:] - shaped.box[:, :2]
    np.testing.assert_allclose(size[:, 0] / size[:, 1], 0.4, rtol=1e-4)
    assert shaped.video.width == 160
    assert squeezed is not None
    point = np.array([300.0, 200.0])
    moved = turn[:, :2] @ point + turn[:, 2]
    again = squeezed[3, :, :2] @ (point * [0.25, 1]) + squeezed[3, :, 2]
    np.testing.assert_allclose(again, moved * [0.25, 1])


def test_people_keep_their_shape_also_among_cars() -> None:
    label = np.arange(200) % 4 > 0
    mixed = _shaped(label.astype(int), np.where(label, 1.6, 0.4))
    assert people_shaped(mixed, None) == (mixed, None)
    assert people_shaped(Detections.empty(VideoInfo("empty", 2, 64, 64)), None)[1] is None


def test_frames_that_the_detector_skips_are_left_out_with_their_motion() -> None:
    cars = _shaped(np.ones(200, int), np.full(200, 0.4))
    third = cars.select(cars.frame % 3 == 2)
    step = np.array([[1.0, 0, 2], [0, 1, -1]])
    looks, warps = looked_at(third, np.tile(step, (50, 1, 1)))
    assert (looks.video.num_frames, looks.video.fps) == (16, 10)
    assert (looks.frame * 3 + 2 == third.frame).all()
    assert warps is not None
    np.testing.assert_allclose(warps[1:, :, 2], [[6, -3]] * 15, atol=1e-9)
    assert looked_at(cars, None) == (cars, None)
    few = cars.select(cars.frame % 20 == 0)
    assert looked_at(few, None) == (few, None), "three frames are no habit"
