"""Pretraining: labels, reproducibility, and what the shipped weights are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spam_cvat.errors import InputError
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy import weights
from spam_cvat.hierarchy.calibration import logit, sigmoid
from spam_cvat.hierarchy.levels import LIKE, STAGES, GeometryScorer, Policy
from spam_cvat.training.pretrain import PretrainConfig, pretrain, samples_of, training_scene

TINY = PretrainConfig(
    detection_scenes=4,
    detection_epochs=1,
    rounds=(3, 3),
    epochs=(1, 1),
    held_out=2,
    frames=(20, 30),
    max_boxes=400,
    workers=1,
)


def test_samples_have_finite_features_and_labels_of_both_kinds() -> None:
    clip, identity = training_scene(4, TINY)
    samples = samples_of(clip, identity, GeometryScorer(), Policy(gate=-5.0))
    assert [sample.level for sample in samples][:2] == [0, 1]
    for sample in samples:
        assert np.isfinite(sample.graph.x).all()
        assert np.isfinite(sample.graph.attr).all()
        assert len(sample.same) == len(sample.graph.edge)
    assert 0 < samples[0].same.mean() < 1
    assert 0 < samples[0].real.mean() < 1


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first = pretrain(5, tmp_path / "a.npz", TINY)
    again = pretrain(5, tmp_path / "b.npz", TINY)
    other = pretrain(6, tmp_path / "c.npz", TINY)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert first.digest == again.digest != other.digest


def test_members_trained_side_by_side_are_the_same(tmp_path: Path) -> None:
    alone = pretrain(5, tmp_path / "alone.npz", TINY)
    together = pretrain(5, tmp_path / "together.npz", replace(TINY, workers=2))
    assert len(alone.members) == TINY.members == 2
    assert alone.digest == together.digest


def test_every_stage_with_links_is_calibrated_on_held_out_scenes(tmp_path: Path) -> None:
    scorer = pretrain(5, tmp_path / "a.npz", TINY)
    assert {"level 0", "level 1"} <= set(scorer.calibration.joint) <= set(STAGES) - set(LIKE)
    sure = np.array([0.2, 0.9])
    slope, offset = scorer.calibration.joint["level 1"]
    np.testing.assert_allclose(scorer.calibrate(sure, "level 1"), sigmoid(slope * logit(sure) + offset))
    unknown = replace(scorer, calibration=replace(scorer.calibration, joint={}))
    np.testing.assert_allclose(unknown.calibrate(sure, "level 1"), sure)


def test_an_ensemble_says_the_mean_of_what_its_members_say() -> None:
    clip, _ = training_scene(3, TINY)
    pairs = graphs.adjacent_pairs(clip)
    nodes, _, motion = graphs.detection_nodes(clip, graphs.chains(clip, pairs))
    graph = graphs.build(nodes, pairs, motion, clip)
    whole = weights.load()
    plain = weights.Calibration.identity(len(whole.calibration.edge))
    each = [replace(whole, members=(member,), calibration=plain).detections(graph) for member in whole.members]
    node, edge = replace(whole, calibration=plain).detections(graph)
    np.testing.assert_allclose(node, np.mean([one[0] for one in each], axis=0), atol=1e-5)
    np.testing.assert_allclose(edge, np.mean([one[1] for one in each], axis=0), atol=1e-5)
    assert not np.allclose(each[0][0], each[1][0])


def test_shipped_weights_are_small_and_say_how_they_were_made() -> None:
    shipped = weights.load()
    assert shipped.training["seed"] == 0
    assert shipped.training["stage"] == "gate-and-links"
    assert len(weights.to_bytes(shipped)) < 2_000_000


def test_damaged_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(weights.to_bytes(weights.load())[:5000])
    with pytest.raises(InputError, match=r"broken\.npz: damaged or not hierarchy weights") as error:
        weights.load(path)
    assert "\n" not in str(error.value)
