"""The function files: every field that CVAT and Nuclio read, and what must be the same in several places."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

from spam_cvat.detectors import open_detector
from spam_cvat.serving import gateway
from spam_cvat.serving.function import LABELS
from spam_cvat.serving.settings import FUNCTION_NAMES, Settings

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "gpu": ROOT / "function.yaml",
    "cpu": ROOT / "serverless" / "function-cpu.yaml",
    "kubernetes": ROOT / "serverless" / "function-kubernetes.yaml",
}


@pytest.fixture(params=FILES)
def form(request):
    return request.param


@pytest.fixture
def function(form):
    return yaml.safe_load(FILES[form].read_text())


def environment(function):
    return {entry["name"]: entry.get("value") for entry in function["spec"]["env"]}


def test_cvat_finds_a_detector_with_the_labels_that_the_code_lists(function):
    notes = function["metadata"]["annotations"]
    assert notes["type"] == "detector", "the dialog offers detectors (and reid) only, and hides unknown kinds"
    assert json.loads(notes["spec"]) == list(LABELS)
    assert [label["type"] for label in LABELS] == ["rectangle"] * len(LABELS)
    assert int(notes["version"]) == 1
    assert all(isinstance(value, str) for value in notes.values()), "Kubernetes takes text only"
    assert notes["name"]
    assert function["spec"]["description"]


def test_the_gateway_says_of_the_function_what_the_files_say(function):
    notes = function["metadata"]["annotations"]
    assert {name: notes[name] for name in ("type", "framework", "version")} == {
        name: gateway.ANNOTATIONS[name] for name in ("type", "framework", "version")
    }
    assert notes["name"].startswith("SPAM tracks (people")
    assert function["spec"]["description"] == gateway.DESCRIPTION
    described = gateway.function_object("x", 1)["metadata"]["annotations"]
    assert json.loads(described["spec"]) == json.loads(notes["spec"])


def test_the_labels_are_those_of_the_detector_that_is_deployed(function):
    detector = open_detector(environment(function)["SPAM_DETECTOR"])
    assert list(detector.labels) == [label["name"] for label in LABELS]


def test_the_name_is_one_by_which_the_function_knows_its_requests(function, form):
    assert function["metadata"]["name"] in FUNCTION_NAMES
    assert function["metadata"]["name"] == ("spam-cvat-cpu" if form == "cpu" else "spam-cvat")


def test_the_handler_is_there_with_init_context_in_its_own_module(function, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    module, name = function["spec"]["handler"].split(":")
    handler = getattr(importlib.import_module(module), name)
    assert callable(handler)
    assert callable(importlib.import_module(handler.__module__).init_context), "where Nuclio's wrapper looks for it"
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


def test_python_is_new_enough_and_the_same_in_runtime_and_image(function):
    version = function["spec"]["runtime"].removeprefix("python:")
    assert tuple(map(int, version.split("."))) >= (3, 11)
    assert function["spec"]["build"]["baseImage"].startswith(f"python:{version}")


def test_one_worker_that_takes_a_4k_picture_and_waits_long_enough(function):
    (trigger,) = function["spec"]["triggers"].values()
    assert trigger["kind"] == "http"
    assert trigger["numWorkers"] == 1
    assert "maxWorkers" not in trigger, "deprecated"
    assert trigger["attributes"]["maxRequestBodySize"] == gateway.MAX_BODY
    assert gateway.MAX_BODY >= 3840 * 2160 * 3 * 4 / 3 * 2, "a PNG of noise in base64, twice over"
    assert trigger["workerAvailabilityTimeoutMilliseconds"] == gateway.WORKER_SECONDS * 1000
    assert function["spec"]["readinessTimeoutSeconds"] > 60, "weights load in init_context"
    seconds = int(function["spec"]["eventTimeout"].removesuffix("s"))
    assert Settings().call_seconds < seconds
    assert Settings().wait_seconds < gateway.WORKER_SECONDS, "a direct call must not keep CVAT's calls from the worker"


def test_the_package_is_installed_with_what_the_form_needs(function, form):
    steps = function["spec"]["build"]["directives"]
    installs = [step["value"] for step in steps["postCopy"] if "pip install" in step["value"]]
    assert any(f".[{'onnx' if form == 'cpu' else 'gpu'}]" in line for line in installs)
    assert {step["kind"] for group in steps.values() for step in group} <= {"ENV", "RUN", "WORKDIR", "USER"}


def test_a_gpu_is_asked_for_where_there_is_to_be_one(function, form):
    limits = function["spec"].get("resources", {}).get("limits", {})
    assert limits.get("nvidia.com/gpu") == (None if form == "cpu" else 1)
    assert environment(function)["SPAM_DEVICE"] == ("cpu" if form == "cpu" else "auto")


def test_the_environment_can_be_used_and_holds_no_secret(function):
    values = {name: value for name, value in environment(function).items() if value is not None}
    assert Settings.from_environment(values).detector == "hog"
    assert not any("TOKEN" in name or "PASSWORD" in name for name in values)


def test_replicas_share_a_store_and_check_every_image():
    function = yaml.safe_load(FILES["kubernetes"].read_text())
    mounted = [entry["volumeMount"]["mountPath"] for entry in function["spec"]["volumes"]]
    assert environment(function)["SPAM_STORE"] in mounted
    assert Settings.from_environment({"SPAM_VERIFY": environment(function)["SPAM_VERIFY"]}).verify_all
    assert 1 <= function["spec"]["minReplicas"] <= function["spec"]["maxReplicas"]
    secret = next(entry for entry in function["spec"]["env"] if entry["name"] == "SPAM_CVAT_TOKEN")
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "spam-cvat", "key": "token"}
