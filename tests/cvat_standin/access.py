"""Who may see and change what: the permission matrix seen on a real server, as predicates over the records.

A context is the organisation named by the request (``X-Organization``, ``org``, ``org_id``), ``""`` for the personal
workspace, or None where the request names none.
"""

from cvat_standin.state import Job, Organization, Project, Task, User

Context = Organization | str | None


def leads(organization: Organization | None, user: User) -> bool:
    """Owners and maintainers of an organisation see all its tasks; supervisors and workers only what is theirs."""
    return organization is not None and organization.members.get(user.id) in ("owner", "maintainer")


def has_part(record: Task | Project, user: User) -> bool:
    """The user owns the task or project, or it is assigned to him."""
    return user in (record.owner, record.assignee)


def may_see_project(project: Project, user: User) -> bool:
    """Read and change a project."""
    return user.is_superuser or has_part(project, user) or leads(project.organization, user)


def may_see_task(task: Task, user: User) -> bool:
    """Read a task with its frames and annotate it. A job's assignee may not."""
    if user.is_superuser or has_part(task, user) or leads(task.organization, user):
        return True
    return task.project is not None and may_see_project(task.project, user)


def may_see_job(job: Job, user: User) -> bool:
    """Read and annotate a job."""
    return job.assignee is user or may_see_task(job.task, user)


def in_context(organization: Organization | None, context: Context) -> bool:
    """Whether a record belongs to the workspace that the request names."""
    if context is None:
        return True
    return organization is None if context == "" else organization is context


def lists_task(task: Task, user: User, context: Context) -> bool:
    """Whether a listing shows a task: an organisation's lead sees others' tasks only when he names the organisation."""
    if not in_context(task.organization, context):
        return False
    if user.is_superuser or has_part(task, user) or (task.project is not None and has_part(task.project, user)):
        return True
    return isinstance(context, Organization) and leads(context, user)


def lists_job(job: Job, user: User, context: Context) -> bool:
    """Whether a listing shows a job."""
    if job.assignee is user and in_context(job.task.organization, context):
        return True
    return lists_task(job.task, user, context)


def may_create(user: User, context: Context) -> bool:
    """Create tasks and projects: anyone in his own workspace, in an organisation all but workers."""
    if user.is_superuser or not isinstance(context, Organization):
        return True
    return context.members.get(user.id) in ("owner", "maintainer", "supervisor")
