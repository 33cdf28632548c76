import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from two_people import swapped_tracks, true_tracks

from spam_cvat.charts import Reliability
from spam_cvat.evaluation.matching import cover
from spam_cvat.report import (
    UNKNOWN,
    Figure,
    Picture,
    QuestionKind,
    Report,
    Row,
    draw_tracks,
    identity_colours,
    telling_frames,
    write_report,
)
from spam_cvat.tracks import Tracks


@pytest.fixture(scope="module")
def truth() -> Tracks:
    return true_tracks()


@pytest.fixture(scope="module")
def swapped() -> Tracks:
    return swapped_tracks()


# --- the page -------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects tags, and refuses a page whose elements are not closed in order."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, truth: Tracks, swapped: Tracks) -> str:
    image = np.full((100, 200, 3), 90, np.uint8)
    picture = Picture(draw_tracks(image, swapped, 3), "two boxes", "frame 3")
    rng = np.random.default_rng(0)
    report = Report(
        title="A <run> & its figures",
        lead="What was done.",
        figures=[Figure("HOTA", "60.0", "50.0")],
        pairs=[(picture, picture)],
        video="tracks.mp4",
        clicks=[0, 5, 10],
        curve={"HOTA": [0.5, 0.55, 0.6]},
        full_clicks=60,
        truth=truth,
        before=swapped,
        after=truth,
        backdrop=image,
        rows=[Row("HOTA", "all in all", "50.0", "60.0", True)],
        kinds=[QuestionKind("TRACK", "Real?", 3, 3.0, {"real": 2, "false": 1})],
        sheets=[picture],
        calibration=[Reliability.of("gate", rng.random(50), rng.random(50) < 0.5)],
        seconds={"detect": 1.0},
        files={"after.txt": "labels"},
        facts={"seed": "0"},
        caveats=["It is short."],
    )
    return write_report(tmp_path_factory.mktemp("report") / "report.html", report).read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: str) -> None:
    tags = _Page(page).tags
    for name, attributes in tags:
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert value.startswith("data:") or ":" not in value, f"<{name}> reaches out to {value[:60]}"
        assert name not in {"script", "link", "iframe"}
    assert not re.search(r"@import|url\(", page)


def test_every_picture_has_words_for_those_who_cannot_see_it(page: str) -> None:
    tags = _Page(page).tags
    assert all(attributes.get("alt") for name, attributes in tags if name == "img")
    assert all(attributes.get("aria-label") for name, attributes in tags if name in {"svg", "video"})
    assert ("html", {"lang": "en"}) in tags
    assert [name for name, _ in tags if name == "h1"] == ["h1"]


def test_text_is_escaped(page: str) -> None:
    assert "A &lt;run&gt; &amp; its figures" in page
    assert "<run>" not in page


def test_the_table_says_what_the_curve_shows(page: str) -> None:
    rows = re.findall(
        r'<tr><td class="n">([\d.]+)</td><td class="n">([\d.]+) %</td><td class="n">([\d.]+)</td></tr>', page
    )
    assert rows == [("0", "0.00", "50.0"), ("5", "8.33", "55.0"), ("10", "16.67", "60.0")]


def test_what_there_is_none_of_is_left_out(tmp_path: Path) -> None:
    text = write_report(tmp_path / "bare.html", Report("Bare", "Nothing yet.")).read_text(encoding="utf-8")
    assert [name for name, _ in _Page(text).tags if name in {"h2", "svg", "table", "img", "video"}] == []


# --- drawing --------------------------------------------------------------------------------------------------------


def test_colours_follow_people_across_differenttracks_of(truth: Tracks, swapped: Tracks) -> None:
    first, second = identity_colours(truth, truth), identity_colours(swapped, truth)
    assert first[1] == second[9]
    assert first[2] == second[8]
    assert first[1] != first[2]
    assert second[7] == UNKNOWN


def test_drawing_marks_boxes_of_the_frame_and_leaves_the_image_given_alone(swapped: Tracks) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = draw_tracks(image, swapped, 0, {7: (10, 200, 30)})
    assert not image.any()
    assert (drawn[30, 12:28] == (10, 200, 30)).all()  # the box's upper edge
    assert not drawn[:, 60:].any()
    assert not draw_tracks(image, swapped.select(swapped.frame > 5), 0).any()


def test_telling_frames_are_those_that_review_changed(truth: Tracks, swapped: Tracks) -> None:
    before, after = cover(truth, swapped), cover(truth, truth)
    assert telling_frames(truth, before, after, count=1) == [0]
    assert telling_frames(truth, before, after, count=3, apart=2) == [0, 2, 4]


def test_a_picture_travels_inside_the_page() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:] = (10, 200, 30)
    data = base64.b64decode(Picture(image, "green").uri.split(",")[1])
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(back.astype(int) - image).max() < 8
