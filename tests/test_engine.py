"""The engine end to end on generated scenes: what it returns, what it refuses, and that answers are kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer, resolve
from spam_cvat.boxes import iou_pairs
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.errors import InputError
from spam_cvat.evaluation import evaluate
from spam_cvat.hierarchy import stitching
from spam_cvat.hierarchy.levels import BORDER, EXTENTS, STAGES, stage_name
from spam_cvat.hierarchy.normalise import listed_once
from spam_cvat.hierarchy.stitching import clip_ranges
from spam_cvat.training.synthetic import EmbedderConfig, Scene, generate_scene, preset


@pytest.fixture(scope="module")
def street() -> Scene:
    return generate_scene(3, preset("street", num_frames=150, people=10))


@pytest.fixture(scope="module")
def annotation(street: Scene) -> Annotation:
    return annotate(street.detections, warps=street.warps)


def test_a_street_is_mostly_right_without_a_click(street: Scene, annotation: Annotation) -> None:
    scores = evaluate(street.ground_truth, annotation.tracks)
    assert scores.IDF1 > 0.75
    assert scores.MOTA > 0.7


def test_gate_tells_people_from_clutter(street: Scene, annotation: Annotation) -> None:
    real = street.identity > 0
    assert annotation.gate[real].mean() > annotation.gate[~real].mean() + 0.4


def test_levels_hold_candidates_decisions_and_probabilities(annotation: Annotation) -> None:
    n = len(annotation.detections)
    assert [level.extent for level in annotation.levels][:3] == [2, 4, 8]
    for level in annotation.levels:
        assert level.node.shape == (n,)
        assert len(level.edge) == len(level.raw) == len(level.probability) == len(level.decision)
        assert ((level.probability >= 0) & (level.probability <= 1)).all()
        for side in (0, 1):
            taken = level.edge[level.decision, side]
            assert len(np.unique(taken)) == len(taken)
        assert level.edge.max(initial=-1) <= level.node.max(initial=-1)


def test_tracks_point_at_their_detections(annotation: Annotation) -> None:
    tracks = annotation.tracks
    seen = tracks.detection >= 0
    source = tracks.detection[seen]
    assert len(np.unique(source)) == len(source)
    assert (annotation.detections.frame[source] == tracks.frame[seen]).all()
    assert np.median(iou_pairs(annotation.detections.box[source], tracks.box[seen])) > 0.8
    assert tracks.ids.tolist() == list(range(1, len(tracks.ids) + 1))


def test_the_same_input_gives_the_same_tracks(street: Scene, annotation: Annotation) -> None:
    again = annotate(street.detections, warps=street.warps)
    assert again.to_bytes() == annotation.to_bytes()


def test_an_annotation_survives_a_round_trip(annotation: Annotation) -> None:
    back = Annotation.from_bytes(annotation.to_bytes())
    assert back.config["min_score"] == EngineConfig().min_score
    assert [level.stage for level in back.levels] == [level.stage for level in annotation.levels]


@pytest.mark.parametrize("factor", [0.5, 0.35])
def test_a_detector_that_is_never_sure_is_understood(street: Scene, annotation: Annotation, factor: float) -> None:
    timid = replace(street.detections, score=street.detections.score * np.float32(factor))
    found = annotate(timid, warps=street.warps)
    assert found.provenance["score_scale"] > 1 == annotation.provenance["score_scale"]
    assert evaluate(annotation.tracks, found.tracks).IDF1 > 0.95
    seen = found.tracks.detection >= 0
    assert (found.tracks.score[seen] == timid.score[found.tracks.detection[seen]]).all()
    assert found.tracks.score.max() <= timid.score.max()


@pytest.mark.parametrize("step", [2, 3])
def test_a_detector_that_looks_at_some_frames_only_is_understood(
    street: Scene, annotation: Annotation, step: int
) -> None:
    looks = street.detections.select(street.detections.frame % step == 1)
    found = annotate(looks, warps=street.warps)
    assert evaluate(annotation.tracks, found.tracks).IDF1 > 0.9
    assert len(found.detections) == len(looks)
    row = int(np.flatnonzero(found.tracks.detection >= 0)[0])
    assert looks.frame[found.tracks.detection[row]] == found.tracks.frame[row]


def test_what_is_made_of_unlike_input_does_not_depend_on_answers(street: Scene) -> None:
    looks = street.detections.select(street.detections.frame % 3 == 1)
    faint = replace(looks, score=np.where(looks.frame == 1, np.float32(0.01), looks.score / 2))
    before = annotate(faint, warps=street.warps)
    unseen = int(np.flatnonzero(faint.frame == 1)[0])
    after = annotate(faint, warps=street.warps, answers=[Answer("accept", (int(faint.id[unseen]),))])
    assert before.gate[unseen] < 0.01
    assert after.gate[unseen] == 1
    others = np.delete(np.arange(len(faint)), unseen)
    assert (after.gate[others] == before.gate[others]).all()


def test_a_detector_that_lists_people_twice_is_understood(street: Scene, annotation: Annotation) -> None:
    rng = np.random.default_rng(0)
    once = street.detections
    height = (once.box[:, 3] - once.box[:, 1])[:, None]
    again = once.box + 0.02 * height * rng.standard_normal(once.box.shape).astype(np.float32)
    twice = Detections.create(
        once.video,
        np.concatenate([once.frame, once.frame]),
        np.concatenate([once.box, again]),
        np.concatenate([once.score, 0.9 * once.score]),
        drop_bad=True,
    )
    listed = listed_once(twice)
    assert 0.9 * len(once) < listed.sum() < 1.2 * len(once)
    assert evaluate(annotation.tracks, annotate(twice, warps=street.warps).tracks).IDF1 > 0.9
    assert listed_once(once).all()
    odd = twice.select(twice.frame % 2 == 1)
    assert (listed_once(odd) == listed[twice.frame % 2 == 1]).all()
    kept = annotate(twice, warps=street.warps, config=EngineConfig(gate=False)).levels[0].node
    assert (kept[twice.score >= EngineConfig().min_score] >= 0).all()


@pytest.mark.parametrize("factor", [3.0, 0.5], ids=["cars", "posts"])
def test_objects_that_are_not_shaped_like_people_are_linked_as_well(
    street: Scene, annotation: Annotation, factor: float
) -> None:
    wide = np.array([factor, 1, factor, 1], np.float32)
    video = replace(street.detections.video, width=round(street.detections.video.width * factor))
    detections = replace(street.detections, video=video, box=street.detections.box * wide)
    warps = street.warps * np.array([[1, factor, factor], [1 / factor, 1, 1]])
    tracks = annotate(detections, warps=warps).tracks
    expected = replace(annotation.tracks, box=annotation.tracks.box * wide)
    assert evaluate(expected, tracks).IDF1 > 0.95
    assert np.median(tracks.box[:, 2] - tracks.box[:, 0]) == pytest.approx(
        np.median(expected.box[:, 2] - expected.box[:, 0]), rel=0.05
    )


def _scaled(scene: Scene, factor: float) -> Detections:
    d = scene.detections
    video = replace(d.video, width=int(d.video.width * factor), height=int(d.video.height * factor))
    return replace(d, video=video, box=(d.box * factor).astype(np.float32))


@pytest.mark.parametrize("factor", [1 / 6, 2.0], ids=["320 wide", "4K"])
def test_resolution_does_not_matter(street: Scene, annotation: Annotation, factor: float) -> None:
    warps = street.warps.copy()
    warps[:, :, 2] *= factor
    tracks = annotate(_scaled(street, factor), warps=warps).tracks
    truth = replace(street.ground_truth, box=(street.ground_truth.box * factor).astype(np.float32))
    assert (
        pytest.approx(evaluate(street.ground_truth, annotation.tracks).IDF1, abs=0.05) == evaluate(truth, tracks).IDF1
    )


@pytest.mark.parametrize(("kind", "fps"), [("sparse", 7), ("dance", 25), ("street", 60)])
def test_frame_rates_and_kinds_of_motion(kind: str, fps: int) -> None:
    scene = generate_scene(5, preset(kind, num_frames=100, fps=fps, people=6))
    scores = evaluate(scene.ground_truth, annotate(scene.detections, warps=scene.warps).tracks)
    assert scores.MOTA > 0.5


def test_appearance_is_used_where_there_is_some() -> None:
    config = preset("dance", num_frames=200, people=8, embedder=EmbedderConfig(likeness=0.1, noise=0.3))
    scores = {True: 0.0, False: 0.0}
    for seed in (1, 2, 3):
        scene = generate_scene(seed, config)
        for known in scores:
            detections = scene.detections if known else scene.detections.with_embedding(None)
            scores[known] += evaluate(scene.ground_truth, annotate(detections, warps=scene.warps).tracks).IDF1 / 3
    assert scores[True] > scores[False] + 0.02


def test_no_boxes_and_no_frames() -> None:
    for frames in (0, 1, 50):
        result = annotate(Detections.empty(VideoInfo("empty", frames, 640, 480)))
        assert len(result.tracks) == 0
        assert len(Annotation.from_bytes(result.to_bytes()).gate) == 0


def test_one_frame_gives_no_track_unless_answered() -> None:
    video = VideoInfo("one", 1, 640, 480)
    detections = Detections.create(video, [0], [[10, 10, 60, 160]], [0.9])
    assert len(annotate(detections).tracks) == 0
    accepted = annotate(detections, answers=[Answer("accept", (int(detections.id[0]),))])
    assert accepted.tracks.detection.tolist() == [0]


def test_two_thousand_boxes_in_a_frame() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 3000, (2000, 2))
    frame = np.repeat(np.arange(3), 2000)
    box = np.tile(np.concatenate([corner, corner + np.array([20, 50])], axis=1), (3, 1)) + rng.normal(0, 0.3, (6000, 4))
    detections = Detections.create(VideoInfo("crowd", 3, 3840, 2160), frame, box, np.full(6000, 0.9))
    assert annotate(detections).gate.shape == (6000,)


def test_two_boxes_of_two_classes_are_two_tracks() -> None:
    video = VideoInfo("classes", 40, 640, 480)
    frame = np.tile(np.arange(40), 2)
    box = np.array([[100, 100, 150, 250]]) + np.zeros((80, 4))
    box[40:] += 5
    label = np.repeat([0, 1], 40)
    detections = Detections.create(video, frame, box, np.full(80, 0.95), label, ("person", "rider"))
    tracks = annotate(detections, config=EngineConfig(gate=False)).tracks
    assert len(tracks.ids) == 2
    for track in tracks.ids:
        assert len(np.unique(tracks.label[tracks.rows(track)])) == 1


def test_warps_of_another_video_are_refused(street: Scene) -> None:
    with pytest.raises(InputError, match="camera motion has shape"):
        annotate(street.detections, warps=street.warps[:-1])


def test_missing_weights_are_named(street: Scene, tmp_path) -> None:
    with pytest.raises(InputError, match=r"gone\.npz: cannot read the weights"):
        annotate(street.detections, weights=tmp_path / "gone.npz")


def test_broken_warps_count_as_no_motion(street: Scene) -> None:
    warps = street.warps.copy()
    warps[40] = np.nan
    warps[41, :, :2] *= 7
    assert len(annotate(street.detections, warps=warps).tracks) > 0


def test_clips_are_joined_across_their_borders(street: Scene, annotation: Annotation, monkeypatch) -> None:
    monkeypatch.setattr(stitching, "CLIP_FRAMES", (50, 60))
    monkeypatch.setattr(stitching, "CLIP_BOXES", 1)
    pieces = annotate(street.detections, warps=street.warps)
    assert pieces.levels[-1].extent == 1024
    # Records are joined by what they are, in the order in which steps are taken, and speak of all clips' boxes.
    stages = [level.stage for level in pieces.levels]
    assert stages == [stage for stage in STAGES if stage in stages]
    assert set(stages) >= {stage_name("level", k) for k in range(len(EXTENTS))} | {BORDER}
    for level in pieces.levels:
        assert len(level.node) == len(street.detections)
        assert level.edge.max(initial=-1) <= level.node.max()
    whole = evaluate(street.ground_truth, annotation.tracks).IDF1
    assert whole - 0.12 < evaluate(street.ground_truth, pieces.tracks).IDF1


def test_a_clip_without_a_stage_has_no_part_in_its_record(street: Scene, monkeypatch) -> None:
    """Where one person walks alone there are no crossings."""
    monkeypatch.setattr(stitching, "CLIP_FRAMES", (50, 60))
    monkeypatch.setattr(stitching, "CLIP_BOXES", 1)
    border = clip_ranges(street.detections)[0][1]
    late = street.identity[street.detections.frame >= border]
    alone = np.bincount(late[late > 0]).argmax()
    kept = (street.detections.frame < border) | (street.identity == alone)
    detections = street.detections.select(np.flatnonzero(kept))
    levels = {level.stage: level for level in annotate(detections, warps=street.warps).levels}
    second = detections.frame >= border
    crossings = levels[stage_name("crossings", 3)]
    assert len(crossings.edge)
    assert (crossings.node[second] == -1).all()
    assert (levels[stage_name("level", 3)].node[second] >= 0).any()


CROWD = generate_scene(11, preset("street", num_frames=60, people=8))


@st.composite
def logs(draw: st.DrawFn) -> list[Answer]:
    """Answers about random detections, half of them about boxes of close frames so that they interfere with links."""
    ids = CROWD.detections.id
    out = []
    for _ in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["accept", "reject", "refine", "same", "different", "split", "assign"]))
        first = draw(st.integers(0, len(ids) - 1))
        count = {"refine": 1, "different": 2, "split": 2}.get(kind, draw(st.integers(2, 4)))
        near = st.integers(max(first - 60, 0), min(first + 60, len(ids) - 1))
        rows = [first]
        while len(rows) < count:
            rows.append(draw(near if draw(st.booleans()) else st.integers(0, len(ids) - 1)))
        if len(set(rows)) < len(rows):
            continue
        out.append(
            Answer(
                kind,
                tuple(int(ids[row]) for row in rows),
                box=(10.0, 20.0, 70.0, 200.0) if kind == "refine" else None,
                identity=draw(st.sampled_from(["a", "b", "c"])) if kind == "assign" else None,
            )
        )
    return out


@settings(max_examples=30, deadline=None)
@given(logs(), st.booleans())
def test_no_answer_is_ever_contradicted(answers: list[Answer], in_clips: bool) -> None:
    clamps = resolve(answers, CROWD.detections)
    limits = stitching.CLIP_FRAMES, stitching.CLIP_BOXES
    try:
        if in_clips:
            stitching.CLIP_FRAMES, stitching.CLIP_BOXES = (10, 20), 1
        result = annotate(CROWD.detections, warps=CROWD.warps, answers=answers)
    finally:
        stitching.CLIP_FRAMES, stitching.CLIP_BOXES = limits
    assert clamps.violations(result.tracks) == []


def test_perfect_answers_make_perfect_identities() -> None:
    rows = np.flatnonzero(CROWD.identity > 0)
    ids = CROWD.detections.id
    answers = [Answer("reject", tuple(int(i) for i in ids[CROWD.identity == 0]))]
    for person in np.unique(CROWD.identity[rows]):
        mine = np.flatnonzero(CROWD.identity == person)
        answers.append(Answer("assign", tuple(int(i) for i in ids[mine]), identity=f"p{person}"))
    result = annotate(CROWD.detections, warps=CROWD.warps, answers=answers)
    seen = result.tracks.detection >= 0
    assert sorted(result.tracks.detection[seen]) == rows.tolist()
    assert len(result.tracks.ids) == len(np.unique(CROWD.identity[rows]))
