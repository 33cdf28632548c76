"""Serverless functions, and requests to annotate with them."""

from typing import TYPE_CHECKING

from cvat_standin import access
from cvat_standin.functions import FunctionError, Request
from cvat_standin.protocol import Call, HttpError, Reply, invalid, route

if TYPE_CHECKING:
    from cvat_standin.api import Api


@route("GET", "/api/lambda/functions")
def list_functions(api: "Api", call: Call) -> Reply:
    try:
        return Reply(json=[function.to_json() for function in api.functions.all()])
    except FunctionError as error:
        raise HttpError(error.status, str(error)) from error


@route("GET", "/api/lambda/functions/{name}")
def get_function(api: "Api", call: Call, name: int | str) -> Reply:
    try:
        return Reply(json=api.functions.get(str(name)).to_json())
    except FunctionError as error:
        raise HttpError(error.status, str(error)) from error


@route("POST", "/api/lambda/functions/{name}")
def call_function(api: "Api", call: Call, name: int | str) -> Reply:
    """One frame, at once, as the page's AI tools ask for it."""
    given = call.json()
    job = api.job(call, given["job"]) if given.get("job") is not None else None
    task = job.task if job else api.task(call, given.get("task", 0))
    try:
        function = api.functions.get(str(name))
        return Reply(json=api.queue.call(function, task, int(given["frame"]), given.get("threshold")))
    except FunctionError as error:
        raise HttpError(error.status, str(error)) from error


@route("GET", "/api/lambda/requests")
def list_annotation_requests(api: "Api", call: Call) -> Reply:
    found = [
        request.to_json()
        for request in api.queue.all()
        if request.task in api.state.tasks and access.lists_task(api.state.tasks[request.task], call.me, call.context)
    ]
    return Reply(json=found)


@route("POST", "/api/lambda/requests")
def create_annotation_request(api: "Api", call: Call) -> Reply:
    given = call.json()
    for name in ("function", "task"):
        if given.get(name) is None:
            raise invalid(name, "This field is required.")
    task = api.task(call, given["task"])
    if given.get("job") is not None and api.job(call, given["job"]).task is not task:
        raise HttpError(400, f"The job {given['job']} does not belong to the task {task.id}")
    try:
        api.functions.get(given["function"])
    except FunctionError as error:
        raise HttpError(error.status, str(error)) from error
    request = api.queue.add(
        Request(
            id=f"action=autoannotate&target=task&target_id={task.id}",
            function=given["function"],
            task=task.id,
            job=given.get("job"),
            threshold=given.get("threshold"),
            mapping=given.get("mapping"),
            cleanup=bool(given.get("cleanup", False)),
            enqueued=api.state.clock.now(),
            owner=call.me.id,
        )
    )
    if request is None:
        raise HttpError(409, f"Only one running request is allowed for the same task #{task.id}")
    return Reply(json=request.to_json())


@route("GET", "/api/lambda/requests/{id}")
def get_annotation_request(api: "Api", call: Call, id: int | str) -> Reply:
    request = api.queue.find(str(id))
    if request is None:
        raise HttpError(404, f"{id} lambda job is not found")
    return Reply(json=request.to_json())


@route("DELETE", "/api/lambda/requests/{id}")
def cancel_annotation_request(api: "Api", call: Call, id: int | str) -> Reply:
    if not api.queue.cancel(str(id)):
        raise HttpError(404, f"{id} lambda job is not found")
    return Reply(204)
