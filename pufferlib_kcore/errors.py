"""Errors that end a program with one clear sentence, and no traceback."""


class UserError(ValueError):
    """A wrong argument, file or setting; the message names the thing, what was expected and what to do."""


class RunFailed(Exception):
    """A run that could not go on, what it had learned saved; the message says why, and what to do."""
