"""Maps a function over items as tasks of a Prefect flow, on a Dask or Ray cluster.

Without the address of a cluster, a temporary one with ``workers`` processes starts on this machine and ends with the
work. The address of a running cluster comes from the environment variables of Dask and Ray: `DASK_SCHEDULER_ADDRESS`
(``tcp://10.0.0.5:8786``) or `RAY_ADDRESS`. Its workers must run in the project's folder on a shared file system, with
the same code and packages. The Prefect server is that of `PREFECT_API_URL`, which workers need to reach too, else a
temporary one.

Importing Prefect takes seconds, so only `flows.parallel` imports this module, and only if it is needed.
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

# No log line per item, and no traceback in a worker for an error that the stage reports. Read by the imports below, and
# by workers.
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
CLUSTER_PACKAGES = {"distributed", "ray", "httpx"}  # errors of these are faults of the cluster, not of the work


def map_on_cluster(
    work: Callable[[Item], Result], items: Sequence[Item], *, runner: Cluster, workers: int, what: str
) -> Iterator[Result]:
    """As `flows.parallel.parallel_map`."""
    part: int | None = None  # number of the awaited item; None: not all items are submitted yet

    @flow(name="fan-out", flow_run_name=what, task_runner=_task_runner(runner, workers), validate_parameters=False)
    def spread() -> Iterator[Result]:
        nonlocal part
        futures = [_process_item.submit(work, item, code_key()) for item in items]
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
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLUSTER_PACKAGES:
            raise
        raise AtlasError(
            f"{what}: the {runner} cluster, or the Prefect server, failed at part {part} of {len(items)}: {error}"
        ) from error


@task(name="part", cache_policy=NO_CACHE)
def _process_item(work: Callable[[Item], Result], item: Item, code: str) -> Result:
    if code != code_key():
        raise AtlasError("the workers of the cluster run other code than this stage: restart them")
    with _exclusive_and_silent():
        try:
            return work(item)
        except OSError as error:
            raise AtlasError(
                f"{error} (a worker on {socket.gethostname()}, in {Path.cwd()}). Workers have to be started in the "
                "project's folder, which all machines share"
            ) from error


@cache
def code_key() -> str:
    """Digest of the code of this process, computed once."""
    digest = hashlib.sha256()
    for package in (atlas_model, crawlers):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _task_runner(runner: Cluster, workers: int) -> TaskRunner[Any]:
    if runner == "ray":
        from prefect_ray import RayTaskRunner

        # A new cluster: by default Ray joins any that it finds on this machine.
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


_one_at_a_time = threading.Lock()  # the work changes state of the whole process: stderr, torch's threads


@contextmanager
def _exclusive_and_silent() -> Iterator[None]:
    """Process one item at a time, also with several threads, and without output: the stage reports the progress."""
    with _one_at_a_time, Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        watcher = os.environ.pop(WATCHER, None)
        try:
            yield
        finally:
            if watcher is not None:
                os.environ[WATCHER] = watcher
