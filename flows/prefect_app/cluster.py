"""The parts of a stage's work as tasks of a Prefect flow, on a Dask or Ray cluster.

Where no cluster is named a temporary one starts, ``workers`` processes on this machine, and ends with the work. One
that is running already is named in the environment, as its own programs are told of it: `DASK_SCHEDULER_ADDRESS`
(``tcp://10.0.0.5:8786``) or `RAY_ADDRESS`; its workers have been started in the project's folder, on a file system
that all share, with the same code and packages. Prefect tells a server of its flows: the one of `PREFECT_API_URL`,
which workers ask as well, else one that lives as long as the work does.

Knows nothing of what the work is. Imports Prefect, which takes seconds: only `flows.parallel` imports this module, and
only where it is asked for.
"""

import hashlib
import logging
import os
import socket
import threading
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
from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import WATCHER
from flows.paths import WORK
from flows.prefect_app.server import Server

logging.getLogger("httpx").setLevel(logging.WARNING)

Item = TypeVar("Item")
Result = TypeVar("Result")
Cluster = Literal["dask", "ray"]
OF_CLUSTERS = {"distributed", "ray", "httpx"}  # whose errors are none of the work


def on_cluster(
    work: Callable[[Item], Result], items: Sequence[Item], *, runner: Cluster, workers: int, what: str
) -> Iterator[Result]:
    """As `parallel_map.parallel_map`."""
    part: int | None = None  # whose turn it is; None: all have still to be handed out

    @flow(name="fan-out", flow_run_name=what, task_runner=_task_runner(runner, workers), validate_parameters=False)
    def spread() -> Iterator[Result]:
        nonlocal part
        futures = [_do_part.submit(work, item, code_key()) for item in items]
        for number, future in enumerate(futures, 1):
            part = number
            yield future.result()

    try:
        with _some_server():
            yield from spread()
    except AtlasError:
        raise
    except Exception as error:
        if part is None:
            raise AtlasError(
                f"{what}: the {runner} cluster, or the Prefect server, cannot be reached: {error}. Is it running?"
            ) from error
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in OF_CLUSTERS:
            raise
        raise AtlasError(
            f"{what}: the {runner} cluster, or the Prefect server, failed at part {part} of {len(items)}: {error}"
        ) from error


@task(name="part", cache_policy=NO_CACHE)
def _do_part(work: Callable[[Item], Result], item: Item, code: str) -> Result:
    if code != code_key():
        raise AtlasError("the workers of the cluster run other code than this stage does: start them again")
    with _alone_and_silent():
        try:
            return work(item)
        except OSError as error:
            raise AtlasError(
                f"{error} (a worker on {socket.gethostname()}, in {Path.cwd()}). Workers have to be started in the "
                "project's folder, which all machines share"
            ) from error


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

        # Of its own: else Ray takes whichever it finds on this machine.
        own = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        ray: TaskRunner[Any] = RayTaskRunner(init_kwargs={} if "RAY_ADDRESS" in os.environ else own)
        return ray
    from prefect_dask.task_runners import DaskTaskRunner

    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    )


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


_one_at_a_time = threading.Lock()  # what a part changes (stderr, torch's threads) is the whole process's


@contextmanager
def _alone_and_silent() -> Iterator[None]:
    """A worker does one part, also where it was given several threads; and the stage tells how far all are."""
    with _one_at_a_time, Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        watcher = os.environ.pop(WATCHER, None)
        try:
            yield
        finally:
            if watcher is not None:
                os.environ[WATCHER] = watcher
