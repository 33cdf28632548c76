"""Frames are numbered exactly, are the same by streaming and by random access, and bad input is named."""

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_cvat.errors import InputError
from spam_cvat.video import ImageFolder, VideoFile, natural_key, open_video, parse_frames

COUNT = 70
WIDTH, HEIGHT = 160, 96


def numbered_image(k: int) -> np.ndarray:
    """A dark image that says its number in eight fat black or white bars, which survive compression."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[HEIGHT // 2 :, WIDTH // 2 :] = (0, 0, 200)  # a red corner tells which way is up
    for bit in range(8):
        image[8:40, 4 + 19 * bit : 20 + 19 * bit] = 255 * ((k >> bit) & 1)
    return image


def number_of(image: np.ndarray) -> int:
    return sum(int(image[12:36, 8 + 19 * bit : 16 + 19 * bit].mean() > 128) << bit for bit in range(8))


def write_video(path: Path, codec: str, count: int = COUNT, **options: str) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options
        for k in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_image(k), format="bgr24")))
        container.mux(stream.encode())
    return path


KINDS = [
    ("b-frames.mp4", "libx264", {"bf": "3", "g": "12"}),  # shown in another order than decoded
    ("b-frames.mkv", "libx264", {"bf": "3", "g": "12"}),  # no number of frames in the header
    ("b-frames.ts", "libx264", {"bf": "3", "g": "12"}),  # time stamps do not begin at 0
    ("b-frames.avi", "libx264", {"bf": "3", "g": "12"}),  # AVI has no display time stamps: frames must be counted
    ("b-frames.mpg", "mpeg2video", {"bf": "2", "g": "12"}),  # the first stamp after a seek is wrong
    ("asp.avi", "mpeg4", {"bf": "2", "g": "12"}),
    ("simple.avi", "mpeg4", {"g": "12"}),
    ("all-key.avi", "mjpeg", {}),
    ("hidden.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20", "cpu-used": "8"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def mp4(folder: Path) -> Path:
    return write_video(folder / "base.mp4", "libx264", bf="3", g="12")


@pytest.mark.parametrize(("name", "codec", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_every_frame_has_its_number_by_streaming_and_by_random_access(folder, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    with open_video(write_video(folder / name, codec, **options)) as video:
        assert video.info.num_frames == COUNT
        assert (video.info.width, video.info.height, video.info.fps) == (WIDTH, HEIGHT, 25)
        assert [(k, number_of(image)) for k, image in video.frames()] == [(k, k) for k in range(COUNT)]
        assert [number_of(image) for _, image in video.frames(13, 60, 7)] == list(range(13, 60, 7))
        for k in (0, 69, 35, 36, 37, 12, 11, 50, 68, 3, 3):
            assert number_of(video.frame(k)) == k


def test_random_access_gives_the_pixels_of_streaming(mp4):
    with open_video(mp4) as video:
        streamed = dict(video.frames())
        for k in (5, 6, 40, 39, 69, 0):
            assert np.array_equal(video.frame(k), streamed[k])


def test_iterators_do_not_disturb_each_other(mp4):
    with open_video(mp4) as video:
        pairs = zip(video.frames(0, 30), video.frames(20, 50), strict=True)
        assert all(number_of(a) == k and number_of(b) == j for (k, a), (j, b) in pairs)


def test_digest_is_of_content_not_of_names(mp4, folder, tmp_path):
    copy = tmp_path / "other name.mp4"
    copy.write_bytes(mp4.read_bytes())
    longer = write_video(tmp_path / "longer.mp4", "libx264", count=COUNT + 1, bf="3", g="12")
    assert open_video(copy).digest == open_video(mp4).digest != open_video(longer).digest
    assert len(open_video(mp4).digest) == 64


def test_the_real_clip_has_795_frames(spam_data):
    with open_video(spam_data / "pets09" / "PETS09-S2L1") as video:  # a MOTChallenge folder around one video file
        assert (video.info.num_frames, video.info.width, video.info.height) == (795, 768, 576)
        assert (video.info.name, video.info.fps) == ("PETS09-S2L1", 7.0)
        assert np.array_equal(video.frame(794), list(video.frames(790))[-1][1])


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"this is no video\n" * 50, "not a video"),
        ("text.jpg", b"this is no image\n" * 50, "not an image"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_video(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="no video"):
        open_video(path)


def test_a_codec_that_nobody_knows_is_named(mp4, tmp_path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(mp4.read_bytes().replace(b"avc1", b"zzz9"))
    with pytest.raises(InputError, match="no decoder here for its video"):
        open_video(path)


@pytest.mark.parametrize("name", [b"Lavf", b"VideoHandler"])
def test_names_inside_the_file_may_be_in_any_encoding(mp4, tmp_path, name):
    path = tmp_path / "latin.mp4"
    assert name in mp4.read_bytes()
    path.write_bytes(mp4.read_bytes().replace(name, b"\xe4" + name[1:]))
    with open_video(path) as video:
        assert video.info.num_frames == COUNT


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([".mp4", ".avi", ".ts", ".webm"]),
    cut=st.floats(0.02, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
)
def test_damage_of_any_kind_gives_frames_or_one_clear_line(tmp_path_factory, kind, cut, flips):
    folder = tmp_path_factory.getbasetemp()
    sound = folder / f"sound{kind}"
    if not sound.exists():
        write_video(sound, {".avi": "mpeg4", ".webm": "libvpx"}.get(kind, "libx264"), bf="2", g="12")
    data = bytearray(sound.read_bytes())
    del data[int(cut * len(data)) :]
    for place, byte in flips:
        data[int(place * len(data))] = byte
    path = folder / f"damaged{kind}"
    path.write_bytes(data)
    message = None
    try:
        with open_video(path) as video:
            for k, image in video.frames():
                assert 0 <= k < video.info.num_frames
                assert image.shape == (video.info.height, video.info.width, 3)
    except InputError as error:
        message = str(error)
    assert message is None or ("\n" not in message and str(path) in message)


def test_an_address_is_refused():
    with pytest.raises(InputError, match="download"):
        open_video("https://example.org/clip.mp4")


@pytest.mark.parametrize(
    ("name", "codec"), [("cut.mp4", "libx264"), ("cut.avi", "mpeg4"), ("cut-counted.avi", "libx264")]
)
def test_a_truncated_file_says_where_it_ends_and_gives_what_is_there(tmp_path, name, codec):
    whole = write_video(tmp_path / name, codec, bf="2", g="12")
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 3 // 5])
    with open_video(whole) as video:
        assert video.info.num_frames == COUNT
        with pytest.raises(InputError, match=r"breaks at frame \d+ of 70") as caught:
            video.frames()
        intact = int(str(caught.value).rsplit(":", 1)[1])
        assert 5 < intact < COUNT - 5
        assert [number_of(image) for _, image in video.frames(0, intact)] == list(range(intact))
        assert number_of(video.frame(intact - 1)) == intact - 1
        with pytest.raises(InputError, match="breaks at frame"):
            video.frame(intact)


def test_damage_in_the_middle_is_named_at_its_frame(folder, tmp_path):
    path = write_video(tmp_path / "middle.avi", "mjpeg")
    with av.open(str(path)) as container:
        packet = bytes([packet for packet in container.demux() if packet.size][31])
    path.write_bytes(path.read_bytes().replace(packet, bytes(len(packet))))
    with open_video(path) as video:
        seen = []
        with pytest.raises(InputError, match=r"breaks at frame 31 of 70.*frames 0:31"):
            seen.extend(number_of(image) for _, image in video.frames())
        assert seen == list(range(31))
        with pytest.raises(InputError, match="breaks at frame 31"):
            video.frame(31)
        assert number_of(video.frame(33)) == 33


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(-1, 5, 1), (5, 5, 1), (0, COUNT + 1, 1), (COUNT, None, 1), (0, 5, 0)]
)
def test_ranges_outside_the_video_are_refused_at_once(mp4, start, stop, step):
    with open_video(mp4) as video, pytest.raises(InputError, match="not in this video of 70 frames"):
        video.frames(start, stop, step)


@pytest.mark.parametrize("k", [-1, COUNT])
def test_frames_outside_the_video_are_refused(mp4, k):
    with open_video(mp4) as video, pytest.raises(InputError, match=f"no frame {k} in"):
        video.frame(k)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:5", (0, 5, 1)), (":", (0, 70, 1)), ("60:", (60, 70, 1)), (":9:3", (0, 9, 3)), (" 1:2 ", (1, 2, 1))],
)
def test_frame_ranges_are_read(text, expected):
    assert parse_frames(text, COUNT) == expected


@pytest.mark.parametrize("text", ["", "5", "a:b", "5:5", "9:3", "0:71", "0:5:0", "-3:5", "1:2:3:4"])
def test_bad_frame_ranges_are_refused(text):
    with pytest.raises(InputError, match="frames"):
        parse_frames(text, COUNT)


# --- orientation --------------------------------------------------------------------------------------------------


def test_a_phones_rotated_video_is_turned_upright(mp4, tmp_path):
    data = bytearray(mp4.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # the display matrix of a version 0 track header
    assert struct.unpack(">i", data[place : place + 4])[0] == 1 << 16
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    with open_video(path) as video, open_video(mp4) as upright:
        assert (video.info.width, video.info.height) == (HEIGHT, WIDTH)
        # This matrix shows the picture turned by a quarter clockwise.
        assert np.array_equal(video.frame(40), np.rot90(upright.frame(40), -1))


def test_exif_orientation_is_applied(tmp_path):
    picture = numbered_image(77)
    encoded = cv2.imencode(".jpg", np.rot90(picture))[1].tobytes()
    tag = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6: turn a quarter clockwise to show it
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + tag + bytes(4)
    (tmp_path / "a.jpg").write_bytes(encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + encoded[2:])
    with open_video(tmp_path) as video:
        assert (video.info.width, video.info.height) == (WIDTH, HEIGHT)
        assert number_of(video.frame(0)) == 77


# --- folders ------------------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int = 12, name: str = "shot {}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        assert cv2.imwrite(str(folder / name.format(k)), numbered_image(k))
    return folder


def test_images_come_in_natural_order_and_other_files_are_left_out(tmp_path):
    folder = write_images(tmp_path / "shots")
    (folder / "notes.txt").write_text("not an image")
    (folder / "._shot 3.png").write_bytes(b"a file system's shadow")
    with open_video(folder) as video:
        assert (video.info.name, video.info.num_frames) == ("shots", 12)
        assert [number_of(image) for _, image in video.frames()] == list(range(12))
        assert number_of(video.frame(10)) == 10


@pytest.mark.parametrize(
    "names", [["2.png", "10.png"], ["a2b10", "a10b2"], ["frame_009", "frame_010"], ["cam1-2", "cam1-11", "cam2-1"]]
)
def test_natural_order(names):
    assert sorted(names, key=natural_key) == names


def test_one_image_is_a_video_of_one_frame(tmp_path):
    write_images(tmp_path, count=1)
    with open_video(tmp_path / "shot 0.png") as video:
        assert isinstance(video, ImageFolder)
        assert (video.info.num_frames, number_of(video.frame(0))) == (1, 0)


def test_a_broken_image_is_named(tmp_path):
    folder = write_images(tmp_path)
    (folder / "shot 7.png").write_bytes((folder / "shot 7.png").read_bytes()[:20])
    with open_video(folder) as video, pytest.raises(InputError, match=r"shot 7\.png: frame 7 is not an image"):
        list(video.frames())


def test_images_of_another_size_are_named(tmp_path):
    folder = write_images(tmp_path)
    cv2.imwrite(str(folder / "shot 5.png"), np.zeros((50, 40, 3), np.uint8))
    with open_video(folder) as video, pytest.raises(InputError, match=r"shot 5\.png: frame 5 is 40x50.*160x96"):
        list(video.frames())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images"):
        open_video(tmp_path)


def test_folder_digest_is_of_content_and_order(tmp_path):
    first = write_images(tmp_path / "a", 3)
    renamed = write_images(tmp_path / "b", 3, "picture{}.png")
    other = write_images(tmp_path / "c", 4)
    assert open_video(first).digest == open_video(renamed).digest != open_video(other).digest


def write_sequence(folder: Path, length: int = 12, header: str | None = None) -> Path:
    write_images(folder / "img1", name="{:06d}.png")
    text = f"[Sequence]\nname=x\nimDir=img1\nframeRate=14\nseqLength={length}\nimWidth=160\nimHeight=96\nimExt=.png\n"
    (folder / "seqinfo.ini").write_text(text if header is None else header)
    return folder


def test_a_motchallenge_sequence_brings_its_rate(tmp_path):
    with open_video(write_sequence(tmp_path / "MOT-1")) as video:
        assert (video.info.name, video.info.num_frames, video.info.fps) == ("MOT-1", 12, 14.0)
        assert number_of(video.frame(11)) == 11


def test_a_sequence_that_lacks_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"12 images, seqinfo\.ini promises 20"):
        open_video(write_sequence(tmp_path, length=20))


def test_a_sequence_without_pixels_is_refused(tmp_path):
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nseqLength=5\n")
    with pytest.raises(InputError, match="without pixels"):
        open_video(tmp_path)


@pytest.mark.parametrize("header", ["", "seqLength=3", "[Sequence]\nseqLength=many"])
def test_a_bad_seqinfo_is_refused_in_one_line(tmp_path, header):
    with pytest.raises(InputError, match="not a MOTChallenge seqinfo") as caught:
        open_video(write_sequence(tmp_path, header=header))
    assert "\n" not in str(caught.value)


def test_open_video_gives_a_file_for_a_path_and_for_text(mp4):
    assert isinstance(open_video(mp4), VideoFile)
    assert isinstance(open_video(str(mp4)), VideoFile)
