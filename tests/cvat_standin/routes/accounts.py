"""Operations on the server itself, login and tokens, users and organisations."""

import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

from cvat_standin import access, serialize
from cvat_standin.protocol import Call, HttpError, Reply, invalid, listed, need, route
from cvat_standin.state import Organization, Token

if TYPE_CHECKING:
    from cvat_standin.api import Api


@route("GET", "/api/server/about")
def about(api: "Api", call: Call) -> Reply:
    return Reply(json=serialize.about(call.base))


@route("GET", "/api/server/plugins")
def plugins(api: "Api", call: Call) -> Reply:
    return Reply(json={"GIT_INTEGRATION": False, "ANALYTICS": False, "MODELS": True, "PREDICT": False})


@route("GET", "/api/server/health")
def health(api: "Api", call: Call) -> Reply:
    return Reply(json={"Cache backend: default": "working", "DatabaseBackend": "working"})


@route("GET", "/api/schema")
def schema(api: "Api", call: Call) -> Reply:
    return Reply(json={"openapi": "3.0.3", "info": {"title": "CVAT REST API", "version": "2.54"}, "paths": {}})


@route("POST", "/api/auth/login")
def login(api: "Api", call: Call) -> Reply:
    fields, _ = call.form()
    user = api.state.user_named(str(fields.get("username") or ""))
    if user is None or user.password != fields.get("password"):
        raise HttpError(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
    user.last_login = api.state.clock.now()
    session = uuid.uuid4().hex
    api.state.sessions[session] = user
    return Reply(json={"key": uuid.uuid4().hex}, cookies={"csrftoken": uuid.uuid4().hex, "sessionid": session})


@route("POST", "/api/auth/logout")
def logout(api: "Api", call: Call) -> Reply:
    for session in [key for key, user in api.state.sessions.items() if user is call.user]:
        del api.state.sessions[session]
    return Reply(json={"detail": "Successfully logged out."})


@route("GET", "/api/auth/access_tokens")
def list_tokens(api: "Api", call: Call) -> Reply:
    mine = [token for token in api.state.tokens.values() if token.owner is call.me]
    return listed(call, (serialize.token(token, call.base) for token in mine), "name")


@route("POST", "/api/auth/access_tokens")
def create_token(api: "Api", call: Call) -> Reply:
    given = call.json()
    if not given.get("name"):
        raise invalid("name", "This field is required.")
    expiry = datetime.fromisoformat(given["expiry_date"]) if given.get("expiry_date") else None
    read_only = bool(given.get("read_only", True))
    token = api.state.add_token(call.me, given["name"], read_only=read_only, expiry=expiry)
    return Reply(201, serialize.token(token, call.base) | {"value": token.value})


@route("GET", "/api/auth/access_tokens/self")
def own_token(api: "Api", call: Call) -> Reply:
    if call.token is None:
        raise HttpError(404, "Not found.")
    return Reply(json=serialize.token(call.token, call.base))


def _own_token(api: "Api", call: Call, id: int | str) -> Token:
    for token in api.state.tokens.values():
        if token.id == id and token.owner is call.me:
            return token
    raise HttpError(404, "Not found.")


@route("GET", "/api/auth/access_tokens/{id}")
def get_token(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.token(_own_token(api, call, id), call.base))


@route("DELETE", "/api/auth/access_tokens/{id}")
def delete_token(api: "Api", call: Call, id: int | str) -> Reply:
    del api.state.tokens[_own_token(api, call, id).value]
    return Reply(204)


@route("GET", "/api/users/self")
def self_user(api: "Api", call: Call) -> Reply:
    return Reply(json=serialize.user(call.me, call.base))


@route("GET", "/api/users")
def list_users(api: "Api", call: Call) -> Reply:
    """A plain user finds himself and the members of his organisations; in an organisation, its members."""
    shown = {call.me.id}
    for organization in api.state.organizations.values():
        if call.me.id in organization.members and access.in_context(organization, call.context or None):
            shown |= set(organization.members)
    everyone = call.me.is_superuser and not isinstance(call.context, Organization)
    users = [user for user in api.state.users.values() if everyone or user.id in shown]
    detailed = call.me.is_superuser
    rows = [
        serialize.user(user, call.base) if detailed or user is call.me else serialize.person(user, call.base)
        for user in users
    ]
    return listed(call, (row for row in rows if row is not None), "id", "username", "first_name", "last_name")


@route("GET", "/api/users/{id}")
def get_user(api: "Api", call: Call, id: int | str) -> Reply:
    user = api.state.users.get(id) if isinstance(id, int) else None
    if user is None:
        raise HttpError(404, "Not found.")
    return Reply(json=serialize.user(user, call.base) if call.me.is_superuser else serialize.person(user, call.base))


@route("GET", "/api/organizations")
def list_organizations(api: "Api", call: Call) -> Reply:
    mine = [o for o in api.state.organizations.values() if call.me.is_superuser or call.me.id in o.members]
    return listed(call, (serialize.organization(o, call.base) for o in mine), "slug", "name")


@route("POST", "/api/organizations")
def create_organization(api: "Api", call: Call) -> Reply:
    given = call.json()
    if not re.fullmatch(r"[-a-zA-Z0-9_]+", str(given.get("slug") or "")):
        raise invalid("slug", "Enter a valid slug.")
    if any(o.slug == given["slug"] for o in api.state.organizations.values()):
        raise invalid("slug", "organization with this slug already exists.")
    made = api.state.add_organization(
        given["slug"], call.me, name=given.get("name", ""), description=given.get("description", "")
    )
    return Reply(201, serialize.organization(made, call.base))


def _organization(api: "Api", call: Call, id: int | str) -> Organization:
    found = api.state.organizations.get(id) if isinstance(id, int) else None
    if found is None:
        raise HttpError(404, "Not found.")
    need(call.me.is_superuser or call.me.id in found.members)
    return found


@route("GET", "/api/organizations/{id}")
def get_organization(api: "Api", call: Call, id: int | str) -> Reply:
    return Reply(json=serialize.organization(_organization(api, call, id), call.base))


@route("GET", "/api/memberships")
def list_memberships(api: "Api", call: Call) -> Reply:
    rows = []
    for organization in api.state.organizations.values():
        if access.in_context(organization, call.context) and call.me.id in organization.members:
            rows += serialize.memberships(organization, api.state.users, call.base)
    return listed(call, rows, "user", "role")
