"""The REST API: finds who asks and which operation is meant, and lets it answer.

In: a :class:`~cvat_standin.protocol.Call`. Out: a reply with the fields, the status codes and the order of listings
seen on a real server. The operations themselves are in ``routes``.
"""

import base64
import binascii
from typing import Any

from cvat_standin import access, routes
from cvat_standin.functions import Functions, Queue
from cvat_standin.protocol import ROUTES, Call, HttpError, Reply, invalid, need
from cvat_standin.state import Job, Project, State, Task, User

# Importing the operations is what registers them.
OPERATIONS = routes.__all__


class Api:
    """All operations. Construct it once a server; :meth:`answer` may be called from many threads.

    Args:
        state: the records.
        functions: the serverless functions on offer.
        queue: the requests for annotation.
    """

    def __init__(self, state: State, functions: Functions, queue: Queue) -> None:
        self.state = state
        self.functions = functions
        self.queue = queue

    def answer(self, call: Call) -> Reply:
        """Serve one call; errors come back as replies."""
        call.path = call.path.rstrip("/") or "/"
        try:
            self._identify(call)
            allowed = False
            for method, pattern, handler in ROUTES:
                found = pattern.match(call.path)
                if found and method == call.method:
                    arguments = {k: int(v) if v.isdigit() else v for k, v in found.groupdict().items()}
                    return handler(self, call, **arguments)
                allowed = allowed or found is not None
            if allowed:
                raise HttpError(405, f'Method "{call.method}" not allowed.')
            raise HttpError(404, "Not found.")
        except HttpError as error:
            return Reply(error.status, error.body)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _identify(self, call: Call) -> None:
        """Find user, token and organisation.

        Raises:
            HttpError: 401 without valid credentials, 403 for a change with a read-only token or without the CSRF
                header, 404 for an unknown organisation.
        """
        if call.path in ("/api/server/about", "/api/auth/login", "/api/auth/register", "/api/schema"):
            return
        scheme, _, value = call.headers.get("authorization", "").partition(" ")
        unsafe = call.method not in ("GET", "HEAD", "OPTIONS")
        cookies = dict(part.strip().partition("=")[::2] for part in call.headers.get("cookie", "").split(";"))
        if scheme.lower() in ("bearer", "token"):
            token = self.state.tokens.get(value)
            now = self.state.clock.now()
            if token is None or (token.expiry is not None and token.expiry <= now):
                raise HttpError(401, "Invalid token.")
            token.last_used = now
            call.user, call.token = token.owner, token
            need(not (unsafe and token.read_only))
        elif scheme.lower() == "basic":
            call.user = self._basic(value)
        elif cookies.get("sessionid") in self.state.sessions:
            call.user = self.state.sessions[cookies["sessionid"]]
            need(not unsafe or bool(call.headers.get("x-csrftoken")), "CSRF Failed: CSRF token missing.")
        else:
            raise HttpError(401, "Authentication credentials were not provided.")
        call.context = self._context(call)

    def _basic(self, value: str) -> User:
        try:
            name, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise HttpError(401, "Invalid basic header.") from error
        user = self.state.user_named(name)
        if user is None or user.password != password:
            raise HttpError(401, "Invalid username/password.")
        return user

    def _context(self, call: Call) -> access.Context:
        slug = call.headers.get("x-organization", call.query.get("org"))
        number = call.query.get("org_id")
        if slug is None and number is None:
            return None
        if not slug and not number:
            return ""
        for organization in self.state.organizations.values():
            if organization.slug == slug or str(organization.id) == number:
                member = call.me.id in organization.members or call.me.is_superuser
                need(member, "You should be an active member in the current organization.")
                return organization
        raise HttpError(404, f"{slug or number} organization does not exist.")

    # --- finding records ----------------------------------------------------------------------------------------------

    def task(self, call: Call, id: int | str) -> Task:
        """A task the user may see.

        Raises:
            HttpError: 404 where there is none, 403 where it is not his.
        """
        task = self.state.tasks.get(id) if isinstance(id, int) else None
        if task is None:
            raise HttpError(404, "Not found.")
        need(access.may_see_task(task, call.me))
        return task

    def job(self, call: Call, id: int | str) -> Job:
        """A job the user may see; see :meth:`task`."""
        job = self.state.jobs.get(id) if isinstance(id, int) else None
        if job is None:
            raise HttpError(404, "Not found.")
        need(access.may_see_job(job, call.me))
        return job

    def project(self, call: Call, id: int | str) -> Project:
        """A project the user may see; see :meth:`task`."""
        project = self.state.projects.get(id) if isinstance(id, int) else None
        if project is None:
            raise HttpError(404, "Not found.")
        need(access.may_see_project(project, call.me))
        return project

    def user(self, value: Any, field_name: str) -> User | None:
        """A user by id, or None.

        Raises:
            HttpError: 400 where there is none of that id.
        """
        if value is None:
            return None
        if value not in self.state.users:
            raise invalid(field_name, f'Invalid pk "{value}" - object does not exist.')
        return self.state.users[value]
