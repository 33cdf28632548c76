from dataclasses import replace

import numpy as np
import pytest

from spam_cvat.answers import resolve
from spam_cvat.errors import InputError
from spam_cvat.formats.mot import read_sequence
from spam_cvat.review.selection import Budget
from spam_cvat.review.simulate import Case, Simulation, simulate
from spam_cvat.training.synthetic import PRESETS, generate_scene


@pytest.fixture(scope="module")
def case():
    scene = generate_scene(5, replace(PRESETS["street"], num_frames=80, people=16))
    return Case(scene.detections, scene.ground_truth, scene.warps)


@pytest.fixture(scope="module")
def reviewed(case):
    simulation = Simulation([case], preset="plain")
    before = simulation.row("street")
    simulation.spend(Budget.parse("3%").of(simulation.boxes), rounds=2)
    return simulation, before


def test_clicks_buy_quality(reviewed):
    simulation, before = reviewed
    after = simulation.row("street")
    assert before.clicks == before.questions == 0
    assert 0 < after.clicks <= 0.03 * 3 * simulation.boxes
    assert after.share == pytest.approx(after.clicks / (3 * simulation.boxes))
    assert after.HOTA > before.HOTA + 0.01
    assert after.IDF1 > before.IDF1


def test_no_answer_is_contradicted_by_the_result(reviewed, case):
    simulation, _ = reviewed
    clamps = resolve(simulation.answers[0], case.detections)
    assert clamps.violations(simulation.annotations[0].tracks) == []
    assert clamps.unknown == []


def test_no_question_is_asked_twice(reviewed):
    simulation, _ = reviewed
    ids = [asked.question.id for asked in simulation.asked]
    assert len(set(ids)) == len(ids)
    assert sum(answer.clicks for answer in simulation.answers[0]) <= simulation.clicks


def test_the_same_seed_gives_the_same_rows(case):
    def run(**options):
        return simulate([case], [Budget(clicks=10)], data="street", rounds=1, **options)

    rows = run(error_rate=0.2, seed=3)
    assert rows == run(error_rate=0.2, seed=3)
    assert [row.clicks <= 10 for row in rows] == [True, True]
    assert (rows[1].error_rate, rows[1].seed, rows[1].strategy) == (0.2, 3, "gain")
    assert run(strategy="random", seed=3)[1].HOTA != rows[1].HOTA


def test_videos_share_one_queue(case):
    empty = replace(case, detections=case.detections.select(np.zeros(len(case.detections), bool)))
    simulation = Simulation([empty, case])
    simulation.spend(6)
    assert {asked.case for asked in simulation.asked} == {1}
    assert simulation.clicks > 0


def test_a_sequence_without_truth_cannot_be_simulated(tmp_path):
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=a\nseqLength=5\nimWidth=64\nimHeight=48\nframeRate=10\n")
    with pytest.raises(InputError, match="no gt"):
        Case.of(read_sequence(tmp_path, None))
