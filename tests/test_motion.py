"""Camera motion is found to a fraction of a pixel, still cameras stay still, cuts are flagged."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam_cvat.boxes import warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.errors import CancelledError, InputError
from spam_cvat.motion import (
    IDENTITY,
    BackgroundFollower,
    between,
    compose,
    cumulative,
    estimate_motion,
    estimate_warps,
    farthest,
    identity_warps,
    invert,
    open_motion,
)
from spam_cvat.video import ImageFolder, open_video

WIDTH, HEIGHT = 480, 320


def texture(seed: int, width: int = 3 * WIDTH, height: int = 3 * HEIGHT) -> np.ndarray:
    """A scene with detail at several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.uniform(0, 255, (height // cell, width // cell, 3)), (width, height), interpolation=cv2.INTER_CUBIC
        )
        for cell in (6, 16, 48)
    ]
    return np.clip(np.mean(layers, axis=0) * 2 - 128, 0, 255).astype(np.uint8)


def similarity(shift_x: float = 0, shift_y: float = 0, degrees: float = 0, zoom: float = 1) -> np.ndarray:
    """A turn and zoom about the image's centre, then a shift; in coordinates with pixel centres at one half."""
    warp = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, zoom)
    warp[:, 2] += (shift_x, shift_y)
    return warp


def look(scene: np.ndarray, world_to_image: np.ndarray, noise: float = 2.0, seed: int = 0) -> np.ndarray:
    """The camera's picture of a scene; the map is in coordinates, OpenCV's in pixel indices."""
    indices = world_to_image.copy()
    indices[:, 2] += world_to_image[:, :2] @ (0.5, 0.5) - 0.5
    image = cv2.warpAffine(scene, indices, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    grain = np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


HOME = np.array([[1.0, 0, -WIDTH], [0, 1, -HEIGHT]])  # the camera looks at the middle of the scene
CORNERS = np.array([[0, WIDTH, 0, WIDTH], [0, 0, HEIGHT, HEIGHT]], float)


def error(found: np.ndarray, true: np.ndarray) -> float:
    """How far apart two maps put the image's corners at most, in pixels."""
    return float(np.linalg.norm((found - true)[:, :2] @ CORNERS + (found - true)[:, 2:], axis=0).max())


@pytest.mark.parametrize(
    "warp",
    [
        similarity(3.3, -1.7),
        similarity(-24, 15),
        similarity(0.6, 0),
        similarity(degrees=1.5),
        similarity(zoom=1.02),
        similarity(5, 2, -2, 0.985),
    ],
    ids=["shift", "fast shift", "slow shift", "turn", "zoom", "all"],
)
def test_motion_is_found_to_a_fraction_of_a_pixel(warp):
    scene = texture(1)
    follower = BackgroundFollower()
    assert np.array_equal(follower.step(look(scene, HOME, seed=1)), IDENTITY)
    found = follower.step(look(scene, compose(warp, HOME), seed=2))
    assert error(found, warp) < 0.15


def test_large_images_are_measured_in_their_own_pixels():
    scene = texture(2, 1800, 1200)
    images = [scene[100 : 100 + 1000, k : k + 1600] for k in (40, 33)]
    follower = BackgroundFollower()
    follower.step(images[0])
    found = follower.step(images[1])
    assert np.allclose(found[:, 2], (7, 0), atol=0.1)
    assert np.allclose(found[:, :2], np.eye(2), atol=3e-4)


def test_a_still_camera_stays_still_for_all_its_noise():
    scene = texture(3)
    follower = BackgroundFollower()
    for k in range(40):
        assert np.array_equal(follower.step(look(scene, HOME, noise=6, seed=k)), IDENTITY)


def test_a_slow_drift_is_not_lost():
    scene, total = texture(4), IDENTITY
    follower = BackgroundFollower()
    for k in range(41):
        total = compose(follower.step(look(scene, compose(similarity(0.1 * k), HOME), seed=k)), total)
    assert error(total, similarity(4.0)) < 0.4


def test_moving_people_do_not_move_the_background():
    scene, crowd = texture(5), texture(6)
    follower = BackgroundFollower()
    warps = []
    for k in range(6):
        image = look(scene, HOME, seed=k)
        boxes = np.array([[20 + 6 * k + 140 * i, 10, 140 + 6 * k + 140 * i, 310] for i in range(3)], float)
        for box in boxes.astype(int):  # three quarters of the image move together
            image[box[1] : box[3], box[0] : box[2]] = crowd[: box[3] - box[1], : min(box[2], WIDTH) - box[0]]
        warps.append(follower.step(image, boxes))
    assert all(np.array_equal(warp, IDENTITY) for warp in warps)


def test_a_scene_hidden_by_boxes_is_still_measured():
    scene, warp = texture(7), similarity(4, 1)
    everything = np.array([[-5.0, -5, WIDTH + 5, HEIGHT + 5]])
    follower = BackgroundFollower()
    follower.step(look(scene, HOME), everything)
    assert error(follower.step(look(scene, compose(warp, HOME), seed=1), everything), warp) < 0.15


def save(folder: Path, images: list[np.ndarray]) -> ImageFolder:
    for k, image in enumerate(images):
        assert cv2.imwrite(str(folder / f"{k}.png"), image)
    video = open_video(folder)
    assert isinstance(video, ImageFolder)
    return video


def test_cuts_and_blackouts_are_flagged_and_keep_the_identity(tmp_path):
    first, second = texture(8), texture(9)
    pan = [compose(similarity(5.0 * k), HOME) for k in range(6)]
    images = [look(first, pan[k], seed=k) for k in range(3)] + [look(second, pan[k], seed=k) for k in range(3)]
    images += [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 2
    motion = estimate_motion(save(tmp_path, images))
    # The second black frame shows what the first did: nothing moved.
    assert motion.lost.tolist() == [False, False, False, True, False, False, True, False]
    assert all(np.array_equal(motion.warps[k], IDENTITY) for k in (0, 3, 6, 7))
    assert all(error(motion.warps[k], similarity(5)) < 0.15 for k in (1, 2, 4, 5))


def test_a_window_of_a_video_starts_with_the_identity(tmp_path):
    scene = texture(10)
    video = save(tmp_path, [look(scene, compose(similarity(4.0 * k), HOME), seed=k) for k in range(6)])
    seen = []
    motion = estimate_motion(video, start=2, stop=5, progress=lambda done, total: seen.append((done, total)))
    assert motion.warps.shape == (6, 2, 3)
    assert [k for k in range(6) if error(motion.warps[k], IDENTITY) > 1] == [3, 4]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(estimate_warps(video)[3:5], motion.warps[3:5])
    with pytest.raises(CancelledError, match="frame 0"):
        estimate_motion(video, cancelled=lambda: True)


def test_motion_is_estimated_once(tmp_path, monkeypatch):
    frames, cache = tmp_path / "frames", tmp_path / "cache"
    frames.mkdir()
    scene = texture(12)
    images = [look(scene, compose(similarity(3.0 * k), HOME), seed=k) for k in range(4)] + [look(texture(13), HOME)]
    video = save(frames, images)
    hidden = Detections.create(video.info, [0, 1, 2], [[10, 10, 60, 90]] * 3)
    runs = [{}, {"start": 1}, {"stop": 3}, {"detections": hidden}]
    first = [estimate_motion(video, cache_dir=cache, **run) for run in runs]
    assert first[0].lost.tolist() == [False, False, False, False, True]
    monkeypatch.setattr(BackgroundFollower, "step", None)  # would fail if it were called
    for run, expected in zip(runs, first, strict=True):
        again = estimate_motion(video, cache_dir=cache, **run)
        assert np.array_equal(again.warps, expected.warps)
        assert np.array_equal(again.lost, expected.lost)


def test_real_camera_motion_agrees_with_published_warps(spam_data, tmp_path):
    """First frames of a walking camera, against gmc.txt, in the image's middle: parallax sets them apart elsewhere."""
    folder = spam_data / "mot17-mini" / "MOT17-05-FRCNN" / "img1"
    published = next((spam_data / "mot17" / "train").glob("MOT17-05*/gmc.txt"))
    with open_video(folder) as video:
        rows = published.read_text().splitlines()
        first = tmp_path / "gmc.txt"
        first.write_text("\n".join(row for row in rows if int(row.split()[0]) < video.info.num_frames))
        found, expected = estimate_warps(video), open_motion(first, video)
    assert expected is not None
    centre = np.array([[320, 240, 1.0]]).T
    assert max(farthest(warp, (480, 640)) for warp in found[1:]) > 5
    assert np.abs((found - expected) @ centre).max() < 1


# --- arithmetic ---------------------------------------------------------------------------------------------------

maps = st.builds(similarity, *[st.floats(-50, 50)] * 2, st.floats(-30, 30), st.floats(0.5, 2))


@given(maps, maps)
def test_composition_and_inverse(a, b):
    point = np.array([30.0, 40, 1])
    assert np.allclose(compose(a, b) @ point, a @ np.append(b @ point, 1))
    assert np.allclose(compose(a, invert(a)), IDENTITY, atol=1e-9)


@given(st.lists(maps, min_size=2, max_size=6))
def test_maps_between_frames_chain_the_steps(steps):
    warps = np.stack([IDENTITY, *steps])
    total = cumulative(warps)
    last = len(warps) - 1
    assert np.allclose(between(total, 0, last), total[-1])
    assert np.allclose(between(total, [last - 1, last], [last, last - 1])[0], warps[-1], atol=1e-6)
    assert np.allclose(compose(between(total, last, 0), between(total, 0, last)), IDENTITY, atol=1e-6)


def test_warps_carry_boxes_along():
    warps = identity_warps(4)
    warps[1:, 0, 2] = 3
    box = np.array([[10.0, 10, 20, 40]])
    assert np.allclose(warp_boxes(box, between(cumulative(warps), 0, 3)), box + np.array([9, 0, 9, 0]))


# --- the option ---------------------------------------------------------------------------------------------------


def test_the_option_names_a_way(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    scene = texture(11)
    video = save(frames, [look(scene, compose(similarity(3.0 * k), HOME), seed=k) for k in range(3)])
    hidden = Detections.create(video.info, [0, 1, 2], [[10, 10, 60, 90]] * 3)
    assert open_motion("none", video) is None
    assert error(open_motion("auto", video, hidden)[2], similarity(3)) < 0.15
    file = tmp_path / "gmc.txt"
    file.write_text("1 1 0 2.5 0 1 0\n2 1 0 2.5 0 1 0\n")
    assert open_motion(str(file), video)[:, 0, 2].tolist() == [0, 2.5, 2.5]
    with pytest.raises(InputError, match=r"auto, none or the name of a file.*no such file"):
        open_motion("automatic", video)
