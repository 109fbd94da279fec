"""Errors of outputs that the command line names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_model.core.errors import InputError
from flows.text import printable


@contextmanager
def writing(output: Path, option: str = "") -> Iterator[None]:
    """Turn errors of a path that cannot be written, such as one below a file, into bad input.

    Args:
        output: what is written.
        option: the option that names it, if it has one.

    Raises:
        InputError: the path cannot be written.
        PermissionError: it may not be; as an error of the machine it has a remedy (`atlas_model.core.machine`).
    """
    try:
        yield
    except PermissionError:
        raise
    except OSError as error:
        named = f"{option} {printable(str(output))}".strip()
        raise InputError(f"{named}: cannot be written: {error.strerror or error}. Choose another path") from error
