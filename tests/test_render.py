from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spam_cvat.boxes import iou_matrix
from spam_cvat.detectors import open_detector
from spam_cvat.errors import InputError
from spam_cvat.training import render
from spam_cvat.training.render import CLIP, Clip, render_clip, render_frames
from spam_cvat.training.synthetic import CameraConfig, generate_scene
from spam_cvat.video import open_video

SHORT = replace(CLIP, num_frames=12)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return render_clip(tmp_path_factory.mktemp("clip") / "street.mp4", seed=1, config=SHORT)


def test_the_file_holds_the_frames_that_were_drawn(clip: Clip) -> None:
    with open_video(clip.path) as video:
        assert (video.info.num_frames, video.info.width, video.info.height) == (12, 800, 448)
        assert video.info.fps == pytest.approx(15)
        decoded = [image for _, image in video.frames()]
    drawn = [frame.image for frame in render_frames(generate_scene(1, SHORT))]
    error = np.abs(np.stack(decoded).astype(int) - np.stack(drawn)).mean()
    assert error < 6  # what the compression costs


def test_the_truth_is_one_box_a_figure_and_frame_with_its_visibility(clip: Clip) -> None:
    gt = clip.ground_truth
    assert len(gt) == len(clip.visibility) > 40
    assert gt.video == clip.video
    assert ((clip.visibility >= 0) & (clip.visibility <= 1)).all()
    touches = (gt.box[:, 0] < 800) & (gt.box[:, 2] > 0) & (gt.box[:, 1] < 448) & (gt.box[:, 3] > 0)
    assert touches.all()


def test_a_box_is_tight_around_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_paint_shadow", lambda canvas, box: None)  # shadows lie outside, as they should
    scene = generate_scene(1, replace(SHORT, num_frames=1))
    with_people = next(render_frames(scene))
    empty = replace(
        scene,
        ground_truth=scene.ground_truth.select(np.zeros(len(scene.ground_truth), bool)),
        depth=scene.depth[:0],
        visibility=scene.visibility[:0],
    )
    changed = np.abs(with_people.image.astype(int) - next(render_frames(empty)).image).max(2) > 25
    inside = np.zeros_like(changed)
    for x1, y1, x2, y2 in np.rint(with_people.box).astype(int):
        inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
    assert changed.sum() > 2000
    assert not (changed & ~inside).any()
    open_ones = np.flatnonzero(with_people.visibility > 0.99)
    for x1, y1, x2, y2 in np.rint(with_people.box[open_ones]).astype(int):
        part = changed[max(y1, 0) : y2, max(x1, 0) : x2]
        assert part.any(1).mean() > 0.8  # the figure fills its box from head to foot


def test_nearer_figures_are_painted_over_those_behind() -> None:
    scene = generate_scene(0, replace(SHORT, num_frames=1, people=14))
    frame = next(render_frames(scene))
    hidden = np.flatnonzero(frame.visibility < 0.6)
    assert len(hidden)
    depth = dict(zip(scene.ground_truth.track.tolist(), scene.depth.tolist(), strict=True))
    for index in hidden:
        box = frame.box[index]
        if box[0] < 0 or box[2] > 800 or box[3] > 448:
            continue
        apart = (frame.box[:, 0] > box[2]) | (frame.box[:, 2] < box[0])
        nearer = [depth[int(track)] < depth[int(frame.track[index])] for track in frame.track[~apart]]
        assert any(nearer)


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    first, second, other = (next(render_frames(generate_scene(seed, SHORT))).image for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, second)
    assert (first != other).mean() > 0.5


def test_a_sliding_camera_moves_the_background_as_its_warps_say() -> None:
    scene = generate_scene(0, replace(SHORT, num_frames=8, people=0.01, camera=CameraConfig(pan=0.2, pan_time=5.0)))
    images = [frame.image for frame in render_frames(scene)]
    moved = cv2.warpAffine(
        images[0], np.linalg.multi_dot([_square(warp) for warp in scene.exact_warps[:0:-1]])[:2], (800, 448)
    )
    middle = np.s_[60:-60, 160:-160]
    still = np.abs(images[-1][middle].astype(int) - images[0][middle]).mean()
    carried = np.abs(images[-1][middle].astype(int) - moved[middle]).mean()
    assert carried < 0.6 * still


def _square(warp: np.ndarray) -> np.ndarray:
    return np.vstack([warp, [0, 0, 1]])


def test_the_embedded_detector_finds_most_people_that_can_be_seen() -> None:
    detector = open_detector("hog", threshold=0.1)
    found, seen = 0, 0
    for number, frame in enumerate(render_frames(generate_scene(2, replace(CLIP, num_frames=60)))):
        if number % 12:
            continue
        boxes = frame.box[frame.visibility > 0.75]
        overlap = iou_matrix(boxes, detector.detect(frame.image).box)
        found += int((overlap.max(1, initial=0) >= 0.5).sum())
        seen += len(boxes)
    assert seen > 15
    assert found / seen > 0.6


def test_an_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="even"):
        render_clip(tmp_path / "odd.mp4", config=replace(SHORT, width=641))


def test_equal_pictures_give_equal_files(tmp_path: Path) -> None:
    scene = generate_scene(1, replace(CLIP, num_frames=30))
    pictures = [frame.image for frame in render_frames(scene)]
    files = [tmp_path / f"{k}.mp4" for k in range(4)]
    for file in files:
        render.write_video(file, pictures, CLIP.fps)
    assert len({file.read_bytes() for file in files}) == 1
