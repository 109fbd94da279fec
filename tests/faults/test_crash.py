"""The crash guarantee: a command dies at any moment, for any reason, and the same command again completes it.

Each test runs one command undisturbed, then from the same beginning with kills at seeded moments. After each kill: no
process of the command is left, no half-written file has the final name of an output. At the end: the same bytes, no
request to the shop for what was there, no stage that DVC had recorded was run again.
"""

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crawlers.fetch.spool import FLUSH_S
from tests.support.disturbed_project import (
    STAGES,
    DisturbedProject,
    accepted_tree,
    champion_now,
    copy,
    forget_champion,
    forget_versions,
    git,
    is_of_promotion,
    left_in,
)
from tests.support.git_repo import commit_all
from tests.support.killing import KINDS, Killer, files_of, half_written, summary
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer
from tests.support.servers import HOST
from tests.support.small_shop import SmallProject, kill_group, small_shop
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children do not end with their parent"),
]
CHAIN = "the whole pipeline"
BUSY_S = 3.0  # by which a busy machine may delay a step of a client
FEW = 1  # kills of a stage in `make test`
SOAK = {
    "crawl": 32, "fetch": 28, "zoom_train": 28, "zoom": 20, "split": 20, "train": 32, "evaluate": 24, "report": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path], git_env: dict[str, str]
) -> Iterator[DisturbedProject]:
    folder = tmp_path_factory.mktemp("crash")
    with small_shop() as shop:
        project = SmallProject(copy_project(folder / "project"), shop, git_env)
        project.set({"crawl": {"timeout_s": 60}, "fetch": {"concurrency_per_host": 4, "timeout_s": 60}})
        project.set({"promote": {"margin": 1.0, "category_margin": 1.0}, "pipeline": {"commit": True}})
        with (project.root / ".dvc/config").open("a") as config:
            config.write(f"    remote = there\n['remote \"there\"']\n    url = {folder / 'remote'}\n")
        commit_all(project.root, git_env)
        yield DisturbedProject(shop, project, random.Random(15))


def report(capsys: pytest.CaptureFixture[str], name: str, killer: Killer, **more: Any) -> None:
    tally = killer.tally
    with capsys.disabled():
        kinds = {f"killed ({kind})": count for kind, count in sorted(tally.kills.items())}
        print(summary(name, kills=tally.total, **kinds, ended_before=tally.ended, after_check=tally.mended, **more))


@pytest.mark.parametrize(
    ("stage", "kills"),
    [
        *(pytest.param(stage, FEW, marks=pytest.mark.slow) for stage in ("crawl", "fetch")),
        *(pytest.param(stage, kills, marks=pytest.mark.soak) for stage, kills in SOAK.items()),
    ],
)
def test_killed_stage_completes_with_the_same_bytes(
    disturbed: DisturbedProject, stage: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Slow, so that there is something to lose: in a second, everything would be asked.
    disturbed.shop.delay_s = {"crawl": 0.05, "fetch": 0.25}.get(stage, 0) * (1 if kills == FEW else 4)
    disturbed.reach(stage)
    lost_s = disturbed.shop.delay_s + BUSY_S + (FLUSH_S if stage == "fetch" else 0)
    # The few kills of `make test` are not left to chance: the process alone, then the whole group.
    few = {"crawl": ("leader",), "fetch": ("group",)}[stage] if kills == FEW else KINDS
    killer = disturbed.killer("dvc", "repro", "-s", stage, kinds=few)
    asked_again = 0
    for _ in disturbed.torment(killer, kills, disturbed.duration_s[stage], lambda: disturbed.forget((stage,))):
        assert disturbed.project.hashes() == disturbed.expected
        asked_again += disturbed.check_requests(killer, lost_s)
    report(capsys, stage, killer, asked_again=asked_again)


@pytest.mark.soak
def test_killed_pipeline_completes_with_the_same_bytes(
    disturbed: DisturbedProject, capsys: pytest.CaptureFixture[str]
) -> None:
    disturbed.shop.delay_s = 0
    disturbed.reach(STAGES[-1])
    killer = disturbed.killer("dvc", "repro")
    at_most_s = sum(disturbed.duration_s[stage] for stage in STAGES) / 4  # so that a few kills come before the end

    def begin() -> None:
        disturbed.forget(STAGES)
        shutil.rmtree(disturbed.root / ".atlas")

    for _ in disturbed.torment(killer, 30, at_most_s, begin):
        assert disturbed.project.hashes() == disturbed.expected
        disturbed.check_requests(killer, BUSY_S + FLUSH_S)
        assert disturbed.project.repro() == [], "all are up to date"
    report(capsys, CHAIN, killer)


@pytest.mark.soak
@pytest.mark.parametrize(("server", "kills"), [("shared", 18), ("temporary", 6)])
def test_killed_flow_completes_with_the_same_bytes(
    disturbed: DisturbedProject,
    server: str,
    kills: int,
    prefect_server: PrefectServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disturbed.shop.delay_s = 0
    disturbed.reach(STAGES[-1])
    disturbed.project.env |= {"PREFECT_API_URL": prefect_server.url} if server == "shared" else {}
    killer = disturbed.killer("flows.prefect_app.flow", kinds=("group", "leader"))

    def begin() -> None:
        disturbed.forget(STAGES)
        shutil.rmtree(disturbed.root / ".atlas")
        forget_champion(disturbed)
        forget_versions(disturbed)

    trees = set()
    for _ in disturbed.torment(killer, kills, sum(disturbed.duration_s[stage] for stage in STAGES) / 3, begin):
        now = disturbed.project.hashes()
        assert {path: now[path] for path in disturbed.expected if not is_of_promotion(path)} == {
            path: content for path, content in disturbed.expected.items() if not is_of_promotion(path)
        }
        trees.add(accepted_tree(disturbed))
        assert git(disturbed, "tag", "--list").split() == ["accepted-1", "champion@v1.0.0"]
    assert len(trees) == 1
    disturbed.project.env.pop("PREFECT_API_URL", None)
    forget_champion(disturbed)
    disturbed.project.repro()  # the report without a champion
    assert disturbed.project.hashes() == disturbed.expected
    report(capsys, f"flow, {server} server", killer)


@pytest.mark.soak
def test_killed_promotion_has_happened_or_not(disturbed: DisturbedProject, capsys: pytest.CaptureFixture[str]) -> None:
    disturbed.shop.delay_s = 0
    disturbed.reach(STAGES[-1])
    forget_champion(disturbed)
    # The first champion is another model: that of another seed.
    seed = yaml.safe_load((disturbed.root / "params.yaml").read_text())["train"]["seed"]
    disturbed.project.set({"train": {"seed": seed + 1}})
    disturbed.project.repro("-s", "train")
    disturbed.measured("promote", "flows.cli.main", "promote")
    disturbed.project.set({"train": {"seed": seed}})
    disturbed.project.repro("-s", "train")
    assert (
        disturbed.project.hashes().items()
        >= {k: v for k, v in disturbed.expected.items() if "categorizer" in k}.items()
    )
    kept = disturbed.root.parent / "first-champion"
    kept.mkdir()
    for name in ("champion", "champion.dvc", "champions.json"):
        copy(disturbed.root / "models" / name, kept / name)

    def begin() -> None:
        forget_champion(disturbed)
        for file in kept.iterdir():
            copy(file, disturbed.root / "models" / file.name)

    disturbed.measured("promote", "flows.cli.main", "promote")
    expected = champion_now(disturbed)
    assert expected["version"] == 2
    killer = disturbed.killer("flows.cli.main", "promote", kinds=("group",))
    for _ in disturbed.torment(killer, 24, disturbed.duration_s["promote"], begin):
        assert champion_now(disturbed) == expected
        assert left_in(disturbed.root / "models") == []
    forget_champion(disturbed)
    disturbed.project.repro()
    assert disturbed.project.hashes() == disturbed.expected
    report(capsys, "promotion", killer)


@pytest.mark.soak
def test_killed_commit_of_an_accepted_run_is_one_version(
    disturbed: DisturbedProject, capsys: pytest.CaptureFixture[str]
) -> None:
    disturbed.reach(STAGES[-1])
    done = disturbed.project.run("flows.cli.main", "promote")
    assert done.returncode == 0, done.stderr
    disturbed.project.repro()
    done = disturbed.project.run("dvc", "commit", "--force")  # the tests before may have deleted the cache
    assert done.returncode == 0, done.stderr
    forget_versions(disturbed)
    command = ("tests.support.killed_commands", "commit")
    disturbed.measured("commit", *command)
    expected = accepted_tree(disturbed)
    killer = disturbed.killer(*command, kinds=("group", "leader"))
    for _ in disturbed.torment(killer, 24, disturbed.duration_s["commit"], lambda: forget_versions(disturbed)):
        assert accepted_tree(disturbed) == expected
        assert git(disturbed, "tag", "--list").split() == ["accepted-1", "champion@v1.0.0"]
        assert git(disturbed, "rev-list", "--count", "HEAD..accepted") == "1"
        assert "in sync" in disturbed.project.run("dvc", "status", "--cloud").stdout
    report(capsys, "commit", killer)


@pytest.mark.soak
def test_killed_prediction_of_many_images_has_the_same_bytes(
    disturbed: DisturbedProject, capsys: pytest.CaptureFixture[str]
) -> None:
    disturbed.reach("train")
    folder = disturbed.root.parent / "many"
    for number in range(30):
        copy(disturbed.root / "data/images/shards", folder / f"{number}")
    images = [file for file in files_of(folder) if file.suffix == ".parquet"]
    for number, file in enumerate(images):
        file.rename(folder / f"part-{number:05d}.parquet")
    output = disturbed.root.parent / "predictions/answers.parquet"
    given = ("--input", str(folder), "--output", str(output), "--model", "models/categorizer", "--batch-size", "16")
    command = ("tests.support.killed_commands", "predict", *given)
    disturbed.measured("predict", *command)
    expected = hashlib.md5(output.read_bytes()).hexdigest()
    killer = disturbed.killer(*command)
    disturbed.also = [output.parent]

    def begin() -> None:
        shutil.rmtree(output.parent)

    for _ in disturbed.torment(killer, 24, disturbed.duration_s["predict"], begin):
        assert hashlib.md5(output.read_bytes()).hexdigest() == expected
        assert [file.name for file in output.parent.iterdir()] == [output.name]
    report(capsys, "batch prediction", killer)


@pytest.mark.soak
def test_killed_import_of_a_manifest_has_the_same_bytes(
    disturbed: DisturbedProject, capsys: pytest.CaptureFixture[str]
) -> None:
    disturbed.shop.delay_s = 0.5
    output = disturbed.root.parent / "imported/labelled"
    command = import_command(disturbed, output)
    disturbed.measured("import", *command)
    expected = {file.name: file.read_bytes() for file in output.iterdir()}
    killer = disturbed.killer(*command, kinds=("group",))
    disturbed.also = [output.parent]

    def begin() -> None:
        shutil.rmtree(disturbed.root / ".atlas/import")
        shutil.rmtree(output.parent, ignore_errors=True)

    asked_again = 0
    for _ in disturbed.torment(killer, 24, disturbed.duration_s["import"], begin):
        assert {file.name: file.read_bytes() for file in output.iterdir()} == expected
        assert list(half_written(output.parent, (output.name,))) == left_in(output.parent) == []
        asked_again += disturbed.check_requests(killer, disturbed.shop.delay_s + FLUSH_S + BUSY_S)
    report(capsys, "import-manifest", killer, asked_again=asked_again)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["crawl", "import-manifest"])
def test_second_command_is_refused_while_the_first_works(
    disturbed: DisturbedProject, tmp_path: Path, what: str
) -> None:
    disturbed.shop.delay_s = 1
    command = ("flows.stages.crawl",) if what == "crawl" else import_command(disturbed, tmp_path / "labelled")
    shutil.rmtree(disturbed.root / ".atlas", ignore_errors=True)
    disturbed.shop.log.clear()
    log = tmp_path / "log"
    first = disturbed.project.start(*command, log=log)
    try:
        wait_until(lambda: disturbed.shop.log or first.poll() is not None, log.read_text)
        second = disturbed.project.run(*command)
        assert first.poll() is None, log.read_text()
        assert second.returncode == 1, second.stderr
        assert "another" in second.stderr
        assert first.wait() == 0, log.read_text()
    finally:
        kill_group(first)


def import_command(disturbed: DisturbedProject, output: Path) -> tuple[str, ...]:
    """Imports a manifest of all images of the shop into ``output``."""
    rows = [
        {"filename": f"{each.number}.jpg", "image_url": f"http://{HOST}{each.image_path}", "label": label, "title": "A"}
        for each in disturbed.shop.products.values()
        for label in [("zoomed", "normal")[each.number % 2]]
    ]
    manifest = disturbed.root.parent / "manifest.json"
    manifest.write_text(json.dumps(rows))
    return "flows.cli.main", "import-manifest", str(manifest), "--output", str(output)


def test_every_stage_is_killed() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == STAGES == tuple(SOAK)
