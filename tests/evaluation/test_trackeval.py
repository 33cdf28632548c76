"""Equality with TrackEval 1.3.0 on recorded cases; tests/data/trackeval/record.py says how they were made."""

import json
from pathlib import Path

import pytest

from spam_cvat.detections import VideoInfo
from spam_cvat.evaluation import combine, evaluate, evaluate_files
from spam_cvat.formats.mot import read_ground_truth, read_tracks

CASES = json.loads((Path(__file__).parents[1] / "data" / "trackeval" / "cases.json").read_text())
RULES = sorted(CASES["scores"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    for name, case in CASES["sequences"].items():
        (root / name / "gt").mkdir(parents=True)
        (root / name / "seqinfo.ini").write_text(
            f"[Sequence]\nname={name}\nseqLength={case['frames']}\nimWidth=200\nimHeight=200\n"
        )
        for path, rows in (("gt/gt.txt", case["truth"]), ("tracks.txt", case["tracks"])):
            (root / name / path).write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return root


def assert_equal(scores, recorded):
    ours = scores.summary()
    assert {key: ours[key] for key in recorded} == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", CASES["sequences"])
def test_a_sequence_scores_as_in_trackeval(folder, name, rules):
    scores = evaluate_files(folder / name, folder / name / "tracks.txt", rules)
    assert_equal(scores, CASES["scores"][rules][name])


@pytest.mark.parametrize("rules", RULES)
def test_a_set_of_sequences_scores_as_in_trackeval(folder, rules):
    parts = [evaluate_files(folder / name, folder / name / "tracks.txt", rules) for name in CASES["sequences"]]
    assert_equal(combine(parts), CASES["scores"][rules]["COMBINED_SEQ"])


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", CASES["sequences"])
def test_tables_in_memory_score_as_files_do(folder, name, rules):
    video = VideoInfo(name, CASES["sequences"][name]["frames"], 200, 200)
    truth = read_ground_truth(folder / name / "gt" / "gt.txt", video)
    scores = evaluate(truth, read_tracks(folder / name / "tracks.txt", video), rules)
    assert_equal(scores, CASES["scores"][rules][name])
