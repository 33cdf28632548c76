import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import detections, tracks

from spam_cvat.annotation import Annotation, Level
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks


@st.composite
def annotations(draw):
    boxes = draw(detections())
    if draw(st.booleans()):
        boxes = boxes.with_embedding(np.ones((len(boxes), 3), np.float32))
    levels = tuple(
        Level(
            2 ** (k + 1),
            np.arange(len(boxes), dtype=np.int32),
            np.array([[0, 1]], np.int32),
            np.array([0.25], np.float32),
            np.array([0.5], np.float32),
            np.array([True]),
        )
        for k in range(draw(st.integers(0, 3)))
    )
    gate = np.linspace(0, 1, len(boxes), dtype=np.float32)
    return Annotation(boxes, gate, levels, draw(tracks()), {"seed": 1, "names": ["a"]}, {"weights": "0ff1ce"})


def arrays(annotation):
    det, out = annotation.detections, annotation.tracks
    columns = [annotation.gate, det.frame, det.box, det.score, det.label, det.id]
    columns += [out.frame, out.track, out.box, out.score, out.detection, out.label]
    for level in annotation.levels:
        columns += [level.node, level.edge, level.raw, level.probability, level.decision]
    return columns + ([] if det.embedding is None else [det.embedding])


@settings(max_examples=40, deadline=None)
@given(annotations())
def test_a_file_gives_back_everything_to_the_last_bit(tmp_path_factory, annotation):
    path = tmp_path_factory.mktemp("spam") / "deep" / "run.spam"
    annotation.save(path)
    back = Annotation.load(path)
    assert (back.video, back.detections.labels) == (annotation.video, annotation.detections.labels)
    assert (back.config, back.provenance) == (annotation.config, annotation.provenance)
    assert [level.extent for level in back.levels] == [level.extent for level in annotation.levels]
    for old, new in zip(arrays(annotation), arrays(back), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)


@pytest.fixture
def annotation():
    video = VideoInfo("clip", 3, 64, 48)
    boxes = Detections.create(video, [0, 1], [[0, 0, 5, 5], [1, 0, 6, 5]])
    return Annotation(boxes, np.ones(2, np.float32), (), Tracks.create(video, [0, 1], [1, 1], boxes.box))


def edited(annotation, **changes):
    """The file's content with other header fields, or with members left out (None)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(annotation.to_bytes())) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "header.json":
                data = json.dumps(json.loads(data) | changes.get("header", {}))
            if name not in changes.get("without", ()):
                new.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda a: b"", "damaged or not a spam-cvat annotation"),
        (lambda a: b"not a zip at all", "damaged or not a spam-cvat annotation"),
        (lambda a: a.to_bytes()[:-200], "damaged or not a spam-cvat annotation"),
        (lambda a: edited(a, without=["header.json"]), "damaged or not a spam-cvat annotation"),
        (lambda a: edited(a, without=["gate.npy"]), "damaged or not a spam-cvat annotation"),
        (lambda a: edited(a, header={"format": "other"}), "not a spam-cvat annotation file"),
        (
            lambda a: edited(a, header={"version": 99}),
            "format version 99, this program reads 1; use the spam-cvat that",
        ),
        (lambda a: edited(a, header={"video": {"name": "x"}}), "damaged or not a spam-cvat annotation"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(annotation, tmp_path, spoil, reason):
    path = tmp_path / "run.spam"
    path.write_bytes(spoil(annotation))
    with pytest.raises(InputError, match=reason) as caught:
        Annotation.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.spam: cannot read the annotation: No such file"):
        Annotation.load(tmp_path / "gone.spam")


def test_pickled_arrays_are_refused(annotation, tmp_path):
    member = io.BytesIO()
    np.save(member, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    data = io.BytesIO(edited(annotation, without=["gate.npy"]))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("gate.npy", member.getvalue())
    with pytest.raises(InputError, match="damaged"):
        Annotation.from_bytes(data.getvalue())


def test_a_failed_save_leaves_the_old_file_and_no_debris(annotation, tmp_path, monkeypatch):
    path = tmp_path / "run.spam"
    annotation.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(Annotation, "to_bytes", lambda self: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(MemoryError):
        annotation.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.spam"]


def test_the_bytes_do_not_depend_on_the_time_of_day(annotation):
    with zipfile.ZipFile(io.BytesIO(annotation.to_bytes())) as archive:
        members = archive.infolist()
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {member.compress_type for member in members} == {zipfile.ZIP_DEFLATED}
