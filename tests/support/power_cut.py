"""A model of a disk that keeps only what was synced: the states that a power failure may leave.

The model is fed with recorded calls (`strace.read_calls`). What POSIX promises: the content of a file is on disk after
an fsync of the file; its name (created, renamed, removed) after an fsync of its folder. Anything else may be on disk or
not, in any order. So a file may be empty, old, torn, or have its size and zeros instead of its bytes.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.strace import Call

SECTOR = 512  # bytes that a disk writes at once


@dataclass(eq=False)
class File:
    """A file: its bytes now, those on disk, and the writes since."""

    data: bytearray
    on_disk: bytes
    waiting: list[tuple[int, bytes]] = field(default_factory=list)  # offset and bytes; -1: cut to a size
    link: bool = False  # a symbolic link; its data are the target

    def write(self, offset: int, data: bytes) -> None:
        offset = len(self.data) if offset < 0 else offset
        self.waiting.append((offset, data))
        _write(self.data, offset, data)

    def cut(self, size: int) -> None:
        self.waiting.append((-1, size.to_bytes(8)))
        _cut(self.data, size)

    def sync(self) -> None:
        self.on_disk, self.waiting = bytes(self.data), []

    def after_power_cut(self, chance: random.Random) -> bytes:
        """One of the contents that this file may have."""
        kind = chance.choice(("lost", "kept", "zeros", "torn")) if self.waiting else "kept"
        if kind == "kept":
            return bytes(self.data)
        left = bytearray(self.on_disk)
        if kind == "torn":
            count = chance.randrange(len(self.waiting))
            for offset, data in self.waiting[:count]:
                _apply(left, offset, data)
            offset, data = self.waiting[count]
            if offset >= 0:
                _write(left, offset, data[: chance.randrange(len(data) // SECTOR + 1) * SECTOR])
        elif kind == "zeros":
            for offset, data in self.waiting:
                _apply(left, offset, bytes(len(data)) if offset >= 0 else data)
        return bytes(left)


@dataclass(eq=False)
class Folder:
    """A folder; its names are in `Disk`."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    before: dict[str, "File | Folder"] = field(default_factory=dict)  # at the start, on disk


@dataclass(eq=False)
class Change:
    """A change of names, which happens as a whole."""

    names: list[tuple[Folder, str, "File | Folder | None"]]
    waits_for: set[int]  # ids of the folders that have to be synced


@dataclass(frozen=True)
class Fault:
    """A rename to a name of ours whose content was not synced."""

    target: str
    unsynced: list[str]


class Disk:
    """The files below ``root``, as they are now and as they are on disk."""

    def __init__(self, root: Path, *, kept: Callable[[str], bool] = lambda _: False) -> None:
        """Read all files below ``root``, which are on disk.

        Args:
            root: an existing folder.
            kept: relative paths whose changes are never lost: files that other programs write.
        """
        self.root, self._kept = str(root), kept
        self.top = self._read(root)
        self.changes: list[Change] = []
        self.faults: list[Fault] = []
        self._lost_names: set[tuple[int, str, int]] = set()  # that wait for their folder

    def _read(self, path: Path) -> Folder:
        folder = Folder()
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                folder.names[entry.name] = self._read(Path(entry.path))
            else:
                link = entry.is_symlink()
                data = str(Path(entry.path).readlink()).encode() if link else Path(entry.path).read_bytes()
                folder.names[entry.name] = File(bytearray(data), data, link=link)
        folder.before = dict(folder.names)
        return folder

    def apply(self, call: Call) -> bool:
        """Apply ``call``; returns whether it changed a file or a name."""
        if call.name in ("rename", "link"):
            return self._move(call)
        place = self._place(call.path)
        if place is None:
            return False
        folder, name = place
        there = folder.names.get(name) if name else folder
        if call.name == "open":
            if there is None and "O_CREAT" in call.flags:
                self._change((folder, name, File(bytearray(), b"")), path=call.path)
            elif isinstance(there, File) and "O_TRUNC" in call.flags and there.data:
                there.cut(0)
            else:
                return False
        elif call.name == "sync":
            self._sync(there)
            return False
        elif call.name == "mkdir":
            self._change((folder, name, Folder()), path=call.path)
        elif call.name == "symlink":
            self._change((folder, name, File(bytearray(call.data), call.data, link=True)), path=call.path)
        elif call.name == "unlink":
            self._change((folder, name, None), path=call.path)
        elif isinstance(there, File):  # else it was removed while it was open
            self._content(there, call)
        else:
            return False
        if self._kept(self._relative(call.path)) and isinstance(there, File):
            there.sync()
        return True

    def _content(self, file: File, call: Call) -> None:
        if call.name == "write":
            file.write(call.offset, call.data)
        elif call.name == "truncate":
            file.cut(call.offset)
        elif call.name == "copy":
            source = self.find(call.other)
            bytes_ = bytes(source.data) if isinstance(source, File) else Path(call.other).read_bytes()
            file.write(call.offset, bytes_[call.source_offset : call.source_offset + call.size])

    def _move(self, call: Call) -> bool:
        source, target = self._place(call.path), self._place(call.other)
        found = self.find(call.path)
        if target is None or source is None or found is None:
            outside = call.path if source is None else call.other
            raise AssertionError(f"a {call.name} across the border of the recorded folder: {outside}")
        temporary = call.other.endswith(".tmp")  # a library renames within our temporary name
        waiting = self._sorted_unsynced(found, self._relative(call.path))
        if call.name == "rename" and waiting and not self._kept(self._relative(call.other)) and not temporary:
            self.faults.append(Fault(self._relative(call.other), waiting))
        names = [(*target, found)] + ([(*source, None)] if call.name == "rename" else [])
        self._change(*names, path=call.other)
        return True

    def _unsynced(self, what: "File | Folder", path: str) -> Iterator[str]:
        if isinstance(what, File):
            if what.waiting:
                yield path
            return
        for name, each in what.names.items():
            if (id(what), name, id(each)) in self._lost_names:
                yield f"{path}/{name}"
            else:
                yield from self._unsynced(each, f"{path}/{name}")

    def unsynced(self) -> list[str]:
        """Files and folders that a power failure may still change or remove, without the kept ones."""
        found = (path.removeprefix("./") for path in self._sorted_unsynced(self.top, "."))
        return [path for path in found if not self._kept(path)]

    def _sorted_unsynced(self, what: "File | Folder", path: str) -> list[str]:
        self._lost_names = {
            (id(folder), name, id(each))
            for change in self.changes
            for folder, name, each in change.names
            if each is not None and change.waits_for
        }
        return sorted(self._unsynced(what, path))

    def _change(self, *names: tuple[Folder, str, "File | Folder | None"], path: str) -> None:
        change = Change(list(names), {id(folder) for folder, _, _ in names})
        for folder, name, what in names:
            if what is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = what
        if self._kept(self._relative(path)):
            change.waits_for.clear()
        self.changes.append(change)

    def _sync(self, what: "File | Folder | None") -> None:
        if isinstance(what, File):
            what.sync()
        elif what is not None:
            for change in self.changes:
                change.waits_for.discard(id(what))

    def find(self, path: str) -> "File | Folder | None":
        """What is at the absolute ``path`` now."""
        place = self._place(path)
        if place is None:
            return None
        folder, name = place
        return folder.names.get(name) if name else folder

    def _place(self, path: str) -> tuple[Folder, str] | None:
        """The folder of ``path`` and its name in it; None if it is outside, or its folder has been removed."""
        parts = self._relative(path).split("/")
        if parts[0] == "..":
            return None
        folder = self.top
        for part in parts[:-1]:
            below = folder.names.get(part)
            if not isinstance(below, Folder):
                return None
            folder = below
        return folder, "" if parts == ["."] else parts[-1]

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def now(self) -> dict[str, bytes]:
        """Path -> content of each file, as the running programs see them."""
        return dict(_files(self.top, lambda folder: folder.names, lambda file: bytes(file.data)))

    def after_power_cut(self, chance: random.Random) -> dict[str, bytes]:
        """Path -> content of each file in one of the states that a power failure may leave now.

        Half of the states keep changes of names in their order, as journaling file systems do; the others any of them.
        """
        names: dict[int, dict[str, File | Folder]] = {}
        keep = chance.random()
        first_lost = chance.randrange(len(self.changes) + 1) if chance.random() < 0.5 else None
        for number, change in enumerate(self.changes):
            is_kept = chance.random() < keep if first_lost is None else number < first_lost
            if change.waits_for and not is_kept:
                continue
            for folder, name, what in change.names:
                of_folder = names.setdefault(id(folder), dict(folder.before))
                of_folder.pop(name, None)
                if what is not None:
                    of_folder[name] = what
        contents: dict[int, bytes] = {}

        def content(file: File) -> bytes:
            return contents.setdefault(id(file), file.after_power_cut(chance))

        return dict(_files(self.top, lambda folder: names.get(id(folder), folder.before), content))


def _files(
    folder: Folder,
    names: Callable[[Folder], dict[str, "File | Folder"]],
    content: Callable[[File], bytes],
    prefix: str = "",
) -> Iterator[tuple[str, bytes]]:
    for name, what in sorted(names(folder).items()):
        if isinstance(what, File):
            yield prefix + name, content(what)
        else:
            yield f"{prefix}{name}/", b""
            yield from _files(what, names, content, f"{prefix}{name}/")


def write_state(state: dict[str, bytes], target: Path, links: Iterable[str] = ()) -> None:
    """Make the folder ``target`` hold ``state`` (`Disk.after_power_cut`), and nothing else.

    Args:
        state: path -> content; a path with a final slash is a folder.
        target: removed first if it exists.
        links: paths that are symbolic links.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path, data in state.items():
        if path.endswith("/"):
            (target / path).mkdir(exist_ok=True)
        elif path in links:
            (target / path).symlink_to(os.fsdecode(data))
        else:
            (target / path).write_bytes(data)


def _apply(data: bytearray, offset: int, change: bytes) -> None:
    if offset < 0:
        _cut(data, int.from_bytes(change))
    else:
        _write(data, offset, change)


def _write(data: bytearray, offset: int, change: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(change)] = change


def _cut(data: bytearray, size: int) -> None:
    if len(data) < size:
        data.extend(bytes(size - len(data)))
    del data[size:]
