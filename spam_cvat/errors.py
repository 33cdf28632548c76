"""Errors a user can act on: one line each, that names what is wrong, where, and the way out."""


class SpamError(Exception):
    """Something failed that the user can act on. The command line prints the message and exits with ``exit_code``."""

    exit_code = 1


class InputError(SpamError):
    """What the user gave (a file, an option, an array) cannot be used. The command line exits with 2."""

    exit_code = 2


class CvatError(SpamError):
    """The CVAT server refused, is away, or holds something we must not touch."""


class CancelledError(SpamError):
    """The run was cancelled by its user; nothing was written."""
