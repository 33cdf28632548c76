"""Answers are imposed on what was linked without them: what nobody spoke of stays as it was."""

from dataclasses import replace

import numpy as np
import pytest

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer, resolve
from spam_cvat.engine import annotate
from spam_cvat.review.simulate import Case, Simulation
from spam_cvat.training.synthetic import Scene, generate_scene, preset


@pytest.fixture(scope="module")
def dance() -> Scene:
    return generate_scene(4, preset("dance", num_frames=160, people=9))


@pytest.fixture(scope="module")
def free(dance: Scene) -> Annotation:
    return annotate(dance.detections, warps=dance.warps)


def _members(annotation: Annotation) -> list[set[int]]:
    """Rows of each track, longest first."""
    tracks = annotation.tracks
    own = tracks.detection >= 0
    sets = [set(tracks.detection[own & (tracks.track == track)].tolist()) for track in tracks.ids]
    return sorted(sets, key=len, reverse=True)


def _ids(scene: Scene, *rows: int) -> tuple[int, ...]:
    return tuple(int(scene.detections.id[row]) for row in rows)


def test_answers_that_agree_change_nobody(dance: Scene, free: Annotation) -> None:
    answers = [Answer("same", _ids(dance, *sorted(rows))) for rows in _members(free)]
    assert _members(annotate(dance.detections, warps=dance.warps, answers=answers)) == _members(free)


def test_who_is_called_different_from_others_keeps_all_boxes() -> None:
    config = preset("dance", num_frames=120, people=10)
    scene = generate_scene(4, replace(config, detector=replace(config.detector, base=2.2)))
    before = _members(annotate(scene.detections, warps=scene.warps))
    answers = [Answer("different", _ids(scene, min(before[0]), max(other))) for other in before[1:5]]
    assert _members(annotate(scene.detections, warps=scene.warps, answers=answers)) == before


@pytest.mark.parametrize("number", range(4))
def test_two_people_in_one_track_leave_the_other_tracks_whole(dance: Scene, free: Annotation, number: int) -> None:
    before = _members(free)
    rows = sorted(before[number])
    answers = [Answer("different", _ids(dance, rows[len(rows) // 3], rows[2 * len(rows) // 3]))]
    result = annotate(dance.detections, warps=dance.warps, answers=answers)
    after = _members(result)
    assert not resolve(answers, dance.detections).violations(result.tracks)
    others = before[:number] + before[number + 1 :]
    assert all(any(track <= other for other in after) for track in others)
    # Who gained something can only have gained it at the ends that the cut left open.
    assert sum(track not in after for track in others) <= 2


def test_the_order_of_answers_makes_no_difference(dance: Scene, free: Annotation) -> None:
    answers = [
        Answer("different", _ids(dance, rows[len(rows) // 3], rows[2 * len(rows) // 3]))
        for rows in map(sorted, _members(free)[:3])
    ]
    there, back = (annotate(dance.detections, warps=dance.warps, answers=some) for some in (answers, answers[::-1]))
    assert _members(there) == _members(back)


@pytest.mark.parametrize(("kind", "seed"), [("street", 1), ("dance", 4), ("moving", 2)])
def test_perfect_answers_do_little_harm(kind: str, seed: int) -> None:
    scene = generate_scene(seed, preset(kind, num_frames=160, people=9))
    simulation = Simulation([Case(scene.detections, scene.ground_truth, scene.warps)])
    scores = [simulation.scores().IDF1]
    for _ in range(5):
        simulation.spend(10)
        scores.append(simulation.scores().IDF1)
    assert np.diff(scores).min() > -0.02
    assert scores[-1] >= scores[0]
