"""DVC in a child process that has imported it once: what the pipeline looks like, and its stages, one after another.

Importing DVC takes longer than most of what it is asked here, and it never forgets the files that it has read. So the
child imports it, and forks for each question: every answer comes from a DVC that is fresh and yet starts at once.

The flow, this child, its forks and the stages that these run form a chain in which each one ends with the one above,
however that ends. Knows nothing of Prefect.
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

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.processes import ANCESTOR, die_with_parent
from atlas_model.core.progress import say
from flows.dvc import repo
from flows.dvc.repo import DvcBusyError
from flows.dvc.stale_locks import remove_stale_locks

Answer = dict[str, Any]
ERRORS = {error.__name__: error for error in (AtlasError, InputError, DvcBusyError)}


@dataclass(frozen=True)
class Pipeline:
    """The stages in the order in which `dvc repro` runs them."""

    needs: dict[str, list[str]]  # stage -> the stages whose outputs it reads
    changed: set[str]  # those that have something to do as things are


class DvcChild:
    """The child, as its parent sees it. Use as a context manager; the end of the block ends all that runs in it."""

    def __enter__(self) -> Self:
        self._mark = secrets.token_hex()  # begins the lines that are answers: no stage can know it
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
        self._process.kill()  # and whatever it runs with it
        with suppress(BrokenPipeError), self._process:
            pass  # its output is not read to its end: something that a stage has left behind may hold it open

    def look(self) -> Pipeline:
        """The stages, and which of them have something to do.

        Raises:
            DvcBusyError: another dvc command is at work in this project.
            InputError: this is no DVC project, or its dvc.yaml is not valid.
        """
        found = self._found({"do": "look"})
        return Pipeline(found["needs"], set(found["changed"]))

    def is_changed(self, stage: str) -> bool:
        """Whether ``stage`` has something to do; raises as `look` does."""
        return bool(self._found({"do": "status", "stage": stage}))

    def run_stage(self, stage: str, on_line: Callable[[str], None], log: Path, environment: Mapping[str, str]) -> None:
        """As `repo.run_stage`, with ``environment`` added to the stage's own; ``log`` is written anew."""
        lines: deque[str] = deque(maxlen=repo.LAST_LINES)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as handle:

            def keep(line: str) -> None:
                lines.append(line)
                handle.write(f"{line}\n")
                handle.flush()
                on_line(line)

            answer = self._ask({"do": "run", "stage": stage, "environment": dict(environment)}, keep)
        if answer["exit"]:
            error = repo.failure(stage, "\n".join(lines))
            raise type(error)(f"{error}\nIts log: {log}")

    def _ask(self, question: Answer, on_line: Callable[[str], None] = say) -> Answer:
        self._send(json.dumps(question))
        assert self._process.stdout is not None
        for line in self._process.stdout:
            before, mark, answer = line.rstrip("\n").partition(self._mark)  # a stage's last line may lack its end
            if before.strip():
                on_line(before.rstrip())
            if mark:
                found: Answer = json.loads(answer)
                return found
        raise AtlasError("the process in which DVC runs has ended (out of memory?). Run again: what is done stays done")

    def _found(self, question: Answer) -> Any:
        answer = self._ask(question)
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["text"])
        if "found" not in answer:
            raise AtlasError(f"DVC ended with {answer['exit']} before it had answered; the lines above say why")
        return answer["found"]

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which reading tells
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()


def _serve() -> None:
    """Answer the questions on stdin, a line each, until it ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent tells of Ctrl-C
    _import_dvc()
    mark, pid = sys.stdin.readline().rstrip("\n"), os.getpid()
    while question := sys.stdin.readline():
        reader, writer = os.pipe()
        fork = os.fork()
        if fork == 0:
            _answer(json.loads(question), writer, pid)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as answer:
            found: Answer = json.loads(answer.read() or "{}")
        found["exit"] = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        sys.stdout.write(f"{mark}{json.dumps(found)}\n")
        sys.stdout.flush()


def _answer(question: Answer, writer: int, parent: int) -> NoReturn:
    """In a fork: do what is asked, write what was found (not what was said) to ``writer``, and end."""
    exit_code = 1
    try:
        os.environ[ANCESTOR] = str(parent)
        die_with_parent()
        os.environ[ANCESTOR] = str(os.getpid())
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # the questions are not for a stage to read
        if question["do"] == "run":
            os.environ.update(question["environment"])
            from dvc.cli import main

            exit_code = int(main(["repro", "--single-item", question["stage"]]))
        else:
            os.write(writer, json.dumps(_found(question)).encode())
            exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)  # nothing of the parent's that would run at an exit is the fork's to do


def _found(question: Answer) -> Answer:
    try:
        if question["do"] == "status":
            return {"found": not repo.is_up_to_date(question["stage"])}
        remove_stale_locks()
        return {"found": {"needs": repo.stages(), "changed": repo.out_of_date()}}
    except AtlasError as error:
        return {"error": type(error).__name__, "text": str(error)}


def _import_dvc() -> None:
    """Import whatever a question needs, so that no fork has to; nothing of it starts a thread."""
    for module in (
        "dvc.cli",
        "dvc.commands.repro",
        "dvc.repo.reproduce",
        "dvc.repo.status",
        "dvc.stage.run",
        "networkx",
    ):
        importlib.import_module(module)
    gc.freeze()  # the forks share what is there


if __name__ == "__main__":
    _serve()
