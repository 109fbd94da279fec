"""A project that a test disturbs with kills, and what its commands give if nothing disturbs them."""

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.killing import GROWING, Killer, repeated
from tests.support.small_shop import SmallProject, SmallShop
from tests.support.written_in_place import written_in_place

STAGES = ("crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate", "report")
STATE = {"crawl": ["crawl"], "fetch": ["fetch"], "train": ["train", "trained"]}  # folders in .atlas
LOCK = "lock"  # an empty file, on which a process holds a lock of the kernel
FOLDERS = ("data/raw", "data/images", "data/zoom", "data/splits", "models", "metrics", "plots", "reports")
KILLS_IN_A_ROW = 8
ASKED_EACH_TIME = "/robots.txt"
# A killed DVC may leave these two files cut off; `atlas check`, the first step of `make run`, restores them.
CUT_OFF = re.compile(r"RWLock-file|dvc\.lock' (?:is invalid|validation)|unable to read: 'dvc\.lock'")


@dataclass
class DisturbedProject:
    """A project whose shop is known, and what the commands give if nothing disturbs them."""

    shop: SmallShop
    project: SmallProject
    chance: random.Random
    duration_s: dict[str, float] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)  # hashes of the outputs up to the last stage that was run
    also: list[Path] = field(default_factory=list)  # folders outside of the project in which a command writes

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
        with written_in_place([*(self.root / name for name in FOLDERS), *self.also]) as written:
            code = killer.run(moment_s)
        in_place = sorted(
            str(path) for path in written if self.root / GROWING not in path.parents and path.name != LOCK
        )
        assert in_place == [], "written under their final names"
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


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def left_in(folder: Path) -> list[str]:
    """What was not cleaned up."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def git(disturbed: DisturbedProject, *arguments: str) -> str:
    """The output of git in the project."""
    done = subprocess.run(
        ["git", *arguments], cwd=disturbed.root, env=disturbed.project.env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def forget_versions(disturbed: DisturbedProject) -> None:
    """Remove the branch, the tags and the data of accepted runs."""
    for name in git(disturbed, "for-each-ref", "--format=%(refname)", "refs/heads/accepted", "refs/tags").split():
        git(disturbed, "update-ref", "-d", name)
    shutil.rmtree(disturbed.root.parent / "remote", ignore_errors=True)


def accepted_tree(disturbed: DisturbedProject) -> str:
    """The files of the accepted version, without those that have the time of the promotion."""
    lines = git(disturbed, "ls-tree", "-r", "accepted").splitlines()
    return "\n".join(line for line in lines if not is_of_promotion(line.partition("\t")[2]))


def is_of_promotion(path: str) -> bool:
    """Whether ``path`` has the time of the promotion in it, or the report that quotes it."""
    return path in ("models/champions.json", "dvc.lock") or path.startswith(("models/champion", "reports/", "metrics/"))


def forget_champion(disturbed: DisturbedProject) -> None:
    """Bring the project back to where there was no champion."""
    shutil.rmtree(disturbed.root / "models/champion", ignore_errors=True)
    shutil.rmtree(disturbed.root / "reports/promote", ignore_errors=True)
    (disturbed.root / "models/champion.dvc").unlink(missing_ok=True)
    git(disturbed, "checkout", "HEAD", "--", "models/champions.json")


def champion_now(disturbed: DisturbedProject) -> dict[str, Any]:
    """The champion, without the time of its promotion."""
    history = json.loads((disturbed.root / "models/champions.json").read_text())["champions"]
    files = {file.name: file.read_bytes() for file in (disturbed.root / "models/champion").iterdir()}
    pointer = (disturbed.root / "models/champion.dvc").read_text()
    return {**history[-1], "at": None, "events": len(history), "files": files, "pointer": pointer}
