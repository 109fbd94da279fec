"""Tells why a file could not be read, so that neither permissions nor the machine are reported as damage."""

import errno
import shlex
from pathlib import Path
from typing import Literal

from atlas_model.core.machine import check_machine

Unread = Literal["unreadable", "denied"]  # the disk reports an error; this user lacks the permission

# Of a bad sector, and of a file system that found a wrong checksum of its own.
DISK = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}
PERMISSION = {errno.EACCES, errno.EPERM}


def why_unread(error: OSError) -> Unread | None:
    """Why the file at hand could not be read; None if the reason is another one.

    Raises:
        MachineError: memory or open files ran out, which says nothing about the file.
    """
    check_machine(error)
    if error.errno in DISK:
        return "unreadable"
    if error.errno in PERMISSION:
        return "denied"
    return None


def permit(path: Path, mode: str = "u+rX") -> str:
    """The command that lets this user read a file or folder."""
    return f"chmod -R {mode} {shlex.quote(str(path))} (or change its owner)"
