"""Implements `make up` and `make down`: a Prefect server with its UI, the schedule, and the execution of due runs.

All processes that it starts are its children and end with it, however that happens. There is one per project: it holds
a lock in `.prefect/`, where the database of the server is too.

``python -m flows.prefect_app.up`` ends with exit code 0 (stopped), 1 (the server failed) or 2 (bad input).
"""

import argparse
import asyncio
import atexit
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import load_params
from atlas_model.core.processes import INTERRUPTED, die_with_parent
from atlas_model.core.progress import say
from flows.prefect_app.server import DATABASE_URL, HOST, QUIET, REPORT_PATH, REPORT_URL, Server

FOLDER = Path(".prefect")
PORT = 4200
DOWN_TIMEOUT_S = 60.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    options = _parser().parse_args(arguments)
    for number in STOPPING:
        signal.signal(number, _exit)  # until runs may be executing
    try:
        if options.down:
            return down()
        return up_detached(options.port) if options.detach else up(options.port)
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # a second one, while it is stopping
        return INTERRUPTED


def up(port: int) -> int:
    """Serve until a signal arrives; returns the exit code.

    Raises:
        InputError: params.yaml is not valid, the port is in use, or this project is served already.
        AtlasError: the server does not start.
    """
    params = load_params().pipeline
    folder = _folder()
    with _project_lock(folder) as status, Server(folder, port, params.retention_days, dict(os.environ)) as server:
        _prepare_environment(folder, server.url)
        # Here, because it imports Prefect, which takes seconds and reads the environment at import.
        from flows.prefect_app import deployment

        schedule = deployment.schedule_of(params.cron, params.timezone)
        say(f"starting the Prefect server at {server.url} (creating a new database takes a while) ...")
        server.start()
        server.wait_until_healthy()

        def ready() -> None:
            _write(status, pid=os.getpid(), url=server.url, serving=True)
            say(_welcome(server.url, params.cron, params.timezone))

        asyncio.run(deployment.serve(schedule, ready, server.restart_if_ended, STOPPING))
        say("stopped")
    gc.freeze()  # else garbage collection at exit takes seconds
    return 0


def up_detached(port: int) -> int:
    """Start `up` as a background process, and wait until it serves; returns the exit code.

    Raises:
        InputError: this project is served already.
    """
    folder = _folder()
    log = folder / "up.log"
    with _project_lock(folder):
        pass  # raises before the log of the other process is overwritten
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_app.up", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not ((status := _read_status(folder)).get("serving") and status["pid"] == process.pid):
            if process.poll() is not None:
                say(log.read_text(encoding="utf-8", errors="replace").strip())
                return process.returncode
            time.sleep(0.2)
    except BaseException:
        process.terminate()
        raise
    say(f"up: {status['url']} (log: {log}; `make down` stops it)")
    return 0


def down() -> int:
    """Stop the `up` process of this project, and wait for its end; returns the exit code.

    Raises:
        AtlasError: it does not end in time.
    """
    folder = _folder()
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    terminated = False
    while True:
        try:
            with _project_lock(folder):
                say("stopped" if terminated else "nothing is running in this project")
                return 0
        except InputError:
            pid = _read_status(folder).get("pid")
            if pid and not terminated:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGTERM)
                terminated = True
            if time.monotonic() > deadline:
                raise AtlasError(
                    f"process {pid} did not end in {DOWN_TIMEOUT_S:.0f} s: `kill -9 {pid}` ends it and all its runs"
                ) from None
            time.sleep(0.2)


@contextmanager
def _project_lock(folder: Path) -> Iterator[IO[str]]:
    """Hold the lock of the project, which the kernel releases at the end of the process; yields its status file."""
    with (folder / "up.json").open("a+", encoding="utf-8") as status:
        try:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = _read_status(folder).get("url", "and still starting")
            raise InputError(f"this project is served already: {where}. `make down` stops that") from None
        _write(status, pid=os.getpid())
        yield status


def _write(status: IO[str], **content: Any) -> None:
    status.truncate(0)
    status.write(json.dumps(content))
    status.flush()


def _read_status(folder: Path) -> dict[str, Any]:
    """The status of the process that holds the lock; empty while it is being written."""
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / "up.json").read_text(encoding="utf-8")))
    return {}


def _folder() -> Path:
    FOLDER.mkdir(exist_ok=True)
    return FOLDER.resolve()


def _prepare_environment(folder: Path, url: str) -> None:
    """Set the environment of Prefect here and in runs. The URL of the database is removed: it may hold a password."""
    os.environ.pop(DATABASE_URL, None)
    os.environ.update(QUIET, PREFECT_HOME=str(folder), PREFECT_API_URL=f"{url}/api")
    os.environ[REPORT_URL] = f"{url}{REPORT_PATH}"
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))


def _welcome(url: str, cron: str | None, timezone: str) -> str:
    when = f"scheduled at {cron} ({timezone}), with a new crawl" if cron else "not scheduled (pipeline.cron is null)"
    return (
        f"UI: {url}\n"
        f"The flow is {when}; to start a run by hand:\n"
        f"  PREFECT_API_URL={url}/api {Path(sys.executable).parent}/prefect deployment run atlas/atlas\n"
        "Ctrl-C stops everything"
    )


def _exit(number: int, _frame: object) -> NoReturn:
    sys.exit(INTERRUPTED if number == signal.SIGINT else 128 + number)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"expected a number from 0 (any free port) to 65535, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.prefect_app.up",
        description="Runs a Prefect server with its UI, the schedule of the flow, and due runs.",
    )
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"port of the UI and the API (default: {PORT}; 0: any free port)"
    )
    parser.add_argument("--detach", action="store_true", help="run in the background")
    parser.add_argument("--down", action="store_true", help="stop what --detach started in this project")
    return parser


if __name__ == "__mp_main__":  # in a run, which Prefect starts with multiprocessing, which imports this module first
    die_with_parent()
    os.setpgrp()  # ignores Ctrl-C: the parent ends it, and reports it as cancelled
    atexit.register(gc.freeze)

if __name__ == "__main__":
    sys.exit(main())
