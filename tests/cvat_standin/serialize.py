"""Records as the API shows them: the same fields in the same order as the recorded answers of a real server."""

from datetime import timedelta
from typing import Any

from cvat_standin.state import (
    Asset,
    Background,
    Comment,
    Guide,
    Issue,
    Job,
    Label,
    Media,
    Organization,
    Project,
    State,
    Task,
    Token,
    User,
    stamp,
)

Json = dict[str, Any]
VERSION = "2.54.1.dev20260131064356"
_STATUS = {"annotation": "annotation", "validation": "validation", "acceptance": "completed"}


def about(base: str) -> Json:
    """``/api/server/about``."""
    return {
        "name": "Computer Vision Annotation Tool",
        "description": "A stand-in for CVAT, for tests: it keeps everything in memory.",
        "version": VERSION,
        "logo_url": f"{base}/static/logo.svg",
        "subtitle": "Open Data Annotation Platform",
    }


def person(user: User | None, base: str) -> Json | None:
    """A user as other records name him."""
    if user is None:
        return None
    return {
        "url": f"{base}/api/users/{user.id}",
        "id": user.id,
        "username": user.username,
        "first_name": user.first_name,
        "last_name": user.last_name,
    }


def user(user: User, base: str) -> Json:
    """A user in full."""
    return {
        **(person(user, base) or {}),
        "email": f"{user.username}@localhost.local",
        "groups": ["admin" if user.is_superuser else "user"],
        "is_staff": user.is_superuser,
        "is_superuser": user.is_superuser,
        "is_active": True,
        "last_login": stamp(user.last_login),
        "date_joined": stamp(user.joined),
        "has_analytics_access": user.is_superuser,
    }


def token(token: Token, base: str) -> Json:
    """An access token, without its secret."""
    return {
        "id": token.id,
        "name": token.name,
        "created_date": stamp(token.created),
        "updated_date": stamp(token.updated),
        "expiry_date": stamp(token.expiry),
        "last_used_date": stamp(token.last_used),
        "read_only": token.read_only,
        "owner": person(token.owner, base),
    }


def organization(organization: Organization, base: str) -> Json:
    """An organisation."""
    return {
        "id": organization.id,
        "slug": organization.slug,
        "name": organization.name,
        "description": organization.description,
        "created_date": stamp(organization.created),
        "updated_date": stamp(organization.created),
        "contact": organization.contact,
        "owner": person(organization.owner, base),
    }


def memberships(organization: Organization, users: dict[int, User], base: str) -> list[Json]:
    """The members of an organisation, with their roles."""
    return [
        {
            "id": organization.id * 1000 + member,
            "user": person(users[member], base),
            "organization": organization.id,
            "is_active": True,
            "joined_date": stamp(organization.created),
            "role": role,
            "invitation": None,
        }
        for member, role in organization.members.items()
    ]


def _organization_id(organization: Organization | None) -> int | None:
    return organization.id if organization else None


def label(label: Label) -> Json:
    """A label; it names its project or its task, whichever holds it."""
    owner = {"project_id": label.project_id} if label.project_id is not None else {"task_id": label.task_id}
    return {
        "id": label.id,
        "name": label.name,
        "color": label.color,
        "attributes": [dict(spec) for spec in label.attributes],
        "type": label.type,
        "sublabels": [],
        **owner,
        "parent_id": None,
        "has_parent": False,
    }


def project(project: Project, state: State, base: str) -> Json:
    """A project."""
    tasks = [task for task in state.tasks.values() if task.project is project]
    return {
        "url": f"{base}/api/projects/{project.id}",
        "id": project.id,
        "name": project.name,
        "owner": person(project.owner, base),
        "assignee": person(project.assignee, base),
        "guide_id": project.guide_id,
        "bug_tracker": project.bug_tracker,
        "created_date": stamp(project.created),
        "updated_date": stamp(project.updated),
        "status": "annotation",
        "dimension": "2d" if tasks else None,
        "organization": _organization_id(project.organization),
        "organization_id": _organization_id(project.organization),
        "target_storage": None,
        "source_storage": None,
        "tasks": {"count": len(tasks), "url": f"{base}/api/tasks?project_id={project.id}"},
        "labels": {"url": f"{base}/api/labels?project_id={project.id}"},
        "assignee_updated_date": stamp(project.assignee_updated),
        "task_subsets": sorted({task.subset for task in tasks if task.subset}),
    }


def task(task: Task, state: State, base: str) -> Json:
    """A task. ``jobs.completed`` counts accepted jobs only: a job finished by its annotator is not among them."""
    media = task.media
    jobs = state.jobs_of(task)
    # A task without data has none of the fields that describe them.
    described = {}
    if media is not None:
        described = {
            "data_original_chunk_type": media.chunk_type,
            "data_compressed_chunk_type": media.chunk_type,
            "image_quality": media.image_quality,
            "data": media.id,
        }
    return described | {
        "url": f"{base}/api/tasks/{task.id}",
        "id": task.id,
        "name": task.name,
        "project_id": task.project.id if task.project else None,
        "mode": media.mode if media else "",
        "owner": person(task.owner, base),
        "assignee": person(task.assignee, base),
        "bug_tracker": task.bug_tracker,
        "created_date": stamp(task.created),
        "updated_date": stamp(task.updated),
        "overlap": task.overlap,
        "segment_size": task.segment_size,
        "status": "annotation",
        "data_chunk_size": media.chunk_size if media else None,
        "data_cloud_storage_id": None,
        "guide_id": task.guide_id,
        "size": media.size if media else 0,
        "dimension": "2d",
        "subset": task.subset,
        "organization_id": _organization_id(task.organization),
        "organization": _organization_id(task.organization),
        "target_storage": None,
        "source_storage": None,
        "jobs": {
            "count": len(jobs),
            "completed": sum(job.stage == "acceptance" and job.state == "completed" for job in jobs),
            "validation": sum(job.stage == "validation" for job in jobs),
            "url": f"{base}/api/jobs?task_id={task.id}",
        },
        "labels": {"url": f"{base}/api/labels?task_id={task.id}"},
        "assignee_updated_date": stamp(task.assignee_updated),
        "validation_mode": None,
        "consensus_enabled": False,
    }


def job(job: Job, state: State, base: str) -> Json:
    """A job; the guide is its task's or its project's."""
    task, media = job.task, job.task.media
    guide = task.guide_id if task.guide_id is not None else task.project.guide_id if task.project else None
    return {
        "url": f"{base}/api/jobs/{job.id}",
        "id": job.id,
        "task_id": task.id,
        "project_id": task.project.id if task.project else None,
        "assignee": person(job.assignee, base),
        "guide_id": guide,
        "dimension": "2d",
        "bug_tracker": task.project.bug_tracker if task.project else None,
        "status": _STATUS[job.stage],
        "stage": job.stage,
        "state": job.state,
        "mode": media.mode if media else "",
        "frame_count": job.stop - job.start + 1,
        "start_frame": job.start,
        "stop_frame": job.stop,
        "data_chunk_size": media.chunk_size if media else None,
        "data_compressed_chunk_type": media.chunk_type if media else None,
        "data_original_chunk_type": media.chunk_type if media else None,
        "created_date": stamp(job.created),
        "updated_date": stamp(job.updated),
        "issues": {
            "url": f"{base}/api/issues?job_id={job.id}",
            "count": sum(issue.job is job for issue in state.issues.values()),
        },
        "labels": {"url": f"{base}/api/labels?job_id={job.id}"},
        "type": "annotation",
        "organization": _organization_id(task.organization),
        "target_storage": None,
        "source_storage": None,
        "assignee_updated_date": stamp(job.assignee_updated),
        "parent_job_id": None,
        "consensus_replicas": 0,
    }


def meta(media: Media, first: int, last: int) -> Json:
    """The data meta of the frames ``first`` .. ``last``; its start and stop are frames of the *source*."""
    video = media.mode == "interpolation"
    infos = media.frames.infos() if video else media.frames.infos()[first : last + 1]
    return {
        "chapters": [] if video else None,
        "chunks_updated_date": stamp(media.updated),
        "chunk_size": media.chunk_size,
        "size": last - first + 1,
        "image_quality": media.image_quality,
        "start_frame": media.start_frame + first * media.step,
        "stop_frame": media.start_frame + last * media.step,
        "frame_filter": media.frame_filter,
        "frames": [
            {
                "width": info.width,
                "height": info.height,
                "name": info.name,
                "related_files": 0,
                "has_related_context": False,
            }
            for info in infos
        ],
        "deleted_frames": [frame for frame in media.deleted_frames if first <= frame <= last],
        "included_frames": None,
        "storage": "local",
        "cloud_storage_id": None,
    }


def background(request: Background) -> Json:
    """A background request."""
    expiry = request.finished + timedelta(seconds=500) if request.finished else None
    return {
        "status": request.status,
        "message": request.message,
        "id": request.id,
        "operation": {
            "type": request.kind,
            "target": "task",
            "project_id": request.project_id,
            "task_id": request.task_id,
            "job_id": None,
            "format": None,
            "lightweight": None,
        },
        "progress": 0.0,
        "created_date": stamp(request.created),
        "started_date": stamp(request.started),
        "finished_date": stamp(request.finished),
        "expiry_date": stamp(expiry),
        "owner": {"id": request.owner.id, "username": request.owner.username},
        "result_url": None,
        "result_id": None,
    }


def guide(guide: Guide) -> Json:
    """An annotation guide."""
    return {
        "id": guide.id,
        "task_id": guide.task_id,
        "project_id": guide.project_id,
        "created_date": stamp(guide.created),
        "updated_date": stamp(guide.updated),
        "markdown": guide.markdown,
    }


def asset(asset: Asset, base: str) -> Json:
    """A guide's picture."""
    return {
        "uuid": asset.uuid,
        "filename": asset.filename,
        "created_date": stamp(asset.created),
        "owner": person(asset.owner, base),
        "guide_id": asset.guide_id,
    }


def issue(issue: Issue, state: State, base: str) -> Json:
    """An issue."""
    return {
        "id": issue.id,
        "frame": issue.frame,
        "position": issue.position,
        "job": issue.job.id,
        "owner": person(issue.owner, base),
        "assignee": person(issue.assignee, base),
        "created_date": stamp(issue.created),
        "updated_date": stamp(issue.updated),
        "resolved": issue.resolved,
        "comments": {
            "count": sum(comment.issue is issue for comment in state.comments.values()),
            "url": f"{base}/api/comments?issue_id={issue.id}",
        },
    }


def comment(comment: Comment, base: str) -> Json:
    """A comment of an issue."""
    return {
        "id": comment.id,
        "issue": comment.issue.id,
        "owner": person(comment.owner, base),
        "message": comment.message,
        "created_date": stamp(comment.created),
        "updated_date": stamp(comment.updated),
    }
