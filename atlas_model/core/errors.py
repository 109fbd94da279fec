"""The exceptions that Atlas raises, named by what the user has to do.

The entry points (`flows.cli.main`, `flows.stages`) print an `AtlasError` as one line on stderr and exit with its
``exit_code``. Any other exception is a bug and keeps its traceback.

    AtlasError               exit 1: the work failed
    |-- RetryError           exit 1: the network or a server failed; the same command may succeed later
    |-- MachineError         exit 1: disk, memory or open files ran out; free some and run the same command again
    `-- InputError           exit 2: an input is invalid; the message says which and why
        |-- ParamsError      fix params.yaml (all errors at once)
        |-- TaxonomyError    fix the taxonomy or sources file (all errors at once, with line numbers)
        |-- ImageError       this image cannot be read; the other images are processed
        |-- CheckpointError  this model folder cannot be used
        `-- MissingError     a file is missing; the message names the stage that makes it
"""

import re
from collections.abc import Sequence

# Name and password of a URL: everything before the last @ of its host.
CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]+@")


def without_credentials(text: str) -> str:
    """``text`` with the names and passwords of its URLs replaced: https://name:password@host -> https://***@host.

    For messages, which become logs: of an invalid URL that a user has written, of another program.
    """
    return CREDENTIALS.sub("***@", text)


MAX_FAULTS = 100  # listed in one message
MAX_FAULT_CHARS = 1_000  # of a fault in a message


class AtlasError(Exception):
    """The work failed; the message says why. As text, it has no credentials of URLs (`without_credentials`)."""

    exit_code = 1

    def __str__(self) -> str:
        return without_credentials(super().__str__())


class RetryError(AtlasError):
    """The network or a server failed; the same command may succeed later."""


class MachineError(AtlasError):
    """The disk is full or read-only, memory or the number of open files is used up; `core.machine` makes it."""


class InputError(AtlasError):
    """An input is invalid; the message says what was expected, what was found, and what to do."""

    exit_code = 2

    @classmethod
    def from_faults(cls, what: str, faults: Sequence[str]) -> "InputError":
        """Make one error of all ``faults`` in ``what``: on one line if there is one, else a line each.

        A text is cut after `MAX_FAULT_CHARS`, and the list after `MAX_FAULTS`.
        """
        shown = [
            text if len(text) <= MAX_FAULT_CHARS else f"{text[:MAX_FAULT_CHARS]}..." for text in faults[:MAX_FAULTS]
        ]
        if len(faults) == 1:
            return cls(f"{what}: {shown[0]}")
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        return cls("\n  - ".join([f"{what}: {len(faults)} faults", *shown, *more]))


class ParamsError(InputError):
    """The parameters are invalid."""


class TaxonomyError(InputError):
    """A taxonomy, or a file that uses its paths, is invalid."""


class ImageError(InputError):
    """Bytes are not an image that can be read; ``status`` is the short reason that the data files hold."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)  # both, so that it can be pickled to another process
        self.status = status

    def __str__(self) -> str:
        return without_credentials(str(self.args[1]))


class CheckpointError(InputError):
    """A folder does not hold the expected model."""


class MissingError(InputError):
    """A file that an earlier stage makes is missing."""
