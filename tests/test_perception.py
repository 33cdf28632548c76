"""A video is perceived once: what the cache holds is not computed again, and a run that broke off goes on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spam_cvat.perception
from spam_cvat.appearance import open_embedder
from spam_cvat.cache import RangeCache, Rows, default_cache
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.detectors import FrameDetections, open_detector
from spam_cvat.errors import CancelledError, InputError
from spam_cvat.perception import perceive
from spam_cvat.video import BaseVideo, open_video

BLOCK = 8
INFO = VideoInfo("numbers", 50, 64, 48)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(spam_cvat.perception, "BLOCK", BLOCK)


@dataclass
class NumberVideo(BaseVideo):
    """Frames that hold nothing but their number; some may be left out, as deleted frames of a task are."""

    info: VideoInfo = INFO
    digest: str = "d" * 64
    deleted: frozenset[int] = frozenset()
    read: list[int] = field(default_factory=list)
    opened: int = 0

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        start, stop = self._range(start, stop, step)
        self.opened += 1
        return ((k, self.frame(k)) for k in range(start, stop, step) if k not in self.deleted)

    def frame(self, k: int) -> np.ndarray:
        self.read.append(k)
        return np.full((48, 64, 3), k, np.uint8)


@dataclass
class CountingDetector:
    """Sees k % 4 boxes in frame k; counts its calls and may fail."""

    name: str = "counting"
    labels: tuple[str, ...] = ("person", "car")
    seen: list[int] = field(default_factory=list)
    fails_at: int = -1

    def detect(self, image: np.ndarray) -> FrameDetections:
        k = int(image[0, 0, 0])
        if k == self.fails_at:
            raise RuntimeError("out of memory")
        self.seen.append(k)
        n = k % 4
        left = np.arange(n) * 10 + k / 8
        boxes = np.stack([left, np.full(n, 5.0), left + 8, np.full(n, 40.0)], axis=1)
        return FrameDetections.create(boxes, 0.9 - 0.1 * np.arange(n), np.arange(n) % 2, 64, 48)


@dataclass
class CountingEmbedder:
    """A vector that tells frame and box."""

    name: str = "embedding"
    dim: int = 3
    seen: list[int] = field(default_factory=list)

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        self.seen.append(int(image[0, 0, 0]))
        vectors = np.stack([np.full(len(boxes), image[0, 0, 0] + 1.0), boxes[:, 0], boxes[:, 1]], axis=1)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def same(a: Detections, b: Detections) -> bool:
    columns = ("frame", "box", "score", "label", "embedding")
    return a.labels == b.labels and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


def test_frames_become_detections_in_one_pass():
    video, detector, embedder = NumberVideo(), CountingDetector(), CountingEmbedder()
    found = perceive(video, detector, embedder)
    assert len(found) == sum(k % 4 for k in range(50))
    assert found.video == video.info
    assert found.labels == ("person", "car")
    assert video.read == detector.seen == embedder.seen == list(range(50))
    assert video.opened == 1
    k = 7
    rows = slice(found.frame_start[k], found.frame_start[k + 1])
    again = detector.detect(video.frame(k))
    assert np.array_equal(found.box[rows], again.box)
    assert np.array_equal(found.embedding[rows], embedder.embed(video.frame(k), again.box))


def test_without_an_embedder_there_are_no_vectors():
    assert perceive(NumberVideo(), CountingDetector()).embedding is None


def test_a_range_keeps_the_videos_numbers():
    found = perceive(NumberVideo(), CountingDetector(), start=10, stop=13)
    assert found.frame.tolist() == [10, 10, 11, 11, 11]
    assert found.video.num_frames == 50


@pytest.mark.parametrize(("start", "stop"), [(0, 51), (5, 5), (-1, 3)])
def test_ranges_outside_the_video_are_refused(start, stop):
    with pytest.raises(InputError, match="not in this video of 50 frames"):
        perceive(NumberVideo(), CountingDetector(), start=start, stop=stop)


def test_frames_that_see_nothing_are_fine(tmp_path):
    video = NumberVideo(info=VideoInfo("one", 1, 64, 48))
    for _ in range(2):
        found = perceive(video, CountingDetector(), CountingEmbedder(), cache_dir=tmp_path)
        assert found.embedding.shape == (0, 3)


def test_deleted_frames_are_left_out(tmp_path):
    video = NumberVideo(deleted=frozenset({0, 7, 8, 9, 21, 49}))
    for _ in range(2):
        found = perceive(video, CountingDetector(), cache_dir=tmp_path)
        assert not set(found.frame) & video.deleted
        assert len(found) == sum(k % 4 for k in range(50) if k not in video.deleted)
    assert len(video.read) == 44


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_gives_the_same(tmp_path):
    video, detector, embedder = NumberVideo(), CountingDetector(), CountingEmbedder()
    first = perceive(video, detector, embedder, cache_dir=tmp_path)
    reads = len(video.read)
    second = perceive(video, detector, embedder, cache_dir=tmp_path)
    assert same(first, second)
    assert (len(video.read), len(detector.seen)) == (reads, 50)


def test_another_embedder_does_not_detect_again(tmp_path):
    detector = CountingDetector()
    perceive(NumberVideo(), detector, CountingEmbedder(), cache_dir=tmp_path)
    other = CountingEmbedder(name="another")
    found = perceive(NumberVideo(), detector, other, cache_dir=tmp_path)
    assert (len(detector.seen), len(other.seen)) == (50, 50)
    assert found.embedding is not None
    assert perceive(NumberVideo(), detector, cache_dir=tmp_path).embedding is None
    assert len(detector.seen) == 50


@pytest.mark.parametrize("change", ["video", "detector"])
def test_other_content_or_another_detector_is_perceived_anew(tmp_path, change):
    perceive(NumberVideo(), CountingDetector(), cache_dir=tmp_path)
    detector = CountingDetector(name="better" if change == "detector" else "counting")
    perceive(NumberVideo(digest="e" * 64 if change == "video" else "d" * 64), detector, cache_dir=tmp_path)
    assert len(detector.seen) == 50


def test_a_run_that_fails_goes_on_where_it_stopped(tmp_path):
    broken = CountingDetector(fails_at=29)
    with pytest.raises(RuntimeError, match="out of memory"):
        perceive(NumberVideo(), broken, CountingEmbedder(), cache_dir=tmp_path)
    detector, embedder = CountingDetector(), CountingEmbedder()
    found = perceive(NumberVideo(), detector, embedder, cache_dir=tmp_path)
    assert detector.seen == embedder.seen == list(range(29, 50))
    assert same(found, perceive(NumberVideo(), CountingDetector(), CountingEmbedder()))


def test_a_cancelled_run_goes_on_where_it_stopped(tmp_path):
    done = []
    with pytest.raises(CancelledError, match="numbers: cancelled at frame 11"):
        perceive(
            NumberVideo(),
            CountingDetector(),
            cache_dir=tmp_path,
            progress=lambda k, total: done.append((k, total)),
            cancelled=lambda: len(done) >= 12,
        )
    detector = CountingDetector()
    perceive(NumberVideo(), detector, cache_dir=tmp_path)
    assert detector.seen[0] == 11
    assert done[-1][1] == 50


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 49), st.integers(1, 50), st.booleans()), min_size=1, max_size=5))
def test_ranges_in_any_order_give_what_one_run_gives(tmp_path_factory, ranges):
    folder = tmp_path_factory.mktemp("cache")
    whole = perceive(NumberVideo(), CountingDetector(), CountingEmbedder())
    detector = CountingDetector()
    asked: set[int] = set()
    for start, length, embed in ranges:
        stop = min(start + length, 50)
        asked |= set(range(start, stop))
        part = perceive(
            NumberVideo(), detector, CountingEmbedder() if embed else None, start=start, stop=stop, cache_dir=folder
        )
        expected = whole.select((whole.frame >= start) & (whole.frame < stop))
        assert same(part, expected if embed else replace(expected, embedding=None))
    assert sorted(set(detector.seen)) == sorted(asked)


def test_damaged_cache_files_are_computed_again(tmp_path, caplog):
    whole = perceive(NumberVideo(), CountingDetector(), CountingEmbedder(), cache_dir=tmp_path)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2 * 7  # boxes and vectors, 50 frames in blocks of 8
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[3].write_bytes(b"")
    files[9].write_bytes(b"not a cache")
    detector = CountingDetector()
    assert same(perceive(NumberVideo(), detector, CountingEmbedder(), cache_dir=tmp_path), whole)
    assert "damaged cache file" in caplog.text
    assert 0 < len(detector.seen) < 50
    fresh = CountingDetector()
    assert same(perceive(NumberVideo(), fresh, CountingEmbedder(), cache_dir=tmp_path), whole)
    assert fresh.seen == []


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    found = perceive(NumberVideo(), CountingDetector(), cache_dir=blocked / "cache")
    assert len(found) == sum(k % 4 for k in range(50))
    assert "cannot keep what was computed" in caplog.text


def test_no_half_file_is_left_behind(tmp_path, monkeypatch):
    def fail(stream, **columns):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    cache = RangeCache(tmp_path, ("frame",))
    cache.save(Rows(0, 5, {"frame": np.zeros(0, np.int32)}))
    assert list(tmp_path.iterdir()) == []
    assert cache.find(0, 5) is None


def test_the_default_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("SPAM_CACHE")
    assert default_cache() == Path(default_cache())
    assert default_cache().name == "perception"


# --- from end to end ----------------------------------------------------------------------------------------------


def test_real_frames_become_detections_of_people(spam_data, spam_weights, tmp_path):
    detector = open_detector(f"onnx:{spam_weights / 'yolox_nano_416.onnx'}?threads=1")
    embedder = open_embedder("histogram")
    with open_video(spam_data / "pets09" / "PETS09-S2L1") as video:
        found = perceive(video, detector, embedder, start=300, stop=306, cache_dir=tmp_path)
        again = perceive(video, detector, embedder, start=300, stop=306, cache_dir=tmp_path)
    assert set(found.frame) == set(range(300, 306))
    assert (found.score >= 0.5).sum() >= 6 * 4
    assert np.allclose(np.linalg.norm(found.embedding, axis=1)[found.score >= 0.5], 1, atol=1e-5)
    assert same(found, again)
