"""A grid over params.yaml as the Prefect flow "sweep": a task per point, each point a DVC experiment.

``python -m flows.experiments.sweep train.encoder_lr=0.001,0.003 train.dropout=0.3,0.5 [--stage evaluate] [--jobs N]``

Points that have been run on top of the last commit are not run again, and one that fails does not end the others. The
table, on stdout and as an artifact, marks the best one by what it reached on validation; the test split is not shown,
because whoever chooses by it has none any more.

Exit codes: 0 done, 1 a point failed, 2 bad input (also where all that failed was refused), 130 Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import load_params
from flows.experiments import experiment
from flows.experiments.experiment import Point
from flows.prefect_app.flow import REFUSED, exit_code_of, find_server, of_this_task
from flows.prefect_app.log_relay import relay_to


@task(cache_policy=NO_CACHE)
def try_point(point: Point, threads: int) -> State:
    """Run the experiment of ``point`` unless it was run."""
    if experiment.commit_of(point):
        return Completed(name="Cached", message="was run before")
    try:
        experiment.run(point, relay_to(get_run_logger().log), threads, of_this_task())
    except AtlasError as error:
        return Failed(name=REFUSED if isinstance(error, InputError) else "Failed", message=str(error))
    return Completed(message="done")


@flow(name="sweep", validate_parameters=False)
def sweep(points: Sequence[Point], threads: int) -> State:
    """Run all ``points``, which differ by their values alone, each with ``threads``; then compare them."""
    started = [
        try_point.with_options(name=point.title, task_run_name=point.title).submit(point, threads) for point in points
    ]
    states = []
    for future in started:
        future.wait()
        states.append(future.state)
    stage = points[0].stage
    rows = table(points, stage)
    create_table_artifact(rows, key="sweep", description=f"Validation figures of {stage}; the best one is marked")
    sys.stdout.write(
        "\n".join("\t".join(map(str, line)) for line in (list(rows[0]), *(row.values() for row in rows))) + "\n"
    )
    failed = [(point, state) for point, state in zip(points, states, strict=True) if not state.is_completed()]
    if not failed:
        return Completed(message=f"{len(points)} points are done")
    told = "\n".join(f"{point.title}: {state.message}" for point, state in failed)
    name = REFUSED if all(state.name == REFUSED for _, state in failed) else "Failed"
    return Failed(name=name, message=f"{len(failed)} of {len(points)} points failed\n{told}")


def table(points: Sequence[Point], stage: str) -> list[dict[str, Any]]:
    """A row per point: its parameters, its figures as far as it was run, and the experiment's name."""
    rows: list[dict[str, Any]] = []
    for point in points:
        commit = experiment.commit_of(point)
        found = experiment.figures(commit, stage) if commit else dict.fromkeys(experiment.FIGURES[stage])
        rows.append({"best": "", **dict(point.values), **found, "experiment": point.experiment})
    deciding = experiment.FIGURES[stage][0]
    if reached := [row for row in rows if row[deciding] is not None]:
        max(reached, key=lambda row: row[deciding])["best"] = "*"
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow once; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.experiments.sweep", description="A grid over params.yaml.")
    parser.add_argument("grid", nargs="+", metavar="section.key=value,value", help="what to try; all combinations")
    parser.add_argument("--stage", default="evaluate", help="the last stage that runs (default: evaluate)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="points at once (default: 1)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)

    def run_flow() -> State:
        if given.jobs < 1:
            raise InputError(f"--jobs: expected at least 1, got {given.jobs}")
        load_params()
        points = experiment.read_grid(given.grid, given.stage, experiment.last_commit())
        find_server()
        runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=given.jobs)
        threads = max(1, (os.cpu_count() or 1) // given.jobs)
        return sweep.with_options(task_runner=runner)(points, threads, return_state=True)

    return exit_code_of(run_flow)


def _stop(number: int, _frame: FrameType | None) -> None:
    experiment.stop_all()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
