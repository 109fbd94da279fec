"""Maps a function over the work items of a stage in parallel: in threads, or in the processes of a Dask or Ray cluster.

The result of an item depends on the item alone, so the outputs are the same with every runner: `pipeline.runner` and
`pipeline.workers` are not parameters of any stage in dvc.yaml.

Threads are those of `concurrent.futures`. Prefect's thread runner takes two seconds to import and needs a server,
because each item would be a task run; a stage has to start in tenths of a second, without a server. Dask and Ray are
used through Prefect's task runners (`flows.prefect_app.cluster`), which are imported only then.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, Protocol, TypeVar

from atlas_model.core.extras import require

Item = TypeVar("Item")
Result = TypeVar("Result")

Runner = Literal["threads", "dask", "ray"]


class ParallelMap(Protocol):
    """Like `map`: the results of a function for some items, in the order of the items."""

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        """The result of ``work`` for each of ``items``."""
        ...


def make_parallel_map(runner: Runner, workers: int | None, what: str) -> ParallelMap:
    """`parallel_map` with the runner and the number of workers set.

    Args:
        runner: threads of this process; or processes of Dask or of Ray, here or elsewhere
            (`flows.prefect_app.cluster`).
        workers: items processed at once; None: one per processor.
        what: name of the work, for the user interface and the names of threads.

    Raises:
        InputError: the package of the runner is not installed.
    """
    if runner != "threads":
        require(runner, f"pipeline.runner {runner}")
    return partial(parallel_map, runner=runner, workers=workers or os.cpu_count() or 1, what=what)


def parallel_map(
    work: Callable[[Item], Result], items: Sequence[Item], *, runner: Runner, workers: int, what: str
) -> Iterator[Result]:
    """Yield ``work(item)`` for each of ``items``, in their order.

    Args:
        work: for Dask and Ray a function of a module (or a `partial` of one), whose argument and result are small.
        items: the arguments.
        runner: as in `make_parallel_map`.
        workers: items processed at once.
        what: as in `make_parallel_map`.

    Raises:
        AtlasError: ``work`` raised it for the first item that failed; or the cluster failed.
    """
    if runner == "threads":
        with ThreadPoolExecutor(workers, thread_name_prefix=what) as pool:
            yield from pool.map(work, items)
    else:
        from flows.prefect_app.cluster import map_on_cluster

        yield from map_on_cluster(work, items, runner=runner, workers=workers, what=what)
