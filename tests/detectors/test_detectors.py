"""Specs open detectors, frames' boxes are kept sound, and HOG finds people."""

import cv2
import numpy as np
import pytest

from spam_cvat.boxes import iou_matrix
from spam_cvat.detectors import FrameDetections, label_indices, open_detector
from spam_cvat.errors import InputError


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "write hog, onnx:FILE or nuclio:URL"),
        ("yolo", "write hog, onnx:FILE or nuclio:URL"),
        ("onnx", "write hog, onnx:FILE"),
        ("onnx:", "write hog, onnx:FILE"),
        ("hog:file", "write hog, onnx:FILE"),
        ("task", "works with CVAT tasks only"),
        ("hog?colour=red", "unknown option colour"),
        ("hog?threshold=-1", "threshold lies in"),
    ],
)
def test_bad_specs_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        open_detector(spec)


def test_the_threshold_given_goes_before_the_specs_own():
    assert open_detector("hog?threshold=0.2", threshold=0.4).name == open_detector("hog?threshold=0.4").name
    with pytest.raises(InputError, match="threshold"):
        open_detector("hog", threshold=2)


# --- frames' boxes ------------------------------------------------------------------------------------------------


def test_boxes_are_clipped_sorted_and_rid_of_what_is_no_box():
    boxes = [[-5, 5, 10, 30], [50, 5, 40, 30], [np.nan, 0, 1, 1], [200, 5, 240, 30], [0, 0, 9, 9], [90, 40, 300, 400]]
    found = FrameDetections.create(boxes, [0.3, 0.9, 0.9, 0.9, 0.8, np.inf], [0, 0, 0, 0, 2, 1], 100, 50)
    assert found.box.tolist() == [[0, 0, 9, 9], [0, 5, 10, 30]]
    assert found.score.tolist() == pytest.approx([0.8, 0.3])
    assert found.label.tolist() == [2, 0]
    assert (found.box.dtype, found.score.dtype, found.label.dtype) == (np.float32, np.float32, np.int16)


def test_suppression_is_within_labels():
    found = FrameDetections.create([[0, 0, 10, 10]] * 2 + [[0, 0, 10, 9]], [0.9, 0.8, 0.7], [0, 1, 0], 50, 50)
    kept = found.suppressed(0.5)
    assert kept.label.tolist() == [0, 1]
    assert len(found.suppressed(0.95)) == 3


def test_labels_are_matched_by_name_without_case():
    assert label_indices(["Car", "person"], ["person", "dog", "CAR"], "x").tolist() == [1, -1, 0]
    with pytest.raises(InputError, match=r"net\.onnx: has no class bus, tram; it has person, dog"):
        label_indices(["tram", "bus", "dog"], ["person", "dog"], "net.onnx")


# --- hog ----------------------------------------------------------------------------------------------------------


def test_hog_finds_people(spam_data):
    """Full-HD street scene: boxes on the people of the ground truth, more and weaker ones at a lower threshold."""
    folder = spam_data / "mot17-mini" / "MOT17-04-FRCNN"
    image = cv2.imread(str(folder / "img1" / "000001.jpg"))
    rows = np.loadtxt(folder / "gt" / "gt.txt", delimiter=",")
    rows = rows[(rows[:, 0] == 1) & (rows[:, 6] > 0) & (rows[:, 7] == 1)]
    truth = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)
    found = open_detector("hog").detect(image)
    assert found.score.min() >= 0.03
    assert (np.diff(found.score) <= 0).all()
    assert (iou_matrix(found.box.astype(float), truth).max(0) > 0.5).mean() > 0.4
    sure = open_detector("hog", threshold=0.8).detect(image)
    assert 0 < len(sure) < len(found)
    assert (iou_matrix(sure.box.astype(float), truth).max(1) > 0.5).mean() > 0.6


@pytest.mark.parametrize("shape", [(20, 20), (85, 42), (300, 30), (1, 1)])
def test_hog_takes_images_smaller_than_its_window(shape):
    found = open_detector("hog?scale=1").detect(np.zeros((*shape, 3), np.uint8))
    assert found.box.shape == (0, 4)


def test_hog_enlarges_small_images_only():
    plain = np.full((1200, 4000, 3), 90, np.uint8)
    assert len(open_detector("hog").detect(plain)) == 0


def test_hog_searches_with_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    # With several, OpenCV now and then gives a window somebody else's margin.
    detector = open_detector("hog")
    used = []

    class Search:
        def detectMultiScale(self, image, **options):
            used.append(cv2.getNumThreads())
            return (), ()

    monkeypatch.setitem(detector.__dict__, "_hog", Search())
    threads = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        detector.detect(np.zeros((200, 200, 3), np.uint8))
        assert used == [1]
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(threads)
