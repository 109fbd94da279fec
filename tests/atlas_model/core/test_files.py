"""Atomic writes of files and folders, and locks."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import locked, replacing, replacing_folder, write_json, write_text


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_renames_only_complete_files(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names_in(target.parent) == ["a.txt"]


def test_failed_write_keeps_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("writer", ["replacing", "replacing_folder"])
def test_kill_between_write_and_rename_keeps_old_content(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "target"
    if writer == "replacing":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "part").write_text("old")
    program = f"""
        import os, signal
        from pathlib import Path
        from atlas_model.core.files import {writer}
        with {writer}(Path({str(target)!r})) as temporary:
            (temporary / "part" if temporary.is_dir() else temporary).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert (target if target.is_file() else target / "part").read_text() == "old"
    assert len(names_in(tmp_path)) == 2, "the kill came after the write"


def pid_of_nobody() -> int:
    with subprocess.Popen(["true"]) as ended:
        pass
    return ended.pid


def test_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    dead, running = pid_of_nobody(), os.getppid()
    (tmp_path / f".a.txt.{dead}.tmp").write_text("half")
    (tmp_path / f".folder.{dead}.tmp").mkdir()
    (tmp_path / f".folder.{dead}.old.tmp").mkdir()
    (tmp_path / "folder").mkdir()
    others = [f".a.txt.{running}.tmp", f".a.txt.more.{dead}.tmp", f".b.txt.{dead}.tmp", ".a.txt.tmp", ".a.txt.x.tmp"]
    for name in others:
        (tmp_path / name).touch()
    write_text(tmp_path / "a.txt", "new")
    with replacing_folder(tmp_path / "folder"):
        pass
    assert names_in(tmp_path) == sorted(["a.txt", "folder", *others])


def test_folder_that_a_killed_process_had_moved_away_comes_back(tmp_path: Path) -> None:
    dead = pid_of_nobody()
    for name, content in (("old.tmp", "old"), ("tmp", "new")):
        (tmp_path / f".folder.{dead}.{name}").mkdir()
        (tmp_path / f".folder.{dead}.{name}/part").write_text(content)
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "folder"):
        raise RuntimeError
    assert (tmp_path / "folder/part").read_text() == "old"
    assert names_in(tmp_path) == ["folder"]


def test_replacing_a_symlink_replaces_its_target_folder(tmp_path: Path) -> None:
    (tmp_path / "disk/old").mkdir(parents=True)
    (tmp_path / "disk/old/part").write_text("old")
    for name in ("old", "new"):  # the second link's target does not exist yet
        link = tmp_path / f"link-{name}"
        link.symlink_to(tmp_path / "disk" / name)
        with replacing_folder(link) as temporary:
            (temporary / "whole").write_text("new")
        assert link.is_symlink()
        assert names_in(tmp_path / "disk" / name) == ["whole"]
    assert names_in(tmp_path) == ["disk", "link-new", "link-old"]
    assert names_in(tmp_path / "disk") == ["new", "old"]


def test_refuses_symlink_to_itself(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with (
        pytest.raises(AtlasError, match="circle: expected a folder or a link to one"),
        replacing_folder(tmp_path / "circle"),
    ):
        pass


def test_replaces_a_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with replacing_folder(target) as temporary:
            (temporary / name).write_text(name)
    assert names_in(target) == ["second"]
    assert names_in(tmp_path) == ["folder"]


def test_failed_replacement_keeps_old_folder_and_no_temporary_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with replacing_folder(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(RuntimeError), replacing_folder(target) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_keeps_its_files(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(PermissionError):
            write_text(target, "new")
        assert target.read_text() == "old"
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_json_is_indented_utf8_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"größe": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "größe": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "b.json", float("nan"))
    assert names_in(tmp_path) == ["a.json"]


def test_second_lock_is_refused(tmp_path: Path) -> None:
    who = rf"\(pid {os.getpid()}: .*, since 20"
    taken = pytest.raises(AtlasError, match=rf"another crawl is running there\. Wait .* {who}")
    with locked(tmp_path / "new", "crawl"), taken, locked(tmp_path / "new", "crawl"):
        pass
    with locked(tmp_path / "new", "crawl"):
        pass
