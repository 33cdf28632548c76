"""The command line as a user types it: exit codes, one line for bad input, one JSON object."""

import json
import sys
from dataclasses import dataclass

import pytest

from spam_cvat.cli import main
from spam_cvat.formats import mot
from spam_cvat.training.synthetic import generate_scene, preset


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def spam(capsys, monkeypatch):
    """Run a command as the installed script does, in this process: importing torch anew costs seconds."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spam-cvat", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """A generated sequence on disk: seqinfo.ini, det/, gt/, no pixels."""
    scene = generate_scene(3, preset("street", num_frames=60))
    folder = tmp_path_factory.mktemp("generated") / "scene-3"
    for name in ("det", "gt"):
        (folder / name).mkdir(parents=True)
    video = scene.detections.video
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=scene-3\nimDir=img1\nframeRate={video.fps:g}\nseqLength={video.num_frames}\n"
        f"imWidth={video.width}\nimHeight={video.height}\nimExt=.jpg\n"
    )
    mot.write_detections(folder / "det" / "generated.txt", scene.detections)
    mot.write_tracks(folder / "gt" / "gt.txt", scene.ground_truth, ground_truth=True)
    return folder


def test_tracks_of_a_sequence_are_written_and_scored(spam, sequence, tmp_path):
    out, saved = tmp_path / "tracks.txt", tmp_path / "scene.spam"
    done = spam("track", sequence, "-o", out, "--save", saved, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["frames"] == 60
    assert summary["boxes"] == len(out.read_text().splitlines()) > 0
    scored = spam("evaluate", sequence, out, "--json")
    assert scored.returncode == 0, scored.stderr
    assert 0.2 < json.loads(scored.stdout)["HOTA"] <= 1
    assert "HOTA" in spam("evaluate", sequence, out).stdout


def test_only_the_frames_asked_for_are_tracked_under_their_own_numbers(spam, sequence, tmp_path):
    out = tmp_path / "tracks.txt"
    done = spam("track", sequence, "-o", out, "--frames", "20:40")
    assert done.returncode == 0, done.stderr
    frames = {int(line.split(",")[0]) for line in out.read_text().splitlines()}
    assert frames
    assert frames <= set(range(21, 41))


def test_tracks_are_written_as_cvat_xml(spam, sequence, tmp_path):
    out = tmp_path / "tracks.xml"
    assert spam("track", sequence, "-o", out, "--format", "cvat").returncode == 0
    assert out.read_text().lstrip().startswith("<?xml")


def test_the_simulated_loop_prints_quality_against_clicks(spam, sequence):
    done = spam("simulate", sequence, "--budget", "1%", "--budget", "5%", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["clicks"] for row in rows] == sorted(row["clicks"] for row in rows)
    assert rows[0]["clicks"] == 0
    assert rows[-1]["HOTA"] >= rows[0]["HOTA"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["track", "missing.mp4", "-o", "out.txt"], "missing.mp4"),
        (["track", "{sequence}", "-o", "out.txt", "--frames", "9:3"], "9:3"),
        (["track", "{sequence}", "-o", "out.txt", "--detector", "hog"], "no images"),
        (["track", "{sequence}", "-o", "out.txt", "--detector", "hog", "--detections", "d.txt"], "not both"),
        (["track", "{sequence}", "-o", "out.txt", "--answers", "none.jsonl"], "none.jsonl"),
        (["evaluate", "{sequence}", "none.txt"], "none.txt"),
        (["simulate", "{sequence}", "--budget", "much"], "much"),
        (["annotate", "1", "--server-host", "http://127.0.0.1:9"], "no login"),
        (["track"], "Missing argument"),
        (["track", "x", "--format", "coco", "-o", "y"], "coco"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(spam, sequence, tmp_path, arguments, words, monkeypatch):
    for name in ("CVAT_ACCESS_TOKEN", "SPAM_CVAT_TOKEN", "SPAM_CVAT_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    done = spam(*(text.format(sequence=sequence) for text in arguments))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_server_that_is_away_exits_with_1(spam, tmp_path, monkeypatch):
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "token")
    done = spam("annotate", "1", "--server-host", "http://127.0.0.1:9", "--store", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_says_what_works_and_skips_what_nobody_asked_for(spam, tmp_path, monkeypatch):
    for name in ("CVAT_ACCESS_TOKEN", "SPAM_CVAT_TOKEN", "SPAM_CVAT_USER", "SPAM_CVAT_URL", "SPAM_FUNCTION_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPAM_STORE", str(tmp_path))
    done = spam("doctor", "--json")
    report = json.loads(done.stdout)
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert found["weights"] == found["torch"] == "ok"
    assert report["works"] == (done.returncode == 0) == ("failed" not in found.values())
    monkeypatch.setenv("SPAM_DETECTOR", "onnx:missing.onnx")
    broken = spam("doctor")
    assert broken.returncode == 1
    assert "missing.onnx" in broken.stdout
