"""The tests' own helpers do what they say."""

import subprocess
import sys
from pathlib import Path

FULL_DISK = """
import errno, sys
from pathlib import Path
from tests.support.full_disk import limited_file_size

Path("small").write_bytes(b"x" * 1000)
with limited_file_size():
    print("of the code under test", flush=True)
    Path("small").write_bytes(b"y" * 1000)
    try:
        Path("large").write_bytes(b"x" * 1001)
    except OSError as error:
        found = errno.errorcode[error.errno]
Path("large").write_bytes(b"x" * 2000)
print(found)
"""


def test_limited_file_size_spares_a_log_that_is_larger(tmp_path: Path) -> None:
    """`pytest ... > log`: the log is a file of the process whose files are limited."""
    log = tmp_path / "log"
    log.write_bytes(b"." * 5000)
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, stdout=output, stderr=output, check=True)
    assert log.read_bytes() == b"." * 5000 + b"EFBIG\n"
    assert (tmp_path / "small").read_bytes() == b"y" * 1000
    assert (tmp_path / "large").stat().st_size == 2000
