"""Records the system calls with which a command and its children change files, with strace.

Unlike a patched Python function, strace also sees the writes of C and C++ libraries (pyarrow, SQLite, safetensors).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    *("openat", "open", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "truncate"),
    *("fallocate", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "lseek", "dup", "dup2", "dup3", "fcntl", "sendfile"),
    *("copy_file_range", "clone", "clone3", "fork", "vfork", "chdir", "fchdir"),
)
MAX_STRING = 50_000_000  # bytes of one write
FORKS = ("clone", "clone3", "fork", "vfork")
LINE = re.compile(r"(\d+) +(.*)")
ENDED = re.compile(r"(\w+)\((.*)\) += (-?\d+)(.*)", re.DOTALL)
UNFINISHED = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2})*)>)?")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
BASE = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def strace_missing() -> str:
    """Why strace cannot record here; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "strace may not trace processes here"


@dataclass(frozen=True)
class Call:
    """A successful system call on files, with absolute paths.

    Attributes:
        name: as in the kernel, but all variants of a call have one name: open, write, rename, link, unlink, ...
        path: of the file; of the source of ``rename`` and ``link``.
        other: the target of ``rename`` and ``link``; the source of ``copy``.
        data: of ``write``.
        offset: in the file; of ``write``, ``copy`` and ``truncate`` (then the new size).
        size: bytes of ``copy``.
        flags: of ``open``, such as O_CREAT.
        source_offset: in ``other``, of ``copy``.
    """

    name: str
    path: str
    other: str = ""
    data: bytes = b""
    offset: int = 0
    size: int = 0
    flags: frozenset[str] = frozenset()
    source_offset: int = 0


@dataclass
class _OpenFile:
    offset: int = 0
    appends: bool = False


@dataclass
class _Process:
    folder: str
    files: dict[int, _OpenFile] = field(default_factory=dict)


def record(
    command: Sequence[str], trace: Path, *, cwd: Path, env: Mapping[str, str], timeout_s: float = 600
) -> "subprocess.CompletedProcess[str]":
    """Run ``command`` and write its system calls to ``trace``, for `read_calls`."""
    options = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", str(MAX_STRING), "-o", str(trace)]
    return subprocess.run(
        ["strace", *options, "-e", f"trace={','.join(CALLS)}", *command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def read_calls(trace: Path, root: Path, cwd: Path) -> Iterator[Call]:
    """Yield the calls in ``trace`` that change or sync files below ``root``, in order.

    Args:
        trace: written by `record`.
        root: other files are left out.
        cwd: folder in which the command was started.
    """
    reader = _Reader(str(cwd))
    below = f"{root}{os.sep}"
    with trace.open(encoding="ascii", errors="replace") as file:
        for line in file:
            for call in reader.read(line.rstrip("\n")):
                if any(f"{path}{os.sep}".startswith(below) for path in (call.path, call.other) if path):
                    yield call


class _Reader:
    """Follows open files and current folders of all processes."""

    def __init__(self, cwd: str) -> None:
        self._cwd = cwd
        self._processes: dict[str, _Process] = {}
        self._begun: dict[str, str] = {}  # thread -> its unfinished call
        self._forking: list[tuple[str, str]] = []  # threads whose fork has not returned yet, with its arguments

    def read(self, line: str) -> Iterator[Call]:
        found = LINE.match(line)
        if found is None or found[2].startswith(("+++", "---")):
            return
        thread, text = found[1], found[2]
        self._process(thread)
        if begun := UNFINISHED.fullmatch(text):
            self._begun[thread] = f"{begun[1]}({begun[2]}"
            if begun[1] in FORKS:
                self._forking.append((thread, begun[2]))
            return
        if resumed := RESUMED.match(text):
            text = self._begun.pop(thread, f"{resumed[1]}(") + resumed[2]
        ended = ENDED.match(text)
        if ended is None or int(ended[3]) < 0:
            return
        name, given, result = ended[1], ended[2], int(ended[3])
        if name in FORKS:
            self._forking = [one for one in self._forking if one[0] != thread]
            if str(result) not in self._processes:
                self._fork(thread, str(result), given)
            return
        yield from self._call(self._process(thread), name, given.split(", "), result, ended[4])

    def _process(self, thread: str) -> _Process:
        if thread not in self._processes:
            if self._forking:
                parent, given = self._forking.pop()
                self._fork(parent, thread, given)
            else:
                self._processes[thread] = _Process(self._cwd)
        return self._processes[thread]

    def _fork(self, parent: str, child: str, given: str) -> None:
        of_parent = self._process(parent)
        shares = "CLONE_FILES" in given
        self._processes[child] = of_parent if shares else _Process(of_parent.folder, dict(of_parent.files))

    def _call(self, process: _Process, name: str, given: list[str], result: int, rest: str) -> Iterator[Call]:
        if name in ("openat", "open", "creat"):
            path, flags = self._opened(process, name, given)
            process.files[result] = _OpenFile(appends="O_APPEND" in flags)
            if flags & {"O_CREAT", "O_TRUNC"} and "O_DIRECTORY" not in flags:
                yield Call("open", path, flags=frozenset(flags))
        elif name in ("chdir", "fchdir"):
            process.folder = self._path(process, given[0]) if name == "chdir" else _path_of(given[0])
        elif name in ("dup", "dup2", "dup3") or (name == "fcntl" and given[1].startswith("F_DUPFD")):
            if (number := _number(given[0])) in process.files:
                process.files[result] = process.files[number]
        elif name == "lseek":
            process.files.setdefault(_number(given[0]), _OpenFile()).offset = result
        elif name in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            yield from self._write(process, name, given, result)
        elif name in ("sendfile", "copy_file_range"):
            yield from self._copy(process, name, given, result, rest)
        elif name in ("fsync", "fdatasync"):
            yield Call("sync", _path_of(given[0]))
        elif name == "ftruncate":
            yield Call("truncate", _path_of(given[0]), offset=int(given[1]))
        elif name == "truncate":
            yield Call("truncate", self._path(process, given[0]), offset=int(given[1]))
        elif name == "fallocate":
            raise NotImplementedError("fallocate changes the size of a file: add it to this model")
        elif name in ("rename", "link"):
            yield Call(name, self._path(process, given[0]), self._path(process, given[1]))
        elif name in ("renameat", "renameat2", "linkat"):
            source, target = self._path(process, given[1], given[0]), self._path(process, given[3], given[2])
            yield Call("rename" if name.startswith("rename") else "link", source, target)
        elif name in ("unlink", "rmdir", "mkdir"):
            yield Call("mkdir" if name == "mkdir" else "unlink", self._path(process, given[0]))
        elif name in ("unlinkat", "mkdirat"):
            yield Call("mkdir" if name == "mkdirat" else "unlink", self._path(process, given[1], given[0]))
        elif name in ("symlink", "symlinkat"):
            at = None if name == "symlink" else given[1]
            yield Call("symlink", self._path(process, given[-1], at), data=_bytes(given[0]))

    def _opened(self, process: _Process, name: str, given: list[str]) -> tuple[str, set[str]]:
        if name == "openat":
            return self._path(process, given[1], given[0]), set(given[2].split("|"))
        flags = set(given[1].split("|")) if name == "open" else {"O_CREAT", "O_TRUNC"}
        return self._path(process, given[0]), flags

    def _write(self, process: _Process, name: str, given: list[str], result: int) -> Iterator[Call]:
        number, path = _number(given[0]), _path_of(given[0])
        if not path.startswith("/"):
            return  # a pipe or a socket
        found = BASE.findall(", ".join(given)) if "v" in name else STRING.findall(given[1])
        assert not any(cut for _, cut in found), f"a write to {path} is longer than {MAX_STRING} bytes"
        data = b"".join(_unescaped(text) for text, _ in found)[:result]
        at = process.files.setdefault(number, _OpenFile())
        if name.startswith("p"):
            yield Call("write", path, data=data, offset=int(given[-1] if name != "pwritev2" else given[-2]))
            return
        yield Call("write", path, data=data, offset=-1 if at.appends else at.offset)
        at.offset += result

    def _copy(self, process: _Process, name: str, given: list[str], result: int, rest: str) -> Iterator[Call]:
        source, target = (given[1], given[0]) if name == "sendfile" else (given[0], given[2])
        if not _path_of(target).startswith("/"):
            return
        offset_given = given[2] if name == "sendfile" else given[1]
        read_from = process.files.setdefault(_number(source), _OpenFile())
        written_to = process.files.setdefault(_number(target), _OpenFile())
        named = re.match(r"\[(\d+)", offset_given)
        start = int(named[1]) if named else read_from.offset
        offset = -1 if written_to.appends else written_to.offset
        yield Call("copy", _path_of(target), _path_of(source), offset=offset, size=result, source_offset=start)
        written_to.offset += result
        if not named:
            read_from.offset += result

    def _path(self, process: _Process, text: str, folder: str | None = None) -> str:
        base = process.folder if folder is None else _path_of(folder) or process.folder
        return os.path.normpath(Path(base) / os.fsdecode(_bytes(text)))


def _number(text: str) -> int:
    found = DESCRIPTOR.match(text)
    assert found is not None, text
    return -100 if found[1] == "AT_FDCWD" else int(found[1])


def _path_of(text: str) -> str:
    """The path that strace shows for a descriptor."""
    found = DESCRIPTOR.match(text)
    assert found is not None, text
    return os.fsdecode(_unescaped(found[2] or ""))


def _bytes(text: str) -> bytes:
    found = STRING.match(text)
    assert found is not None, text
    return _unescaped(found[1])


def _unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
