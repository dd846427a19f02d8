"""Importing noisy third parties without their notices."""

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what Python code prints or warns within, and undo the warning filters that it sets.

    Gym prints a notice, torch passes on pynvml's deprecation, PufferLib filters warnings for
    everyone. If the body raises, what it had printed is added to the exception as its last note.
    """
    said = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if said.getvalue() and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(said.getvalue())
        raise
