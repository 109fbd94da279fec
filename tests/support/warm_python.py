"""``python -m tests.support.warm_python SOCKET``: runs commands in forks of a process that has imported everything.

A command of the documentation takes seconds to import PyTorch, DVC and Scrapy, and a fraction of a second to work. The
server imports them once. The programs `python`, `atlas` and `dvc` in the folder that `install` writes connect to it,
hand it their arguments, environment and streams, and end with its exit code. Each command runs in a process of its own.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

STAGES = ("crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate")
PRELOADED = ("dvc.cli", "dvc.repo", "flows.cli.main", "flows.cli.predict", "flows.cli.crawl", "flows.init.command")
SHIM = """#!{python} -ISE
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
sent = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(sent).to_bytes(4, "big")], [0, 1, 2])
link.sendall(sent)
sys.exit(int(link.recv(4) or b"1"))
"""


def install(folder: Path, address: Path) -> None:
    """Write the programs into ``folder``."""
    folder.mkdir(parents=True)
    for name in ("python", "atlas", "dvc"):
        file = folder / name
        file.write_text(SHIM.format(python=sys.executable, socket=str(address)), encoding="utf-8")
        file.chmod(0o755)


def serve(address: str) -> None:
    """Accept commands until the process is killed."""
    for name in (*PRELOADED, *(f"flows.stages.{stage}" for stage in STAGES)):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children need no parent that waits
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            link, _ = server.accept()
            with link:
                if os.fork() == 0:
                    _answer(link)


def _answer(link: socket.socket) -> None:
    """Run one command in this process, which is its own, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(link, 4, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += link.recv(1 << 16)
    name, arguments, folder, environment = json.loads(content)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    code = 1
    try:
        code = _run(name, arguments, folder)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        link.sendall(str(code).encode())
        os._exit(code)


def _run(name: str, arguments: list[str], folder: str) -> int:
    if name == "atlas":
        from flows.cli.main import main

        sys.argv = ["atlas", *arguments]
        return main(arguments)
    if name == "dvc":
        from dvc.cli import main as dvc

        sys.argv = ["dvc", *arguments]
        return int(dvc(arguments) or 0)
    if arguments[:1] == ["-m"]:
        sys.argv = arguments[1:]
        sys.path.insert(0, folder)
        sys.modules.pop(arguments[1], None)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
