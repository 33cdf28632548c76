"""Connection: one logged-in CVAT server, every failure told in one line.

In: server, token or password from arguments, the environment or ``cvat-cli``'s profiles. Out: JSON values and bytes.

Requests go through cvat-sdk's client (login, headers, TLS), but answers are read as plain JSON: building the SDK's
models of 60,000 shapes takes minutes, and some of its models lag behind the server's answers. The SDK's own objects
are at hand as ``Connection.client``.

Environment, in order of precedence after the arguments:

==========================  ==========================================================================
``SPAM_CVAT_URL``           the server, else ``CVAT_SERVER``, else cvat-cli's default, else http://localhost
``SPAM_CVAT_TOKEN``         a personal access token that may write, else ``CVAT_ACCESS_TOKEN``
``SPAM_CVAT_USER``          user name, with ``SPAM_CVAT_PASSWORD`` (else ``PASS``), where there is no token
``SPAM_CVAT_ORGANIZATION``  short name of the organization to work in
``SPAM_CVAT_INSECURE``      1: do not check the TLS certificate
==========================  ==========================================================================
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Self
from urllib.parse import quote

import urllib3
from cvat_sdk.api_client.exceptions import ApiException
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.core.exceptions import CvatSdkException

from spam_cvat.errors import CvatError, InputError

DEFAULT_SERVER = "http://localhost"
CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0


class CvatStatusError(CvatError):
    """The server answered with an error.

    Attributes:
        status: its HTTP status, 0 where there was no answer at all.
    """

    def __init__(self, message: str, status: int) -> None:
        """Keep the status beside the message."""
        super().__init__(message)
        self.status = status


class Connection:
    """A logged-in server; make one with :func:`connect`. Usable from several threads."""

    def __init__(self, client: Client, organization: str | None = None) -> None:
        """Wrap a logged-in SDK client."""
        self.client = client
        self.organization = organization
        if organization is not None:
            client.organization_slug = organization

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return self.client.api_map.host

    @cached_property
    def user(self) -> dict[str, Any]:
        """Who we are: ``{"id", "username", ...}``."""
        return self.get("/api/users/self")

    @cached_property
    def version(self) -> str:
        """The server's version."""
        return str(self.get("/api/server/about")["version"])

    def token_is_read_only(self) -> bool | None:
        """Whether the access token may only read; None where that cannot be asked (a password, an older server)."""
        try:
            return bool(self.get("/api/auth/access_tokens/self")["read_only"])
        except CvatStatusError as error:
            if error.status in (400, 403, 404, 405):
                return None
            raise

    def get(self, path: str, query: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """GET a JSON value; ``kwargs`` as in :meth:`request`."""
        return self._json("GET", path, query=query, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> Any:
        """POST a JSON value."""
        return self._json("POST", path, body=body, **kwargs)

    def patch(self, path: str, body: Any = None, **kwargs: Any) -> Any:
        """PATCH with a JSON value."""
        return self._json("PATCH", path, body=body, **kwargs)

    def put(self, path: str, body: Any = None, **kwargs: Any) -> Any:
        """PUT a JSON value."""
        return self._json("PUT", path, body=body, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> None:
        """DELETE."""
        self.request("DELETE", path, **kwargs)

    def pages(self, path: str, query: Mapping[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """All results of a paged list."""
        results: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = self.get(path, {**(query or {}), "page": page, "page_size": 100}, **kwargs)
            results += answer["results"]
            if not answer.get("next"):
                return results
            page += 1

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        what: str = "",
        organization: str | None = None,
        no_organization: bool = False,
        timeout: float = READ_SECONDS,
    ) -> bytes:
        """Send a request and return the answer's bytes.

        The SDK repeats a GET when the server is away for a moment; a POST or PATCH never, for it may have been done.

        Args:
            method: HTTP method.
            path: from ``/api`` on.
            query: parameters.
            body: a JSON value.
            what: names the thing asked for in messages, by default method and path.
            organization: ask in this organization's context instead of the connection's.
            no_organization: ask outside any organization's context.
            timeout: seconds to wait for the answer.

        Raises:
            CvatStatusError: the server refused, failed, or is away.
        """
        headers: dict[str, Any] = {}
        if organization is not None or no_organization:
            headers["X-Organization"] = organization
        with explain(what or f"{method} {path}", self.url):
            _, response = self.client.api_client.call_api(
                quote(path, safe="/"),
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                _request_timeout=(CONNECT_SECONDS, timeout),
            )
            return response.data

    def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        data = self.request(method, path, **kwargs)
        if not data:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise CvatError(
                f"{self.url}{path}: the answer is not JSON; is this address a CVAT server ({data[:60]!r})?"
            ) from error

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()

    def __enter__(self) -> Self:
        """The connection itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


def connect(
    server: str | None = None,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    organization: str | None = None,
    *,
    profile: str | None = None,
    insecure: bool | None = None,
    check: bool = True,
) -> Connection:
    """Log in to a CVAT server; what is not given comes from the environment, then from cvat-cli's profiles.

    Args:
        server: address, with or without ``https://``.
        token: personal access token; made with ``"read_only": false``, or nothing can be written.
        user: user name, used where there is no token.
        password: its password.
        organization: short name of the organization to work in.
        profile: name of a profile saved by ``cvat-cli profile``.
        insecure: do not check the TLS certificate.
        check: ask the server who we are, so that a wrong address or token shows here.

    Raises:
        InputError: there is no way to log in, or the address is none.
        CvatStatusError: the server is away or refused the login.
    """
    environment = os.environ
    # An address or a token given here rules out the profile that cvat-cli would take by default.
    named = server or environment.get("SPAM_CVAT_URL") or environment.get("CVAT_SERVER")
    token = token or environment.get("SPAM_CVAT_TOKEN") or environment.get("CVAT_ACCESS_TOKEN")
    user = user or environment.get("SPAM_CVAT_USER")
    password = password or environment.get("SPAM_CVAT_PASSWORD") or environment.get("PASS")
    organization = organization if organization is not None else environment.get("SPAM_CVAT_ORGANIZATION") or None
    if insecure is None:
        insecure = environment.get("SPAM_CVAT_INSECURE", "").lower() in ("1", "true", "yes")
    if profile is not None or not (named or token or user):
        found = _profile(profile)
        if found:
            named, token = found
    address = named or DEFAULT_SERVER
    if not token and not (user and password):
        raise InputError(
            f"no login for {address}: set CVAT_ACCESS_TOKEN to a personal access token that may write, give a user and "
            "password, or save a profile with cvat-cli"
        )
    with explain(f"login at {address}", address):
        client = Client(address, config=Config(verify_ssl=not insecure), check_server_version=False)
        client.login(AccessTokenCredentials(token) if token else (str(user), str(password)))
    connection = Connection(client, organization)
    if check:
        connection.get("/api/users/self", what=f"login at {address}")
    return connection


def _profile(name: str | None) -> tuple[str, str] | None:
    """Server and token of a saved profile; of the default one where no name is given and one is set."""
    try:
        from cvat_sdk.core.auth import AuthStore
        from cvat_sdk.core.exceptions import AuthStoreError
    except ImportError:
        if name is None:
            return None
        raise InputError(f"profile {name!r}: this cvat-sdk knows no profiles; install cvat-sdk 2.80 or later") from None
    try:
        if name is None:
            default = AuthStore().get_default_profile()
            entry = default[1] if default else None
        else:
            entry = AuthStore().get_profile(name)
    except AuthStoreError as error:
        raise InputError(f"cvat-cli's profiles: {error}") from error
    if entry is None and name is not None:
        raise InputError(f"no profile {name!r}; `cvat-cli profile list` shows what there is")
    return (entry.server, entry.token) if entry else None


@contextlib.contextmanager
def explain(what: str, server: str) -> Iterator[None]:
    """Turn the SDK's and the network's errors in this block into one clear line, as :class:`CvatStatusError`.

    Args:
        what: was attempted, for the message.
        server: address, for the message.
    """
    try:
        yield
    except ApiException as error:
        raise CvatStatusError(_status_message(what, server, error), int(error.status or 0)) from error
    except urllib3.exceptions.HTTPError as error:
        reason: BaseException = getattr(error, "reason", None) or error
        # A refused connection is a kind of time-out to urllib3.
        refused = isinstance(reason, urllib3.exceptions.NewConnectionError)
        if isinstance(reason, urllib3.exceptions.TimeoutError) and not refused:
            message = f"{what}: {server} did not answer in time; try again, or look at the server's load"
        elif isinstance(reason, urllib3.exceptions.ResponseError):
            message = f"{what}: {server} fails ({_first_line(reason)}); its log says why"
        else:
            message = f"{what}: cannot reach {server} ({_first_line(reason)}); is the address right and the server up?"
        raise CvatStatusError(message, 0) from error
    except CvatSdkException as error:
        raise CvatError(f"{what}: {server}: {_first_line(error)}") from error


_HINTS = {
    0: "the connection could not be made; for a self-signed certificate set SPAM_CVAT_INSECURE=1",
    401: "the server does not know this login; the access token may be wrong, revoked or expired: make a new one",
    403: (
        "the login has no right to this; a task of an organization needs its maintainer or the task's assignee, and "
        'writing needs an access token made with "read_only": false'
    ),
    404: "there is no such thing, or the login may not see it; check the number and SPAM_CVAT_ORGANIZATION",
    409: "it is in use by somebody else right now; try again later",
    413: "it is too large for the server's proxy",
    429: "too many requests; try again later",
}


def _status_message(what: str, server: str, error: ApiException) -> str:
    status = int(error.status or 0)
    said = _server_words(error)
    hint = _HINTS.get(status) or ("the server failed; its log says why" if status >= 500 else "")
    parts = [f"{what}: {server} answered {status}" if status else f"{what}: {server}"]
    parts += [f'"{said}"'] if said else []
    return " ".join(parts) + (f": {hint}" if hint else "")


def _server_words(error: ApiException) -> str:
    """The readable part of an error's body, cut to one short line."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else (error.body or error.reason or "")
    try:
        value = json.loads(body)
    except ValueError:
        value = "" if "<html" in body.lower() else body
    if isinstance(value, dict):
        value = value.get("detail") or value.get("message") or value.get("non_field_errors") or value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _first_line(value if isinstance(value, str) else json.dumps(value))


def _first_line(value: object, limit: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
