import socket

import pytest
import urllib3
from cvat_standin import CvatStandin

from spam_cvat.cvat.connect import CvatStatusError, connect
from spam_cvat.errors import CvatError, InputError

VARIABLES = (
    *("SPAM_CVAT_URL", "SPAM_CVAT_TOKEN", "SPAM_CVAT_USER", "SPAM_CVAT_PASSWORD", "SPAM_CVAT_ORGANIZATION"),
    *("SPAM_CVAT_INSECURE", "CVAT_SERVER", "CVAT_ACCESS_TOKEN", "PASS"),
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(urllib3.util.Retry, "sleep", lambda *args: None)


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


def test_a_token_logs_in(server):
    with connect(server.url, server.token("admin", read_only=False)) as conn:
        assert conn.user["username"] == "admin"
        assert conn.url == server.url
        assert conn.version.startswith("2.54")
        assert conn.token_is_read_only() is False


def test_a_read_only_token_is_recognised(server):
    assert connect(server.url, server.token("admin")).token_is_read_only() is True


def test_a_password_logs_in_and_has_no_token_to_ask_about(server):
    conn = connect(server.url, user="admin", password="admin")
    assert conn.user["username"] == "admin"
    assert conn.token_is_read_only() is None


def test_the_environment_names_server_and_token(server, monkeypatch):
    monkeypatch.setenv("CVAT_SERVER", "http://elsewhere.invalid")
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "another")
    monkeypatch.setenv("SPAM_CVAT_URL", server.url)
    monkeypatch.setenv("SPAM_CVAT_TOKEN", server.token("admin"))
    monkeypatch.setenv("SPAM_CVAT_ORGANIZATION", "lab")
    assert connect(check=False).organization == "lab"
    assert connect(organization="").user["username"] == "admin"


def test_a_saved_profile_logs_in(server):
    auth = pytest.importorskip("cvat_sdk.core.auth")
    entry = auth.ProfileEntry(server.url, server.token("admin"), "2026-01-01T00:00:00Z")
    auth.AuthStore().put_profile("lab", entry)
    assert connect().url == server.url, "the default profile is taken where nothing is given"
    assert connect(profile="lab").user["username"] == "admin"
    with pytest.raises(InputError, match="no profile 'other'"):
        connect(profile="other")


def test_without_a_login_the_way_to_one_is_told():
    with pytest.raises(InputError, match="set CVAT_ACCESS_TOKEN"):
        connect("http://localhost:1")


def test_a_wrong_token_is_told(server):
    with pytest.raises(CvatStatusError, match=r"401 .*token may be wrong, revoked or expired") as caught:
        connect(server.url, "wrong")
    assert caught.value.status == 401


def test_a_wrong_password_is_told(server):
    with pytest.raises(CvatStatusError, match="login at"):
        connect(server.url, user="admin", password="wrong")


def test_an_expired_token_is_told(server):
    token = server.token("admin")
    conn = connect(server.url, token)
    server.expire_token(token)
    with pytest.raises(CvatStatusError, match="401"):
        conn.get("/api/tasks")


def test_a_server_that_is_away_is_told_with_its_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CvatStatusError, match=f"cannot reach {address}") as caught:
        connect(address, "token")
    assert caught.value.status == 0


def test_what_is_not_there_and_what_is_not_allowed_are_told(server):
    conn = connect(server.url, server.token("admin"))
    with pytest.raises(CvatStatusError, match=r"task 999: .* answered 404") as caught:
        conn.get("/api/tasks/999", what="task 999")
    assert caught.value.status == 404
    with pytest.raises(CvatStatusError, match=r'answered 403 .*"read_only": false'):
        conn.post("/api/tasks", {"name": "x"})


def test_a_get_is_repeated_when_the_server_is_away_for_a_moment(server):
    conn = connect(server.url, server.token("admin"))
    with server.failing("/api/tasks", status=503, count=2) as fault:
        assert conn.pages("/api/tasks") == []
    assert fault.struck == 2


def test_a_get_is_not_repeated_for_ever(server):
    conn = connect(server.url, server.token("admin"))
    with (
        server.failing("/api/tasks", status=502),
        pytest.raises(CvatStatusError, match=r"fails .*502.*its log says why"),
    ):
        conn.pages("/api/tasks")


def test_a_write_is_never_repeated_because_it_may_have_been_done(server):
    conn = connect(server.url, server.token("admin", read_only=False))
    body = {"name": "once", "labels": []}
    with server.failing("/api/tasks", "POST", kind="drop-after") as fault, pytest.raises(CvatStatusError):
        conn.post("/api/tasks", body)
    assert fault.struck == 1
    assert [task["name"] for task in conn.pages("/api/tasks")] == ["once"]


def test_a_slow_answer_is_told_as_such(server):
    conn = connect(server.url, server.token("admin"))
    with (
        server.failing("/api/tasks", "*", kind="slow", seconds=1.0),
        pytest.raises(CvatStatusError, match="did not answer in time"),
    ):
        conn.request("POST", "/api/tasks", body={"name": "x"}, timeout=0.2)


def test_something_that_is_no_cvat_is_told(server, monkeypatch):
    conn = connect(server.url, server.token("admin"))
    monkeypatch.setattr(conn, "request", lambda *args, **kwargs: b"<html>welcome</html>")
    with pytest.raises(CvatError, match="not JSON; is this address a CVAT server"):
        conn.get("/api/tasks")
