from xml.etree import ElementTree

import numpy as np
import pytest
from two_people import swapped_tracks, true_tracks

from spam_cvat import charts
from spam_cvat.charts import Reliability
from spam_cvat.evaluation.matching import cover
from spam_cvat.tracks import Tracks


@pytest.fixture(scope="module")
def truth() -> Tracks:
    return true_tracks()


@pytest.fixture(scope="module")
def swapped() -> Tracks:
    return swapped_tracks()


def _parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.find("title") is not None
    assert root.find("desc") is not None
    assert root.get("role") == "img"
    return root


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0, 3.3) == [0, 1, 2, 3]
    assert charts.ticks(0.25, 0.75, 5) == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert charts.ticks(1, 1) == [1]
    assert str(charts.ticks(0, 5)[0]) == "0.0"  # not -0


def test_the_curve_shows_a_point_for_each_value_and_says_it_in_words() -> None:
    root = _parsed(charts.curve([0, 10, 30], {"HOTA": [0.5, 0.6, 0.7], "IDF1": [0.6, 0.6, 0.8]}, "clicks", "%", "C"))
    assert len(root.findall("circle")) == 6
    assert root.findtext("desc") == "HOTA from 50.0 to 70.0; IDF1 from 60.0 to 80.0"
    heights = [float(dot.get("cy", "nan")) for dot in root.findall("circle")[:3]]
    assert heights == sorted(heights, reverse=True)  # better is higher up


def test_names_at_the_end_of_lines_never_overlap() -> None:
    svg = charts.curve([0, 1], {name: [0.5, 0.5] for name in "abcd"}, "x", "y", "t")
    names = [text for text in _parsed(svg).findall("text") if (text.get("class") or "").startswith("name")]
    heights = sorted(float(text.get("y", "nan")) for text in names)
    assert np.diff(heights).min() > 16


def test_the_timeline_tells_right_from_other_and_missed(truth: Tracks, swapped: Tracks) -> None:
    root = _parsed(charts.timeline(truth, cover(truth, swapped), "who"))
    kinds = [rect.get("class") for rect in root.findall("rect")]
    assert kinds == ["other", "missed", "ok", "missed", "ok"]
    assert "50 % under the right identity" in (root.findtext("desc") or "")


def test_markup_in_names_is_text() -> None:
    svg = charts.curve([0, 1], {"<b>": [0.1, 0.2]}, "a & b", "y", "x < y")
    assert _parsed(svg).findtext("title") == "x < y"


def test_reliability_of_probabilities_that_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    stated = rng.random(20_000)
    data = Reliability.of("links", stated, rng.random(20_000) < stated)
    assert data.error < 0.02
    assert data.count.sum() == 20_000
    assert Reliability.of("links", stated, rng.random(20_000) < stated**3).error > 0.2
    assert len(_parsed(charts.reliability(data)).findall("circle")) == 10
