import sys

import numpy as np
import pytest
from cvat_standin import CvatStandin
from moving_squares import make_function, module_of

from spam_cvat import doctor
from spam_cvat.cvat.store import Store
from spam_cvat.doctor import diagnose
from spam_cvat.errors import InputError
from spam_cvat.serving import session as session_module
from spam_cvat.serving.gateway import Gateway

VARIABLES = (
    *("SPAM_CVAT_URL", "SPAM_CVAT_TOKEN", "SPAM_CVAT_USER", "SPAM_CVAT_ORGANIZATION", "CVAT_SERVER"),
    *("CVAT_ACCESS_TOKEN", "SPAM_FUNCTION_URL", "SPAM_FUNCTION_NAME", "SPAM_DETECTOR", "SPAM_THRESHOLD"),
)


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SPAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *args: None)
    monkeypatch.setattr(session_module, "annotate", lambda *args, **more: None)


def found(**options):
    return {check.name: check for check in diagnose(**options)}


def test_what_is_here_is_told_without_a_server():
    checks = found()
    assert checks["torch"].status == "ok"
    assert checks["detector"].status == checks["embedder"].status == checks["store"].status == "ok"
    assert checks["CVAT"].status == "skipped"
    assert "plain detector without a login" in checks["CVAT"].detail
    assert checks["function"].status == checks["last run"].status == "skipped"
    assert all("\n" not in check.detail for check in checks.values())


def test_a_good_login_is_told(server):
    server.create_task_from_video([np.zeros((8, 8, 3), np.uint8)])
    server.functions.add("spam-cvat", lambda body: [])
    checks = found(server=server.url, token=server.token("admin", read_only=False))
    assert (checks["CVAT"].status, checks["token"].status, checks["tasks"].status) == ("ok", "ok", "ok")
    assert "as admin" in checks["CVAT"].detail
    assert checks["functions in CVAT"].detail == "spam-cvat is offered"


def test_a_read_only_token_is_told(server):
    checks = found(server=server.url, token=server.token("admin"))
    assert (checks["token"].status, '"read_only": false' in checks["token"].detail) == ("failed", True)


def test_a_wrong_token_a_wrong_organization_and_an_account_that_sees_nothing_are_told(server):
    assert "401" in found(server=server.url, token="wrong")["CVAT"].detail
    server.add_user("nobody")
    checks = found(server=server.url, token=server.token("nobody", read_only=False))
    assert checks["tasks"].status == "warning"
    checks = found(server=server.url, token=server.token("admin", read_only=False), organization="lab")
    assert "failed" in {checks["CVAT"].status, checks.get("organization", checks["CVAT"]).status}


def test_a_server_that_is_away_is_told():
    assert "cannot reach" in found(server="http://127.0.0.1:9", token="x")["CVAT"].detail


def test_the_function_is_asked(server, tmp_path):
    with Gateway(port=0, module=module_of(make_function(server, tmp_path))) as gateway:
        check = found(function=gateway.url)["function"]
        assert (check.status, "squares" in check.detail) == ("ok", True)
    with Gateway(port=0, module=module_of(make_function(server, tmp_path, token=""))) as gateway:
        check = found(function=gateway.url)["function"]
        assert (check.status, "no CVAT access token" in check.detail) == ("warning", True)
    check = found(function=gateway.url)["function"]
    assert (check.status, "is it deployed" in check.detail) == ("failed", True)
    assert "not this function" in found(function=f"{server.url}/api/server/about")["function"].detail


def test_how_the_last_run_ended_is_told(tmp_path):
    store = Store(tmp_path / "store")
    store.report_run({"status": "failed", "kind": "direct call", "task": 7, "error": "task 7 has no label"})
    check = found()["last run"]
    assert (check.status, "task 7 has no label" in check.detail) == ("failed", True)
    store.report_run({"status": "done", "kind": "direct call", "task": 7, "error": None})
    check = found()["last run"]
    assert (check.status, "the last that failed" in check.detail) == ("ok", True)


def test_what_cannot_be_used_is_told_and_the_rest_is_still_looked_at(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPAM_STORE", str(tmp_path / "file"))
    monkeypatch.setenv("SPAM_THRESHOLD", "high")
    checks = found()
    assert checks["settings"].detail == "SPAM_THRESHOLD='high' is not a number"
    assert checks["store"].status == "failed"
    assert checks["last run"].status == "skipped"
    monkeypatch.delenv("SPAM_THRESHOLD")
    monkeypatch.setenv("SPAM_DETECTOR", "onnx:nowhere.onnx")
    assert "nowhere.onnx" in found()["detector"].detail


def test_weights_that_cannot_be_read_and_a_missing_onnxruntime_are_told(monkeypatch):
    def broken(path):
        raise InputError("weights.npz: cannot read")

    monkeypatch.setattr(doctor.weight_files, "load", broken)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    checks = found()
    assert (checks["weights"].status, checks["weights"].detail) == ("failed", "weights.npz: cannot read")
    assert checks["onnxruntime"].status == "skipped"
