import cv2
import numpy as np
import pytest
from cvat_standin import CvatStandin

from spam_cvat.cvat.connect import Connection, CvatStatusError, connect
from spam_cvat.cvat.tasks import (
    TaskVideo,
    decode_image,
    frame_bytes,
    read_detections,
    read_task,
    read_tracks,
    task_of_job,
)
from spam_cvat.errors import CvatError, InputError

WIDTH, HEIGHT = 64, 48


def picture(number):
    """A frame that tells its number by a grey level that survives a lossy codec."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + 10 * number, np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] //= 2
    return image


def level(image):
    return round((float(image[HEIGHT // 2 :].mean()) - 20) / 10)


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture(scope="module")
def conn(server):
    return connect(server.url, server.token("admin", read_only=False))


def shape(frame, points, label_id, **more):
    return {"frame": frame, "type": "rectangle", "points": points, "label_id": label_id, **more}


def write(conn: Connection, job, shapes=(), tracks=()):
    body = {"version": 0, "tags": [], "shapes": list(shapes), "tracks": list(tracks)}
    return conn.patch(f"/api/jobs/{job}/annotations/", body, query={"action": "create"})


def track(label_id, boxes, outside=()):
    shapes = [
        {"type": "rectangle", "frame": frame, "points": points, "outside": frame in outside, "occluded": False,
         "attributes": []}
        for frame, points in boxes.items()
    ]  # fmt: skip
    first = min(boxes)
    return {"label_id": label_id, "frame": first, "group": 0, "source": "manual", "attributes": [], "shapes": shapes}


def test_a_task_is_read_with_its_frames_jobs_and_labels(server, conn):
    labels = [{"name": "car", "type": "rectangle", "attributes": [
        {"name": "sure", "mutable": True, "input_type": "checkbox", "default_value": "true", "values": ["true"]},
    ]}]  # fmt: skip
    made = server.create_task_from_video(
        [picture(number) for number in range(20)], name="street", labels=labels, segment_size=3, overlap=0,
        start_frame=2, stop_frame=19, frame_filter="step=3",
    )  # fmt: skip
    task = read_task(conn, made.id)
    assert (task.name, task.size, task.start, task.step, task.width, task.height) == ("street", 6, 2, 3, WIDTH, HEIGHT)
    assert [task.source_frame(k) for k in range(6)] == [2, 5, 8, 11, 14, 17]
    assert [(job.start, job.stop) for job in task.annotation_jobs] == [(0, 3), (3, 6)]
    assert [label.name for label in task.labels] == ["car"]
    assert list(task.attribute_defaults.values()) == ["true"]
    assert task.fps == 10.0, "every third frame of 30 a second"
    assert task.video.num_frames == 6
    assert task.job(task.jobs[1].id) is task.jobs[1]
    assert task_of_job(conn, task.jobs[0].id) == made.id
    with pytest.raises(InputError, match=r"has no job 1; it has \d+, \d+"):
        task.job(1)


def test_the_digest_changes_when_frames_are_deleted(server, conn):
    made = server.create_task_from_video([picture(number) for number in range(4)])
    before = read_task(conn, made.id)
    assert read_task(conn, made.id).digest == before.digest
    conn.patch(f"/api/tasks/{made.id}/data/meta", {"deleted_frames": [1]})
    after = read_task(conn, made.id)
    assert after.digest != before.digest
    assert (after.deleted, after.frames()) == ((1,), [0, 2, 3])
    assert after.frames(after.jobs[0]) == [0, 2, 3]


def test_a_task_in_an_organization_is_read_without_naming_it(server):
    server.add_user("mia")
    lab = server.add_organization("lab-read", "mia")
    made = server.create_task_from_video([picture(0)], owner="mia", organization=lab)
    task = read_task(connect(server.url, server.token("mia")), made.id)
    assert (task.organization, len(task.jobs), len(task.labels)) == (lab.id, 1, 1)


def test_a_task_of_others_and_one_that_is_not_there_are_told(server, conn):
    server.add_user("stranger")
    made = server.create_task_from_video([picture(0)])
    with pytest.raises(CvatStatusError, match=f"task {made.id}: .*403"):
        read_task(connect(server.url, server.token("stranger")), made.id)
    with pytest.raises(CvatStatusError, match=r"task 9999: .*404"):
        read_task(conn, 9999)


def test_a_task_without_data_is_told(conn):
    empty = conn.post("/api/tasks", {"name": "empty", "labels": []})
    with pytest.raises(InputError, match="holds no frames"):
        read_task(conn, empty["id"])


@pytest.mark.parametrize(
    ("task_labels", "names", "aliases", "expected"),
    [
        (["person", "car"], ["person"], {}, ["person"]),
        (["Person"], ["person"], {}, ["Person"]),  # regardless of case
        (["person", "Person"], ["person"], {}, ["person"]),  # but the exact name goes first
        (["walker", "car"], ["person"], {"person": "walker"}, ["walker"]),
        (["walker"], ["person"], {}, ["walker"]),  # one label on both sides
        (["person", "dog"], ["person", "car"], {}, ["person"]),  # what the task does not know is left out
    ],
)
def test_labels_are_matched_by_alias_name_and_lack_of_choice(server, conn, task_labels, names, aliases, expected):
    made = server.create_task_from_video([picture(0)], labels=task_labels)
    task = read_task(conn, made.id)
    by_id = {label.id: label.name for label in task.labels}
    assert [by_id[number] for number in task.match_labels(names, aliases).values()] == expected


@pytest.mark.parametrize(
    ("task_labels", "names", "aliases"),
    [
        (["car", "dog"], ["person"], {}),
        (["walker"], ["person"], {"person": "human"}),  # an alias that is wrong is not guessed around
        ([{"name": "person", "type": "tag", "attributes": []}], ["person"], {}),  # no boxes may carry a tag
    ],
)
def test_labels_that_do_not_match_are_told_with_those_there_are(server, conn, task_labels, names, aliases):
    made = server.create_task_from_video([picture(0)], labels=task_labels)
    with pytest.raises(InputError, match=r"has no label for boxes named .person. .*SPAM_LABELS"):
        read_task(conn, made.id).match_labels(names, aliases)


def test_frames_of_a_video_come_by_chunks_in_order(server, conn):
    made = server.create_task_from_video([picture(number) for number in range(10)], chunk_size=4)
    task = read_task(conn, made.id)
    with TaskVideo(conn, task) as video:
        given = list(video.frames())
        assert [number for number, _ in given] == list(range(10))
        assert [level(image) for _, image in given] == list(range(10))
        assert [(number, level(image)) for number, image in video.frames(3, 9, 2)] == [(3, 3), (5, 5), (7, 7)]
        assert level(video.frame(7)) == 7
        assert video.frame(7).shape == (HEIGHT, WIDTH, 3)
    chunks = [call for call in server.calls if "type=chunk" in call.query and f"/tasks/{made.id}/" in call.path]
    assert len(chunks) == 3 + 2, "a chunk is fetched once, and only where frames of it are wanted"


def test_deleted_frames_are_left_out_and_the_others_keep_their_numbers(server, conn):
    made = server.create_task_from_video(
        [picture(number) for number in range(8)], chunk_size=4, segment_size=4, overlap=0
    )
    conn.patch(f"/api/tasks/{made.id}/data/meta", {"deleted_frames": [0, 5]})
    task = read_task(conn, made.id)
    assert [(number, level(image)) for number, image in TaskVideo(conn, task).frames()] == [
        (number, number) for number in (1, 2, 3, 4, 6, 7)
    ]
    second = TaskVideo(conn, task, task.jobs[1])
    assert [number for number, _ in second.frames()] == [4, 6, 7]
    with pytest.raises(InputError, match="no frame 5; it is deleted"):
        second.frame(5)
    with pytest.raises(InputError, match="are not in this video of 8 frames"):
        second.frames(3, 12)


def test_frames_of_a_picture_task_and_of_a_frame_step(server, conn):
    files = {f"{number}.png": cv2.imencode(".png", picture(number))[1].tobytes() for number in range(5)}
    made = server.create_task_from_images(files, chunk_size=2)
    task = read_task(conn, made.id)
    assert task.frame_names == tuple(files)
    assert [level(image) for _, image in TaskVideo(conn, task).frames()] == list(range(5))
    assert frame_bytes(conn, made.id, 3) == files["3.png"], "byte for byte what a function is given"
    stepped = server.create_task_from_video([picture(number) for number in range(12)], frame_filter="step=4")
    task = read_task(conn, stepped.id)
    assert [level(image) for _, image in TaskVideo(conn, task).frames()] == [0, 4, 8]


def test_a_chunk_that_is_cut_short_is_made_up_for_by_single_frames(server, conn, monkeypatch):
    made = server.create_task_from_video([picture(number) for number in range(4)], chunk_size=2)
    video = TaskVideo(conn, read_task(conn, made.id))
    first = video._chunk(0)
    monkeypatch.setattr(video, "_chunk", lambda number: first)
    monkeypatch.setattr(type(video._task), "chunk_size", 4, raising=False)
    object.__setattr__(video._task, "chunk_size", 4)
    assert [(number, level(image)) for number, image in video.frames()] == [(k, k) for k in range(4)]


def test_a_broken_chunk_and_a_broken_frame_are_told(server, conn, monkeypatch):
    made = server.create_task_from_video([picture(0)])
    video = TaskVideo(conn, read_task(conn, made.id))
    monkeypatch.setattr(video, "_chunk", lambda number: b"nonsense")
    with pytest.raises(CvatError, match="a chunk of 8 bytes cannot be decoded"):
        list(video.frames())
    with pytest.raises(CvatError, match="frame 0: the server sent 4 bytes that are no image"):
        decode_image(b"junk", "frame 0")


def test_a_server_that_goes_away_while_frames_stream_is_told(server, conn):
    made = server.create_task_from_video([picture(number) for number in range(9)], chunk_size=3)
    frames = TaskVideo(conn, read_task(conn, made.id)).frames()
    assert next(frames)[0] == 0
    with (
        server.failing(f"/api/tasks/{made.id}/data", status=500),
        pytest.raises(CvatStatusError, match=rf"frames of task {made.id} \(chunk \d\)"),
    ):
        list(frames)


def test_rectangles_become_detections(server, conn):
    labels = [
        {"name": "person", "type": "rectangle", "attributes": [
            {"name": "confidence", "mutable": True, "input_type": "number", "default_value": "0",
             "values": ["0", "100", "1"]}]},
        {"name": "car", "type": "any", "attributes": []},
    ]  # fmt: skip
    made = server.create_task_from_video(
        [picture(number) for number in range(6)], labels=labels, segment_size=3, overlap=0
    )
    task = read_task(conn, made.id)
    person, car = (label.id for label in task.labels)
    percent = [{"spec_id": task.labels[0].attributes[0].id, "value": "40"}]
    write(conn, task.jobs[0].id, [shape(1, [1, 2, 11, 22], person, attributes=percent)])
    write(conn, task.jobs[1].id, [shape(4, [5, 5, 15, 9], car), shape(4, [20, 10, 30, 30], car, rotation=90.0)])
    found = read_detections(conn, task)
    assert found.labels == ("person", "car")
    assert found.frame.tolist() == [1, 4, 4]
    assert sorted(found.box.round(3).tolist()) == [[1, 2, 11, 22], [5, 5, 15, 9], [15, 15, 35, 25]]
    assert found.score.tolist() == [pytest.approx(0.4), 1, 1]
    assert read_detections(conn, task, ["car"]).frame.tolist() == [4, 4]


def test_tracks_are_put_together_over_job_borders(server, conn):
    made = server.create_task_from_video([picture(number) for number in range(9)], segment_size=3, overlap=0)
    task = read_task(conn, made.id)
    label = task.labels[0].id
    first, second, third = (job.id for job in task.annotation_jobs)
    write(conn, first, tracks=[track(label, {0: [0, 0, 10, 10], 2: [2, 0, 12, 10]}),
                               track(label, {1: [40, 20, 50, 40], 2: [40, 20, 50, 40]}, outside={2})])  # fmt: skip
    write(
        conn, second, tracks=[track(label, {3: [40, 20, 50, 40]}), track(label, {3: [3, 0, 13, 10], 5: [3, 0, 13, 10]})]
    )
    write(conn, third, tracks=[track(label, {7: [3, 0, 13, 10]})])
    found = read_tracks(conn, task)
    assert sorted(len(parts) for parts in found.carriers.values()) == [1, 1, 1, 2]
    long = next(number for number, parts in found.carriers.items() if len(parts) == 2)
    rows = found.tracks.rows(long)
    assert found.tracks.frame[rows].tolist() == [0, 1, 2, 3, 4, 5], "and an open track ends with its job"
    assert found.tracks.box[rows][:3, 0].tolist() == [0, 1, 2]
    known = {(first, found.by_job[first][0]["id"]): 7, (third, found.by_job[third][0]["id"]): 7}
    assert set(read_tracks(conn, task, known).carriers[7]) >= set(known), "what the record says goes first"


def test_overlapping_jobs_give_each_box_once(server, conn):
    made = server.create_task_from_video([picture(number) for number in range(6)], segment_size=4, overlap=2)
    task = read_task(conn, made.id)
    jobs = task.annotation_jobs
    assert [(job.start, job.stop) for job in jobs] == [(0, 4), (2, 6)]
    for job in jobs:
        box = [0, 0, 10, 10]
        write(conn, job.id, tracks=[track(task.labels[0].id, {job.start: box, job.stop - 1: box})])
    found = read_tracks(conn, task)
    assert len(found.carriers) == 1
    assert found.tracks.frame.tolist() == list(range(6))


def test_a_task_without_tracks_has_none(server, conn):
    task = read_task(conn, server.create_task_from_video([picture(0)]).id)
    assert len(read_tracks(conn, task).tracks) == 0
    assert len(read_detections(conn, task)) == 0
