"""Crawls, changes of the shop, kills, promotions, rollbacks and checkouts in any order keep the guarantees.

A hypothesis state machine over a small shop and a project under git and DVC; docs/reliability.md has the guarantees.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.servers import HOST
from tests.support.small_shop import SmallProduct, SmallProject, SmallShop, kill_group, small_image, small_shop

CONNECTIONS = 4  # of a crawl
PRODUCTS = 6  # of a category: with fewer, a split may be empty, which stops the run
NOT_COMPARED = ("reports/promote/", "reports/report", "reports/cards/")  # untracked, or rewritten after a promotion
CHAMPIONS = "models/champions.json"


class Catalogue(RuleBasedStateMachine):
    """A shop, a project that crawls it, and what both must agree on.

    Args:
        folder: an empty folder.
        shops: where the server of the shop runs; who opens it closes it.
        copy_project: the fixture.
        env: environment of the commands.
        programs: the fixture ``warm_python``.
    """

    def __init__(
        self,
        folder: Path,
        shops: ExitStack,
        copy_project: Callable[[Path], Path],
        env: dict[str, str],
        programs: Path,
    ) -> None:
        super().__init__()
        self.shop: SmallShop = shops.enter_context(small_shop(products_per_category=PRODUCTS))
        root = copy_project(folder / "project")
        self.project = SmallProject(root, self.shop, env, programs)
        self.killable = self.project.with_programs(None)  # its stages are in the process group that is killed
        self.crawls = 0
        self.kills = 0  # of the present crawl
        self.is_complete = True
        self.commits: list[tuple[str, dict[str, str]]] = []  # commit, and the hashes of its outputs
        self.champions: dict[int, dict[str, str]] = {}  # version -> hashes of its files

    @initialize()
    def first_crawl(self) -> None:
        self._new_snapshot()
        self._finish()

    @precondition(lambda self: self.is_complete)
    @rule(kind=st.sampled_from(["price", "image", "added", "removed"]), number=st.integers(0, 100))
    def change_shop(self, kind: str, number: int) -> None:
        numbers = sorted(self.shop.products)
        chosen = self.shop.products[numbers[number % len(numbers)]]
        if kind == "price":
            chosen.price += 1
        elif kind == "image":
            chosen.look += 1
        elif kind == "added":
            self.shop.products[numbers[-1] + 1] = SmallProduct(numbers[-1] + 1, chosen.category)
        elif len([each for each in self.shop.products.values() if each.category == chosen.category]) > PRODUCTS:
            del self.shop.products[chosen.number]

    @rule()
    def run(self) -> None:
        """Run every stage to its end: for a new snapshot, or what a kill has left."""
        if self.is_complete:
            self._new_snapshot()
        self._finish()

    @rule(seconds=st.integers(1, 25))
    def run_and_kill(self, seconds: int) -> None:
        """Run every stage, and kill all processes of the run after ``seconds``."""
        if self.is_complete:
            self._new_snapshot()
        self.is_complete = False
        process = self.killable.start("dvc", "repro")
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kills += 1
        kill_group(process)

    @precondition(lambda self: self.is_complete)
    @rule()
    def promote(self) -> None:
        self._atlas("promote", "--force")
        promoted = self._files("models/champion")
        assert promoted == self._files("models/categorizer")
        self.champions[self._champion()["version"]] = promoted
        self._commit()

    @precondition(lambda self: self.champions and self._replaced() is not None)
    @rule()
    def roll_back(self) -> None:
        expected = self._replaced()
        self._atlas("rollback")
        assert self._champion()["version"] == expected
        assert self._files("models/champion") == self.champions[expected]
        if self.is_complete:
            self._commit()

    @rule()
    def prune(self) -> None:
        """Delete what no commit, champion or crawl needs: the checkouts after it find everything."""
        self._atlas("gc", "--yes", "--keep", "2")

    @precondition(lambda self: self.is_complete and len(self.commits) > 1)
    @rule(number=st.integers(0, 100))
    def check_out_earlier_commit(self, number: int) -> None:
        for commit, hashes in (self.commits[number % len(self.commits)], self.commits[-1]):
            self._git("checkout", "-q", "--force", commit)
            self._run("dvc", "checkout", "-q")
            assert hashes.items() <= self.project.hashes().items(), "a champion of later stays, as an untracked folder"
            assert self.project.repro() in ([], ["report"]), "the report reads the history of promotions"

    def teardown(self) -> None:
        """Whatever has happened, the next run completes, and every file is whole."""
        if self.crawls:
            self.run()
            self.verify()

    def verify(self) -> None:
        """Compare every file with its checksum."""
        self._atlas("verify")

    def _new_snapshot(self) -> None:
        self.crawls += 1
        self.kills = 0
        self.shop.asked.clear()
        self.project.set({"crawl": {"snapshot": f"crawl-{self.crawls}"}})

    def _finish(self) -> None:
        """Run the stages to their end, compare the data with the shop, and commit."""
        if self.kills:
            self._atlas("check")  # mends what a killed DVC left, as `make run` and the flow do
        self.project.repro()
        self.is_complete = True
        rows = pq.read_table(self.project.root / "data/raw/products.parquet").to_pylist()
        shown = self.shop.products.values()
        assert {row["product_id"]: float(row["price"]) for row in rows} == {
            f"{HOST}:A{each.number}": each.price for each in shown
        }
        stored = pq.read_table(self.project.root / "data/images/shards")["bytes"].to_pylist()
        assert set(stored) == {small_image(each) for each in shown}
        again = sum(count - 1 for path, count in self.shop.asked.items() if path != "/robots.txt")
        # Of each kill: pages that were on their way, and images of the last seconds, which may be all of this shop.
        assert again <= self.kills * (CONNECTIONS + len(shown)), self.shop.asked.most_common(5)
        assert [path for path in self.project.root.rglob("*.tmp*") if ".venv" not in path.parts] == []
        assert self.project.repro() == []
        self._commit()

    def _commit(self) -> None:
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", f"crawl {self.crawls}")
        hashes = {name: md5 for name, md5 in self.project.hashes().items() if not name.startswith(NOT_COMPARED)}
        self.commits.append((self._git("rev-parse", "HEAD").strip(), hashes))

    def _champion(self) -> dict[str, Any]:
        return json.loads((self.project.root / CHAMPIONS).read_text())["champions"][-1]

    def _replaced(self) -> int | None:
        """The version that the promotion of the champion replaced."""
        events = json.loads((self.project.root / CHAMPIONS).read_text())["champions"]
        version = events[-1]["version"]
        return next(each["replaced"] for each in events if each["version"] == version and not each["rollback"])

    def _files(self, folder: str) -> dict[str, str]:
        return {
            name.removeprefix(folder): md5
            for name, md5 in self.project.hashes().items()
            if name.startswith(f"{folder}/")
        }

    def _atlas(self, *arguments: str) -> None:
        self._run("flows.cli.main", *arguments)

    def _run(self, *command: str) -> None:
        done = self.project.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"

    def _git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=self.project.root, env=self.project.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout


@pytest.fixture
def new_catalogue(
    tmp_path_factory: pytest.TempPathFactory,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    warm_python: Path,
) -> Iterator[Callable[[], Catalogue]]:
    with ExitStack() as shops:
        yield lambda: Catalogue(tmp_path_factory.mktemp("states"), shops, copy_project, git_env, warm_python)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_event_keeps_the_guarantees(new_catalogue: Callable[[], Catalogue]) -> None:
    catalogue = new_catalogue()
    catalogue.first_crawl()
    catalogue.promote()
    for kind in ("image", "added"):
        catalogue.change_shop(kind, 1)
    catalogue.run_and_kill(4)
    catalogue.run()
    catalogue.promote()
    catalogue.roll_back()
    catalogue.prune()
    catalogue.check_out_earlier_commit(0)
    catalogue.verify()


@pytest.mark.soak
def test_events_in_any_order_keep_the_guarantees(new_catalogue: Callable[[], Catalogue]) -> None:
    settings = hypothesis.settings(
        max_examples=6,
        stateful_step_count=10,
        phases=[hypothesis.Phase.generate],  # the search for a smaller example would take hours
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.verbose,  # prints the steps
    )
    run_state_machine_as_test(new_catalogue, settings=settings)  # type: ignore[arg-type]  # a function will do
