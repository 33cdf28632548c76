import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer
from spam_cvat.demo import DemoResult, run_demo
from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.evaluation import evaluate
from spam_cvat.formats import cvat, mot
from spam_cvat.review.answers import AnswersLog


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, int, int]]) -> DemoResult:
    def progress(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    return run_demo(tmp_path_factory.mktemp("demo"), seed=2, progress=progress, frames=40, detector="hog?scale=1")


def _folder(result: DemoResult) -> Path:
    return result.report.parent


def test_everything_that_is_listed_is_written(result: DemoResult) -> None:
    assert result.report.is_file()
    for name in result.files:
        assert (_folder(result) / name).stat().st_size > 0, name


def test_the_figures_are_those_of_the_files(result: DemoResult) -> None:
    folder, video = _folder(result), VideoInfo("clip", 40, 800, 448, 15.0)
    truth = mot.read_ground_truth(folder / "truth.txt", video).tracks()
    for name, scores in (("before.txt", result.before), ("after.txt", result.after)):
        again = evaluate(truth, mot.read_tracks(folder / name, video))
        measured = [again.HOTA, again.IDF1, again.MOTA]
        assert measured == pytest.approx([scores.HOTA, scores.IDF1, scores.MOTA], abs=1e-6)
    assert result.share == pytest.approx(result.clicks / (3 * len(truth)))
    saved = json.loads((folder / "results.json").read_text())
    assert saved["HOTA_after"] == pytest.approx(result.after.HOTA)
    assert f"{100 * result.after.HOTA:.1f}" in result.report.read_text(encoding="utf-8")


def test_clicks_are_spent_within_the_budget_and_the_curve_ends_at_the_result(result: DemoResult) -> None:
    clicks = [row.clicks for row in result.rows]
    assert clicks == sorted(clicks)
    assert clicks[0] == 0
    assert 0 < result.share < 0.035
    assert result.rows[-1].HOTA == result.after.HOTA
    assert result.rows[0].HOTA == result.before.HOTA


def test_what_was_annotated_can_be_opened_again(result: DemoResult) -> None:
    folder = _folder(result)
    annotation = Annotation.load(folder / "annotation.spam")
    answers = AnswersLog(folder / "answers.jsonl").answers()
    # Who answers "unsure" has spent a click and said nothing.
    silent = result.questions - len({answer.question for answer in answers})
    assert sum(answer.clicks for answer in answers) == pytest.approx(result.clicks - silent)
    imported = cvat.read_xml(folder / "annotations.xml")
    assert len(imported.ids) == len(annotation.tracks.ids)


def test_progress_is_told_stage_by_stage(result: DemoResult, told: Sequence[tuple[str, int, int]]) -> None:
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["render", "detect", "review", "report"]
    last = {stage: (done, total) for stage, done, total in told}
    assert all(done == total for done, total in last.values())


def test_answers_of_people_are_never_overwritten(result: DemoResult, tmp_path: Path) -> None:
    human = replace(AnswersLog(_folder(result) / "answers.jsonl").answers()[0], by="anna")
    assert isinstance(human, Answer)
    log = AnswersLog(tmp_path / "answers.jsonl")
    log.append([human])
    with pytest.raises(InputError, match="answers of people"):
        run_demo(tmp_path, frames=2)
    assert log.answers() == [human]
