"""YOLOX heads are decoded to the pixel, tiles are merged, and networks that are not understood are refused."""

import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_files import constant_outputs, mean_colour, white_square_detector, write

from spam_cvat.boxes import iou_matrix
from spam_cvat.detectors import FrameDetections, open_detector
from spam_cvat.detectors.onnx import (
    COCO_CLASSES,
    anchors,
    automatic_tiles,
    decode_yolox,
    letterbox,
    tile_windows,
    without_fragments,
)
from spam_cvat.errors import InputError, SpamError
from spam_cvat.video import open_video


def gray_image(width: int, height: int, *squares: tuple[int, int, int]) -> np.ndarray:
    """A dark image with white squares given as left, top, side."""
    image = np.full((height, width, 3), 40, np.uint8)
    for x, y, side in squares:
        image[y : y + side, x : x + side] = 255
    return image


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return white_square_detector(tmp_path / "squares.onnx")


def test_boxes_are_where_the_network_sees_them(net):
    found = open_detector(f"onnx:{net}").detect(gray_image(64, 64, (32, 0, 32)))
    assert found.box.tolist() == [[32, 0, 64, 32]]
    assert found.score[0] > 0.99
    assert found.label.tolist() == [0]


def test_the_letterbox_is_undone(net):
    detector = open_detector(f"onnx:{net}?tiles=1x1")
    assert detector.detect(gray_image(256, 128, (128, 0, 128))).box.tolist() == [[128, 0, 256, 128]]
    assert detector.detect(gray_image(32, 64, (0, 32, 32))).box.tolist() == [[0, 32, 32, 64]]
    assert detector.detect(gray_image(32, 32, (16, 0, 16))).box.tolist() == [[16, 0, 32, 16]]


def test_nothing_seen_is_no_box(net):
    found = open_detector(f"onnx:{net}").detect(gray_image(64, 64))
    assert (found.box.shape, found.score.shape, found.label.shape) == ((0, 4), (0,), (0,))


def test_tiles_see_what_is_small_and_report_it_once(net):
    image = gray_image(192, 128, (0, 0, 32), (160, 96, 32))
    detector = open_detector(f"onnx:{net}?tiles=4x3&threshold=0.3")
    found = detector.detect(image)
    truth = np.array([[0, 0, 32, 32], [160, 96, 192, 128]], float)
    overlap = iou_matrix(found.box.astype(float), truth)
    assert overlap.shape == (2, 2)
    assert (overlap.max(0) > 0.5).all()
    assert len(open_detector(f"onnx:{net}?tiles=1x1&threshold=0.3").detect(image)) == 0


def test_many_tiles_in_one_batch_are_as_one_by_one(net, tmp_path):
    any_batch = white_square_detector(tmp_path / "batch.onnx", batch="n")
    image = gray_image(256, 256, (0, 0, 32), (224, 224, 32), (128, 32, 40))
    one, many = (open_detector(f"onnx:{path}?tiles=4x4&threshold=0.01").detect(image) for path in (net, any_batch))
    assert len(one) > 2
    assert np.allclose(one.box, many.box, atol=1e-3)


@pytest.mark.parametrize(("size", "inputs", "tiles"), [((3840, 2160), 416, (4, 2)), ((640, 480), 416, (1, 1))])
def test_tiles_follow_the_image(size, inputs, tiles):
    assert automatic_tiles(*size, inputs, inputs) == tiles


def test_a_huge_image_is_not_cut_into_ever_more_tiles():
    columns, rows = automatic_tiles(40_000, 30_000, 416, 416)
    assert 1 < columns * rows <= 64


@pytest.mark.parametrize(
    ("size", "grid"), [((1920, 1080), (2, 1)), ((101, 77), (3, 2)), ((5, 5), (1, 1)), ((9, 9), (4, 4))]
)
def test_tiles_cover_the_image_and_overlap(size, grid):
    windows = list(tile_windows(*size, *grid))
    seen = np.zeros(size[::-1], int)
    for x1, y1, x2, y2 in windows:
        seen[y1:y2, x1:x2] += 1
    assert len(windows) == grid[0] * grid[1]
    assert seen.min() >= 1
    assert (seen.max() > 1) == (len(windows) > 1)


def test_fragments_at_inner_borders_go_and_whole_boxes_stay():
    box = np.array([[0, 0, 50, 100], [30, 0, 50, 100], [30, 0, 50, 100], [200, 0, 220, 90]], np.float32)
    found = FrameDetections(box, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 0, 1, 0], np.int16))
    kept = without_fragments(found, np.array([False, True, True, True]))
    assert kept.score.tolist() == pytest.approx([0.9, 0.7, 0.6])  # of another class, and lying in nothing larger


def test_decoding_follows_the_grid():
    head = np.zeros((anchors(64, 32), 6), np.float32)
    head[:, :4] = (0.25, 0.5, np.log(2), 0)
    out = decode_yolox(head, 64, 32)
    assert out[0, :4].tolist() == [2, 4, 16, 8]
    assert out[9, :4].tolist() == [8 * 1.25, 8 * 1.5, 16, 8]  # second row, second cell of stride 8
    assert out[-1, :4].tolist() == [32 * 1.25, 16, 64, 32]
    wild = decode_yolox(np.full((anchors(64, 32), 6), 1e4, np.float32), 64, 32)
    assert np.isfinite(wild).all()


def test_a_network_that_decodes_itself_is_recognised(tmp_path):
    head = np.zeros((1, anchors(64, 64), 6))
    head[0, :, :4] = (40, 30, 20, 10)
    head[0, 5, 4:] = (0.9, 1)
    path = constant_outputs(tmp_path / "decoded.onnx", {"output": head})
    assert open_detector(f"onnx:{path}").detect(gray_image(64, 64)).box.tolist() == [[30, 25, 50, 35]]


def test_an_end_to_end_network(tmp_path):
    outputs = {
        "boxes": np.array([[[8, 8, 24, 40], [0, 0, 10, 10], [5, 5, 9, 9]]], float),
        "labels": np.array([[0, 2, 0]], np.int64),
        "scores": np.array([[0.5, 0.75, 0.01]]),
    }
    path = constant_outputs(tmp_path / "end.onnx", outputs)
    found = open_detector(f"onnx:{path}?classes=car,person").detect(gray_image(128, 128))
    assert found.box.tolist() == [[0, 0, 20, 20], [16, 16, 48, 80]]
    assert found.label.tolist() == [0, 1]
    assert found.score.tolist() == [0.75, 0.5]


# --- classes ------------------------------------------------------------------------------------------------------


def test_classes_are_chosen_by_name(tmp_path):
    path = white_square_detector(tmp_path / "three.onnx", classes=3)
    image = gray_image(64, 64, (0, 0, 32))
    spec = f"onnx:{path}?labels=person,bicycle,Car"
    assert len(open_detector(spec).detect(image)) == 0
    detector = open_detector(f"{spec}&classes=person,car")
    assert detector.labels == ("person", "car")
    assert detector.detect(image).label.tolist() == [1]


def test_class_names_come_from_the_file(tmp_path):
    path = white_square_detector(tmp_path / "named.onnx", classes=2, metadata={"names": "{0: 'dog', 1: 'cat'}"})
    assert open_detector(f"onnx:{path}?classes=cat").detect(gray_image(64, 64, (0, 0, 32))).label.tolist() == [0]
    with pytest.raises(InputError, match="has no class person; it has dog, cat"):
        open_detector(f"onnx:{path}")


def test_unnamed_classes_are_asked_for(tmp_path):
    path = white_square_detector(tmp_path / "four.onnx", classes=4)
    with pytest.raises(InputError, match="4 classes; name them in order: labels="):
        open_detector(f"onnx:{path}")
    with pytest.raises(InputError, match="4 classes; 2 names are given"):
        open_detector(f"onnx:{path}?labels=person,car")


def test_coco_has_eighty_classes():
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[2], COCO_CLASSES[79]) == ("person", "car", "toothbrush")


# --- what is refused ----------------------------------------------------------------------------------------------


def test_the_digest_is_checked(net):
    digest = hashlib.sha256(net.read_bytes()).hexdigest()
    assert open_detector(f"onnx:{net}?sha256={digest.upper()}").labels == ("person",)
    with pytest.raises(InputError, match=f"its SHA-256 is {digest}, not 00ff"):
        open_detector(f"onnx:{net}?sha256=00ff")


def test_files_that_are_no_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the network: No such file"):
        open_detector(f"onnx:{tmp_path / 'gone.onnx'}")
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    with pytest.raises(InputError, match="not an ONNX network"):
        open_detector(f"onnx:{text}")


@pytest.mark.parametrize("shape", [(1, 6, 8400), (1, 77, 6), (1, 10)])
def test_outputs_that_are_not_understood_are_shown(tmp_path, shape):
    path = constant_outputs(tmp_path / "other.onnx", {"output0": np.zeros(shape)})
    with pytest.raises(InputError, match=r"outputs \(output0 .*are not understood; understood are YOLOX's \(1, 84, 5"):
        open_detector(f"onnx:{path}")


def test_inputs_that_are_no_image_are_shown(tmp_path):
    path = write(tmp_path / "flat.onnx", {"x": [1, 7]}, {"y": [1, 7]}, [], {})
    with pytest.raises(InputError, match=r"not an ONNX network|needs one input"):
        open_detector(f"onnx:{path}")


def test_scores_that_are_no_probabilities_are_shown(tmp_path):
    head = np.full((1, anchors(64, 64), 6), 3.0)
    path = constant_outputs(tmp_path / "logits.onnx", {"output": head})
    with pytest.raises(SpamError, match="gives scores from 9 to 9, not probabilities"):
        open_detector(f"onnx:{path}").detect(gray_image(64, 64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=32x32", "its input is 64x64"),
        ("tiles=9x9", "at most 64"),
        ("tile=2x1", "unknown option tile"),
        ("device=tpu", "auto, cpu, cuda"),
        ("threshold=2", r"threshold lies in 0\.\.1"),
        ("mean=1,2", "mean holds 3 numbers"),
    ],
)
def test_bad_options_are_refused(net, options, words):
    with pytest.raises(InputError, match=words):
        open_detector(f"onnx:{net}?{options}")


def test_without_onnxruntime_the_extra_is_named(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SpamError, match=r"pip install 'spam-cvat\[onnx\]'"):
        open_detector(f"onnx:{net}")


def test_cuda_that_is_not_there_is_named(net):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(SpamError, match=r"spam-cvat\[gpu\]"):
        open_detector(f"onnx:{net}?device=cuda")


def test_the_name_tells_everything_that_changes_boxes(net, tmp_path):
    other = white_square_detector(tmp_path / "other.onnx", classes=1, metadata={"note": "another file"})
    specs = [f"onnx:{net}", f"onnx:{other}"]
    specs += [
        f"onnx:{net}?{option}" for option in ("threshold=0.3", "nms=0.5", "tiles=2x1", "channels=rgb", "scale=255")
    ]
    assert len({open_detector(spec).name for spec in specs}) == len(specs)
    assert open_detector(f"onnx:{net}").name == open_detector(f"onnx:{net}?threads=1&device=cpu").name
    assert open_detector(f"onnx:{net}", threshold=0.3).name == open_detector(f"onnx:{net}?threshold=0.3").name


def test_the_letterbox_is_gray_and_keeps_thin_images():
    canvas = letterbox(np.zeros((1, 500, 3), np.uint8), 64 / 500, 64, 64)
    assert canvas.shape == (64, 64, 3)
    assert canvas[0].max() == 0
    assert (canvas[1:] == 114).all()


# --- real networks and pixels -------------------------------------------------------------------------------------


def test_yolox_nano_gives_the_recorded_boxes(spam_data, spam_weights):
    folder = spam_data / "pets09" / "PETS09-S2L1"
    recorded = np.loadtxt(folder / "det" / "yolox_nano.txt", delimiter=",")
    detector = open_detector(f"onnx:{spam_weights / 'yolox_nano_416.onnx'}?threads=1", threshold=0.5)
    with open_video(folder) as video:
        for k in (0, 300):
            found = detector.detect(video.frame(k))
            rows = recorded[(recorded[:, 0] == k + 1) & (recorded[:, 6] >= 0.5)]
            expected = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6], rows[:, 6:7]], axis=1)
            expected = expected[np.argsort(-expected[:, 4])]
            assert np.allclose(found.box, expected[:, :4], atol=0.5)
            assert np.allclose(found.score, expected[:, 4], atol=2e-3)


def test_full_hd_needs_tiles(spam_data, spam_weights):
    """Recall of YOLOX-nano at score 0.3 on a full-HD street: about .3 in one piece, above .5 in two tiles."""
    folder = spam_data / "mot17-mini" / "MOT17-04-FRCNN"
    image = cv2.imread(str(folder / "img1" / "000001.jpg"))
    rows = np.loadtxt(folder / "gt" / "gt.txt", delimiter=",")
    rows = rows[(rows[:, 0] == 1) & (rows[:, 6] > 0) & (rows[:, 7] == 1)]
    truth = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)
    net = f"onnx:{spam_weights / 'yolox_nano_416.onnx'}?threshold=0.3&threads=1"
    recall = {}
    for spec in (net, f"{net}&tiles=1x1"):
        box = open_detector(spec).detect(image).box.astype(float)
        recall[spec] = float((iou_matrix(box, truth).max(0) > 0.5).mean())
    assert recall[net] > recall[f"{net}&tiles=1x1"] + 0.1


def test_a_network_for_crops_is_no_detector(tmp_path):
    path = mean_colour(tmp_path / "mean.onnx", 1, 64, 64, False)
    with pytest.raises(InputError, match="are not understood"):
        open_detector(f"onnx:{path}")
