"""What Nuclio loads (``handler: serverless.entry:handler``); the function itself is in the installed package."""

from spam_cvat.serving.function import handler, init_context

__all__ = ["handler", "init_context"]
