"""Tables and lists of URLs: `atlas init`, the stages crawl and fetch, and what is refused or counted."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.params import Params, load_params
from atlas_model.data.schemas import IMAGES, REFS, read_table
from crawlers.files.urls import requested
from flows import paths
from flows.cli.main import main
from flows.init import command
from flows.stages import crawl, fetch
from flows.stages.entry import read_metrics
from tests.support.fetching import Server, jpeg, serving, url, with_status
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str], server: Server) -> None:
    """A repository whose params.yaml connects to the image server."""
    text = (ROOT / "params.yaml").read_text()
    addresses = json.dumps({host: f"{address}:{port}" for host, (address, port) in server.connect_map.items()})
    text = text.replace("connect: {} ", f"connect: {addresses} ").replace("obey_robots: true", "obey_robots: false")
    (tmp_path / "params.yaml").write_text(text)
    commit_all(tmp_path, git_env)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_encoder_with_weights", lambda: None)


def rows(count: int = 24) -> list[dict[str, str]]:
    return [
        {
            "sku": f"p{number:02d}",
            "image_url": url(f"/images/{number}"),
            "page_url": f"https://shop.test/p/{number}",
            "category": ("Clothing > Shirts", "Shoes > Boots")[number % 2],
            "title": f"A thing of kind {number}",
        }
        for number in range(count)
    ]


def write(name: str, table: list[dict[str, str]]) -> str:
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(table), name)
    elif name.endswith(".jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        lines = [",".join(table[0]), *(",".join(row.values()) for row in table)]
        Path(name).write_text("\n".join(lines) + "\n")
    return name


def run_stages() -> Params:
    params = load_params()
    crawl.run(params)
    fetch.run(params)
    return params


@pytest.mark.parametrize("name", ["urls.csv", "urls.jsonl", "urls.parquet"])
def test_init_and_fetch_of_a_table(name: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write(name, rows())
    assert main(["init", "--table", name]) == 0
    told = capsys.readouterr().out
    assert "a sample of 24 of the image URLs was downloaded: ok 24" in told
    params = run_stages()
    given = params.crawl.files
    assert (params.crawl.source, given.table, given.columns.image) == ("urls", Path(name), "image_url")
    assert (given.columns.category, given.columns.product, given.separator) == (["category"], "sku", " > ")
    assert server.asked == Counter({f"/images/{number}": 1 for number in range(24)}), "the sample is not asked again"
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    assert [ref["status"] for ref in refs] == ["ok"] * 24
    images = read_table(paths.SHARDS, IMAGES, "fetch").to_pylist()
    assert {row["bytes"] for row in images} == {jpeg(f"/images/{number}") for number in range(24)}


def test_every_row_gets_a_status(server: Server) -> None:
    table = rows(4)
    table[0]["image_url"] = "photos/1.jpg"
    table[1]["image_url"] = ""
    table[2]["category"] = ""
    table[3]["image_url"] = "http://127.0.0.1/private.jpg"
    more = rows(7)[4:]
    more[0]["image_url"] = url("/gone")
    more[1]["image_url"] = "file:///etc/passwd"
    server.odd["/gone"] = with_status(404)
    write("urls.csv", table + more)
    params = load_params().model_dump(mode="json")
    columns = {"image": "image_url", "category": ["category"], "product": "sku", "title": "title"}
    files = {"table": "urls.csv", "images": "urls.csv", "separator": ">"}
    params["crawl"] |= {"source": "urls", "files": files | {"columns": columns | {"price": None, "split": None}}}
    params["fetch"]["max_failed_share"] = 1.0
    given = Params.model_validate(params)
    crawl.run(given)
    assert len(list(requested(paths.PRODUCTS))) == 5, "neither the empty field nor the row without a category"
    fetch.run(given)
    expected = ["bad_url", "no_image", "no_category", "blocked", "http_404", "bad_url", "ok"]
    assert [ref["status"] for ref in read_table(paths.REFS, REFS, "fetch").to_pylist()] == expected
    assert read_metrics("fetch")["statuses"] == dict(Counter(expected))
    assert json.loads((paths.METRICS / "fetch.json").read_text()) == {"images": 1, "dropped": 6}


def test_list_without_labels_can_be_fetched_but_not_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["# from the feed", "", *(url(f"/images/{number}") for number in range(3)), "nonsense"]
    Path("list.txt").write_text("\n".join(lines))
    assert main(["init", "--table", "list.txt"]) == 0
    assert "Next: dvc repro fetch && atlas predict --input data/images/shards" in capsys.readouterr().out
    params = run_stages()
    assert params.crawl.files.columns.category is None
    assert params.split == load_params(ROOT / "params.yaml").split, "only keys of the source are written"
    assert read_metrics("fetch")["statuses"] == {"bad_url": 1, "ok": 3}
    shutil.copytree(ROOT / "models/pretrained", "models/pretrained")
    assert main(["predict", "--input", str(paths.SHARDS), "--output", "answers.parquet", "--engine", "torch"]) == 0
    answers = pq.read_table("answers.parquet").to_pylist()
    refs = read_table(paths.REFS, REFS, "fetch").to_pylist()
    assert {row["image"] for row in answers} == {ref["image_id"] for ref in refs} - {None}
    assert all(row["category_id"] is None for row in answers), "this taxonomy has no ids"


def test_local_tables_need_categories() -> None:
    params = load_params().model_dump(mode="json")
    params["crawl"]["source"] = "files"
    params["crawl"]["files"]["columns"]["category"] = None
    params["crawl"]["files"]["separator"] = None
    with pytest.raises(ValueError, match="which is for source: urls"):
        Params.model_validate(params)
