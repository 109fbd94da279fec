"""Runs a grid over params.yaml as the Prefect flow "sweep": a task and a DVC experiment per combination.

``python -m flows.experiments.sweep train.encoder_lr=0.001,0.003 train.dropout=0.3,0.5 [--stage evaluate] [--jobs N]``

A combination that was run on the last commit is not run again. If one fails, the others still run. The table, on stdout
and as an artifact, marks the best combination by its metric on validation. The test split is not shown, because a model
must not be selected on it.

Exit codes: 0 done, 1 a combination failed, 2 bad input (also if all failures are refused input), 130 Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import load_params
from flows.experiments import experiment
from flows.experiments.experiment import Combination
from flows.prefect_app.connection import ensure_server, exit_code_of
from flows.prefect_app.failures import REFUSED
from flows.prefect_app.flow import task_environment
from flows.prefect_app.ui import run_page
from flows.prefect_app.ui.artifacts import Artifact
from flows.prefect_app.ui.log_relay import relay_to


@task(cache_policy=NO_CACHE)
def run_combination(combination: Combination, threads: int) -> State:
    """Run the experiment of ``combination`` unless it is complete."""
    if experiment.commit_of(combination):
        return Completed(name="Cached", message="was run before")
    try:
        experiment.run(combination, relay_to(get_run_logger().log), threads, task_environment())
    except AtlasError as error:
        return Failed(name=REFUSED if isinstance(error, InputError) else "Failed", message=str(error))
    return Completed(message="done")


@flow(name="sweep", validate_parameters=False)
def sweep(combinations: Sequence[Combination], threads: int) -> State:
    """Run all ``combinations`` of one stage and commit, each with ``threads``, then compare them."""
    started = [
        run_combination.with_options(name=combination.title, task_run_name=combination.title).submit(
            combination, threads
        )
        for combination in combinations
    ]
    states = []
    for future in started:
        future.wait()
        states.append(future.state)
    stage = combinations[0].stage
    rows = table(combinations, stage)
    description = f"Validation metrics of {stage}; the best combination is marked"
    run_page.add_artifact(Artifact("table", "sweep", description, rows))
    sys.stdout.write(
        "\n".join("\t".join(map(str, line)) for line in (list(rows[0]), *(row.values() for row in rows))) + "\n"
    )
    failed = [
        (combination, state)
        for combination, state in zip(combinations, states, strict=True)
        if not state.is_completed()
    ]
    if not failed:
        return Completed(message=f"{len(combinations)} combinations are done")
    reasons = "\n".join(f"{combination.title}: {state.message}" for combination, state in failed)
    name = REFUSED if all(state.name == REFUSED for _, state in failed) else "Failed"
    return Failed(name=name, message=f"{len(failed)} of {len(combinations)} combinations failed\n{reasons}")


def table(combinations: Sequence[Combination], stage: str) -> list[dict[str, Any]]:
    """A row per combination: its parameters, its metrics (None if it was not run), and the name of the experiment."""
    rows: list[dict[str, Any]] = []
    for combination in combinations:
        commit = experiment.commit_of(combination)
        found = experiment.figures(commit, stage) if commit else dict.fromkeys(experiment.METRICS_SHOWN[stage])
        rows.append({"best": "", **dict(combination.values), **found, "experiment": combination.experiment})
    deciding = experiment.METRICS_SHOWN[stage][0]
    if reached := [row for row in rows if row[deciding] is not None]:
        max(reached, key=lambda row: row[deciding])["best"] = "*"
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow once, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.experiments.sweep",
        description="Runs every combination of a grid over params.yaml as a DVC experiment, and compares them.",
    )
    parser.add_argument(
        "grid", nargs="+", metavar="section.key=value,value", help="values of a parameter; all combinations are run"
    )
    parser.add_argument("--stage", default="evaluate", help="the last stage that runs (default: evaluate)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="combinations at once (default: 1)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)

    def run_flow() -> State:
        if given.jobs < 1:
            raise InputError(f"--jobs: expected at least 1, got {given.jobs}")
        load_params()
        combinations = experiment.read_grid(given.grid, given.stage, experiment.last_commit())
        ensure_server()
        runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=given.jobs)
        threads = max(1, (os.cpu_count() or 1) // given.jobs)
        return sweep.with_options(task_runner=runner)(combinations, threads, return_state=True)

    return exit_code_of(run_flow)


def _stop(number: int, _frame: FrameType | None) -> None:
    experiment.stop_all()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
