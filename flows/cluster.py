"""The parts of a stage's work as tasks of a Prefect flow, on a Dask or Ray cluster.

Where no cluster is named a temporary one starts, ``workers`` processes on this machine, and ends with the work. One
that is running already is named in the environment, as its own programs are told of it: `DASK_SCHEDULER_ADDRESS`
(``tcp://10.0.0.5:8786``) or `RAY_ADDRESS`; its workers have been started in the project's folder, on a file system
that all share, with the same code and packages. Prefect tells a server of its flows: the one of `PREFECT_API_URL`,
which workers ask as well, else one that lives as long as the work does.

Knows nothing of what the work is. Imports Prefect, which takes seconds: only `flows.fan_out` imports this module, and
only where it is asked for.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

# Nobody is helped by a line per part, nor by a worker's traceback of what the stage tells in words. Read by the next
# imports, and by workers.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.task_runners import TaskRunner

import atlas_model
import crawlers
from atlas_model.errors import AtlasError
from atlas_model.progress import WATCHER
from flows.server import Server
from flows.stages.paths import WORK

Item = TypeVar("Item")
Result = TypeVar("Result")
Cluster = Literal["dask", "ray"]


def on_cluster(
    work: Callable[[Item], Result], items: Sequence[Item], *, runner: Cluster, workers: int, what: str
) -> Iterator[Result]:
    """As `fan_out.fan_out`."""

    @flow(name="fan-out", flow_run_name=what, task_runner=_task_runner(runner, workers), validate_parameters=False)
    def spread() -> Iterator[Result]:
        futures = [_do_part.submit(work, item, code_key()) for item in items]
        for future in futures:
            yield future.result()

    try:
        with _some_server():
            yield from spread()
    except OSError as error:
        raise AtlasError(f"{what}: the {runner} cluster cannot be reached: {error}. Is it running?") from error


@task(name="part", cache_policy=NO_CACHE)
def _do_part(work: Callable[[Item], Result], item: Item, code: str) -> Result:
    if code != code_key():
        raise AtlasError("the workers of the cluster run other code than this stage does: start them again")
    with _silent():
        return work(item)


@cache
def code_key() -> str:
    """Of the code that this process runs, as it was when this was first asked for."""
    digest = hashlib.sha256()
    for package in (atlas_model, crawlers):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _task_runner(runner: Cluster, workers: int) -> TaskRunner[Any]:
    if runner == "ray":
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers})
    from prefect_dask import DaskTaskRunner

    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None})


@contextmanager
def _some_server() -> Iterator[None]:
    if get_current_settings().api.url is not None:
        yield
        return
    folder = (WORK / "prefect").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with Server(folder, port=0, retention_days=1, environment=os.environ) as server:
        server.start()
        server.wait_until_healthy()
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
            yield


@contextmanager
def _silent() -> Iterator[None]:
    """A worker tells nobody how far it is: the stage tells how far all are."""
    watcher = os.environ.pop(WATCHER, None)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            yield
    finally:
        if watcher is not None:
            os.environ[WATCHER] = watcher
