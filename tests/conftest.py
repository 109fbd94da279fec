"""What all tests share: checked tensor shapes, a world of their own, and copies of the project."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import is_hypothesis_test
from jaxtyping import install_import_hook

from tests.support import coverage_files
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer, start_server
from tests.support.shared_processes import shared_folder
from tests.support.warm_python import shared_programs
from tools import typechecker

# A shell that starts tests in the background has them ignore Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `flows` does, for tests that import torch without it
# Test files run side by side and their models are tiny: threads of torch's own would only wait for each other. Where a
# result must not depend on their number, the test takes the fixture `two_threads`.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything of ours is imported: from here on calls inside atlas_model check their arguments and results.
# Child processes do without, as in real life.
install_import_hook("atlas_model", f"{typechecker.__name__}.{typechecker.check.__name__}")

# The same examples in every run, and no limits of time, which a busy machine would break.
hypothesis.settings.register_profile(
    "atlas", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("atlas")

# A file is one worker's. These wait most, or take longest: at the end, one of them would leave the others idle.
BEGUN_FIRST = (
    *("test_up.py", "test_end_to_end.py", "test_photographs.py", "test_flow.py", "test_command.py"),
    *("test_big_crawl.py", "test_distributed.py"),
)

DAMAGED = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have long files begin before the others, whose order stays as it is; measure coverage of the fast tests only.

    Tracing takes as long as the work, and property tests and slow tests repeat lines that fast tests execute, too.
    """
    rank = {name: number for number, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    for item in items:
        if item.get_closest_marker("slow") or is_hypothesis_test(getattr(item, "function", None)):
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Do not have coverage follow slow tests into their child processes: there, tracing costs as much as the work."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("slow"):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)  # after the tests, and before pytest-cov combines their data files
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Keep data files of coverage that a killed process left damaged out of the report, and say how many."""
    result = yield
    if not hasattr(session.config, "workerinput"):
        session.config.stash[DAMAGED] = coverage_files.delete_damaged(session.config.rootpath)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if names := config.stash.get(DAMAGED, []):
        terminalreporter.write_line(f"coverage: {len(names)} data files of killed processes are damaged, and not used")


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Homes and caches in a temporary folder, and no setting of the user's: a fresh machine, for children too."""
    world = tmp_path_factory.mktemp("world")
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "DVC_", "ATLAS_", "GIT_")):
            del os.environ[name]
    os.environ.update(
        HOME=str(world),  # git's settings (also libgit2's), Prefect's profiles
        XDG_CACHE_HOME=str(world / "cache"),
        XDG_CONFIG_HOME=str(world / "config"),
        PREFECT_HOME=str(world / "prefect"),
        DVC_SITE_CACHE_DIR=str(world / "dvc"),
        DVC_GLOBAL_CONFIG_DIR=str(world / "dvc-config"),
        DVC_SYSTEM_CONFIG_DIR=str(world / "dvc-config"),
        DVC_NO_ANALYTICS="1",
        DO_NOT_TRACK="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        HF_HOME=str(world / "hf"),
        MPLBACKEND="Agg",
        # Children import this checkout, wherever they start and whatever checkout is installed. The current folder of
        # `python -m` still comes first: in a copy of the project, its stages are the copy's.
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    )


@pytest.fixture(scope="session")
def git_env() -> dict[str, str]:
    """An environment in which git commits without a configured user, and reads a clone that another user owns."""
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _IDENTITY.items()}
    safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    return {**os.environ, **who, **safe}


@pytest.fixture(scope="session")
def copy_project(git_env: dict[str, str]) -> Callable[[Path], Path]:
    """A function that copies the project as it stands (what git tracks or would track), committed, without a cache."""

    def copy_to(target: Path) -> Path:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            env=git_env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():  # a file may be deleted and still be listed
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target / name)
        commit_all(target, git_env)
        return target

    return copy_to


@pytest.fixture
def project(tmp_path: Path, copy_project: Callable[[Path], Path]) -> Path:
    """A copy of the project."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def mini_project(tmp_path: Path, git_env: dict[str, str]) -> Path:
    """A DVC project with our settings and three small stages: crawl -> split <- zoom_train.

    ``fail-<stage>`` holding a class name of `atlas_model.core.errors` makes a stage fail; ``ran`` gets a line per run.
    """
    folder = tmp_path / "mini"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/plots.html", ".dvcignore", "params.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(_MINI_DVC_YAML)
    (folder / "stage.py").write_text(_MINI_STAGE)
    commit_all(folder, git_env)
    return folder


@pytest.fixture(scope="session")
def prefect_server(_own_world: None, tmp_path_factory: pytest.TempPathFactory) -> PrefectServer:
    """A Prefect server that all tests of this worker share: whoever wants it gives its url to a child."""
    return start_server(tmp_path_factory.mktemp("server"), shared_folder(tmp_path_factory, "prefect-server"))


@pytest.fixture(scope="session")
def warm_python(_own_world: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH: its `python` runs stages without importing the libraries again, for tests of many stages."""
    return shared_programs(shared_folder(tmp_path_factory, "warm-python"))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes with two threads, as it does on a machine of two cores, and not with the one of other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def untraced_onnx() -> Iterator[None]:
    """Coverage does not look on while torch writes ONNX: seconds of Python, none of it ours, and tracing doubles it."""
    import torch.onnx

    write = torch.onnx.export

    def untraced(*arguments: Any, **options: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return write(*arguments, **options)
        finally:
            sys.settrace(tracer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced)
        yield


_IDENTITY = {"NAME": "Atlas tests", "EMAIL": "tests@example.org"}

_MINI_DVC_YAML = """
stages:
  split:
    cmd: exec python stage.py split data/splits data/raw data/labelled
    params: [split]
    deps: [data/raw, data/labelled]
    outs: [data/splits]
  crawl:
    cmd: exec python stage.py crawl data/raw
    params: [crawl]
    outs: [data/raw]
  zoom_train:
    cmd: exec python stage.py zoom_train data/labelled
    params: [zoom_train]
    outs: [data/labelled]
"""

_MINI_STAGE = """
import sys, time
from pathlib import Path
from atlas_model.core import errors
from atlas_model.core.progress import say
from flows.stages.entry import main

stage, output, *inputs = sys.argv[1:]

def run(params):
    say(f"{stage} is at work")
    with Path("ran").open("a") as ran:
        ran.write(f"{stage}\\n")
    if (order := Path(f"fail-{stage}")).exists():
        raise getattr(errors, order.read_text())("a fault\\n  - and its place")
    if Path(f"hang-{stage}").exists():
        time.sleep(60)
    Path(output).mkdir(parents=True)
    for part in ("a", "b"):
        (Path(output) / part).write_text(stage + part + "".join((Path(name) / part).read_text() for name in inputs))

main(run)
"""
