"""Errors of the machine: recognised in the types of every library, and never taken for a fault of a file."""

import errno
import os
import sqlite3
import ssl
import sys

import pytest

from atlas_model.core.errors import AtlasError, CheckpointError, ImageError, InputError, MachineError
from atlas_model.core.machine import (
    FILES,
    FULL,
    MEMORY,
    READ_ONLY,
    THREADS,
    check_machine,
    check_machine_for,
    machine_error,
    machine_errors,
    report_uncaught,
)


def error_of(number: int, *name: str) -> OSError:
    return OSError(number, os.strerror(number), *name)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (error_of(errno.ENOSPC), FULL),
        (error_of(errno.EROFS, "data/raw"), f"data/raw: {READ_ONLY}"),
        (error_of(errno.EMFILE), FILES),
        (MemoryError(), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (RuntimeError("could not create a primitive"), MEMORY),
        (OSError("codec configuration error when writing image file"), MEMORY),
        (RuntimeError("can't start new thread"), THREADS),
        (sqlite3.OperationalError("database or disk is full"), FULL),
        (ImportError("libtorch.so: failed to map segment from shared object"), MEMORY),
        (ExceptionGroup("tasks", [ValueError(), error_of(errno.EMFILE)]), FILES),
        (caused(KeyError("a"), error_of(errno.ENOSPC)), FULL),
        (caused(CheckpointError("models/x: damaged. Train again"), error_of(errno.EMFILE)), f"models/x: {FILES}"),
    ],
)
def test_errors_of_the_machine_are_recognised(error: Exception, text: str) -> None:
    found = machine_error(error)
    assert isinstance(found, MachineError)
    assert str(found) == text
    assert found.exit_code == 1, "nothing is wrong with the input"
    with pytest.raises(MachineError):
        check_machine(error)
    with pytest.raises(MachineError), machine_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no"),
        ValueError("No space left on device"),  # the text may be that of a stranger
        RuntimeError("a bug"),
        OSError("broken data stream when reading image file"),
        InputError("a table: out of memory"),
        caused(ImageError("truncated", "an image"), MemoryError()),  # it was judged where it was raised
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert machine_error(error) is None
    check_machine(error)
    with pytest.raises(type(error)) as raised, machine_errors():
        raise error
    assert raised.value is error


def test_error_that_names_its_remedy_keeps_its_text() -> None:
    error = caused(AtlasError("a.npy: cannot be written. Free 3 GB"), error_of(errno.ENOSPC))
    assert machine_error(error) is error


def test_missing_permission_ends_a_command_but_is_a_fault_of_a_file() -> None:
    check_machine(error_of(errno.EACCES, "a.jpg"))
    with pytest.raises(MachineError, match=r"^a\.jpg: this user may not"), machine_errors():
        raise error_of(errno.EACCES, "a.jpg")


def test_file_that_pyarrow_may_not_write_is_named() -> None:
    text = "Failed to open local file '/data/a b.parquet'. Detail: [errno 13] Permission denied"
    with pytest.raises(MachineError, match=r"^/data/a b\.parquet: this user may not"), machine_errors():
        raise PermissionError(errno.EACCES, text)


def test_database_that_cannot_be_opened_ends_a_command_but_is_a_fault_of_a_file() -> None:
    error = sqlite3.OperationalError("unable to open database file")
    check_machine(error)
    with pytest.raises(MachineError, match="a database file cannot be opened"), machine_errors():
        raise error


def test_refused_connection_is_no_missing_permission() -> None:
    for error in (
        ssl.SSLError(1, "certificate verify failed"),
        PermissionError(errno.EPERM, "not permitted"),
    ):
        with pytest.raises(type(error)), machine_errors():
            raise error


def test_content_that_needs_too_much_memory_is_its_own_fault() -> None:
    check_machine_for(MemoryError(), needed_bytes=1)  # these could be had
    check_machine_for(RuntimeError("out of memory"), needed_bytes=1)
    check_machine_for(OSError("broken data stream when reading image file"), needed_bytes=1)
    for short in (MemoryError(), OSError("broken data stream when reading image file")):
        with pytest.raises(MachineError):
            check_machine_for(short, needed_bytes=sys.maxsize)
    with pytest.raises(MachineError):
        check_machine_for(error_of(errno.EMFILE), needed_bytes=1)


def test_uncaught_error_of_the_machine_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_uncaught(OSError, error_of(errno.EMFILE), None)
    assert capsys.readouterr().err == f"error: {FILES}\n"
    report_uncaught(ValueError, ValueError("a bug"), None)
    assert "ValueError: a bug" in capsys.readouterr().err
