"""`flows.cli.outputs`: what a path that cannot be written says."""

import errno
from pathlib import Path

import pytest

from atlas_model.core.errors import InputError
from flows.cli.outputs import writing


def test_path_below_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "out.parquet"
    said = rf"^--output {output}: cannot be written: Not a directory\. Choose another path$"
    with pytest.raises(InputError, match=said), writing(output, "--output"):
        output.write_text("")
    with pytest.raises(InputError, match=rf"^{tmp_path}: cannot be written: Is a directory"), writing(tmp_path):
        tmp_path.write_text("")


def test_missing_permission_keeps_its_own_remedy(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
