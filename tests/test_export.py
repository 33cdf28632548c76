"""What is exported is what CVAT holds, in files that others read, with an honest word on its quality."""

import json

import numpy as np
import pytest
from companion_world import make_scene, make_world
from cvat_standin import CvatStandin

from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer
from spam_cvat.cvat.export import expected_quality, export_task, with_tracks
from spam_cvat.cvat.store import Store
from spam_cvat.errors import InputError, SpamError
from spam_cvat.formats.cvat import read_xml
from spam_cvat.formats.mot import read_tracks


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with CvatStandin() as server:
        made = make_world(server, tmp_path_factory.mktemp("store"), make_scene())
        made.annotate()
        yield made


def test_the_files_hold_what_cvat_holds(world, tmp_path):
    report = export_task(world.conn, world.store, world.task, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(report.files)
    now = world.read().relabelled()
    mot = read_tracks(tmp_path / "out" / "tracks.txt", now.video)
    assert np.array_equal(mot.track, now.track)
    assert np.allclose(mot.box, now.box, atol=0.02)
    xml = read_xml(tmp_path / "out" / "annotations.xml", now.video)
    assert len(xml) == len(now)
    assert len(Annotation.load(tmp_path / "out" / "annotation.spam").tracks) == len(now)
    facts = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert (facts["boxes"], facts["tracks"], facts["clicks"]) == (len(now), len(now.ids), 0)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "expected to show nobody" in text
    assert f"{len(now.ids)} tracks, {len(now)} boxes" in text


def test_an_edit_by_a_human_is_exported(world, tmp_path):
    page = world.page()
    track = page.of_kind("tracks")[0]
    frame = track["shapes"][0]["frame"]
    page.move_box(track["id"], (1, 2, 33, 44), frame=frame)
    page.save()
    export_task(world.conn, world.store, world.task, tmp_path)
    tracks = read_tracks(tmp_path / "tracks.txt", world.read().video)
    assert (np.abs(tracks.box[tracks.frame == frame] - [1, 2, 33, 44]).max(1) < 0.02).any()


def test_without_a_store_the_quality_is_unknown_and_that_is_said(world, tmp_path):
    report = export_task(world.conn, Store(tmp_path / "none"), world.task, tmp_path / "out")
    assert "annotation.spam" not in report.files
    assert "nothing is known" in report.notes[0]
    assert "Nothing is known" in (tmp_path / "out" / "README.md").read_text()


def test_answers_lower_what_is_expected_to_be_wrong(world):
    annotation = world.place.annotation()
    before = expected_quality(annotation)
    rows = annotation.tracks.detection[annotation.tracks.detection >= 0]
    answer = Answer("accept", tuple(int(i) for i in annotation.detections.id[rows]))
    after = expected_quality(annotation, [answer])
    assert after.answered == len(rows)
    assert after.false_boxes == 0 <= before.false_boxes


def test_boxes_are_tied_to_the_detections_they_came_from(world):
    annotation = world.place.annotation()
    again = with_tracks(annotation, annotation.tracks)
    own = annotation.tracks.detection >= 0
    assert (again.tracks.detection[own] == annotation.tracks.detection[own]).mean() > 0.9


def test_nothing_to_export_and_nowhere_to_write(world, tmp_path):
    empty = world.server.create_task_from_video([np.zeros((60, 80, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match="annotate it first"):
        export_task(world.conn, world.store, empty.id, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpamError, match="cannot write the export"):
        export_task(world.conn, world.store, world.task, tmp_path / "file")
