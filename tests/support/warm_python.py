"""Programs that run commands in forks of one process, which has imported what they need.

A stage or a command of the documentation imports PyTorch, DVC and Scrapy for seconds, and works for a fraction of a
second. The programs `python`, `atlas` and `dvc` in the folder that `install` writes hand their arguments, environment
and streams to the process, and end with its exit code. Each command runs in a process of its own, and finds the code
of this project in its own folder. Not for tests of signals, of memory or of the processes themselves.

``python -m tests.support.warm_python SOCKET MODULE... PID`` is that process: it ends with process PID.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tests.support.shared_processes import POLL_S, first_in, is_alive, start
from tests.support.waiting import wait_until

# Without code of this project: in a copy of it, a stage imports that of the copy.
LIBRARIES = (
    *("torch", "torch._dynamo", "safetensors.torch", "jaxtyping", "dvclive.live", "dvc.repo", "dulwich.porcelain"),
    *("sklearn.metrics", "sklearn.linear_model", "scipy.optimize", "pandas", "pyarrow.parquet", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "PIL.Image", "pydantic", "yaml", "aiohttp", "jinja2"),
)
STAGES = ("crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate")
# With the code of this checkout, for commands that do not change it.
PROJECT = (
    *("dvc.cli", "dvc.repo", "flows.cli.main", "flows.cli.predict", "flows.cli.crawl", "flows.init.command"),
    *(f"flows.stages.{stage}" for stage in STAGES),
)
LONGEST = 80  # characters of the path of a folder with a socket
PROGRAM = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    told = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(link, [len(told).to_bytes(4, "big")], [0, 1, 2])
    link.sendall(told)
    sys.exit(int(link.recv(4) or b"1"))
"""


def install(folder: Path, address: Path) -> None:
    """Write the programs into ``folder``."""
    folder.mkdir(parents=True)
    for name in ("python", "atlas", "dvc"):
        file = folder / name
        file.write_text(PROGRAM.format(python=sys.executable, address=str(address)), encoding="utf-8")
        file.chmod(0o755)


def shared_programs(folder: Path) -> Path:
    """The programs that all workers of pytest share, with `LIBRARIES`; the first that asks starts the process."""
    programs, log = folder / "bin", folder / "log"
    with first_in(folder) as is_first:
        if is_first:
            address = (folder if len(str(folder)) <= LONGEST else Path(tempfile.mkdtemp())) / "socket"
            environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
            command = [sys.executable, "-m", "tests.support.warm_python", str(address), *LIBRARIES]
            with log.open("wb") as output:
                process = start(command, env=environment, stdout=output, stderr=output)
            wait_until(lambda: address.exists() or process.poll() is not None, log.read_text)
            assert process.poll() is None, log.read_text()
            process.returncode = 0  # nobody here waits for its end
            install(programs, address)
    return programs


def serve(address: Path, modules: list[str], process: int) -> None:
    """Import ``modules`` and accept commands until ``process`` has ended."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children need no parent that waits
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(16)
        Path(f"{address}.new").rename(address)  # now that it listens
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        listener.settimeout(POLL_S)
        while is_alive(process):
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            with link:
                if os.fork() == 0:
                    listener.close()
                    return _answer(link)


def _answer(link: socket.socket) -> None:
    """Run the command in a child, and tell its exit code once it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(link, 4, 3)
    told = b""
    while len(told) < int.from_bytes(size, "big"):
        told += link.recv(1 << 16)
    if command := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        link.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    link.close()
    name, arguments, folder, environment = json.loads(told)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threads = environment.get("OMP_NUM_THREADS")
    if threads and "torch" in sys.modules:  # it has read the variable when it was imported
        sys.modules["torch"].set_num_threads(int(threads))
    _run(name, arguments, folder)


def _run(name: str, arguments: list[str], folder: str) -> None:
    """As the program ``name`` does with ``arguments``."""
    sys.argv = [name, *arguments]
    if name == "atlas":
        from flows.cli.main import main

        sys.exit(main(arguments))
    if name == "dvc":
        from dvc.cli import main as dvc

        sys.exit(dvc(arguments))
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, folder)
        sys.modules.pop(arguments[1], None)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:-1], int(sys.argv[-1]))
