"""Byte code is not written where it might be cut off: Python would refuse to import it for ever."""

import os
import subprocess
import sys

PROGRAM = """
import os, resource, sys
from types import SimpleNamespace
{before}
import flows
print(sys.dont_write_bytecode, os.environ.get("PYTHONDONTWRITEBYTECODE"))
"""


def writes_byte_code(before: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def disk_with(free_bytes: int) -> str:
    return f"os.statvfs = lambda path: SimpleNamespace(f_bavail={free_bytes // 4096}, f_frsize=4096)"


def test_byte_code_is_written_on_a_disk_with_space() -> None:
    assert writes_byte_code(disk_with(10**9)) == "False None\n"


def test_no_byte_code_is_written_on_a_disk_that_is_nearly_full() -> None:
    assert writes_byte_code(disk_with(10**6)) == "True 1\n"


def test_no_byte_code_is_written_with_a_limit_of_file_size() -> None:
    assert writes_byte_code("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))") == "True 1\n"
