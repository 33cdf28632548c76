from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulator import generated, motion_samples, observable_samples, observed_scene, pooled, runs, table
from spam_cvat.training.synthetic import generate_scene, preset


def test_runs_end_where_the_group_does() -> None:
    mask = np.array([True, True, False, True, True, True, False])
    group = np.array([1, 1, 1, 1, 2, 2, 2])
    assert runs(mask, group).tolist() == [2, 1, 2]
    assert runs(mask[:0], group[:0]).tolist() == []


def test_speed_is_measured_free_of_the_cameras_own_motion() -> None:
    base = preset("street", num_frames=60)
    still = replace(base.motion, standing=1.0, agility=0, posture_width=0, posture_height=0, groups=0)
    config = replace(base, motion=still, camera=replace(base.camera, pan=0.1))
    samples = motion_samples(observed_scene(generate_scene(0, config)))
    assert samples["camera (widths/s)"].mean() > 0.01
    assert samples["speed (heights/s)"].max() < 0.01


def test_what_is_seen_without_ground_truth_agrees_with_it() -> None:
    scene = generate_scene(0, preset("dance", num_frames=80))
    seen, true = observable_samples(scene.detections, scene.warps), motion_samples(observed_scene(scene))
    for name in ("height / image", "width / height"):
        assert np.median(seen[f"seen: {name}"]) == pytest.approx(np.median(true[name]), rel=0.1)
    assert np.median(seen["seen: moved in 0.25 s (heights)"]) < np.median(seen["seen: moved in 1.0 s (heights)"])
    assert observable_samples(scene.detections.select(np.zeros(0, np.intp)), None) == {}


def test_every_statistic_has_ordered_quantiles_and_a_line_in_the_table() -> None:
    column = pooled(generated("street", 2, 40))
    assert all(low <= middle <= high for low, middle, high in column.values())
    assert column["people a frame"][1] == pytest.approx(18, abs=8)
    assert 0.4 < column["ByteTrack HOTA"][1] < 1
    lines = table({"street": column}).splitlines()
    assert len(lines) == len(column) + 1
