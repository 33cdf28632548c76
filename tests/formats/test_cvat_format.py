import json

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import tracks

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.formats.cvat import read_xml, tracks_from_cvat, tracks_to_cvat, write_xml
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("clip", 20, 640, 480, 25)
LABELS = {"person": 10, "car": 11}
NAMES = {10: "person", 11: "car"}


def walk(frames, track=1, video=VIDEO):
    frames = np.asarray(frames)
    box = np.stack([10.0 * frames, 0 * frames + 50, 10.0 * frames + 20, 0 * frames + 100], 1)
    return Tracks.create(video, frames, np.full(len(frames), track), box)


def shape(frame, points, outside=False, **more):
    return {"type": "rectangle", "frame": frame, "points": points, "outside": outside, "attributes": [], **more}


def item(shapes, track_id=7, label_id=10, **more):
    return {"id": track_id, "label_id": label_id, "frame": shapes[0]["frame"], "shapes": shapes, **more}


def test_a_straight_walk_needs_two_keyframes_and_a_closing_one():
    (track,) = tracks_to_cvat(walk(range(3, 12)), LABELS)
    assert (track["label_id"], track["frame"], track["group"], track["source"]) == (10, 3, 0, "auto")
    assert "id" not in track
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [(3, False), (11, False), (12, True)]
    assert track["shapes"][2]["points"] == track["shapes"][1]["points"] == [110, 50, 130, 100]


def test_a_gap_is_hidden():
    (track,) = tracks_to_cvat(walk([0, 1, 2, 8, 9]), LABELS)
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [
        (0, False),
        (2, False),
        (3, True),
        (8, False),
        (9, False),
        (10, True),
    ]


def test_a_track_is_cut_to_the_job_and_closed_only_where_asked():
    (track,) = tracks_to_cvat(walk(range(20)), LABELS, 5, 10)
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [(5, False), (9, False)]
    (track,) = tracks_to_cvat(walk(range(20)), LABELS, 5, 10, end=20)
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [(5, False), (9, False), (10, True)]
    (track,) = tracks_to_cvat(walk(range(20)), LABELS, 10, 20, end=20)
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [(10, False), (19, False)]
    assert tracks_to_cvat(walk(range(5)), LABELS, 5, 10) == []


def test_groups_attributes_and_every_frame_on_demand():
    both = Tracks.create(VIDEO, [0, 1, 0], [2, 2, 5], [[0, 0, 5, 5]] * 3)
    pair = {"spec_id": 3, "value": "TRACK"}
    first, second = tracks_to_cvat(both, LABELS, groups={5: 9}, attributes={2: [pair]}, thin=False, source="manual")
    assert (first["group"], second["group"]) == (0, 9)
    assert (first["attributes"], second["attributes"]) == ([pair], [])
    assert [s["frame"] for s in first["shapes"]] == [0, 1, 2]
    assert first["source"] == "manual"


def test_a_label_that_the_task_lacks_is_named():
    with pytest.raises(InputError, match="track 1: the task has no label 'person'; it has: car"):
        tracks_to_cvat(walk([0]), {"car": 11})


@settings(max_examples=60, deadline=None)
@given(tracks(labels=("person", "car")))
def test_every_box_survives_the_way_through_cvat(table):
    objects = tracks_to_cvat(table, LABELS, thin=False)
    back = tracks_from_cvat(objects, table.video, NAMES).tracks
    # Identities count in the order of the objects, which is ascending identity.
    rank = np.searchsorted(table.ids, table.track) + 1
    np.testing.assert_array_equal(back.track, rank)
    np.testing.assert_array_equal(back.frame, table.frame)
    np.testing.assert_allclose(back.box, table.box, atol=0.0051)
    assert [back.labels[k] for k in back.label] == [table.labels[k] for k in table.label]


@settings(max_examples=80, deadline=None)
@given(tracks(max_frames=20))
def test_thinned_tracks_stay_within_a_pixel_or_two_percent(table):
    back = tracks_from_cvat(tracks_to_cvat(table, LABELS), table.video, NAMES).tracks
    np.testing.assert_array_equal(back.frame, table.frame)
    size = (table.box[:, 2:] - table.box[:, :2]).min(1, initial=np.inf)
    error = np.abs(back.box - table.box).max(1, initial=0)
    assert (error <= np.maximum(1, 0.02 * size) + 1e-3).all()


def test_boxes_between_keyframes_are_linear_and_hidden_ones_are_not_there():
    shapes = [shape(2, [0, 0, 10, 20]), shape(6, [8, 0, 18, 20], True), shape(9, [50, 0, 60, 20])]
    read = tracks_from_cvat([item(shapes)], VIDEO, NAMES)
    # Frames 2..5 lead to where the object is hidden; from 9 the track is not closed and runs on.
    assert read.tracks.frame.tolist() == [2, 3, 4, 5, *range(9, 20)]
    assert read.tracks.box[:4, 0].tolist() == [0, 2, 4, 6]
    assert set(read.tracks.box[4:, 0].tolist()) == {50}
    assert set(read.cvat_id.tolist()) == {7}


def test_reading_is_cut_to_a_range():
    read = tracks_from_cvat(
        [item([shape(2, [0, 0, 10, 20]), shape(12, [10, 0, 20, 20])])], VIDEO, NAMES, start=4, stop=7
    )
    assert read.tracks.frame.tolist() == [4, 5, 6]
    assert read.tracks.box[:, 0].tolist() == [2, 3, 4]


def test_a_turned_box_becomes_the_upright_box_around_it():
    read = tracks_from_cvat([item([shape(19, [0, 10, 40, 30], rotation=90.0)])], VIDEO, NAMES)
    np.testing.assert_allclose(read.tracks.box, [[10, 0, 30, 40]], atol=1e-4)


def test_what_is_no_box_is_reported_and_left_out():
    polygon = item([{**shape(0, [0, 0, 5, 5, 9, 9]), "type": "polygon"}], 8)
    skeleton = item([shape(0, [0, 0, 1, 1])], 9, elements=[{}])
    read = tracks_from_cvat([polygon, skeleton, item([shape(19, [0, 0, 5, 5])])], VIDEO, NAMES)
    assert read.skipped == ("track 8: polygon is not a box", "track 9: skeleton is not a box")
    assert read.cvat_id.tolist() == [7]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (item([shape(0, [0, 0, 5, 5])], label_id=99), "track 7: label 99 is not among the task's labels"),
        (item([shape(0, [0, 0, 5])]), "track 7: not a track as CVAT gives it"),
        ({"id": 7, "label_id": 10}, "track 7: not a track as CVAT gives it"),
        ({"id": 7, "label_id": 10, "shapes": None}, "track 7: not a track as CVAT gives it"),
    ],
)
def test_a_broken_track_object_is_refused_in_one_line(broken, reason):
    with pytest.raises(InputError, match=reason) as caught:
        tracks_from_cvat([broken], VIDEO, NAMES)
    assert "\n" not in str(caught.value)


def test_nothing_reads_as_nothing():
    assert len(tracks_from_cvat([], VIDEO, {}).tracks) == 0


def test_recorded_tracks_of_a_server_read_as_its_page_shows_them(spam_cvat_facts):
    read = tracks_from_cvat(
        json.loads((spam_cvat_facts / "samples" / "annotations_job_tracks.json").read_text())["tracks"], VIDEO, NAMES
    )
    frames = {int(key): read.tracks.frame[read.cvat_id == key].tolist() for key in np.unique(read.cvat_id)}
    assert frames == {36: list(range(15)), 37: [3]}
    assert read.tracks.box[5].tolist() == [50.5, 120.5, 100.5, 260.5]


def test_a_recorded_split_reads_as_two_halves_of_what_was_there(spam_cvat_facts):
    video = VideoInfo("clip", 40, 768, 576)
    before, after = (
        tracks_from_cvat(
            json.loads((spam_cvat_facts / "samples" / "review" / f"edit_split_sparse_{step}.json").read_text())[
                "tracks"
            ],
            video,
            {39: "person"},
        )
        for step in ("1_before", "2_after")
    )
    assert sorted(set(after.cvat_id.tolist())) == [356, 357]
    np.testing.assert_array_equal(np.sort(after.tracks.frame), before.tracks.frame)
    np.testing.assert_allclose(after.tracks.box, before.tracks.box, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(tracks(labels=("person", 'car & "van" <x>')))
def test_xml_gives_back_every_box_to_the_last_bit(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("xml") / "annotations.xml"
    write_xml(path, table)
    back = read_xml(path)
    for name in ("frame", "track", "box", "label"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert back.labels == table.labels
    assert (back.video.num_frames, back.video.width, back.video.height) == (table.video.num_frames, 640, 480)


EXPORTED = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><id>4</id><name>street</name><size>6</size><mode>interpolation</mode>
<labels><label><name>dog</name></label><label><name>person</name></label></labels>
<original_size><width>320</width><height>240</height></original_size></task><dumped>2026-01-01</dumped></meta>
<track id="0" label="person" source="manual">
 <box frame="1" outside="0" occluded="1" keyframe="1" xtl="10.00" ytl="20.00" xbr="30.00" ybr="60.00" z_order="0">
  <attribute name="pose">standing</attribute></box>
 <box frame="3" outside="0" occluded="0" keyframe="1" xtl="14.00" ytl="20.00" xbr="34.00" ybr="60.00" z_order="0"/>
 <box frame="4" outside="1" occluded="0" keyframe="1" xtl="14.00" ytl="20.00" xbr="34.00" ybr="60.00" z_order="0"/>
</track></annotations>"""


def test_an_export_of_cvat_is_read(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(EXPORTED)
    table = read_xml(path)
    assert table.video == VideoInfo("street", 6, 320, 240)
    assert table.labels == ("dog", "person")
    assert table.frame.tolist() == [1, 2, 3]
    assert table.track.tolist() == [1, 1, 1]
    assert table.box[:, 0].tolist() == [10, 12, 14]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotations><track>", r"annotations\.xml:1: not XML"),
        ("<html></html>", r"annotations\.xml: not CVAT's XML \(the root is <html>\)"),
        (EXPORTED.replace('outside="1"', ""), r"annotations\.xml: no 'outside'"),
        (EXPORTED.replace('xtl="10.00"', 'xtl="ten"'), r"annotations\.xml: could not convert string to float: 'ten'"),
        (EXPORTED.replace('xtl="10.00"', 'xtl="nan"'), r"annotations\.xml: a rectangle at \[nan"),
        (EXPORTED.replace('label="person"', ""), r"annotations\.xml: no 'label'"),
    ],
)
def test_broken_xml_is_refused_in_one_line(tmp_path, text, reason):
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        read_xml(path)
    assert "\n" not in str(caught.value)


def test_missing_xml_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.xml: cannot read: No such file"):
        read_xml(tmp_path / "gone.xml")
