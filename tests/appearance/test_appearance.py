"""Vectors are of unit length, alike for what looks alike, and zero for what cannot be seen."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import constant_outputs, mean_colour

from spam_cvat.appearance import crop, open_embedder, unit_length
from spam_cvat.errors import InputError, SpamError
from spam_cvat.onnx_model import IMAGENET_MEAN, IMAGENET_STD
from spam_cvat.video import open_video

WIDTH, HEIGHT = 200, 120


def person(rng: np.random.Generator, shirt: tuple[int, int, int], trousers: tuple[int, int, int]) -> np.ndarray:
    """A person of two colours, (80, 30, 3), under noise."""
    picture = np.zeros((80, 30, 3))
    picture[:40], picture[40:] = shirt, trousers
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def street(*people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """People side by side on gray, and their boxes."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    boxes = []
    for index, picture in enumerate(people):
        x = 5 + 40 * index
        image[20:100, x : x + 30] = picture
        boxes.append([x, 20, x + 30, 100])
    return image, np.array(boxes, float)


RED, BLUE, WHITE = (30, 30, 200), (200, 60, 30), (230, 230, 230)


def test_a_histogram_tells_clothes_apart():
    rng = np.random.default_rng(0)
    image, boxes = street(
        person(rng, RED, BLUE), person(rng, RED, BLUE), person(rng, BLUE, RED), person(rng, WHITE, BLUE)
    )
    embedder = open_embedder("histogram")
    vectors = embedder.embed(image, boxes)
    assert vectors.shape == (4, embedder.dim)
    assert vectors.dtype == np.float32
    alike = vectors @ vectors.T
    assert np.allclose(np.diag(alike), 1, atol=1e-5)
    assert alike[0, 1] > 0.9
    assert max(alike[0, 2], alike[0, 3]) < 0.75


def test_a_histogram_hardly_minds_the_light():
    rng = np.random.default_rng(1)
    image, boxes = street(person(rng, RED, BLUE), person(rng, BLUE, WHITE))
    bright, dim = (open_embedder("histogram").embed((image * light).astype(np.uint8), boxes) for light in (1.0, 0.85))
    assert (bright * dim).sum(1).min() > (bright[0] * bright[1]).sum() + 0.1


boxes_of_any_kind = st.lists(
    st.tuples(*[st.floats(-300, 500, width=32) | st.sampled_from([np.nan, np.inf, 0.0])] * 4), max_size=6
)


@pytest.mark.parametrize("kind", ["histogram", "onnx"])
@settings(max_examples=30, deadline=None)
@given(boxes=boxes_of_any_kind)
def test_rows_are_of_unit_length_or_zero(tmp_path_factory, kind, boxes):
    spec = kind
    if kind == "onnx":
        path = tmp_path_factory.getbasetemp() / "mean.onnx"
        spec = f"onnx:{path if path.exists() else mean_colour(path, 'n', 16, 8, False)}"
    image = np.random.default_rng(2).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    vectors = open_embedder(spec).embed(image, np.array(boxes).reshape(-1, 4))
    norm = np.linalg.norm(vectors, axis=1)
    seen = np.array([crop(image, box) is not None for box in boxes], bool)
    assert len(vectors) == len(boxes)
    assert np.allclose(norm, seen, atol=1e-5)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ([10, 20, 40, 60], (40, 30)),
        ([-50, -50, 10, 20], (20, 10)),
        ([190, 100, 900, 900], (20, 10)),
        ([0, 0, 4, 8], (8, 4)),
        ([0, 0, 3.4, 8], None),
        ([0, 0, 30, 7], None),
        ([-40, 0, -5, 50], None),
        ([60, 10, 50, 40], None),
        ([np.nan, 0, 30, 50], None),
    ],
)
def test_crops_keep_to_the_image(box, shape):
    pixels = crop(np.zeros((HEIGHT, WIDTH, 3), np.uint8), box)
    assert (None if pixels is None else pixels.shape[:2]) == shape


def test_vectors_of_no_length_become_zero():
    rows = unit_length(np.array([[3.0, 4], [0, 0], [np.nan, 1], [1e-300, 0]]))
    assert np.allclose(rows, [[0.6, 0.8], [0, 0], [0, 0], [0, 0]])


# --- networks -----------------------------------------------------------------------------------------------------


def expected_direction(colour: np.ndarray, channels_last: bool) -> np.ndarray:
    """What a network that averages its input should give for a crop of one BGR colour."""
    fed = colour if channels_last else (colour[::-1] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return fed / np.linalg.norm(fed)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_layout_size_and_preprocessing_follow_the_file(tmp_path, batch, channels_last):
    embedder = open_embedder(f"onnx:{mean_colour(tmp_path / 'mean.onnx', batch, 16, 8, channels_last)}")
    assert (embedder.width, embedder.height, embedder.dim) == (8, 16, 3)
    colours = np.random.default_rng(3).integers(0, 255, (7, 3))
    image = np.zeros((40, 140, 3), np.uint8)
    for index, colour in enumerate(colours):
        image[:, 20 * index : 20 * index + 20] = colour
    boxes = np.array([[20 * index, 0, 20 * index + 20, 40] for index in range(7)])
    vectors = embedder.embed(image, boxes)
    assert np.allclose(vectors, [expected_direction(colour, channels_last) for colour in colours], atol=1e-3)


def test_preprocessing_can_be_given(tmp_path):
    path = mean_colour(tmp_path / "mean.onnx", 1, 16, 8, False)
    image = np.full((40, 20, 3), (10, 20, 30), np.uint8)
    spec = f"onnx:{path}?channels=bgr&scale=10&mean=1,1,1&std=1,2,1"
    vector = open_embedder(spec).embed(image, [[0, 0, 20, 40]])[0]
    assert np.allclose(vector, np.array([0, 0.5, 2]) / np.hypot(0.5, 2), atol=1e-5)


def test_no_boxes_are_no_rows(tmp_path):
    path = mean_colour(tmp_path / "mean.onnx", 1, 16, 8, True)
    for spec in ("histogram", f"onnx:{path}"):
        embedder = open_embedder(spec)
        assert embedder.embed(np.zeros((40, 20, 3), np.uint8), np.zeros((0, 4))).shape == (0, embedder.dim)


def test_a_detector_is_no_embedder(tmp_path):
    path = constant_outputs(tmp_path / "boxes.onnx", {"output": np.zeros((1, 84, 6))})
    with pytest.raises(InputError, match="understood are one vector"):
        open_embedder(f"onnx:{path}").embed(np.zeros((40, 20, 3), np.uint8), [[0, 0, 20, 40]])


def test_names_tell_everything_that_changes_vectors(tmp_path):
    path = mean_colour(tmp_path / "mean.onnx", 1, 16, 8, False)
    other = mean_colour(tmp_path / "other.onnx", 1, 16, 16, False)
    specs = ["histogram", f"onnx:{path}", f"onnx:{other}", f"onnx:{path}?channels=bgr", f"onnx:{path}?scale=1"]
    assert len({open_embedder(spec).name for spec in specs}) == len(specs)
    assert open_embedder(f"onnx:{path}?threads=1").name == open_embedder(f"onnx:{path}").name


def test_none_is_no_embedder():
    assert open_embedder("none") is None


@pytest.mark.parametrize("spec", ["", "colour", "onnx:", "none:x", "histogram:x", "histogram?bins=3", "none?x=1"])
def test_bad_specs_are_refused(spec):
    with pytest.raises(InputError, match=r"histogram, onnx:FILE or none|unknown option"):
        open_embedder(spec)


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SpamError, match=r"spam-cvat\[onnx\]"):
        open_embedder(f"onnx:{mean_colour(tmp_path / 'mean.onnx', 1, 16, 8, False)}")


# --- real networks and pixels -------------------------------------------------------------------------------------


def auc(alike: np.ndarray, same: np.ndarray) -> float:
    """Probability that a pair of one person looks more alike than a pair of two."""
    return float((alike[same][:, None] > alike[~same][None, :]).mean())


@pytest.mark.parametrize(
    ("spec", "floor"),
    [
        ("histogram", 0.8),
        ("onnx:{}/person-reidentification-retail-0248.onnx?threads=1", 0.9),
        ("onnx:{}/osnet_x0_25_msmt17_a.onnx?threads=1", 0.88),
    ],
    ids=["histogram", "retail-0248", "osnet"],
)
def test_people_are_told_apart(spam_data, spam_weights, spec, floor):
    """Pairs of ground-truth boxes over a hundred seconds of a real street; a bound, nothing is tuned by it."""
    folder = spam_data / "pets09" / "PETS09-S2L1"
    truth = np.loadtxt(folder / "gt" / "gt.txt", delimiter=",")
    embedder = open_embedder(spec.format(spam_weights))
    vectors, people, frames = [], [], []
    with open_video(folder) as video:
        for k, image in video.frames(0, 700, 70):
            rows = truth[truth[:, 0] == k + 1]
            vectors.append(embedder.embed(image, np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)))
            people += rows[:, 1].tolist()
            frames += [k] * len(rows)
    alike = np.concatenate(vectors) @ np.concatenate(vectors).T
    first, second = np.triu_indices(len(people), 1)
    apart = np.array(frames)[first] != np.array(frames)[second]
    same = np.array(people)[first] == np.array(people)[second]
    assert auc(alike[first, second][apart], same[apart]) > floor
