"""The documentation site: it builds without a warning, its reference is complete, and no page needs the network."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import yaml

from crawlers.http.chromium import NAMES
from tests.support.chromium import needs_chromium
from tests.support.paths import ROOT
from tools.docs_site.comments import yaml_comments
from tools.docs_site.navigation import contents
from tools.docs_site.params_reference import Parameter, parameters_of

pytestmark = pytest.mark.slow
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "tools.docs_site", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "Sphinx warns of nothing"
    return folder / "html"


def text_of(site: Path, page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8")))


def test_site_builds_without_warnings(site: Path) -> None:
    for name in (
        "index",
        "tutorials/demo",
        "how-to/index",
        "model",
        "explanation/architecture",
        "project/contributing",
    ):
        assert (site / f"{name}.html").is_file(), name
    assert (site / "searchindex.js").is_file()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = LOADED.findall(page.read_text(encoding="utf-8"))
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_reference_has_every_parameter_command_table_and_name(site: Path) -> None:
    import pyarrow as pa

    import atlas_model.api
    import crawlers.api
    from atlas_model.data import schemas
    from flows.cli.main import _parser

    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    page = text_of(site, "reference/params.html")
    assert [key for section in params.values() for key in section if key not in page] == []
    commands = text_of(site, "reference/cli.html")
    actions = [action for action in _parser()._actions if isinstance(action.choices, dict)]
    assert [name for action in actions for name in action.choices or () if f"atlas {name}" not in commands] == []
    tables = text_of(site, "reference/schemas.html")
    assert [name for name, value in vars(schemas).items() if isinstance(value, pa.Schema) and name not in tables] == []
    names = text_of(site, "reference/python.html")
    public = [*atlas_model.api.__all__, *crawlers.api.__all__]
    assert [name for name in public if name not in names] == []


def test_parameters_have_type_unit_default_range_and_meaning() -> None:
    def of(key: str) -> Parameter:
        return next(each for each in parameters_of(key.partition(".")[0]) if each.key == key)

    assert (of("crawl.timeout_s").kind, of("crawl.timeout_s").unit) == ("number, above 0", "s")
    assert (of("evaluate.beam").default, of("evaluate.beam").kind) == (5, "integer, at least 1")
    assert (of("split.near_duplicate_distance").kind, of("split.image_size").unit) == ("integer, 0 to 16", "px")
    assert of("split.resize").kind == "one of `squash`, `pad`, `crop`"
    assert "five fields as in" in of("pipeline.cron").kind, "as the validator says it"
    assert "spreads attention over the cells" in of("train.alpha_c").meaning, "as params.yaml says it"
    assert "doubly stochastic" in of("train.alpha_c").meaning, "and the model"
    assert of("crawl.files.columns.image").default == "image"
    assert [key for key in map(of, ("crawl.connect", "crawl.robots_tags")) if not key.kind] == []


def test_comments_of_yaml_continue_below_their_key(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('# head\na:\n  b: "#1"  # of b,\n           # and more\n  c: 2\nd: 3  # of d\n')
    assert yaml_comments(file) == {"a.b": "of b, and more", "d": "of d"}


def test_index_page_holds_the_pages_that_it_links_to() -> None:
    pages = {"index.md", "how-to/index.md", "gpu.md", "scale.md", "containers.md"}
    assert contents("how-to/index.md", ["scale.md", "index.md", "gpu.md"], pages).split() == [
        *("```{toctree}", ":hidden:", "/scale", "/gpu"),
        *("/containers", "```"),
    ], "and a page that is there but not linked yet"
    assert contents("gpu.md", ["scale.md"], pages) == ""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@needs_chromium
def test_search_finds_pages_without_network(site: Path, browser) -> None:
    page = browser.new_page(viewport=DESKTOP)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto((site / "search.html").as_uri() + "?q=near-duplicates")
    page.wait_for_selector("#search-results ul.search li a >> text=Why these splits")  # results come one by one
    found = page.eval_on_selector_all("#search-results ul.search li a", "links => links.map(link => link.textContent)")
    assert "Why these splits" in found
    assert {url.partition(":")[0] for url in requested} <= {"file", "data"}
    page.close()


@needs_chromium
@pytest.mark.parametrize("name", ["reference/params", "model", "tutorials/your-shop", "explanation/architecture"])
def test_pages_fit_a_phone_and_are_accessible(site: Path, browser, name: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport=PHONE)
    page.goto((site / f"{name}.html").as_uri())
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], "only tables, code and the diagram scroll sideways"
    faults = Axe().run(page).response["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
    page.close()
