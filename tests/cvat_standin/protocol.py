"""Calls, replies and listings: what all operations of the REST API have in common.

In: HTTP requests, already read. Out: replies not yet sent. :func:`route` registers the function that serves a path.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cvat_standin import access
from cvat_standin.media import Blob
from cvat_standin.state import Token, User

Json = dict[str, Any]


class HttpError(Exception):
    """An answer with an error status; ``detail`` is a text or the body's JSON."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.body = detail if isinstance(detail, dict | list) else {"detail": detail}


@dataclass(frozen=True)
class Reply:
    """An answer: JSON unless ``blob`` is given."""

    status: int = 200
    json: Any = None
    blob: Blob | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request, with the user it comes from."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base: str
    user: User | None = None
    token: Token | None = None
    context: access.Context = None

    @property
    def me(self) -> User:
        """The user; handlers behind the login can rely on it."""
        assert self.user is not None
        return self.user

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            HttpError: 400 when it is none.
        """
        if not self.body:
            return {}
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise HttpError(400, f"JSON parse error - {error}") from error

    def form(self) -> tuple[Json, dict[str, bytes]]:
        """The body as fields and files, from JSON, a URL-encoded form or a multipart form."""
        kind = self.headers.get("content-type", "")
        if "multipart/form-data" not in kind:
            if "x-www-form-urlencoded" in kind:
                return dict(parse_qsl(self.body.decode())), {}
            return self.json(), {}
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + self.body)
        fields: Json = {}
        files: dict[str, bytes] = {}
        for part in message.iter_parts():
            content = part.get_payload(decode=True)
            content = content if isinstance(content, bytes) else b""
            filename = part.get_filename()
            if filename:
                files[filename.replace("\\", "/").rsplit("/", 1)[-1]] = content
            else:
                fields[str(part.get_param("name", header="content-disposition"))] = content.decode()
        return fields, files


Handler = Callable[..., Reply]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler for a path such as ``/api/jobs/{id}``; numbers arrive as int."""
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", re.escape(template).replace(r"\{", "{").replace(r"\}", "}"))

    def register(handler: Handler) -> Handler:
        ROUTES.append((method, re.compile(pattern + "$"), handler))
        # A path spelled out goes before one with a placeholder: data/meta is not the upload named "meta".
        ROUTES.sort(key=lambda entry: entry[1].groups)
        return handler

    return register


def need(condition: bool, message: str = "You do not have permission to perform this action.") -> None:
    """Refuse with 403 unless a condition holds."""
    if not condition:
        raise HttpError(403, message)


def invalid(field_name: str, message: str) -> HttpError:
    """The error for a field with a wrong value."""
    return HttpError(400, {field_name: [message]})


def _paged(call: Call, rows: list[Json]) -> Reply:
    """One page of a listing, with the links a client follows."""
    size = int(call.query.get("page_size") or 10)
    page = int(call.query.get("page") or 1)
    pages = max(1, -(-len(rows) // size))
    if not 1 <= page <= pages:
        raise HttpError(404, "Invalid page.")

    def link(number: int) -> str | None:
        if not 1 <= number <= pages:
            return None
        query = call.query | {"page": str(number)}
        return f"{call.base}{call.path}?{urlencode(query)}"

    return Reply(
        json={
            "count": len(rows),
            "next": link(page + 1),
            "previous": link(page - 1),
            "results": rows[(page - 1) * size : page * size],
        }
    )


def _rule(row: Json, logic: Any) -> bool:
    """Evaluate the listing's ``filter``: JSON logic with and, or, !, ==, in and var, which is what clients send."""
    if not isinstance(logic, dict):
        return bool(logic)
    operator, operands = next(iter(logic.items()))
    if operator == "and":
        return all(_rule(row, item) for item in operands)
    if operator == "or":
        return any(_rule(row, item) for item in operands)
    if operator == "!":
        return not _rule(row, operands[0] if isinstance(operands, list) else operands)

    def value(item: Any) -> Any:
        if not (isinstance(item, dict) and "var" in item):
            return item
        found = row.get(item["var"])
        return found.get("username") if isinstance(found, dict) and "username" in found else found

    left, right = (value(item) for item in operands)
    if operator == "==":
        return str(left) == str(right)
    if operator == "in":
        return str(left) in right if isinstance(right, str) else left in right
    raise HttpError(400, f"filter: operator {operator} is not supported")


def listed(call: Call, rows: Iterable[Json], *fields: str) -> Reply:
    """Filter by query, ``filter`` and ``search``, sort (newest first unless asked otherwise), and page."""
    rows = list(rows)
    for name in fields:
        if name in call.query:
            wanted = call.query[name]

            def own(row: Json, name: str = name) -> str:
                value = row.get(name)
                return str(value.get("username") if isinstance(value, dict) else value)

            rows = [row for row in rows if own(row) == wanted]
    if "filter" in call.query:
        logic = json.loads(call.query["filter"])
        rows = [row for row in rows if _rule(row, logic)]
    if "search" in call.query:
        wanted = call.query["search"].lower()
        rows = [row for row in rows if any(wanted in str(row.get(k, "")).lower() for k in ("name", "username", "slug"))]
    key = call.query.get("sort") or "-id"
    name = key.lstrip("-").split(",")[0]
    rows.sort(key=lambda row: (row.get(name) is not None, row.get(name)), reverse=key.startswith("-"))
    return _paged(call, rows)
