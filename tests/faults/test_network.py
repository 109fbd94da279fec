"""A network that fails in every way known to us, under the crawl and the fetch: the data are those of a quiet network.

No fault of the network makes a product or an image disappear from data that a stage accepts: the stage ends with exit
code 1 and a sentence, and the same command later completes the data.
"""

import hashlib
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from atlas_model.core.errors import RetryError
from crawlers.crawl.journal import PRODUCT, Journal
from crawlers.http.policy import MAX_ROBOTS_FAILURES
from crawlers.sources.csv_sources import Source
from tests.support.crawling import QUICK, listing, product, run, source, titles
from tests.support.faulty_network import (
    FAULTS,
    HARMLESS,
    LOOP,
    RFC_ALLOWS,
    Asked,
    FaultyNetwork,
    Plan,
    check_pauses,
    faulty_network,
    most_at_once,
    random_plan,
)
from tests.support.fetching import Images, get, jpeg
from tests.support.servers import HOST, Reply, Shop, serving
from tests.support.small_shop import CATEGORIES, SmallProduct, SmallProject, SmallShop

ATTEMPTS = 2  # max_attempts of a URL in a run
HOPS = 11  # requests of one attempt in a loop of redirects
TIMEOUT_S = 4  # of an attempt, in a network with faults
MOST_RUNS = 12  # of one command, until its data are complete
OUTPUTS = ("data/raw/products.parquet", "data/images")

KINDS = list(FAULTS)
REAL = [kind for kind in KINDS if kind not in HARMLESS]
# For robots.txt, whose end nothing shows: rules that are lost with them are not obeyed (docs/reliability.md).
NO_END = {"closed_in_body_without_length", "closed_after_head_without_length", "no_body"}

LOST = {"reset_at_once", "reset_in_head", "half_closed_at_once", "half_closed_in_head", "away"}  # before the head


def host_of(kind: str, what: str = "url") -> str:
    """The host whose URLs, or whose robots.txt, always meet the fault ``kind``."""
    return f"{what}-{kind.replace('_', '-')}.{HOST}"


HOSTS = [host_of(kind, what) for kind in KINDS for what in ("url", "robots")]


def permanent(host: str, path: str, number: int) -> str | None:
    """Every URL of `host_of` a kind has that fault; of the hosts for robots.txt only this has."""
    what, _, kind = host.partition(".")[0].partition("-")
    if kind.replace("-", "_") not in FAULTS or (path == "/robots.txt") != (what == "robots"):
        return None
    return kind.replace("-", "_") if what == "robots" or path.startswith(("/p/", "/list/", "/s/", "/i/")) else None


def quiet(host: str, path: str, number: int) -> str | None:
    return None


@dataclass
class Healing:
    """A plan that a test changes."""

    plan: Plan = permanent

    def __call__(self, host: str, path: str, number: int) -> str | None:
        return self.plan(host, path, number)


def shop_of_kinds() -> Shop:
    """A product, a category, a sitemap and an image for each kind of fault."""
    shop = Shop()
    links = []
    for number, kind in enumerate(KINDS):
        at = f"http://{host_of(kind)}"
        shop.pages[f"/p/{number}"] = product(f"P {kind}", f"p{number}")
        shop.pages[f"/list/{number}"] = listing(f"/q/{number}")
        shop.pages[f"/q/{number}"] = product(f"Q {kind}", f"q{number}")
        sitemap = f'<?xml version="1.0"?>\n<urlset><url><loc>{at}/t/{number}</loc></url></urlset>'
        shop.pages[f"/s/{number}.xml"] = Reply(sitemap, headers={"Content-Type": "application/xml"})
        shop.pages[f"/t/{number}"] = product(f"T {kind}", f"t{number}")
        shop.pages[f"/r/{number}"] = product(f"R {kind}", f"r{number}")
        shop.pages[f"/i/{number}"] = Reply(jpeg(kind), headers={"Content-Type": "image/jpeg"})
        links += [f"{at}/p/{number}", f"http://{host_of(kind, 'robots')}/r/{number}"]
    shop.pages["/c"] = listing(*links)
    shop.pages["/robots.txt"] = Reply("User-agent: *\nDisallow: /no\n", headers={"Content-Type": "text/plain"})
    return shop


@pytest.mark.slow
def test_no_fault_of_the_network_makes_a_product_disappear(tmp_path: Path) -> None:
    """Each kind of fault, for ever, at a product page, a category page, a sitemap and a robots.txt."""
    sources = [source("/c")]
    for number, kind in enumerate(KINDS):
        for path in (f"/list/{number}", f"/s/{number}.xml"):
            sources.append(Source(HOST, ("Kinds", kind, path[1]), f"http://{host_of(kind)}{path}"))
    plan = Healing()
    how: dict[str, Any] = {"profiles": dict.fromkeys([HOST, *HOSTS], QUICK), "timeout_s": 2, "max_attempts": ATTEMPTS}
    with serving(shop_of_kinds()) as shop, faulty_network(shop.port, plan) as network:
        to_network: Any = SimpleNamespace(connect_map=dict.fromkeys([HOST, *HOSTS], ("127.0.0.1", network.port)))
        with pytest.raises(RetryError, match=f"{2 * len(REAL)} category pages could not be read") as caught:
            run(to_network, sources, tmp_path, **how)
        print(caught.value)
        with Journal(tmp_path / "work/journal.sqlite") as journal:
            failed = {url: reason for url, reason, _ in journal.faults(PRODUCT)}
            pages = {kind: journal.page(PRODUCT, f"http://{host_of(kind)}/p/{n}") for n, kind in enumerate(KINDS)}
        print(failed)
        asked = network.asked.copy()
        plan.plan = quiet
        run(to_network, sources, tmp_path, **how)
        run(to_network, sources, tmp_path / "quiet", **how)

    unread = {kind for kind in KINDS if f"http://{host_of(kind)}/p/{KINDS.index(kind)}" in failed}
    assert unread == set(REAL)
    assert {kind for kind, page in pages.items() if page is not None} == HARMLESS, "each is read or requested again"
    forbidden = {kind for kind in KINDS if f"http://{host_of(kind, 'robots')}/r/{KINDS.index(kind)}" in failed}
    assert forbidden == set(REAL) - RFC_ALLOWS - NO_END
    asked_without = {one.host for one in asked if one.host.startswith("robots-") and one.path != "/robots.txt"}
    assert asked_without == {host_of(kind, "robots") for kind in KINDS if kind not in forbidden}
    check_attempts(asked)
    data = (tmp_path / "products.parquet").read_bytes()
    assert data == (tmp_path / "quiet/products.parquet").read_bytes()
    assert titles(tmp_path) == {f"{letter} {kind}" for letter in "PQRT" for kind in KINDS}


@pytest.mark.slow
def test_no_fault_of_the_network_makes_an_image_disappear(tmp_path: Path) -> None:
    """Each kind of fault, for ever, at an image and at a robots.txt."""
    urls = {kind: f"http://{host_of(kind)}/i/{number}" for number, kind in enumerate(KINDS)}
    guarded = {kind: f"http://{host_of(kind, 'robots')}/i/{number}" for number, kind in enumerate(KINDS)}
    plan = Healing()

    def fetch(folder: Path, share: float) -> Images:
        return get(
            to_network, [*urls.values(), *guarded.values()], folder, max_attempts=ATTEMPTS, timeout_s=4.0,
            concurrency=32, obey_robots=True, max_failed_share=share,
        )  # fmt: skip

    with serving(shop_of_kinds()) as shop, faulty_network(shop.port, plan) as network:
        to_network: Any = SimpleNamespace(connect_map=dict.fromkeys(HOSTS, ("127.0.0.1", network.port)))
        with pytest.raises(RetryError, match="image URLs had transient failures or no valid response"):
            fetch(tmp_path / "kept", 0.0)
        asked = network.asked.copy()
        statuses = fetch(tmp_path / "counted", 1.0).statuses
        print(statuses)
        plan.plan = quiet
        completed = fetch(tmp_path / "kept", 0.0).fetched
    assert {kind for kind, url in urls.items() if statuses[url] == "ok"} == HARMLESS
    assert {kind for kind, url in guarded.items() if statuses[url] == "ok"} == HARMLESS | RFC_ALLOWS | NO_END
    check_attempts(asked)
    for kind in KINDS:
        for url in (urls[kind], guarded[kind]):
            assert completed[url].image_id == hashlib.sha256(jpeg(kind)).hexdigest(), url


# Whole stages in random networks


class FullShop(SmallShop):
    """A shop with a robots.txt and a sitemap."""

    def reply(self, path: str) -> Reply:
        if path == "/robots.txt":
            self.asked[path] += 1
            return Reply(f"User-agent: *\nDisallow: /no\nSitemap: http://{HOST}/sitemap.xml\n")
        if path == "/sitemap.xml":
            self.asked[path] += 1
            urls = "".join(f"<url><loc>http://{HOST}{one.path}</loc></url>" for one in self.products.values())
            return Reply(f"<urlset>{urls}</urlset>", headers={"Content-Type": "application/xml"})
        return super().reply(path)


@pytest.fixture
def full_project(
    tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[SmallProject]:
    """A copy of the project that crawls a `FullShop` of as many products per category as the parameter says."""
    count = request.param * len(CATEGORIES)
    shop = FullShop(products={number: SmallProduct(number, number % len(CATEGORIES)) for number in range(count)})
    with serving(shop):
        project = SmallProject(copy_project(tmp_path / "project"), shop, git_env)
        project.set({"crawl": {"timeout_s": 60, "max_attempts": ATTEMPTS, "sitemaps": "check"}})
        project.set({"fetch": {"timeout_s": 60, "max_attempts": ATTEMPTS, "max_failed_share": 0.0}})
        yield project


def network_of(seed: int) -> tuple[Plan, dict[int, float]]:
    """Faults at a third of the URLs; the shop goes away for a second; all is refused for a while, as in a storm."""
    chance = Random(seed)
    single = random_plan(seed, share=0.33, most=2)
    storms = [(start, start + chance.randint(3, 12), chance.choice(STORMS)) for start in chance.sample(range(5, 90), 2)]
    number_of = count(1)

    def plan(host: str, path: str, number: int) -> str | None:
        now = next(number_of)
        return next((kind for start, end, kind in storms if start <= now < end), None) or single(host, path, number)

    return plan, {chance.randint(2, 60): chance.uniform(0.2, 1.5)}


STORMS = ("busy", "busy_for_a_second", "http_500", "http_502", "http_503", "reset_at_once")


def files_of(project: SmallProject) -> dict[str, str]:
    found = [project.root / name for name in OUTPUTS]
    files = [file for path in found for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {
        str(file.relative_to(project.root)): hashlib.md5(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def complete(project: SmallProject, python: Path, stage: str, network: FaultyNetwork) -> int:
    """Run a stage until it succeeds, check each run, and return the number of runs."""
    for number in range(1, MOST_RUNS + 1):
        start = len(network.asked)
        done = subprocess.run(
            [python, "-m", f"flows.stages.{stage}"],
            cwd=project.root,
            env=project.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        asked = network.asked[start:]
        check_attempts(asked)
        check_pauses(asked)
        for one in asked:
            one.ended_s = min(one.ended_s or one.at_s, one.at_s + TIMEOUT_S)  # by then the client has hung up
        assert most_at_once(asked) <= (4 if stage == "crawl" else 8)
        if done.returncode == 0:
            return number
        assert done.returncode == 1, done.stderr
        assert re.search(r"^error: .*(kept|resumes|yielded)", done.stderr, re.MULTILINE | re.DOTALL), done.stderr
        assert "Traceback" not in done.stderr
    raise AssertionError(f"{stage} has not succeeded in {MOST_RUNS} runs: {done.stderr}")


def in_network(project: SmallProject, python: Path, seed: int) -> tuple[int, int]:
    """Crawl and fetch anew in the network of ``seed``; returns how often each had to run."""
    for name in (".atlas", "data/raw", "data/images"):
        shutil.rmtree(project.root / name, ignore_errors=True)
    plan, outages = network_of(seed)
    with faulty_network(project.shop.port, plan, outages) as network:
        connect = {HOST: f"127.0.0.1:{network.port}"}
        project.set({"crawl": {"connect": connect, "timeout_s": TIMEOUT_S}, "fetch": {"timeout_s": TIMEOUT_S}})
        found = complete(project, python, "crawl", network), complete(project, python, "fetch", network)
        kinds = Counter(one.fault for one in network.asked if one.fault)
        print(
            f"seed {seed}: runs {found}, {len(network.asked)} requests, {kinds.total()} faults of {len(kinds)} kinds",
            flush=True,
        )
    return found


@pytest.mark.parametrize(
    ("full_project", "seeds"),
    [
        pytest.param(3, range(1), marks=pytest.mark.slow, id="one"),
        pytest.param(6, range(100, 200), marks=pytest.mark.soak, id="many"),
    ],
    indirect=["full_project"],
)
def test_data_are_those_of_a_quiet_network(full_project: SmallProject, warm_python: Path, seeds: range) -> None:
    python = warm_python / "python"
    with faulty_network(full_project.shop.port, quiet) as network:
        full_project.set({"crawl": {"connect": {HOST: f"127.0.0.1:{network.port}"}}})
        assert [complete(full_project, python, stage, network) for stage in ("crawl", "fetch")] == [1, 1]
    expected = files_of(full_project)
    assert len(expected) >= 3
    runs = []
    for seed in seeds:
        runs.append(in_network(full_project, python, seed))
        assert files_of(full_project) == expected, f"seed {seed}"
    for place, stage in enumerate(("crawl", "fetch")):
        counts = sorted(one[place] for one in runs)
        print(f"{stage}: {len(counts)} networks, runs: median {counts[len(counts) // 2]}, at most {counts[-1]}")


@pytest.mark.soak
@pytest.mark.parametrize("full_project", [12], indirect=True)
def test_whole_chain_gives_the_hashes_of_a_quiet_network(full_project: SmallProject, warm_python: Path) -> None:
    """`dvc repro` until it succeeds."""
    full_project.env["PATH"] = f"{warm_python}:{full_project.env['PATH']}"

    full_project.repro()
    expected = full_project.hashes()
    for seed in range(3):
        plan, outages = network_of(1000 + seed)
        with faulty_network(full_project.shop.port, plan, outages) as network:
            connect = {HOST: f"127.0.0.1:{network.port}"}
            full_project.set({"crawl": {"connect": connect, "timeout_s": TIMEOUT_S}})
            full_project.set({"fetch": {"timeout_s": TIMEOUT_S}})
            for name in (".atlas", "data/raw", "data/images"):
                shutil.rmtree(full_project.root / name, ignore_errors=True)
            codes = []
            while not codes or (codes[-1] and len(codes) < 2 * MOST_RUNS):
                codes.append(full_project.run("dvc", "repro", "--force", "--no-run-cache").returncode)
            print(f"seed {seed}: dvc repro ended with {codes}")
        assert full_project.hashes() == expected


@pytest.mark.slow
def test_a_shop_that_is_gone_is_an_error_and_its_return_completes_the_crawl(tmp_path: Path) -> None:
    shop = Shop({f"/p/{number}": product(f"P{number}", f"{number}") for number in range(40)})
    shop.pages["/c"] = listing(*shop.pages)
    with serving(shop), faulty_network(shop.port, quiet, {12: 600}) as network:
        to_network: Any = SimpleNamespace(connect_map={HOST: ("127.0.0.1", network.port)})
        with pytest.raises(RetryError, match=r"product pages failed \(.*The pages read are kept"):
            run(to_network, [source("/c")], tmp_path)
        assert not (tmp_path / "products.parquet").exists()
        with pytest.raises(RetryError, match="host_down"):
            run(to_network, [source("/c")], tmp_path)
        with Journal(tmp_path / "work/journal.sqlite") as journal:
            read = {f"/p/{n}" for n in range(40) if journal.page(PRODUCT, f"http://{HOST}/p/{n}") is not None}
        network.come_back()
        assert run(to_network, [source("/c")], tmp_path).products == 40
    assert read
    assert {shop.asked[path] for path in read} == {1}, "what was read before is not requested again"


# The limits of the shop


def limits(crawl_delay_s: float) -> Shop:
    shop = Shop({f"/p/{number}": product(f"P{number}", f"{number}") for number in range(6)})
    shop.pages["/c"] = listing(*shop.pages)
    shop.pages["/robots.txt"] = Reply(f"User-agent: *\nCrawl-delay: {crawl_delay_s}\n")
    shop.pages |= {f"/i/{number}": Reply(jpeg(number), headers={"Content-Type": "image/jpeg"}) for number in range(6)}
    return shop


def busy_at(number: int) -> Plan:
    numbers = count(1)
    return lambda host, path, _: "busy_for_two_seconds" if next(numbers) == number else None


def check_limits(network: FaultyNetwork, crawl_delay_s: float) -> None:
    times = [one.at_s for one in network.asked]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    print([round(gap, 2) for gap in gaps])
    assert min(gaps) > crawl_delay_s - 0.15  # which a busy machine takes to accept a connection
    (busy,) = [place for place, one in enumerate(network.asked) if one.fault]
    assert gaps[busy] > 1.8, "no request within the Retry-After"


@pytest.mark.slow
def test_crawl_keeps_crawl_delay_and_retry_after_together(tmp_path: Path) -> None:
    with serving(limits(0.6)) as shop, faulty_network(shop.port, busy_at(4)) as network:
        to_network: Any = SimpleNamespace(connect_map={HOST: ("127.0.0.1", network.port)})
        assert run(to_network, [source("/c")], tmp_path, max_attempts=3).products == 6
    check_limits(network, 0.6)


@pytest.mark.slow
def test_fetch_keeps_crawl_delay_and_retry_after_together(tmp_path: Path) -> None:
    with serving(limits(0.4)) as shop, faulty_network(shop.port, busy_at(3)) as network:
        to_network: Any = SimpleNamespace(connect_map={HOST: ("127.0.0.1", network.port)})
        urls = [f"http://{HOST}/i/{number}" for number in range(6)]
        found = get(to_network, urls, tmp_path, obey_robots=True, max_attempts=3, concurrency=2)
    assert set(found.statuses.values()) == {"ok"}
    check_limits(network, 0.4)


def check_attempts(asked: list[Asked]) -> None:
    """A run requests a URL `max_attempts` times at most; once more after a used connection was lost; loops `HOPS`.

    A fetch may repeat a robots.txt for each attempt at an image of its host, `MAX_ROBOTS_FAILURES` times in a row.
    """
    times = Counter((one.host, re.split(f"[?&]{LOOP}", one.path)[0]) for one in asked)
    most = dict.fromkeys(times, ATTEMPTS)
    most |= {url: MAX_ROBOTS_FAILURES for url in times if url[1] == "/robots.txt"}
    for one in asked:
        url = one.host, re.split(f"[?&]{LOOP}", one.path)[0]
        if one.fault in LOST:
            most[url] = max(most[url], ATTEMPTS + 1)
        if one.fault == "loop_302":
            most[url] = ATTEMPTS * HOPS
    assert {url: number for url, number in times.items() if number > most[url]} == {}
