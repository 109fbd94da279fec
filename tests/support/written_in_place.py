"""Which files are written under their final names, instead of under a temporary name and renamed: asked of the kernel.

A kill at a random moment rarely comes in the milliseconds in which a small file is half-written. So every write is
seen, not only those that a kill interrupts.
"""

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODIFY, CREATE, MOVED_TO, IS_FOLDER = 0x2, 0x100, 0x80, 0x40000000  # linux/inotify.h
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def written_in_place(folders: list[Path]) -> Iterator[set[Path]]:
    """The files below ``folders`` that are written in place in the ``with`` block; hidden files and folders are not."""
    found: set[Path] = set()
    descriptor = LIBC.inotify_init1(os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    watched: dict[int, Path] = {}

    def watch(folder: Path) -> None:
        watch_id = LIBC.inotify_add_watch(descriptor, bytes(folder), MODIFY | CREATE | MOVED_TO)
        if watch_id >= 0:  # else it is gone already
            watched[watch_id] = folder
            for inner in folder.iterdir():
                if inner.is_dir() and not inner.name.startswith("."):
                    watch(inner)

    def read() -> None:
        while True:
            events = os.read(descriptor, 1 << 16)
            while events:
                watch_id, mask, _, length = EVENT.unpack_from(events)
                name = events[EVENT.size : EVENT.size + length].rstrip(b"\0").decode()
                events = events[EVENT.size + length :]
                path = watched.get(watch_id, Path()) / name
                if name == END:
                    return
                if name.startswith(".") or not name:
                    continue
                if mask & IS_FOLDER:
                    try:
                        watch(path)
                    except FileNotFoundError:
                        continue
                elif mask & (MODIFY | CREATE):
                    found.add(path)

    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        watch(folder)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        (folders[0] / END).touch()
        reader.join()
        (folders[0] / END).unlink()
        os.close(descriptor)


END = ".end-of-the-watch"
