"""Runs DVC in a child process that has imported it once: reads the pipeline, runs stages one after another.

Importing DVC takes longer than most requests, and DVC caches the files that it has read. So the child imports it once
and forks for each request: every fork has a DVC without cached files that starts at once.

The flow, this child, its forks and their stages are a chain of processes: each ends when its parent ends, however that
happens.
"""

import gc
import importlib
import json
import os
import secrets
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from atlas_model.core.errors import AtlasError, InputError, without_credentials
from atlas_model.core.processes import ANCESTOR, die_with_parent
from atlas_model.core.progress import say
from flows.dvc import repo
from flows.dvc.after_kill import mend
from flows.dvc.repo import DvcBusyError

Response = dict[str, Any]
ERRORS = {error.__name__: error for error in (AtlasError, InputError, DvcBusyError)}


@dataclass(frozen=True)
class Pipeline:
    """The stages, in the order in which `dvc repro` runs them."""

    needs: dict[str, list[str]]  # stage -> the stages whose outputs it reads
    changed: set[str]  # stages that are not up to date


class DvcChild:
    """The child process. A context manager: the end of the block ends the child and its stages."""

    def __enter__(self) -> Self:
        self._mark = secrets.token_hex()  # prefix of the lines that are responses; unknown to the stages
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.dvc.worker"],
            env={**repo.environment(), ANCESTOR: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._send(self._mark)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # its children end with it
        with suppress(BrokenPipeError), self._process:
            pass  # its output is not read to the end: a process left by a stage may hold the pipe open

    def inspect(self) -> Pipeline:
        """The stages, and which of them are not up to date.

        Raises:
            DvcBusyError: another dvc command is running in this project.
            InputError: this folder is not a DVC project, or its dvc.yaml is not valid.
        """
        found = self._result({"do": "inspect"})
        return Pipeline(found["needs"], set(found["changed"]))

    def is_changed(self, stage: str) -> bool:
        """Whether ``stage`` is not up to date; raises as `inspect` does."""
        return bool(self._result({"do": "status", "stage": stage}))

    def run_stage(self, stage: str, on_line: Callable[[str], None], log: Path, environment: Mapping[str, str]) -> None:
        """As `repo.run_stage`, with ``environment`` added to that of the stage; ``log`` is overwritten."""
        lines: deque[str] = deque(maxlen=repo.LAST_LINES)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as handle:

            def keep(line: str) -> None:
                lines.append(line)
                handle.write(f"{line}\n")
                handle.flush()
                on_line(line)

            response = self._request({"do": "run", "stage": stage, "environment": dict(environment)}, keep)
        if response["exit"]:
            error = repo.failure(stage, "\n".join(lines))
            raise type(error)(f"{error}\nIts log: {log}")

    def _request(self, request: Response, on_line: Callable[[str], None] = say) -> Response:
        self._send(json.dumps(request))
        assert self._process.stdout is not None
        for line in self._process.stdout:
            before, mark, response = line.rstrip("\n").partition(
                self._mark
            )  # the last line of a stage may have no newline
            if before.strip():
                on_line(without_credentials(before.rstrip()))
            if mark:
                found: Response = json.loads(response)
                return found
        raise AtlasError(
            "the process in which DVC runs has ended (out of memory?). Run again: completed stages are not repeated"
        )

    def _result(self, request: Response) -> Any:
        response = self._request(request)
        if "error" in response:
            raise ERRORS[response["error"]](response["text"])
        if "found" not in response:
            raise AtlasError(f"DVC ended with {response['exit']} without a response; see the lines above")
        return response["found"]

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the child has ended, which reading from it reports
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()


def _serve() -> None:
    """Process the requests on stdin, one per line, until it ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports Ctrl-C
    _import_dvc()
    mark, pid = sys.stdin.readline().rstrip("\n"), os.getpid()
    while request := sys.stdin.readline():
        reader, writer = os.pipe()
        fork = os.fork()
        if fork == 0:
            _answer(json.loads(request), writer, pid)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as response:
            found: Response = json.loads(response.read() or "{}")
        found["exit"] = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        sys.stdout.write(f"{mark}{json.dumps(found)}\n")
        sys.stdout.flush()


def _answer(request: Response, writer: int, parent: int) -> NoReturn:
    """In a fork: process the request, write the result (not the output) to ``writer``, and end."""
    exit_code = 1
    try:
        os.environ[ANCESTOR] = str(parent)
        die_with_parent()
        os.environ[ANCESTOR] = str(os.getpid())
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # a stage must not read the requests
        if request["do"] == "run":
            os.environ.update(request["environment"])
            from dvc.cli import main

            exit_code = int(main(["repro", "--single-item", request["stage"]]))
        else:
            os.write(writer, json.dumps(_result(request)).encode())
            exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)  # skips the exit handlers of the parent


def _result(request: Response) -> Response:
    try:
        if request["do"] == "status":
            return {"found": not repo.is_up_to_date(request["stage"])}
        mend()
        return {"found": {"needs": repo.stages(), "changed": repo.out_of_date()}}
    except AtlasError as error:
        return {"error": type(error).__name__, "text": str(error)}


def _import_dvc() -> None:
    """Import all modules that a request needs, so that no fork has to. None of them starts a thread."""
    for module in (
        "dvc.cli",
        "dvc.commands.repro",
        "dvc.repo.reproduce",
        "dvc.repo.status",
        "dvc.stage.run",
        "networkx",
    ):
        importlib.import_module(module)
    gc.freeze()  # so that the forks share the memory


if __name__ == "__main__":
    _serve()
