"""The crash guarantee: a command dies at any moment, for any reason, and the same command again completes it.

Each test runs one command undisturbed, then from the same beginning with kills at seeded moments. After each kill: no
process of the command is left, no half-written file has the final name of an output. At the end: the same bytes, no
request to the shop for what was there, no stage that DVC had recorded was run again.
"""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from crawlers.fetch.spool import FLUSH_S
from tests.support.git_repo import commit_all
from tests.support.killing import Killer, files_of, half_written, repeated, summary
from tests.support.prefect_server import PrefectServer
from tests.support.servers import HOST
from tests.support.small_shop import OUTPUTS, SmallProject, SmallShop, small_shop

pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children do not end with their parent"),
]
STAGES = ("crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate", "report")
STATE = {"crawl": ["crawl"], "fetch": ["fetch"], "train": ["train", "trained"]}  # folders in .atlas
CHAIN = "the whole pipeline"
KILLS_IN_A_ROW = 8
BUSY_S = 3.0  # by which a busy machine may delay a step of a client
ASKED_EACH_TIME = "/robots.txt"
# A killed DVC may leave these two files cut off; `atlas check`, the first step of `make run`, restores them.
CUT_OFF = re.compile(r"RWLock-file|dvc\.lock' (?:is invalid|validation)|unable to read: 'dvc\.lock'")
SOAK = {
    "crawl": 32, "fetch": 28, "zoom_train": 28, "zoom": 20, "split": 20, "train": 32, "evaluate": 24, "report": 16,
}  # fmt: skip


@dataclass
class World:
    """A project whose shop is known, and what the commands give if nothing disturbs them."""

    shop: SmallShop
    project: SmallProject
    chance: random.Random
    duration_s: dict[str, float] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)  # hashes of the outputs up to the last stage that was run

    @property
    def root(self) -> Path:
        return self.project.root

    def killer(self, *command: str, kinds: tuple[str, ...] = ("group", "leader", "child")) -> Killer:
        """Kills ``python -m command``."""

        def start(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
            self.project.env |= environment
            return self.project.start(*command, log=log)

        return Killer(self.root, start, self.chance, kinds)

    def measured(self, name: str, *command: str) -> None:
        """Run ``python -m command`` undisturbed; it must succeed."""
        begun = time.monotonic()
        done = self.project.run(*command)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self.duration_s[name] = time.monotonic() - begun

    def reach(self, stage: str) -> None:
        """Run the stages up to ``stage`` undisturbed, each alone, those of them that were not yet run."""
        for each in STAGES[: STAGES.index(stage) + 1]:
            if each not in self.duration_s:
                self.measured(each, "dvc", "repro", "-s", each)
                self.expected = self.project.hashes()

    def forget(self, stages: tuple[str, ...]) -> None:
        """Bring the project back to where it was before the ``stages`` were run for the first time."""
        lock = self.root / "dvc.lock"
        recorded = yaml.safe_load(lock.read_text())
        recorded["stages"] = {name: value for name, value in recorded["stages"].items() if name not in stages}
        lock.write_text(yaml.safe_dump(recorded, sort_keys=False))
        shutil.rmtree(self.root / ".dvc/cache", ignore_errors=True)
        for stage in stages:
            for folder in STATE.get(stage, []):
                shutil.rmtree(self.root / ".atlas" / folder, ignore_errors=True)
            (self.root / ".atlas/ended" / stage).unlink(missing_ok=True)

    def recorded(self) -> set[str]:
        """The stages in dvc.lock; empty if it was cut off."""
        try:
            return set(yaml.safe_load((self.root / "dvc.lock").read_text())["stages"])
        except (FileNotFoundError, yaml.YAMLError, TypeError, KeyError):
            return set()

    def attempt(self, killer: Killer, moment_s: float | None) -> bool:
        """Run the command once, killed after ``moment_s``; whether it completed."""
        before, children = self.recorded(), killer.tally.kills["child"]
        code = killer.run(moment_s)
        again = before & set(re.findall(r"Running stage '(\w+)'", killer.said))
        assert not again, f"run again although completed: {again}\n{killer.said}"
        if code in (None, 0) or killer.tally.kills["child"] > children:
            return code == 0
        assert CUT_OFF.search(killer.said), killer.said
        killer.tally.mended += 1
        done = self.project.run("flows.cli.main", "check")
        assert done.returncode == 0, done.stderr
        return False

    def torment(self, killer: Killer, kills: int, duration_s: float, begin: Callable[[], None]) -> Iterator[None]:
        """Kill the command ``kills`` times; yields when it has completed, and must then be as if undisturbed.

        Args:
            killer: of the command.
            kills: at least.
            duration_s: the moments of the kills are between a tenth and a bit more than this.
            begin: brings the project back to where the command begins.
        """
        while killer.tally.total < kills:
            begin()
            killer.moments.clear()
            self.shop.log.clear()
            for _ in range(min(KILLS_IN_A_ROW, kills - killer.tally.total)):
                if self.attempt(killer, duration_s * self.chance.uniform(0.1, 1.1)):
                    killer.tally.ended += 1
                    break
            for _ in range(3):
                if completed := self.attempt(killer, None):
                    break
            assert completed, killer.said
            yield

    def check_requests(self, killer: Killer, lost_s: float) -> int:
        """Check that nothing was requested again that was there before a kill; returns what was lost by kills."""
        log = [(at, path) for at, path in self.shop.log if path != ASKED_EACH_TIME]
        assert repeated(log, killer.moments, lost_s) == {}
        return len(log) - len({path for _, path in log})


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path], git_env: dict[str, str]
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("crash")
    with small_shop() as shop:
        project = SmallProject(copy_project(folder / "project"), shop, git_env)
        limits = {"concurrency_per_host": 4, "timeout_s": 60}
        project.set({"crawl": {"timeout_s": 60}, "fetch": limits, "promote": {"margin": 1.0, "category_margin": 1.0}})
        project.set({"pipeline": {"commit": True}})
        with (project.root / ".dvc/config").open("a") as config:
            config.write(f"    remote = there\n['remote \"there\"']\n    url = {folder / 'remote'}\n")
        commit_all(project.root, git_env)
        yield World(shop, project, random.Random(15))


def report(capsys: pytest.CaptureFixture[str], name: str, killer: Killer, **more: Any) -> None:
    tally = killer.tally
    with capsys.disabled():
        kinds = {f"killed ({kind})": count for kind, count in sorted(tally.kills.items())}
        print(summary(name, kills=tally.total, **kinds, ended_before=tally.ended, after_check=tally.mended, **more))


@pytest.mark.parametrize(
    ("stage", "kills"),
    [
        *(pytest.param(stage, 3 - number, marks=pytest.mark.slow) for number, stage in enumerate(["crawl", "fetch"])),
        *(pytest.param(stage, kills, marks=pytest.mark.soak) for stage, kills in SOAK.items()),
    ],
)
def test_killed_stage_completes_with_the_same_bytes(
    world: World, stage: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Slow, so that there is something to lose: in a second, everything would be asked.
    world.shop.delay_s = {"crawl": 0.05, "fetch": 0.25}.get(stage, 0) * (1 if kills <= 3 else 4)
    world.reach(stage)
    lost_s = world.shop.delay_s + BUSY_S + (FLUSH_S if stage == "fetch" else 0)
    killer = world.killer("dvc", "repro", "-s", stage)
    asked_again = 0
    for _ in world.torment(killer, kills, world.duration_s[stage], lambda: world.forget((stage,))):
        assert world.project.hashes() == world.expected
        asked_again += world.check_requests(killer, lost_s)
    report(capsys, stage, killer, asked_again=asked_again)


@pytest.mark.soak
def test_killed_pipeline_completes_with_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.shop.delay_s = 0
    world.reach(STAGES[-1])
    killer = world.killer("dvc", "repro")
    at_most_s = sum(world.duration_s[stage] for stage in STAGES) / 4  # so that a few kills come before the end

    def begin() -> None:
        world.forget(STAGES)
        shutil.rmtree(world.root / ".atlas")

    for _ in world.torment(killer, 30, at_most_s, begin):
        assert world.project.hashes() == world.expected
        world.check_requests(killer, BUSY_S + FLUSH_S)
        assert world.project.repro() == [], "all are up to date"
    report(capsys, CHAIN, killer)


@pytest.mark.soak
@pytest.mark.parametrize(("server", "kills"), [("shared", 18), ("temporary", 6)])
def test_killed_flow_completes_with_the_same_bytes(
    world: World, server: str, kills: int, prefect_server: PrefectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    world.shop.delay_s = 0
    world.reach(STAGES[-1])
    world.project.env |= {"PREFECT_API_URL": prefect_server.url} if server == "shared" else {}
    killer = world.killer("flows.prefect_app.flow", kinds=("group", "leader"))

    def begin() -> None:
        world.forget(STAGES)
        shutil.rmtree(world.root / ".atlas")
        forget_champion(world)
        forget_versions(world)

    trees = set()
    for _ in world.torment(killer, kills, sum(world.duration_s[stage] for stage in STAGES) / 3, begin):
        now = world.project.hashes()
        assert {path: now[path] for path in world.expected if not is_of_promotion(path)} == {
            path: content for path, content in world.expected.items() if not is_of_promotion(path)
        }
        trees.add(accepted_tree(world))
        assert git(world, "tag", "--list").split() == ["accepted-1", "champion@v1.0.0"]
    assert len(trees) == 1
    world.project.env.pop("PREFECT_API_URL", None)
    forget_champion(world)
    world.project.repro()  # the report without a champion
    assert world.project.hashes() == world.expected
    report(capsys, f"flow, {server} server", killer)


@pytest.mark.soak
def test_killed_promotion_has_happened_or_not(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.shop.delay_s = 0
    world.reach(STAGES[-1])
    forget_champion(world)
    # The first champion is another model: that of another seed.
    seed = yaml.safe_load((world.root / "params.yaml").read_text())["train"]["seed"]
    world.project.set({"train": {"seed": seed + 1}})
    world.project.repro("-s", "train")
    world.measured("promote", "flows.cli.main", "promote")
    world.project.set({"train": {"seed": seed}})
    world.project.repro("-s", "train")
    assert world.project.hashes().items() >= {k: v for k, v in world.expected.items() if "categorizer" in k}.items()
    kept = world.root.parent / "first-champion"
    kept.mkdir()
    for name in ("champion", "champion.dvc", "champions.json"):
        copy(world.root / "models" / name, kept / name)

    def begin() -> None:
        forget_champion(world)
        for file in kept.iterdir():
            copy(file, world.root / "models" / file.name)

    world.measured("promote", "flows.cli.main", "promote")
    expected = champion_now(world)
    assert expected["version"] == 2
    killer = world.killer("flows.cli.main", "promote", kinds=("group",))
    for _ in world.torment(killer, 24, world.duration_s["promote"], begin):
        assert champion_now(world) == expected
        assert left_in(world.root / "models") == []
    forget_champion(world)
    world.project.repro()
    assert world.project.hashes() == world.expected
    report(capsys, "promotion", killer)


@pytest.mark.soak
def test_killed_commit_of_an_accepted_run_is_one_version(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.reach(STAGES[-1])
    done = world.project.run("flows.cli.main", "promote")
    assert done.returncode == 0, done.stderr
    world.project.repro()
    forget_versions(world)
    command = ("tests.support.killed_commands", "commit")
    world.measured("commit", *command)
    expected = accepted_tree(world)
    killer = world.killer(*command, kinds=("group", "leader"))
    for _ in world.torment(killer, 24, world.duration_s["commit"], lambda: forget_versions(world)):
        assert accepted_tree(world) == expected
        assert git(world, "tag", "--list").split() == ["accepted-1", "champion@v1.0.0"]
        assert git(world, "rev-list", "--count", "HEAD..accepted") == "1"
        assert "in sync" in world.project.run("dvc", "status", "--cloud").stdout
    report(capsys, "commit", killer)


@pytest.mark.soak
def test_killed_prediction_of_many_images_has_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.reach("train")
    folder = world.root.parent / "many"
    for number in range(30):
        copy(world.root / "data/images/shards", folder / f"{number}")
    images = [file for file in files_of(folder) if file.suffix == ".parquet"]
    for number, file in enumerate(images):
        file.rename(folder / f"part-{number:05d}.parquet")
    output = world.root.parent / "predictions/answers.parquet"
    command = ("tests.support.killed_commands", "predict", "--model", "models/categorizer", "--batch-size", "16")
    command += ("--input", str(folder), "--output", str(output))
    world.measured("predict", *command)
    expected = hashlib.md5(output.read_bytes()).hexdigest()
    killer = world.killer(*command)

    def begin() -> None:
        shutil.rmtree(output.parent)

    for _ in world.torment(killer, 24, world.duration_s["predict"], begin):
        assert hashlib.md5(output.read_bytes()).hexdigest() == expected
        assert [file.name for file in output.parent.iterdir()] == [output.name]
    report(capsys, "batch prediction", killer)


@pytest.mark.soak
def test_killed_import_of_a_manifest_has_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.shop.delay_s = 0.5
    rows = [
        {"filename": f"{one.number}.jpg", "image_url": f"http://{HOST}{one.image_path}", "label": label, "title": "One"}
        for one in world.shop.products.values()
        for label in [("zoomed", "normal")[one.number % 2]]
    ]
    manifest = world.root.parent / "manifest.json"
    manifest.write_text(json.dumps(rows))
    output = world.root.parent / "imported/labelled"
    command = ("flows.cli.main", "import-manifest", str(manifest), "--output", str(output))
    world.measured("import", *command)
    expected = {file.name: file.read_bytes() for file in output.iterdir()}
    killer = world.killer(*command, kinds=("group",))
    (work,) = [path for path in (world.root / ".atlas").iterdir() if "import" in path.name or "manifest" in path.name]

    def begin() -> None:
        shutil.rmtree(work)
        shutil.rmtree(output.parent, ignore_errors=True)

    asked_again = 0
    for _ in world.torment(killer, 24, world.duration_s["import"], begin):
        assert {file.name: file.read_bytes() for file in output.iterdir()} == expected
        assert list(half_written(output.parent, (output.name,))) == left_in(output.parent) == []
        asked_again += world.check_requests(killer, world.shop.delay_s + FLUSH_S + BUSY_S)
    report(capsys, "import-manifest", killer, asked_again=asked_again)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def left_in(folder: Path) -> list[str]:
    """What was not cleaned up."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def git(world: World, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=world.root, env=world.project.env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def forget_versions(world: World) -> None:
    """Remove the branch, the tags and the data of accepted runs."""
    for name in git(world, "for-each-ref", "--format=%(refname)", "refs/heads/accepted", "refs/tags").split():
        git(world, "update-ref", "-d", name)
    shutil.rmtree(world.root.parent / "remote", ignore_errors=True)


def accepted_tree(world: World) -> str:
    """The files of the accepted version, without those that have the time of the promotion."""
    lines = git(world, "ls-tree", "-r", "accepted").splitlines()
    return "\n".join(line for line in lines if not is_of_promotion(line.partition("\t")[2]))


def is_of_promotion(path: str) -> bool:
    """Whether ``path`` has the time of the promotion in it, or the report that quotes it."""
    return path in ("models/champions.json", "dvc.lock") or path.startswith(("models/champion", "reports/", "metrics/"))


def forget_champion(world: World) -> None:
    """Bring the project back to where there was no champion."""
    shutil.rmtree(world.root / "models/champion", ignore_errors=True)
    shutil.rmtree(world.root / "reports/promote", ignore_errors=True)
    (world.root / "models/champion.dvc").unlink(missing_ok=True)
    git(world, "checkout", "HEAD", "--", "models/champions.json")


def champion_now(world: World) -> dict[str, Any]:
    """The champion, without the time of its promotion."""
    history = json.loads((world.root / "models/champions.json").read_text())["champions"]
    files = {file.name: file.read_bytes() for file in (world.root / "models/champion").iterdir()}
    pointer = (world.root / "models/champion.dvc").read_text()
    return {**history[-1], "at": None, "events": len(history), "files": files, "pointer": pointer}


def test_outputs_are_those_of_the_stages(world: World) -> None:
    stages = yaml.safe_load((world.root / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == STAGES
    assert all((world.root / name).parts for name in OUTPUTS)
