"""Who does the parts of a stage's work: threads of its own process, or the processes of a cluster.

What comes of a part depends on the part alone, so the same bytes come out whoever did it: `pipeline.runner` and
`pipeline.workers` are no parameters of any stage in dvc.yaml. Knows nothing of what the work is.

Threads are plain ones. A stage has to start in tenths of a second and to run where there is no server, and Prefect's
own thread runner costs both: importing it takes two seconds, and each part would be a task that the server is told of.
The others are Prefect's task runners (`flows.prefect_app.cluster`), imported when they are asked for.
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


class Spread(Protocol):
    """Like `map`: the results of a function for some items, in the order of the items."""

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        """The result of ``work`` for each of ``items``."""
        ...


def spreading(runner: Runner, workers: int | None, what: str) -> Spread:
    """`fan_out` with all but the work settled; refuses at once what it cannot do.

    Args:
        runner: threads of this process; or processes of Dask or of Ray, here or elsewhere
            (`flows.prefect_app.cluster`).
        workers: how many parts are done at once; None: one per processor.
        what: whose work it is, for people.

    Raises:
        InputError: the package of the runner is not installed.
    """
    if runner != "threads":
        require(runner, f"pipeline.runner {runner}")
    return partial(fan_out, runner=runner, workers=workers or os.cpu_count() or 1, what=what)


def fan_out(
    work: Callable[[Item], Result], items: Sequence[Item], *, runner: Runner, workers: int, what: str
) -> Iterator[Result]:
    """Yield ``work(item)`` for each of ``items``, in their order.

    Args:
        work: for Dask and Ray a function of a module (or a `partial` of one), whose argument and result are small.
        items: the parts.
        runner: as of `spreading`, with the next two.
        workers: how many parts are done at once.
        what: whose work it is.

    Raises:
        AtlasError: the one that ``work`` raised for the first item that fails; or the cluster failed.
    """
    if runner == "threads":
        with ThreadPoolExecutor(workers, thread_name_prefix=what) as pool:
            yield from pool.map(work, items)
    else:
        from flows.prefect_app.cluster import on_cluster

        yield from on_cluster(work, items, runner=runner, workers=workers, what=what)
