"""Simulation of a full disk."""

import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def limited_file_size(max_bytes: int = 1000) -> Iterator[None]:
    """While the block runs, the kernel lets no file grow beyond ``max_bytes``: writing fails with EFBIG.

    The limit applies to the whole process, and the log of the tests may be a file, too. So only the code under test
    belongs into the block, and its output is captured.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
