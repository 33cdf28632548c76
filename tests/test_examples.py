"""The examples run as they are."""

import pytest
from companion_world import make_scene, make_world
from cvat_standin import CvatStandin

from examples import annotate_and_review, create_project, score_export
from spam_cvat.cvat import review_tasks
from spam_cvat.cvat.export import export_task


@pytest.fixture(scope="module")
def scene():
    return make_scene()


@pytest.fixture
def world(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(review_tasks, "STATUS_SECONDS", 0.02)
    with CvatStandin() as server:
        made = make_world(server, tmp_path / "store", scene)
        for name in ("SPAM_CVAT_URL", "SPAM_CVAT_TOKEN", "SPAM_CVAT_ORGANIZATION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CVAT_SERVER", server.url)
        monkeypatch.setenv("CVAT_ACCESS_TOKEN", server.token("admin", read_only=False))
        monkeypatch.setenv("SPAM_STORE", str(tmp_path / "store"))
        yield made


def test_annotate_a_task_and_open_its_review(world, capsys):
    arguments = [str(world.task), "--budget", "5%", "--detector", "task"]
    assert annotate_and_review.main(arguments) == 0
    first = capsys.readouterr().out
    assert "CVAT tracks written" in first
    assert "defaultWorkspace=attributes&frame=0" in first
    assert annotate_and_review.main(arguments) == 0
    assert "0 CVAT tracks written" in capsys.readouterr().out
    assert annotate_and_review.main(["999"]) == 1
    assert "999" in capsys.readouterr().err


def test_a_project_with_labels_is_made_once(world, capsys):
    assert create_project.main(["Street", "person", "car"]) == 0
    assert "person, car" in capsys.readouterr().out
    [project] = world.conn.pages("/api/projects", {"search": "Street"})
    labels = world.conn.pages("/api/labels", {"project_id": project["id"]})
    assert sorted((label["name"], label["type"]) for label in labels) == [("car", "rectangle"), ("person", "rectangle")]
    assert create_project.main(["Street", "person"]) == 2
    assert "already" in capsys.readouterr().err


def test_exported_labels_are_scored(world, tmp_path, capsys):
    world.annotate()
    export_task(world.conn, world.store, world.task, tmp_path / "labels")
    sequence = tmp_path / "clip"
    (sequence / "gt").mkdir(parents=True)
    video = world.scene.ground_truth.video
    (sequence / "seqinfo.ini").write_text(
        f"[Sequence]\nname=clip\nimDir=img1\nframeRate={video.fps:.0f}\nseqLength={video.num_frames}\n"
        f"imWidth={video.width}\nimHeight={video.height}\nimExt=.jpg\n"
    )
    truth = world.scene.ground_truth
    rows = [
        f"{frame + 1},{track},{x1},{y1},{x2 - x1},{y2 - y1},1,1,1"
        for frame, track, (x1, y1, x2, y2) in zip(
            truth.frame.tolist(), truth.track.tolist(), truth.box.tolist(), strict=True
        )
    ]
    (sequence / "gt" / "gt.txt").write_text("\n".join(rows) + "\n")
    assert score_export.main([str(sequence), str(tmp_path / "labels")]) == 0
    out = capsys.readouterr().out
    assert "HOTA" in out
    assert "wrong links" in out
    assert score_export.main([str(sequence), str(sequence)]) == 2
