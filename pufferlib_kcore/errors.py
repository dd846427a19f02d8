"""Errors that are the user's to mend: one clear sentence, no traceback."""


class UserError(ValueError):
    """A wrong argument, file or setting; the message names the thing, what was expected and what to do."""
