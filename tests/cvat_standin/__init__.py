"""A stand-in for a CVAT server, for tests: real HTTP on this machine, driven by the real cvat-sdk, all in memory.

It behaves as a CVAT 2.54 server was seen to behave, traps included, and comes with what a test of a CVAT integration
needs: serverless functions that are called frame by frame as CVAT's worker calls them, the gestures of the annotation
page, failures on demand, a clock that can be moved, and a log of calls.

    >>> from cvat_sdk import make_client
    >>> with CvatStandin() as server:
    ...     client = make_client(server.url, access_token=server.token("admin", read_only=False))
    ...     client.users.retrieve_current_user().username
    'admin'
"""

from cvat_standin.faults import Fault, Faults
from cvat_standin.functions import Function, FunctionError, Functions
from cvat_standin.media import encode_video
from cvat_standin.page import Page, PageError
from cvat_standin.server import CvatStandin, Record
from cvat_standin.state import Clock

__all__ = [
    "Clock",
    "CvatStandin",
    "Fault",
    "Faults",
    "Function",
    "FunctionError",
    "Functions",
    "Page",
    "PageError",
    "Record",
    "encode_video",
]
