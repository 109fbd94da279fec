"""The exceptions that Atlas raises, named by what the user has to do.

The entry points (`flows.cli.main`, `flows.stages`) print an `AtlasError` as one line on stderr and exit with its
``exit_code``. Any other exception is a bug and keeps its traceback.

    AtlasError               exit 1: the work failed
    |-- RetryError           exit 1: the network or a server failed; the same command may succeed later
    `-- InputError           exit 2: an input is invalid; the message says which and why
        |-- ParamsError      fix params.yaml (all errors at once)
        |-- TaxonomyError    fix the taxonomy or sources file (all errors at once, with line numbers)
        |-- ImageError       this image cannot be read; the other images are processed
        |-- CheckpointError  this model folder cannot be used
        `-- MissingError     a file is missing; the message names the stage that makes it
"""

from collections.abc import Sequence


class AtlasError(Exception):
    """The work failed; the message says why."""

    exit_code = 1


class RetryError(AtlasError):
    """The network or a server failed; the same command may succeed later."""


class InputError(AtlasError):
    """An input is invalid; the message says what was expected, what was found, and what to do."""

    exit_code = 2

    @classmethod
    def from_faults(cls, what: str, faults: Sequence[str]) -> "InputError":
        """Make one error of all ``faults`` in ``what``: on one line if there is one, else a line each."""
        if len(faults) == 1:
            return cls(f"{what}: {faults[0]}")
        return cls("\n  - ".join([f"{what}: {len(faults)} faults", *faults]))


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
        return str(self.args[1])


class CheckpointError(InputError):
    """A folder does not hold the expected model."""


class MissingError(InputError):
    """A file that an earlier stage makes is missing."""
