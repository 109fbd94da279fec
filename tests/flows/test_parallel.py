"""Parts of a stage's work, spread over threads and over a Dask cluster of two processes: the same bytes out."""

import copy
import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from atlas_model.core import errors
from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import Params, load_params
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import save
from atlas_model.zoom.model import ZoomModel, ZoomNet
from flows import paths
from flows.parallel import make_parallel_map, parallel_map
from flows.stages import evaluate, zoom
from tests.support.fetching import Server, serving, url, write_products
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer
from tests.support.training_split import TAXONOMY, write_split

TIMEOUT_S = 280
STAGES = ("fetch", "zoom", "evaluate")


def test_results_keep_order_of_items() -> None:
    turns = [threading.Event() for _ in range(4)]
    turns[-1].set()

    def last_first(number: int) -> int:
        assert turns[number].wait(60)
        if number:
            turns[number - 1].set()
        return number

    assert list(parallel_map(last_first, range(4), runner="threads", workers=4, what="test")) == [0, 1, 2, 3]


def test_runs_as_many_at_once_as_workers() -> None:
    everyone = threading.Barrier(3)  # would wait in vain for a third of two

    def work(_number: int) -> int:
        return everyone.wait(60)

    assert sorted(make_parallel_map("threads", 3, "test")(work, range(3))) == [0, 1, 2]


def test_raises_first_error() -> None:
    def fail(number: int) -> int:
        if number:
            raise InputError(f"number {number}")
        return number

    results = parallel_map(fail, range(100), runner="threads", workers=2, what="test")
    assert next(results) == 0
    with pytest.raises(InputError, match="number 1"):
        next(results)


def test_reports_missing_extra_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("atlas_model.core.extras.EXTRAS", {"ray": ("no_such_package",)})
    params = project_params(runner="ray")
    for stage in (zoom, evaluate):
        with pytest.raises(InputError, match=r"pipeline.runner ray: needs no_such_package.*pip install atlas\[ray\]"):
            stage.run(params)


def test_stages_import_no_prefect() -> None:
    program = "import sys, flows.stages.zoom, flows.stages.fetch; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


ERRORS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AtlasError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_can_be_pickled(kind: type[AtlasError]) -> None:
    error = kind("status", "text") if kind is errors.ImageError else kind("text")
    sent = copy.copy(error)  # in the same way as to another process
    assert type(sent) is kind and str(sent) == "text" and vars(sent) == vars(error)


# --- the stages, on a cluster


def project_params(runner: str = "threads", connect: dict[str, str] | None = None) -> Params:
    """Those of the project, for small models and a server of ours in place of the shop."""
    content = load_params(ROOT / "params.yaml").model_dump(mode="json")
    content["pipeline"] |= {"runner": runner, "workers": 2}
    content["crawl"] |= {"source": "manifest", "connect": connect or {}}
    content["fetch"] |= {"shard_rows": 6, "max_attempts": 1, "max_failed_share": 1.0}
    content["zoom"] |= {"batch_size": 4, "device": "cpu", "max_share": 1.0}
    content["evaluate"] |= {"batch_size": 8, "train_sample": 40, "overlays": 1, "resamples": 20, "device": "cpu"}
    return Params.model_validate(content)


def make_inputs(server: Server) -> None:
    """What the three stages read, in the current folder."""
    urls = [url(f"/images/{number}", host) for number in range(10) for host in server.connect_map]
    write_products(paths.PRODUCTS, {"p": [*urls, url("/gone")]})
    torch.manual_seed(1)
    ZoomModel(ZoomNet(16), Preprocessing(16, "RGB", "squash"), 0.5, {}).save(paths.ZOOM_MODEL)
    for name, count in (("train", 60), ("val", 30), ("test", 70)):
        write_split(name, count)
    TAXONOMY.save(paths.TAXONOMY)
    sizes: dict[str, Any] = {"attention_size": 8, "embedding_size": 8, "hidden_size": 8, "dropout": 0.0}
    architecture = Architecture(
        encoder="small", grid="native", in_channels=1, normalize="children", deep_output=True, **sizes
    )
    for model, folder in ((Categorizer, paths.CATEGORIZER), (Classifier, paths.BASELINE)):
        made = model(architecture, TAXONOMY)
        save(made, folder, Preprocessing(16, "L", "squash"), params={}, metrics={})


def outputs() -> dict[str, bytes]:
    """What the stages wrote, without their timings."""
    folders = [paths.SHARDS.parent, paths.SCORES.parent, paths.EVALUATION, paths.PLOTS]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in [*files, *paths.METRICS.iterdir()]}


ON_A_CLUSTER = f"""
import os, sys
from importlib import import_module

if __name__ == "__main__":
    import distributed
    from atlas_model.core.params import load_params

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        for stage in {STAGES}:
            import_module(f"flows.stages.{{stage}}").run(load_params())
"""


@pytest.mark.usefixtures("two_threads")
@pytest.mark.slow
def test_dask_cluster_gives_same_bytes(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Server()) as server:
        connect = dict.fromkeys(server.connect_map, f"127.0.0.1:{server.port}")
        found = []
        for runner in ("threads", "dask"):
            folder = tmp_path / runner
            folder.mkdir()
            monkeypatch.chdir(folder)
            make_inputs(server)
            params = project_params(runner, connect)
            if runner == "threads":
                for stage in STAGES:
                    import_module(f"flows.stages.{stage}").run(params)
            else:
                Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
                Path("program.py").write_text(ON_A_CLUSTER)
                done = run_program("program.py", prefect_server)
                assert done.returncode == 0, done.stderr
                assert "fetch: 21/21 images" in done.stderr and "evaluate test: 70/70 images" in done.stderr
            found.append(outputs())
    assert len(found[0]) > 15 and found[0] == found[1]
    runs = prefect_server.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["fan-out"]}}})
    assert {run["name"]: run["state"]["name"] for run in runs} == dict.fromkeys(STAGES, "Completed")


FAILING = """
import os
from atlas_model.core.errors import ImageError
from atlas_model.core.progress import say

def half(number):
    say("from a worker")
    if number == 3:
        raise ImageError("odd", "three is odd")
    return number / 2, os.getpid()
"""

CALLER = """
import os, sys
from atlas_model.core.errors import AtlasError, ImageError
from flows.parallel import make_parallel_map
from own import half

if __name__ == "__main__":
    results = make_parallel_map("dask", 2, "test")(half, [0, 2, 3, 4])
    assert [next(results)[0], next(results)[0]] == [0, 1]
    try:
        next(results)
    except ImageError as error:
        print(error.status, error)

    from flows.prefect_app.cluster import _process_item
    try:
        _process_item.fn(half, 2, "of yesterday")
    except AtlasError as error:
        print(error)
"""


@pytest.mark.usefixtures("prefect_server")  # its empty database is what the temporary server starts with
@pytest.mark.slow
def test_error_on_temporary_cluster_is_raised_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(FAILING)
    Path("program.py").write_text(CALLER)
    done = run_program("program.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "odd three is odd",
        "the workers of the cluster run other code than this stage: restart them",
    ]
    assert "from a worker" not in done.stderr and "Traceback" not in done.stderr, "workers keep quiet"


PARTS = """
import os, time
from pathlib import Path

here = []

def alone(number):
    here.append(number)
    time.sleep(0.2)
    return here.pop() == number and not here

def missing(number):
    return Path("nowhere", str(number)).read_text()

def fatal(number):
    if number == 2:
        os._exit(1)
    return number
"""

ON_A_BAD_CLUSTER = """
import os
os.environ["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"
import distributed
import parts
from atlas_model.core.errors import AtlasError
from flows.parallel import make_parallel_map

def outcome(work):
    try:
        return list(make_parallel_map("dask", None, "test")(work, range(3)))
    except AtlasError as error:
        return error

if __name__ == "__main__":
    if "DASK_SCHEDULER_ADDRESS" in os.environ:
        print(outcome(parts.missing))
    else:
        with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster:
            os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
            for work in (parts.alone, parts.missing, parts.fatal):
                print(outcome(work))
"""


@pytest.mark.slow
def test_cluster_failures_are_reported_without_traceback(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(PARTS)
    Path("program.py").write_text(ON_A_BAD_CLUSTER)
    done = run_program("program.py", prefect_server)
    assert done.returncode == 0, done.stderr
    alone, missing, fatal = done.stdout.splitlines()
    assert alone == "[True, True, True]", "one part at a time, whatever the worker's threads"
    assert "nowhere/0" in missing and f"in {tmp_path}). Workers have to be started in the project's" in missing
    assert fatal.startswith("test: the dask cluster, or the Prefect server, failed at part 3 of 3: ")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "nowhere")
    done = run_program("program.py", prefect_server)
    assert done.stdout.startswith("test: the dask cluster, or the Prefect server, cannot be reached: "), done.stderr


def run_program(name: str, server: PrefectServer | None = None) -> subprocess.CompletedProcess[str]:
    """Without ``server`` the program has one of its own."""
    return subprocess.run(
        [sys.executable, name],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **({"PREFECT_API_URL": server.url} if server else {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
