"""The tests' own helpers do what they say."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from coverage import CoverageData

from tests.support.coverage_files import delete_damaged

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


def test_damaged_data_files_of_coverage_are_deleted(tmp_path: Path) -> None:
    spoiled = {".coverage.no-path": "NULL", ".coverage.bad-text": "CAST(x'2fff' AS TEXT)"}
    for name in (".coverage.good", ".coverage.cut-off", *spoiled):
        data = CoverageData(tmp_path / name)
        data.add_lines({f"/project/flows/module_{number}.py": range(1, 300) for number in range(100)})
        data.close()
    with (tmp_path / ".coverage.cut-off").open("r+b") as file:
        file.truncate(8192)
    for name, path in spoiled.items():
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute(f"UPDATE file SET path = {path} WHERE id = 3")
            connection.commit()
    assert delete_damaged(tmp_path) == [".coverage.bad-text", ".coverage.cut-off", ".coverage.no-path"]
    assert [path.name for path in tmp_path.iterdir()] == [".coverage.good"]
