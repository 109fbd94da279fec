"""Recognises errors of the machine: a full or read-only disk, too little memory, too many open files.

They say nothing about the image, page or model at hand, so nobody may record them as a fault of it: code that catches
`OSError` to record a fault calls `check_machine` first. The entry points print them as one line.

Libraries raise them in many types: `MemoryError`, `OSError` with a number, and `RuntimeError` (PyTorch),
`SafetensorError` or `sqlite3.Error` with a text.
"""

import errno
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from types import TracebackType

from atlas_model.core.errors import AtlasError, ImageError, InputError, MachineError

AGAIN = "then run the same command again: what is complete is kept"
FULL = f"the disk is full. Free some space, {AGAIN}"
QUOTA = f"your disk quota is used up. Free some space, {AGAIN}"
LARGE = f"a file is larger than this system allows (`ulimit -f`, or the file system). Raise the limit, {AGAIN}"
READ_ONLY = f"the file system is read-only. Make it writable, {AGAIN}"
BROKEN = f"the disk reports an error. Check it, free some space, {AGAIN}"
DENIED = f"this user may not do that there. Change the owner or the permissions, {AGAIN}"
FILES = f"too many files are open. Raise the limit (`ulimit -n 4096`), {AGAIN}"
MEMORY = (
    "there is too little memory. Close other programs, lower batch_size in params.yaml or the number of workers, or "
    f"raise the limit (`ulimit -v`, of a container), {AGAIN}"
)
DATABASE = (
    "a database file cannot be opened. Raise the limit of open files (`ulimit -n 4096`), or make its folder writable, "
    f"{AGAIN}"
)
THREADS = f"no further thread or process can be started. Raise the limit (`ulimit -u`) or free memory, {AGAIN}"

NUMBERS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: QUOTA,
    errno.EFBIG: LARGE,
    errno.EROFS: READ_ONLY,
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: THREADS,  # of fork; never of our files, which block
}
TEXTS = (
    (r"no space left on device|database or disk is full", FULL),
    (r"disk quota exceeded", QUOTA),
    (r"file too large", LARGE),
    (r"read-only file system|readonly database", READ_ONLY),
    (r"disk I/O error|input/output error", BROKEN),
    (r"too many open files", FILES),
    (
        r"cannot allocate memory|can't allocate memory|unable to allocate|out of memory|\bbad.?alloc|"
        r"not enough memory|failed to map segment|errno 12\b|error return without exception set|"  # the last: of C code
        r"could not create a (primitive|memory object)$",  # of oneDNN
        MEMORY,
    ),
    (r"can't start new thread|resource temporarily unavailable", THREADS),
)
# Types whose texts come from the system, not from a file: the text of a `ValueError` may be that of a stranger.
# Of Pillow, which calls it a configuration if zlib gets no memory to write a PNG.
NO_MEMORY_TO_WRITE = re.compile(r"(codec configuration|out of memory) error when writing image file")
ARROW_FILE = re.compile(r"local file '(.+?)'[.:]")  # the name of the file in an `OSError` of pyarrow
WITH_TEXT = ("SafetensorError", "ArrowException", "ArrowMemoryError")


def machine_error(error: BaseException) -> AtlasError | None:
    """The error of the machine that ``error`` is, contains or was caused by.

    Returns:
        ``error`` itself, if it is an `AtlasError` that names the remedy; a `MachineError`; None if it is another error.
    """
    for found in _chain(error):
        reason = _reason(found)
        if reason is None:
            continue
        if isinstance(error, AtlasError) and not isinstance(error, InputError):
            return error
        detail = "" if reason in (FILES, MEMORY, THREADS) else _detail(found)  # these are of no file
        if not detail and isinstance(error, InputError):
            detail = f"{str(error).partition(': ')[0]}: "  # what it is about; its remedy would be the wrong one
        return MachineError(f"{detail}{reason}")
    return None


def check_machine(error: BaseException) -> None:
    """Raise if ``error`` is one of the machine, so that it is not recorded as a fault of a file.

    Raises:
        MachineError: it is.
    """
    found = machine_error(error)
    if found is not None:
        raise found from error


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turn every error of the machine into an `AtlasError`, for the entry points; other errors pass.

    Raises:
        AtlasError: as `machine_error`; also if a permission is missing or the disk reports an error.
    """
    try:
        yield
    except Exception as error:
        found = machine_error(error) or _uncaught(error)
        if found is None or found is error:
            raise
        raise found from error


def _uncaught(error: Exception) -> MachineError | None:
    """The error of a disk or a permission, which of a single file that is read says something about that file."""
    if isinstance(error, sqlite3.Error) and "unable to open database file" in str(error):
        return MachineError(DATABASE)
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EIO:
        return MachineError(f"{_detail(error)}{BROKEN}")
    # Without a file they have other causes: `ssl.SSLError` has the number of EPERM, and a firewall refuses with it.
    if error.errno in (errno.EACCES, errno.EPERM) and (file := _detail(error)):
        return MachineError(f"{file}{DENIED}")
    return None


def report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` that prints an error of the machine as one line, any other as usual; the exit code is 1."""
    found = machine_error(error)
    if found is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"error: {found}\n")


def check_machine_for(error: BaseException, needed_bytes: int) -> None:
    """As `check_machine`, for an error that reading untrusted content raised, which may cause a `MemoryError` itself.

    A decoder in C that gets no memory may raise any error: libjpeg's is that of broken data.

    Args:
        error: of the reader.
        needed_bytes: what content within the limits needs at most. Only if these cannot be allocated, memory is short.

    Raises:
        MachineError: it is one of the machine.
    """
    try:
        mmap(-1, needed_bytes).close()  # allocates them, but touches none
    except OSError:
        raise MachineError(MEMORY) from error
    if isinstance(error, (OSError, ImportError)):  # not the others: their texts may quote the content
        check_machine(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error``, its members if it is a group, and its causes."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, ImageError):
            continue  # whoever raised it has judged its cause
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions
        cause = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        if cause is not None:
            waiting.append(cause)


def _reason(error: BaseException) -> str | None:
    if isinstance(error, MachineError):
        return str(error)
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return NUMBERS.get(error.errno)
    if isinstance(error, OSError) and NO_MEMORY_TO_WRITE.fullmatch(str(error)):
        return MEMORY
    if not _has_text_of_system(error):
        return None
    text = str(error)
    return next((reason for pattern, reason in TEXTS if re.search(pattern, text, re.IGNORECASE)), None)


def _has_text_of_system(error: BaseException) -> bool:
    of_system = isinstance(error, (RuntimeError, sqlite3.Error, ImportError, SystemError))
    return of_system or type(error).__name__ in WITH_TEXT


def _detail(error: BaseException) -> str:
    if isinstance(error, MachineError):
        return ""
    name = getattr(error, "filename", None)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if name is None and isinstance(error, OSError) and (of_arrow := ARROW_FILE.search(str(error))):
        name = of_arrow[1]
    return f"{name}: " if isinstance(name, str) else ""
