"""The stand-in's answers against a real server's: the same fields with the same types, as the schema promises."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cvat_standin import CvatStandin

Json = dict[str, Any]


def differences(real: Any, ours: Any, where: str = "$") -> list[str]:
    """Fields missing or too many, and types that differ. What is absent (null, an empty list) on one side fits any."""
    if isinstance(real, dict) and isinstance(ours, dict):
        found = [f"{where}: {sorted(set(real) ^ set(ours))} not in both"] if set(real) != set(ours) else []
        for key in real.keys() & ours.keys():
            found += differences(real[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(real, list) and isinstance(ours, list):
        return differences(real[0], ours[0], f"{where}[0]") if real and ours else []
    if real is None or ours is None:
        return []
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (real, ours))
    return [] if numbers or type(real) is type(ours) else [f"{where}: {ours!r} in place of {real!r}"]


@pytest.fixture(scope="module")
def samples(spam_cvat_facts: Path) -> Path:
    return spam_cvat_facts / "samples"


PERSON = {
    "name": "person",
    "type": "rectangle",
    "attributes": [
        {"name": "pose", "mutable": True, "input_type": "select", "default_value": "standing", "values": ["standing"]},
        {"name": "note", "mutable": False, "input_type": "text", "default_value": "", "values": [""]},
    ],
}


@pytest.fixture(scope="module")
def scene(spam_cvat_facts: Path) -> Iterator[tuple[httpx.Client, Json]]:
    """A strict server with one of everything; the ids of the things by name."""
    clip = [np.full((90, 160, 3), 4 * frame, np.uint8) for frame in range(60)]
    with CvatStandin(strict=spam_cvat_facts / "openapi-2.54.yml") as server:
        server.add_user("annot1")
        header = {"Authorization": f"Bearer {server.token(read_only=False)}"}
        with httpx.Client(base_url=server.url, headers=header) as http:
            project = http.post("/api/projects", json={"name": "p", "labels": [PERSON]}).json()["id"]
            http.post("/api/tasks", json={"name": "empty", "project_id": project})
            task = server.create_task_from_video(clip, labels=[PERSON], segment_size=20, overlap=0)
            job, label = server.jobs(task)[0], next(iter(server.state.labels_of(task)))
            server.assign(job, "annot1")
            box = {"type": "rectangle", "points": [1, 2, 3, 4]}
            body = {
                "tracks": [{"label_id": label, "frame": 3, "group": 0, "shapes": [{**box, "frame": 3}]}],
                "shapes": [{"label_id": label, "frame": 4, "source": "auto", **box}],
                "tags": [{"label_id": label, "frame": 3}],
            }
            answer = http.patch(f"/api/jobs/{job.id}/annotations", params={"action": "create"}, json=body)
            assert answer.status_code == 200
            issue = {"frame": 3, "position": [1, 2, 3, 4], "job": job.id, "message": "box is off"}
            issue_id = http.post("/api/issues", json=issue).json()["id"]
            guide = http.post("/api/guides", json={"task_id": task.id, "markdown": "# How"}).json()["id"]
            server.functions.add("stub", lambda body: [])
            http.post("/api/lambda/requests", json={"function": "stub", "task": task.id, "threshold": 0.5})
            server.wait()
            yield (
                http,
                {"project": project, "task": task.id, "job": job.id, "issue": issue_id, "guide": guide},
            )
        assert server.violations == []


RECORDED = [
    ("project.json", "/api/projects/{project}"),
    ("task_video.json", "/api/tasks/{task}"),
    ("job.json", "/api/jobs/{job}"),
    ("jobs_video.json", "/api/jobs?task_id={task}"),
    ("data_meta_video.json", "/api/tasks/{task}/data/meta"),
    ("labels_task.json", "/api/labels?project_id={project}"),
    ("annotations_job_tracks.json", "/api/jobs/{job}/annotations"),
    ("annotations_task_tracks.json", "/api/tasks/{task}/annotations"),
    ("review/sheet_attrtag_after.json", "/api/jobs/{job}/annotations"),
    ("review/q3_before.json", "/api/jobs/{job}/annotations"),
    ("issues.json", "/api/issues?job_id={job}"),
    ("review/issue_sample.json", "/api/issues/{issue}"),
    ("comments.json", "/api/comments?issue_id={issue}"),
    ("users.json", "/api/users"),
    ("server_about.json", "/api/server/about"),
    ("server_plugins.json", "/api/server/plugins"),
    ("lambda_requests_finished.json", "/api/lambda/requests"),
    ("lambda_functions.json", "/api/lambda/functions"),
    ("lambda_function.json", "/api/lambda/functions/stub"),
    ("lambda_request_running.json", "/api/lambda/requests/action=autoannotate&target=task&target_id={task}"),
]


@pytest.mark.parametrize(("name", "path"), RECORDED)
def test_answers_have_the_recorded_fields(
    samples: Path, scene: tuple[httpx.Client, Json], name: str, path: str
) -> None:
    http, ids = scene
    answer = http.get(path.format(**ids))
    assert answer.status_code == 200
    assert differences(json.loads((samples / name).read_text()), answer.json()) == []


# Fields of no recorded answer, checked against the schema by the strict server alone.
@pytest.mark.parametrize(
    "path",
    [
        "/api/tasks",
        "/api/users/self",
        "/api/labels/21",
        "/api/guides/{guide}",
        "/api/jobs/{job}/data/meta",
        "/api/auth/access_tokens",
        "/api/organizations",
        "/api/memberships",
        "/api/requests",
        "/api/projects",
    ],
)
def test_every_answer_fits_the_schema(scene: tuple[httpx.Client, Json], path: str) -> None:
    http, ids = scene
    assert http.get(path.format(**ids)).status_code == 200


def test_a_strict_server_answers_500_to_what_does_not_fit_its_schema(spam_cvat_facts: Path) -> None:
    with CvatStandin(strict=spam_cvat_facts / "openapi-2.54.yml") as server:
        server.admin.username = "not/allowed"
        token = server.token("not/allowed")
        answer = httpx.get(f"{server.url}/api/users/self", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 500
        assert any("username" in line for line in server.violations)


def test_a_created_track_is_answered_as_recorded(samples: Path, scene: tuple[httpx.Client, Json]) -> None:
    """The answer to a PATCH repeats what was sent, with ids and the defaults of the shape, attributes as they came."""
    http, ids = scene
    recorded = json.loads((samples / "one-click" / "patch_create_job.json").read_text())
    label = http.get("/api/labels", params={"job_id": ids["job"]}).json()["results"][0]["id"]
    sent = recorded["request"]["first_track"] | {"label_id": label}
    path = f"/api/jobs/{ids['job']}/annotations"
    answer = http.patch(path, params={"action": "create"}, json={"tracks": [sent]}).json()["tracks"][0]
    real = recorded["response_first_track"]
    assert differences(real, answer) == []
    assert [shape["points"] for shape in answer["shapes"]] == [shape["points"] for shape in real["shapes"]]
    assert answer["attributes"] == real["attributes"]
