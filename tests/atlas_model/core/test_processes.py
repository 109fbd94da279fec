"""Children that end with their parent."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import wait_until

PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2], str(os.getpid())])
os.kill(os.getpid(), 9)
"""
CHILD = """
import os, sys, time
from pathlib import Path
from atlas_model.core.processes import die_with_parent
while os.getppid() == int(sys.argv[2]):
    time.sleep(0.01)
Path(sys.argv[1]).write_text(str(os.getpid()))
die_with_parent()
Path(sys.argv[1]).with_name("alive").touch()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="dying with the parent is Linux's")
def test_child_whose_parent_was_killed_before_it_asked_ends_too(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, told], cwd=ROOT, start_new_session=True) as parent:
        parent.wait()
    pid = wait_until(lambda: told.is_file() and told.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists())
    assert not (tmp_path / "alive").exists()
