"""`make up`: a Prefect server with its UI, the schedule, and the runs that are due, until Ctrl-C; `make down`.

Everything that it starts is its own child and ends with it, however it ends. One per project: it holds a lock in
`.prefect/`, where the server keeps its database too. Knows nothing of what a run does.

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
from flows.prefect_app.server import DATABASE_URL, HOST, QUIET, Server

FOLDER = Path(".prefect")
PORT = 4200
DOWN_TIMEOUT_S = 60.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(arguments)
    for number in STOPPING:
        signal.signal(number, _exit)  # until there may be runs to end
    try:
        if options.down:
            return down()
        return up_detached(options.port) if options.detach else up(options.port)
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # once more, while it is stopping
        return INTERRUPTED


def up(port: int) -> int:
    """Serve until a signal comes; the exit code.

    Raises:
        InputError: params.yaml is wrong, the port is taken, or this project is up already.
        AtlasError: the server does not start.
    """
    params = load_params().pipeline
    folder = _folder()
    with _the_only_one(folder) as note, Server(folder, port, params.retention_days, dict(os.environ)) as server:
        _prepare_environment(folder, server.url)
        from flows.prefect_app import deployment  # Prefect, which takes seconds, and reads the environment once

        schedule = deployment.schedule_of(params.cron, params.timezone)
        say(f"starting the Prefect server at {server.url} (with a new database that takes a while) ...")
        server.start()
        server.wait_until_healthy()

        def ready() -> None:
            _write(note, pid=os.getpid(), url=server.url, serving=True)
            say(_welcome(server.url, params.cron, params.timezone))

        asyncio.run(deployment.serve(schedule, ready, server.keep_up, STOPPING))
        say("stopped")
    gc.freeze()  # else the interpreter looks for seconds through what Prefect brought, before it ends
    return 0


def up_detached(port: int) -> int:
    """Start `up` as a process of its own, in no terminal, and wait until it serves; the exit code.

    Raises:
        InputError: this project is up already.
    """
    folder = _folder()
    log = folder / "up.log"
    with _the_only_one(folder):
        pass  # else the log of the other would be overwritten
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_app.up", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not ((note := _read_note(folder)).get("serving") and note["pid"] == process.pid):
            if process.poll() is not None:
                say(log.read_text(encoding="utf-8", errors="replace").strip())
                return process.returncode
            time.sleep(0.2)
    except BaseException:
        process.terminate()
        raise
    say(f"up: {note['url']} (what it says goes to {log}; `make down` ends it)")
    return 0


def down() -> int:
    """End what `up` started in this project, and wait for it; the exit code.

    Raises:
        AtlasError: it does not end.
    """
    folder = _folder()
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    asked = False
    while True:
        try:
            with _the_only_one(folder):
                say("down" if asked else "nothing is up in this project")
                return 0
        except InputError:
            pid = _read_note(folder).get("pid")
            if pid and not asked:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGTERM)
                asked = True
            if time.monotonic() > deadline:
                raise AtlasError(
                    f"process {pid} did not end in {DOWN_TIMEOUT_S:.0f} s: `kill -9 {pid}` ends it and all its runs"
                ) from None
            time.sleep(0.2)


@contextmanager
def _the_only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the project's lock, which the kernel lets go when the process ends; yields the note for others."""
    with (folder / "up.json").open("a+", encoding="utf-8") as note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = _read_note(folder).get("url", "and still starting")
            raise InputError(f"this project is up already: {where}. `make down` ends that") from None
        _write(note, pid=os.getpid())
        yield note


def _write(note: IO[str], **content: Any) -> None:
    note.truncate(0)
    note.write(json.dumps(content))
    note.flush()


def _read_note(folder: Path) -> dict[str, Any]:
    """What the process that holds the lock says of itself; nothing while it is being written."""
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / "up.json").read_text(encoding="utf-8")))
    return {}


def _folder() -> Path:
    FOLDER.mkdir(exist_ok=True)
    return FOLDER.resolve()


def _prepare_environment(folder: Path, url: str) -> None:
    """What Prefect in this process and in the runs has to know. Not the database, which may need a password."""
    os.environ.pop(DATABASE_URL, None)
    os.environ.update(QUIET, PREFECT_HOME=str(folder), PREFECT_API_URL=f"{url}/api")
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))


def _welcome(url: str, cron: str | None, timezone: str) -> str:
    when = f"at {cron} ({timezone}), with a new crawl" if cron else "never (pipeline.cron is null)"
    return (
        f"UI: {url}\n"
        f"The flow runs by itself {when}; by hand with\n"
        f"  PREFECT_API_URL={url}/api {Path(sys.executable).parent}/prefect deployment run atlas/atlas\n"
        "Ctrl-C ends everything"
    )


def _exit(number: int, _frame: object) -> NoReturn:
    sys.exit(INTERRUPTED if number == signal.SIGINT else 128 + number)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"expected a number from 0 (any free port) to 65535, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.prefect_app.up", description="The schedule and its UI.")
    parser.add_argument("--port", type=_port, default=PORT, help=f"of the UI and the API (default {PORT}; 0: any free)")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument("--down", action="store_true", help="end what is up in this project")
    return parser


if __name__ == "__mp_main__":  # a run: Prefect starts it through multiprocessing, which reads this module first
    die_with_parent()
    os.setpgrp()  # deaf to Ctrl-C: the parent ends it, and says that it was cancelled
    atexit.register(gc.freeze)

if __name__ == "__main__":
    sys.exit(main())
