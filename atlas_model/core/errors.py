"""The errors that Atlas raises on purpose, named by what the reader has to do.

Knows nothing of exit codes' printing: the entry points (`flows.cli.main`, `flows.stages`) turn an `AtlasError` into
one line on stderr and its ``exit_code``. Anything else that escapes is a bug of ours and keeps its traceback.

    AtlasError               exit 1: the work failed
    |-- RetryError           exit 1: the network or a server failed; the same command may succeed later
    `-- InputError           exit 2: something given to Atlas is wrong; the text says what and where
        |-- ParamsError      mend params.yaml (all faults at once)
        |-- TaxonomyError    mend the taxonomy or sources file (all faults at once, with line numbers)
        |-- ImageError     this image cannot be read; the others go on
        |-- CheckpointError  this model folder cannot be used
        `-- MissingError     a file is not there; the text names the stage that makes it
"""

from collections.abc import Sequence


class AtlasError(Exception):
    """The work failed, for a reason that the text explains."""

    exit_code = 1


class RetryError(AtlasError):
    """The network or a server failed; the same command may succeed later."""


class InputError(AtlasError):
    """Something given to Atlas is wrong; the text says what was expected, what came, and what to do."""

    exit_code = 2

    @classmethod
    def from_faults(cls, what: str, faults: Sequence[str]) -> "InputError":
        """One error for all ``faults`` found in ``what``: one line for one, else a line each."""
        if len(faults) == 1:
            return cls(f"{what}: {faults[0]}")
        return cls("\n  - ".join([f"{what}: {len(faults)} faults", *faults]))


class ParamsError(InputError):
    """The parameters do not say what they must."""


class TaxonomyError(InputError):
    """A taxonomy, or a file that names its paths, is not one."""


class ImageError(InputError):
    """Bytes that should be an image are not; ``status`` is the short reason kept in the data."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)  # whatever makes it again in another process
        self.status = status

    def __str__(self) -> str:
        return str(self.args[1])


class CheckpointError(InputError):
    """A folder that should hold a model does not hold this one."""


class MissingError(InputError):
    """A file that an earlier stage makes is not there."""
