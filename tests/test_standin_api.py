"""The stand-in driven by the real cvat-sdk: uploads, frames, annotations and their traps, rights, lists, failures."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from cvat_sdk import models
from cvat_sdk.api_client import exceptions
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.core.exceptions import BackgroundRequestException, IncompatibleVersionException
from cvat_sdk.core.proxies.annotations import AnnotationUpdateAction
from cvat_sdk.core.uploading import DataUploader
from cvat_standin import CvatStandin, encode_video
from PIL import Image

Json = dict[str, Any]
PERSON = [models.PatchedLabelRequest(name="person", type="rectangle")]


def picture(shade: int, size: tuple[int, int] = (32, 24), kind: str = "PNG", **options: Any) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(output, kind, **options)
    return output.getvalue()


def clip(frames: int) -> list[np.ndarray]:
    """Frames of 64 x 48 pixels, told apart by their grey."""
    return [np.full((48, 64, 3), 3 * frame, np.uint8) for frame in range(frames)]


def sdk(server: CvatStandin, user: str = "admin", *, read_only: bool = False) -> Client:
    client = Client(server.url, config=Config(status_check_period=0.02), check_server_version=False)
    client.login(AccessTokenCredentials(server.token(user, read_only=read_only)))
    return client


def rest(server: CvatStandin, user: str = "admin", *, read_only: bool = False, **headers: str) -> httpx.Client:
    token = server.token(user, read_only=read_only)
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}", **headers})


@pytest.fixture(scope="module")
def server(spam_cvat_facts: Path) -> Iterator[CvatStandin]:
    """A strict server: each answer of this file is checked against the recorded schema."""
    with CvatStandin(strict=spam_cvat_facts / "openapi-2.54.yml") as standin:
        yield standin
        assert standin.violations == []


@pytest.fixture(scope="module")
def client(server: CvatStandin) -> Iterator[Client]:
    with sdk(server) as connected:
        yield connected


@pytest.fixture
def http(server: CvatStandin) -> Iterator[httpx.Client]:
    with rest(server) as connected:
        yield connected


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    path.write_bytes(encode_video(clip(60)))
    return path


# --- login and version ------------------------------------------------------------------------------------------------


def test_the_version_is_refused_only_by_a_strict_client(server: CvatStandin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Client(server.url)
    assert "is not compatible with SDK version" in caplog.text
    with pytest.raises(IncompatibleVersionException):
        Client(server.url, config=Config(allow_unsupported_server=False))


def test_login_with_a_password_gives_a_session_that_can_write(server: CvatStandin) -> None:
    with Client(server.url, check_server_version=False) as client:
        client.login(("admin", "admin"))
        assert client.users.retrieve_current_user().username == "admin"
        assert client.projects.create(models.ProjectWriteRequest(name="by session")).name == "by session"
        client.logout()
        with pytest.raises(exceptions.UnauthorizedException):
            client.users.retrieve_current_user()


def test_a_wrong_password_and_a_wrong_token_are_refused(server: CvatStandin) -> None:
    with Client(server.url, check_server_version=False) as client, pytest.raises(exceptions.ApiException):
        client.login(("admin", "wrong"))
    answer = httpx.get(f"{server.url}/api/users/self", headers={"Authorization": "Bearer nonsense"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid token."})
    assert httpx.get(f"{server.url}/api/users/self").status_code == 401


def test_new_access_tokens_are_read_only_unless_asked_otherwise(server: CvatStandin, http: httpx.Client) -> None:
    default = http.post("/api/auth/access_tokens", json={"name": "default"}).json()
    writer = http.post("/api/auth/access_tokens", json={"name": "writer", "read_only": False}).json()
    assert (default["read_only"], writer["read_only"]) == (True, False)
    for made, status in ((default, 403), (writer, 201)):
        header = {"Authorization": f"Bearer {made['value']}"}
        assert httpx.get(f"{server.url}/api/users/self", headers=header).status_code == 200
        answer = httpx.post(f"{server.url}/api/tasks", json={"name": "t"}, headers=header)
        assert answer.status_code == status


def test_an_expired_token_is_refused(spam_cvat_facts: Path) -> None:
    with CvatStandin() as server:
        token = server.token("admin", expires_in=3600)
        header = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{server.url}/api/users/self", headers=header).status_code == 200
        server.clock.advance(3601)
        assert httpx.get(f"{server.url}/api/users/self", headers=header).status_code == 401


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_video_becomes_a_task_with_jobs_frames_and_chunks(client: Client, video: Path) -> None:
    spec = models.TaskWriteRequest(name="video", labels=PERSON, segment_size=20, overlap=0)
    task = client.tasks.create_from_data(spec, [video])
    assert (task.size, task.mode, task.data_chunk_size) == (60, "interpolation", 36)
    assert [(job.start_frame, job.stop_frame) for job in task.get_jobs()] == [(40, 59), (20, 39), (0, 19)]
    frame = task.get_frame(7, quality="original").read()
    assert np.asarray(Image.open(io.BytesIO(frame)))[0, 0, 0] == 21
    assert Image.open(io.BytesIO(frame)).format == "PNG"
    assert Image.open(task.get_frame(7, quality="compressed")).format == "JPEG"
    chunk = io.BytesIO()
    task.download_chunk(1, chunk, quality="original")
    chunk.seek(0)
    with av.open(chunk) as container:
        shades = [frame.to_ndarray(format="bgr24").mean() for frame in container.decode(video=0)]
    assert len(shades) == 24
    # The chunk is encoded anew: near the original, not equal to it.
    assert np.allclose(shades, [3 * frame for frame in range(36, 60)], atol=4)


def test_going_back_in_a_video_gives_the_same_bytes(client: Client, video: Path) -> None:
    task = client.tasks.create_from_data(models.TaskWriteRequest(name="seek", labels=PERSON), [video])
    digests = [
        hashlib.sha256(task.get_frame(number, quality="original").read()).hexdigest() for number in (50, 3, 50, 0, 3)
    ]
    assert digests[0] == digests[2]
    assert digests[1] == digests[4]
    assert len(set(digests)) == 3


def test_neighbouring_jobs_of_a_video_share_five_frames_by_default(client: Client, video: Path) -> None:
    spec = models.TaskWriteRequest(name="overlap", labels=PERSON, segment_size=20)
    jobs = client.tasks.create_from_data(spec, [video]).get_jobs()
    assert [(job.start_frame, job.stop_frame) for job in jobs[::-1]] == [(0, 19), (15, 34), (30, 49), (45, 59)]


def test_frame_step_start_and_stop_renumber_the_frames(client: Client, video: Path) -> None:
    """As recorded: task numbers count from 0, the meta of task and job speak of source frames."""
    parameters = {"start_frame": 10, "stop_frame": 50, "frame_step": 3, "frame_filter": "step=7"}
    spec = models.TaskWriteRequest(name="step", labels=PERSON, segment_size=7, overlap=0)
    task = client.tasks.create_from_data(spec, [video], data_params=parameters)
    meta = task.get_meta()
    assert (meta.size, meta.start_frame, meta.stop_frame, meta.frame_filter) == (14, 10, 49, "step=3")
    assert Image.open(task.get_frame(2, quality="original")).getpixel((0, 0)) == (48, 48, 48)
    second = next(job for job in task.get_jobs() if job.start_frame == 7)
    assert (second.stop_frame, second.get_meta().start_frame, second.get_meta().stop_frame) == (13, 31, 49)


def test_a_large_file_goes_up_in_pieces(client: Client, video: Path) -> None:
    task = client.tasks.create(models.TaskWriteRequest(name="tus", labels=PERSON))
    url = client.api_map.make_endpoint_url(task.api.create_data_endpoint.path, kwsub={"id": task.id})
    answer = DataUploader(client, max_request_size=1000).upload_files(url, [video], image_quality=70)
    client.wait_for_completion(json.loads(answer.data)["rq_id"])
    assert task.fetch().size == 60


def test_a_file_that_is_no_video_fails_the_request_and_says_why(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    with pytest.raises(BackgroundRequestException, match=r"Can't read the video broken\.mp4"):
        client.tasks.create_from_data(models.TaskWriteRequest(name="broken", labels=PERSON), [broken])


def test_images_keep_their_bytes_and_are_sorted_by_name(client: Client, tmp_path: Path) -> None:
    names = ["b.png", "a.png", "c.png"]
    for place, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(60 * place))
    paths = [tmp_path / name for name in names]
    task = client.tasks.create_from_data(models.TaskWriteRequest(name="images", labels=PERSON), paths)
    assert [frame.name for frame in task.get_meta().frames] == ["a.png", "b.png", "c.png"]
    assert (task.mode, task.data_chunk_size) == ("annotation", 72)
    for number, name in enumerate(sorted(names)):
        assert task.get_frame(number, quality="original").read() == (tmp_path / name).read_bytes()
    chunk = io.BytesIO()
    task.download_chunk(0, chunk, quality="original")
    with zipfile.ZipFile(chunk) as archive:
        assert [archive.read(name) for name in sorted(archive.namelist())] == [
            (tmp_path / name).read_bytes() for name in sorted(names)
        ]


def test_a_picture_lying_on_its_side_is_turned_and_encoded_anew(server: CvatStandin, http: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    task = server.create_task_from_images({"turned.jpg": picture(9, (32, 24), "JPEG", exif=exif)})
    answer = http.get(f"/api/tasks/{task.id}/data", params={"type": "frame", "number": 0, "quality": "original"})
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.getexif().get(0x0112, 1)) == ((24, 32), 1)


def test_job_file_mapping_decides_jobs_and_order(client: Client, tmp_path: Path) -> None:
    names = [f"{letter}.png" for letter in "dbace"]
    for place, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(40 * place))
    mapping = [["d.png", "b.png"], ["a.png", "e.png", "c.png"]]
    paths = [tmp_path / name for name in names]
    spec = models.TaskWriteRequest(name="mapped", labels=PERSON)
    task = client.tasks.create_from_data(spec, paths, data_params={"job_file_mapping": mapping})
    assert [frame.name for frame in task.get_meta().frames] == ["d.png", "b.png", "a.png", "e.png", "c.png"]
    jobs = task.get_jobs()[::-1]
    assert [(job.start_frame, job.stop_frame) for job in jobs] == [(0, 1), (2, 4)]
    assert [frame.name for frame in jobs[1].get_meta().frames] == ["a.png", "e.png", "c.png"]


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        ({}, {"job_file_mapping": [["a.png"], ["a.png"]]}),
        ({"segment_size": 1}, {"job_file_mapping": [["a.png"]]}),
        ({}, {"job_file_mapping": [["a.png"]], "sorting_method": "natural"}),
        ({}, {"job_file_mapping": [["a.png"]], "frame_step": 2}),
    ],
    ids=["a file twice", "segment size", "sorting", "frame step"],
)
def test_job_file_mapping_excludes_other_ways_to_cut(
    client: Client, tmp_path: Path, spec: Json, parameters: Json
) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    request = models.TaskWriteRequest(name="refused", labels=PERSON, **spec)
    with pytest.raises(exceptions.ApiException, match="job_file_mapping"):
        client.tasks.create_from_data(request, [tmp_path / "a.png"], data_params=parameters)


def test_frames_that_are_not_there_are_refused(server: CvatStandin, http: httpx.Client) -> None:
    task = server.create_task_from_images({"a.png": picture(1)})
    for number, status in ((0, 200), (1, 404), ("x", 400)):
        path, query = f"/api/tasks/{task.id}/data", {"type": "frame", "quality": "original", "number": number}
        assert http.get(path, params=query).status_code == status
    assert http.get(f"/api/tasks/{task.id + 1000}").status_code == 404


# --- annotations ------------------------------------------------------------------------------------------------------


def box(frame: int, x: float = 10.0, **extra: Any) -> Json:
    return {"type": "rectangle", "frame": frame, "points": [x, 10.0, x + 20.0, 40.0], **extra}


class Scene:
    """A task of 60 pictures in three jobs of 20, and short ways to write and read."""

    def __init__(self, server: CvatStandin, http: httpx.Client, segment_size: int = 20, overlap: int = 0) -> None:
        names = {f"{number:02d}.png": picture(number) for number in range(60)}
        self.task = server.create_task_from_images(names, segment_size=segment_size, overlap=overlap)
        self.jobs = server.jobs(self.task)
        self.label = next(iter(server.state.labels_of(self.task)))
        self.http = http

    def track(self, *shapes: Json, **extra: Any) -> Json:
        return {"label_id": self.label, "frame": shapes[0]["frame"], "shapes": list(shapes), **extra}

    def path(self, job: int | None) -> str:
        return f"/api/tasks/{self.task.id}/annotations" if job is None else f"/api/jobs/{self.jobs[job].id}/annotations"

    def patch(self, job: int | None, action: str, **data: list[Json]) -> httpx.Response:
        return self.http.patch(self.path(job), params={"action": action}, json=data)

    def read(self, job: int | None) -> Json:
        data: Json = self.http.get(self.path(job)).json()
        return data


@pytest.fixture
def scene(server: CvatStandin, http: httpx.Client) -> Scene:
    return Scene(server, http)


def test_created_ids_come_back_in_input_order(server: CvatStandin, http: httpx.Client) -> None:
    single = Scene(server, http, segment_size=0)
    sent = [single.track(box(frame, x=float(frame))) for frame in (9, 2, 7)]
    made = single.patch(None, "create", tracks=sent).json()["tracks"]
    assert [track["frame"] for track in made] == [9, 2, 7]
    ids = [track["id"] for track in made]
    assert ids == sorted(ids)
    assert {track["id"]: track["frame"] for track in single.read(None)["tracks"]} == dict(
        zip(ids, [9, 2, 7], strict=True)
    )


def test_a_write_to_a_task_is_cut_per_job_and_answers_in_job_order(scene: Scene) -> None:
    """Three tracks that run on to the end of the task come back as nine."""
    sent = [scene.track(box(frame, x=float(frame))) for frame in (1, 2, 3)]
    made = scene.patch(None, "create", tracks=sent).json()["tracks"]
    assert [track["frame"] for track in made] == [1, 2, 3, 20, 20, 20, 40, 40, 40]
    assert [len(scene.read(job)["tracks"]) for job in range(3)] == [3, 3, 3]


def test_a_cut_track_is_interpolated_at_the_border(scene: Scene) -> None:
    sent = scene.track(box(10, x=0.0), box(30, x=20.0, outside=False), box(31, x=20.0, outside=True))
    scene.patch(None, "create", tracks=[sent])
    first, second, third = (scene.read(job)["tracks"] for job in range(3))
    assert [(shape["frame"], shape["points"][0]) for shape in first[0]["shapes"]] == [(10, 0.0)]
    assert [(s["frame"], s["points"][0], s["outside"]) for s in second[0]["shapes"]] == [
        (20, 10.0, False),
        (30, 20.0, False),
        (31, 20.0, True),
    ]
    assert third == []


def test_overlapping_jobs_are_stitched_on_reading(server: CvatStandin, http: httpx.Client) -> None:
    scene = Scene(server, http, segment_size=20, overlap=5)
    shapes = [box(frame, x=float(frame)) for frame in range(5, 40)]
    scene.patch(None, "create", tracks=[scene.track(*shapes, box(40, outside=True))])
    assert [len(scene.read(job)["tracks"]) for job in range(4)] == [1, 1, 1, 0]
    whole = scene.read(None)["tracks"]
    assert len(whole) == 1
    assert [shape["frame"] for shape in whole[0]["shapes"]] == [*range(5, 41)]


def test_an_open_track_stays_open_in_its_job_and_is_closed_in_the_tasks_view(scene: Scene) -> None:
    """As recorded: the closing keyframe behind the job's end carries the id of the keyframe it repeats."""
    scene.patch(1, "create", tracks=[scene.track(box(20), box(39, x=30.0))])
    of_job, of_task = scene.read(1)["tracks"][0]["shapes"], scene.read(None)["tracks"][0]["shapes"]
    assert [shape["frame"] for shape in of_job] == [20, 39]
    assert [(shape["frame"], shape["outside"]) for shape in of_task] == [(20, False), (39, False), (40, True)]
    assert of_task[1]["id"] == of_task[2]["id"]


def test_a_job_takes_shapes_outside_its_frames_without_complaint(scene: Scene) -> None:
    answer = scene.patch(
        1, "create", tracks=[scene.track(box(0), box(25))], shapes=[{"label_id": scene.label, **box(59)}]
    )
    assert answer.status_code == 200
    assert scene.read(1)["tracks"][0]["frame"] == 0
    assert scene.read(1)["shapes"][0]["frame"] == 59


def test_a_track_that_starts_before_its_first_keyframe_is_outside_until_then(scene: Scene) -> None:
    scene.patch(0, "create", tracks=[{**scene.track(box(8)), "frame": 5}])
    shapes = scene.read(0)["tracks"][0]["shapes"]
    assert [(shape["frame"], shape["outside"]) for shape in shapes] == [(5, True), (8, False)]


def test_update_keeps_the_id_and_brings_back_what_was_deleted(scene: Scene) -> None:
    made = scene.patch(0, "create", tracks=[scene.track(box(1))]).json()["tracks"][0]
    changed = {**made, "group": 7}
    assert scene.patch(0, "update", tracks=[changed]).status_code == 200
    assert [(t["id"], t["group"]) for t in scene.read(0)["tracks"]] == [(made["id"], 7)]
    scene.patch(0, "delete", tracks=[changed])
    assert scene.read(0)["tracks"] == []
    scene.patch(0, "update", tracks=[changed])
    assert [track["id"] for track in scene.read(0)["tracks"]] == [made["id"]]


def test_deleting_by_id_needs_shapes_or_nothing_happens(scene: Scene) -> None:
    made = scene.patch(0, "create", tracks=[scene.track(box(1))]).json()["tracks"][0]
    assert scene.patch(0, "delete", tracks=[{**made, "shapes": []}]).status_code == 200
    assert len(scene.read(0)["tracks"]) == 1
    assert scene.patch(0, "delete", tracks=[made]).status_code == 200
    assert scene.read(0)["tracks"] == []


def test_a_job_does_not_delete_what_lies_in_another(scene: Scene) -> None:
    made = scene.patch(0, "create", tracks=[scene.track(box(1))]).json()["tracks"][0]
    assert scene.patch(1, "delete", tracks=[made]).status_code == 200
    assert len(scene.read(0)["tracks"]) == 1


def test_put_replaces_everything_and_refuses_ids(scene: Scene) -> None:
    made = scene.patch(0, "create", tracks=[scene.track(box(1))]).json()["tracks"][0]
    refused = scene.http.put(scene.path(0), json={"tracks": [made]})
    assert refused.status_code == 400
    assert [track["id"] for track in scene.read(0)["tracks"]] == [made["id"]]
    assert scene.http.put(scene.path(0), json={"tracks": [scene.track(box(2))]}).status_code == 200
    assert [track["frame"] for track in scene.read(0)["tracks"]] == [2]


def test_the_sdk_deletes_everything_when_given_no_ids(client: Client, scene: Scene) -> None:
    scene.patch(0, "create", tracks=[scene.track(box(1)), scene.track(box(2))])
    job = client.jobs.retrieve(scene.jobs[0].id)
    keep, drop = job.get_annotations().tracks
    job.remove_annotations(ids=[drop.id])
    assert [track.id for track in job.get_annotations().tracks] == [keep.id]
    job.remove_annotations(ids=[])
    assert job.get_annotations().tracks == []


def test_the_sdk_writes_and_reads_tracks(client: Client, scene: Scene) -> None:
    job = client.jobs.retrieve(scene.jobs[0].id)
    shape = models.TrackedShapeRequest(type="rectangle", frame=3, points=[1.0, 2.0, 3.0, 4.0])
    track = models.LabeledTrackRequest(frame=3, label_id=scene.label, shapes=[shape], source="auto")
    job.update_annotations(models.PatchedLabeledDataRequest(tracks=[track]), action=AnnotationUpdateAction.CREATE)
    read = job.get_annotations().tracks[0]
    assert (read.source, read.shapes[0].points, read.shapes[0].outside) == ("auto", [1.0, 2.0, 3.0, 4.0], False)


REFUSED = {
    "unknown label": {"tracks": [{"label_id": 9999, "frame": 0, "shapes": [box(0)]}]},
    "no label": {"shapes": [box(0)]},
    "three points": {"shapes": [{"label_id": 0, **box(0), "points": [1, 2, 3]}]},
    "not a number": {"shapes": [{"label_id": 0, **box(0), "points": [1, 2, 3, "4"]}]},
    "unknown type": {"shapes": [{"label_id": 0, **box(0), "type": "circle"}]},
    "negative frame": {"tags": [{"label_id": 0, "frame": -1}]},
    "unknown attribute": {"tags": [{"label_id": 0, "frame": 1, "attributes": [{"spec_id": 9999, "value": "x"}]}]},
    "no shapes": {"tracks": [{"label_id": 0, "frame": 1}]},
    "long value": {"tags": [{"label_id": 0, "frame": 1, "attributes": [{"spec_id": 1, "value": "x" * 4097}]}]},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_annotations_that_make_no_sense_change_nothing(scene: Scene, body: Json) -> None:
    scene.patch(0, "create", tracks=[scene.track(box(1))])
    held = scene.read(0)
    body = json.loads(json.dumps(body).replace('"label_id": 0', f'"label_id": {scene.label}'))
    assert scene.patch(0, "create", **body).status_code == 400
    assert scene.http.put(scene.path(0), json=body).status_code == 400
    assert scene.read(0) == held


def test_an_action_must_be_named(scene: Scene) -> None:
    assert scene.http.patch(scene.path(0), json={"tracks": []}).status_code == 400
    assert scene.patch(0, "replace").status_code == 400


def test_writing_moves_the_updated_date_of_job_and_task(scene: Scene) -> None:
    path = f"/api/jobs/{scene.jobs[0].id}"
    before = scene.http.get(path).json()["updated_date"]
    scene.patch(0, "create", tracks=[])
    assert scene.http.get(path).json()["updated_date"] == before
    scene.patch(0, "create", tracks=[scene.track(box(1))])
    after = scene.http.get(path).json()
    assert after["updated_date"] > before
    assert after["state"] == "new"
    assert scene.http.get(f"/api/tasks/{scene.task.id}").json()["updated_date"] >= after["updated_date"]


def test_attribute_values_that_no_list_holds_are_taken(server: CvatStandin, http: httpx.Client) -> None:
    """The server does not check radio values: a reader must treat what it does not know as unanswered."""
    spec = {"name": "answer", "mutable": False, "input_type": "radio", "default_value": "?", "values": ["?", "yes"]}
    task = server.create_task_from_images(
        {"a.png": picture(1)}, labels=[{"name": "q", "type": "tag", "attributes": [spec]}]
    )
    label = next(iter(server.state.labels_of(task).values()))
    values = [{"spec_id": label.attributes[0]["id"], "value": "perhaps"}]
    path = f"/api/jobs/{server.jobs(task)[0].id}/annotations"
    body = {"tags": [{"label_id": label.id, "frame": 0, "attributes": values}, {"label_id": label.id, "frame": 0}]}
    http.patch(path, params={"action": "create"}, json=body)
    tags = http.get(path).json()["tags"]
    assert [tag["attributes"][0]["value"] for tag in tags] == ["perhaps", "?"]


def test_mutable_attributes_are_carried_from_keyframe_to_keyframe(server: CvatStandin, http: httpx.Client) -> None:
    pose = {"name": "pose", "mutable": True, "input_type": "text", "default_value": "up", "values": [""]}
    task = server.create_task_from_images(
        {f"{n}.png": picture(n) for n in range(9)}, labels=[{"name": "p", "type": "rectangle", "attributes": [pose]}]
    )
    label = next(iter(server.state.labels_of(task).values()))
    down = [{"spec_id": label.attributes[0]["id"], "value": "down"}]
    shapes = [box(0), box(3, attributes=down), box(6)]
    path = f"/api/jobs/{server.jobs(task)[0].id}/annotations"
    body = {"tracks": [{"label_id": label.id, "frame": 0, "shapes": shapes}]}
    http.patch(path, params={"action": "create"}, json=body)
    read = http.get(path).json()["tracks"][0]["shapes"]
    assert [shape["attributes"][0]["value"] for shape in read] == ["up", "down", "down"]


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix_server(spam_cvat_facts: Path) -> Iterator[CvatStandin]:
    with CvatStandin(strict=spam_cvat_facts / "openapi-2.54.yml") as standin:
        yield standin


def prepare(server: CvatStandin, tag: str) -> tuple[int, int, httpx.Client]:
    """The task, job and client of one recorded row of the permission matrix."""
    user = server.add_user(f"user{len(server.state.users)}")
    in_organization = not tag.startswith(("sandbox", "admin"))
    organization = server.add_organization(f"org{len(server.state.users)}")
    for role in ("worker", "supervisor", "maintainer"):
        if role in tag:
            server.add_member(organization, user, role)
    pictures = {f"{number}.png": picture(number) for number in range(3)}
    home = organization if in_organization or "org task" in tag else None
    task = server.create_task_from_images(pictures, organization=home)
    if "task assignee" in tag:
        task.assignee = user
    if "job assignee" in tag:
        server.assign(server.jobs(task)[0], user)
    server.functions.add("stub", lambda body: [])
    with rest(server) as admin:
        admin.post("/api/lambda/requests", json={"function": "stub", "task": task.id})
    assert server.wait()
    named = (
        {"X-Organization": organization.slug}
        if tag.endswith(("X-Organization", "X-Org")) or "maintainer RO" in tag
        else {}
    )
    who = "admin" if tag.startswith("admin") else user.username
    return task.id, server.jobs(task)[0].id, rest(server, who, read_only="RO token" in tag, **named)


def recorded_matrix() -> list[str]:
    return [
        "sandbox stranger",
        "sandbox job assignee",
        "sandbox task assignee",
        "sandbox task assignee RO token",
        "org stranger, no org header",
        "org worker, no org header",
        "org worker, X-Organization",
        "org supervisor, no org header",
        "org supervisor, X-Organization",
        "org maintainer, no org header",
        "org maintainer, X-Organization",
        "org worker + task assignee, X-Org",
        "org worker + task assignee, no hdr",
        "org worker + job assignee, X-Org",
        "admin token, no hdr, org task",
        "maintainer RO token",
    ]


@pytest.mark.parametrize("tag", recorded_matrix())
def test_rights_are_those_of_the_recorded_matrix(matrix_server: CvatStandin, spam_cvat_facts: Path, tag: str) -> None:
    rows = json.loads((spam_cvat_facts / "samples" / "one-click" / "permission_matrix.json").read_text())
    expected = next(row for row in rows if row["tag"] == tag)
    task, job, http = prepare(matrix_server, tag)
    request = f"action=autoannotate&target=task&target_id={task}"
    with http:
        listed = http.get("/api/lambda/requests")
        labels = http.get("/api/labels", params={"task_id": task})
        frame = {"type": "frame", "number": 0, "quality": "original"}
        found = {
            "tag": tag,
            "list": [listed.status_code, any(row["id"] == request for row in listed.json())],
            "get_by_id": http.get(f"/api/lambda/requests/{request}").status_code,
            "task": http.get(f"/api/tasks/{task}").status_code,
            "meta": http.get(f"/api/tasks/{task}/data/meta").status_code,
            "frame": http.get(f"/api/tasks/{task}/data", params=frame).status_code,
            "labels": labels.json().get("count", "x"),
            "patch_task": http.patch(
                f"/api/tasks/{task}/annotations", params={"action": "create"}, json={}
            ).status_code,
            "patch_job": http.patch(f"/api/jobs/{job}/annotations", params={"action": "create"}, json={}).status_code,
            "job": http.get(f"/api/jobs/{job}").status_code,
        }
    assert found == expected


def test_the_matrix_of_this_file_is_the_recorded_one(spam_cvat_facts: Path) -> None:
    rows = json.loads((spam_cvat_facts / "samples" / "one-click" / "permission_matrix.json").read_text())
    assert [row["tag"] for row in rows] == recorded_matrix()


def test_an_annotator_sees_his_jobs_only_and_may_finish_but_not_hand_them_on(server: CvatStandin) -> None:
    server.add_user("anna")
    task = server.create_task_from_images({f"{n}.png": picture(n) for n in range(4)}, segment_size=2, overlap=0)
    mine, other = server.jobs(task)
    server.assign(mine, "anna")
    with rest(server, "anna") as http:
        listed = http.get("/api/jobs").json()["results"]
        assert [job["id"] for job in listed] == [mine.id]
        assert http.get(f"/api/jobs/{other.id}").status_code == 403
        assert http.get(f"/api/tasks/{task.id}").status_code == 403
        assert http.get("/api/labels", params={"job_id": mine.id}).json()["count"] == 1
        assert http.patch(f"/api/jobs/{mine.id}", json={"assignee": None}).status_code == 403
        assert http.patch(f"/api/jobs/{mine.id}", json={"stage": "acceptance"}).status_code == 403
        assert http.patch(f"/api/jobs/{mine.id}", json={"state": "completed"}).json()["state"] == "completed"
        assert http.patch(f"/api/jobs/{mine.id}", json={"state": "done"}).status_code == 400


def test_an_organisation_is_named_by_header_or_query_and_must_be_ones_own(server: CvatStandin) -> None:
    organization = server.add_organization("lab")
    server.add_user("guest")
    with rest(server, "guest", **{"X-Organization": "lab"}) as http:
        assert http.get("/api/tasks").status_code == 403
    with rest(server, "guest") as http:
        assert http.get("/api/tasks", params={"org": "nowhere"}).status_code == 404
    server.add_member(organization, "guest", "supervisor")
    with sdk(server, "guest") as client:
        client.organization_slug = "lab"
        made = client.tasks.create(models.TaskWriteRequest(name="in lab", labels=PERSON))
        assert made.organization_id == organization.id
        assert [task.id for task in client.tasks.list()] == [made.id]
        client.organization_slug = ""
        assert client.tasks.list() == []


# --- listings, guides, issues -----------------------------------------------------------------------------------------


def test_listings_are_newest_first_and_paged(server: CvatStandin, http: httpx.Client) -> None:
    tasks = [server.create_task_from_images({"a.png": picture(n)}, name=f"page {n}").id for n in range(5)]
    first = http.get("/api/tasks", params={"search": "page", "page_size": 2}).json()
    assert [task["id"] for task in first["results"]] == tasks[::-1][:2]
    assert (first["count"], first["previous"]) == (5, None)
    second = httpx.get(first["next"], headers=http.headers).json()
    assert [task["id"] for task in second["results"]] == tasks[::-1][2:4]
    assert http.get("/api/tasks", params={"search": "page", "page": 4, "page_size": 2}).status_code == 404
    logic = json.dumps({"and": [{"==": [{"var": "name"}, "page 3"]}]})
    assert [task["id"] for task in http.get("/api/tasks", params={"filter": logic}).json()["results"]] == [tasks[3]]


def test_jobs_are_found_by_state(scene: Scene, client: Client) -> None:
    client.jobs.retrieve(scene.jobs[1].id).update({"state": "completed"})
    found = client.jobs.list(task_id=scene.task.id, state="completed")
    assert [job.id for job in found] == [scene.jobs[1].id]
    assert client.tasks.retrieve(scene.task.id).jobs.completed == 0


def test_a_guide_with_a_picture_can_be_read_by_the_assignee_of_a_job(server: CvatStandin, http: httpx.Client) -> None:
    server.add_user("reader")
    task = server.create_task_from_images({"a.png": picture(1)})
    server.assign(server.jobs(task)[0], "reader")
    guide = http.post("/api/guides", json={"task_id": task.id, "markdown": "draft"}).json()
    sheet = picture(200)
    asset = http.post("/api/assets", data={"guide_id": str(guide["id"])}, files={"file": ("sheet.png", sheet)}).json()
    text = f"![sheet](/api/assets/{asset['uuid']})"
    assert http.patch(f"/api/guides/{guide['id']}", json={"markdown": text}).status_code == 200
    with rest(server, "reader") as reader:
        assert reader.get(f"/api/guides/{guide['id']}").json()["markdown"] == text
        assert reader.get(f"/api/assets/{asset['uuid']}").content == sheet
        assert reader.patch(f"/api/guides/{guide['id']}", json={"markdown": ""}).status_code == 403
        job = reader.get(f"/api/jobs/{server.jobs(task)[0].id}").json()
    assert job["guide_id"] == guide["id"]


def test_issues_carry_comments(scene: Scene, client: Client) -> None:
    job = client.jobs.retrieve(scene.jobs[0].id)
    issue = client.issues.create(
        models.IssueWriteRequest(frame=3, position=[1.0, 2.0, 3.0, 4.0], job=job.id, message="box is off")
    )
    client.comments.create(models.CommentWriteRequest(issue=issue.id, message="second comment"))
    assert [comment.message for comment in issue.get_comments()] == ["second comment", "box is off"]
    issue.update(models.PatchedIssueWriteRequest(resolved=True))
    assert [issue.resolved for issue in job.get_issues()] == [True]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_failures_strike_by_route_and_count(server: CvatStandin, http: httpx.Client) -> None:
    rule = server.faults.add("/api/users/self", "GET", status=502, after=1, count=2)
    statuses = [http.get("/api/users/self").status_code for _ in range(4)]
    assert statuses == [200, 502, 502, 200]
    assert rule.struck == 2
    server.faults.clear()


def test_a_dropped_call_does_nothing_and_one_dropped_after_has_been_done(scene: Scene, server: CvatStandin) -> None:
    tracks = {"tracks": [scene.track(box(1))]}
    for kind, left in (("drop", 0), ("drop-after", 1)):
        with server.failing("/api/jobs/*/annotations", "PATCH", kind=kind), pytest.raises(httpx.TransportError):
            scene.patch(0, "create", **tracks)
        assert len(scene.read(0)["tracks"]) == left


def test_a_slow_answer_runs_into_the_clients_limit(server: CvatStandin, http: httpx.Client) -> None:
    with server.failing("/api/users/self", kind="slow", seconds=0.5), pytest.raises(httpx.ReadTimeout):
        http.get("/api/users/self", timeout=0.1)


def test_a_server_that_was_away_comes_back_with_all_it_knew() -> None:
    with CvatStandin() as server:
        task = server.create_task_from_images({"a.png": picture(1)})
        with rest(server) as http:
            address = server.url
            with server.away(), pytest.raises(httpx.ConnectError):
                http.get(f"/api/tasks/{task.id}")
            assert server.url == address
            assert http.get(f"/api/tasks/{task.id}").status_code == 200


def test_calls_are_recorded(server: CvatStandin, http: httpx.Client) -> None:
    http.get("/api/users/self")
    last = server.calls[-1]
    assert (last.method, last.path, last.user, last.status) == ("GET", "/api/users/self", "admin", 200)
