"""The API of the review page, under its access rules, on a small catalogue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from atlas_model.core.errors import InputError
from atlas_model.data.reviews import SERVICE, append_record, read_reviews, stored_image
from atlas_model.taxonomy.changes import load_changes
from flows import paths
from flows.review.api import Reviewing
from flows.review.app import Start, create_app
from flows.review.catalogue import Catalogue, Issue, read_catalogue
from flows.review.command import list_disagreements
from flows.review.images import ImageStore
from flows.review.items import category_item
from flows.review.model import Advisor
from flows.review.queues import ordered
from flows.review.session import Session
from flows.web.access import AccessMiddleware, AccessRules, access_rules
from tests.support.review_catalogue import CATEGORIES, HOSTILE, write_catalogue
from tests.support.reviews import category, zoom

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_catalogue(folder)
    return folder


@pytest.fixture
def catalogue(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.chdir(project)
    monkeypatch.setattr(paths, "REVIEWS", tmp_path / "reviews")
    return read_catalogue(CATEGORIES)


def client_of(catalogue: Catalogue, rules: AccessRules | None = None) -> TestClient:
    images = ImageStore(paths.SHARDS)
    advisor = Advisor(paths.CATEGORIZER, images, catalogue.taxonomy)
    advisor.start()
    on = Reviewing(catalogue, images, advisor, Session(paths.REVIEWS), paths.REVIEWS, seed=1)
    app = create_app(on, Start("anna", "categories", "uncertain"))
    ruled = AccessMiddleware(app, rules or access_rules("127.0.0.1"))
    return TestClient(ruled, base_url="http://127.0.0.1:4300", raise_server_exceptions=False)


@pytest.fixture
def client(catalogue: Catalogue) -> Iterator[TestClient]:
    with client_of(catalogue) as client:
        yield client


def items(client: TestClient, **query: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"queue": "categories", "order": "uncertain", "reviewer": "anna", "count": 12} | query
    answer = client.get("/api/items", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decision(number: int = 0, product: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{number:032x}",
        "reviewer": "anna",
        "queue": "categories",
        "product_id": f"shop.test:{product:03d}",
        "image_id": f"image{product:03d}",
        "answer": "category",
        "category": ["Footwear", "Boots"],
    } | more


def subjects(found: dict[str, Any]) -> list[str]:
    return [each["subject"] for each in found["items"]]


def test_items_come_least_certain_first_with_the_models_alternatives(client: TestClient) -> None:
    found = items(client, count=3)
    assert subjects(found) == [f"shop.test:{number:03d}" for number in range(3)]
    assert (found["next"], found["total"], found["left"]) == (3, 40, 40)
    first = found["items"][0]
    assert (first["title"], first["page_url"]) == (HOSTILE, None), "the URL is a script"
    probabilities = [each["probability"] for each in first["choices"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1, abs=1e-3)
    assert [each["is_label"] for each in first["choices"]].count(True) == 1
    assert [each["id"] for each in first["images"]] == ["image000", "second"], "the discarded image comes last"
    assert [each["kept"] for each in first["images"]] == [True, False]


def test_orders_put_the_right_products_first(catalogue: Catalogue) -> None:
    of = {order: ordered(catalogue, "categories", order, 1) for order in ("errors", "unlabelled", "random")}
    assert of["unlabelled"] == [f"shop.test:{number:03d}" for number in (9, 19, 29, 39)]
    wrong = [n for n in range(40) if n % 10 != 9 and n % 2]
    assert of["errors"] == [f"shop.test:{number:03d}" for number in reversed(wrong)], "without quality.parquet"
    assert all(catalogue.predictions[each].split != "train" for each in of["random"])
    assert (
        of["random"] == ordered(catalogue, "categories", "random", 1) != ordered(catalogue, "categories", "random", 2)
    )
    catalogue.issues.update({"image004": [Issue("label_error", 0.7, None)], "image002": [Issue("dark", 0.9, None)]})
    assert ordered(catalogue, "categories", "errors", 1) == ["shop.test:004"]
    assert ordered(catalogue, "categories", "issues", 1) == ["shop.test:002"]
    assert ordered(catalogue, "zoom", "uncertain", 1)[:2] == ["second", "image039"], "the nearest to the threshold"
    with pytest.raises(InputError, match="order: expected one of"):
        ordered(catalogue, "zoom", "unlabelled", 1)


def test_split_categories_are_queued_with_their_successors(catalogue: Catalogue, tmp_path: Path) -> None:
    boots, changes = ("Footwear", "Boots"), tmp_path / "changes.csv"
    rows = ["Footwear > Boots,Footwear > Boots", "Footwear > Boots,Wellingtons", "Garden,Clothing > Tops > Shirt"]
    changes.write_text("\n".join(["from,to", *rows]))
    found = read_catalogue(CATEGORIES, load_changes(changes, None))
    split = [product_id for product_id in found.row_of if catalogue.label(product_id) == boots]
    assert split
    assert ordered(found, "categories", "unlabelled", 1) == split, "Garden has a category of today"
    advisor = Advisor(None, ImageStore(paths.SHARDS), found.taxonomy)
    advisor.start()
    item = category_item(found, advisor, split[0])
    assert not item["label_known"]
    assert {tuple(choice["path"]) for choice in item["choices"][:2]} == {boots, ("Wellingtons",)}
    assert found.label("shop.test:009") == ("Clothing", "Tops", "Shirt")


def test_a_decision_is_stored_before_the_answer_and_leaves_the_queue(client: TestClient) -> None:
    answer = client.post("/api/decisions", json=decision(shown={"keys": 1, "order": "uncertain"}))
    assert answer.json() == {"stored": f"{0:032x}", "mine": 1}
    (stored,) = read_reviews(paths.REVIEWS).records
    assert stored.category == ("Footwear", "Boots") and stored.shown.keys == 1
    assert "shop.test:000" not in subjects(items(client))
    assert items(client)["left"] == 39
    assert client.post("/api/decisions", json=decision(shown={"keys": 1, "order": "uncertain"})).status_code == 200
    assert client.post("/api/decisions", json=decision(product=1)).status_code == 400, "another decision, the same id"
    assert len(read_reviews(paths.REVIEWS).records) == 1


def test_undo_brings_the_item_back(client: TestClient) -> None:
    client.post("/api/decisions", json=decision(1))
    client.post("/api/decisions", json=decision(2, answer="unsure", category=None))
    other = {"reviewer": "bob", "queue": "categories"}
    assert client.post("/api/undo", json={"id": f"{3:032x}", "undoes": f"{1:032x}", **other}).status_code == 400
    assert "no decision of bob to undo" in client.post("/api/undo", json={"id": f"{3:032x}", **other}).text
    mine = {"reviewer": "anna", "queue": "categories"}
    answer = client.post("/api/undo", json={"id": f"{4:032x}", **mine}).json()
    assert (answer["undone"], answer["item"]["subject"], answer["mine"]) == (f"{2:032x}", "shop.test:000", 1)
    assert client.post("/api/undo", json={"id": f"{5:032x}", **mine}).json()["mine"] == 0
    assert subjects(items(client))[0] == "shop.test:000"
    assert client.post("/api/undo", json={"id": f"{6:032x}", **mine}).status_code == 400


def test_a_close_up_decision_stores_the_image(client: TestClient, project: Path) -> None:
    assert subjects(items(client, queue="zoom", count=2)) == ["second", "image039"]
    given = decision(queue="zoom", image_id="second", answer="zoomed", category=None)
    assert client.post("/api/decisions", json=given).status_code == 200
    assert stored_image(paths.REVIEWS, "second") == ImageStore(paths.SHARDS).read("second")
    assert subjects(items(client, queue="zoom", count=1)) == ["image039"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"category": ["Nowhere"]}, "category: expected a path of the taxonomy, got 'Nowhere'"),
        ({"category": None}, "category: expected a path"),
        ({"image_id": "image001"}, "expected an image of the product"),
        ({"product_id": "gone"}, "expected an image of the product"),
        ({"reviewer": "../../anna"}, "reviewer: expected a name"),
        ({"answer": "zoomed"}, "answer: expected category, none or unsure"),
        ({"queue": "zoom"}, "answer: expected normal, zoomed or unsure"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_stored(client: TestClient, more: dict[str, Any], named: str) -> None:
    answer = client.post("/api/decisions", json=decision(**more))
    assert answer.status_code == 400 and named in answer.json()["error"]
    assert client.post("/api/decisions", json=decision(id="../x")).status_code == 422
    assert read_reviews(paths.REVIEWS).records == []


def test_another_reviewer_gets_what_is_left_or_a_second_opinion(client: TestClient) -> None:
    client.post("/api/decisions", json=decision(1))
    assert subjects(items(client, reviewer="bob"))[0] == "shop.test:001"
    assert subjects(items(client, reviewer="bob", others=True))[0] == "shop.test:000"
    assert subjects(items(client, order="disagreements")) == []
    client.post("/api/decisions", json=decision(2, reviewer="bob", category=["Clothing", "Tops", "Shirt"]))
    (item,) = items(client, order="disagreements")["items"]
    assert item["votes"] == [
        {"reviewer": "anna", "answer": "Footwear > Boots"},
        {"reviewer": "bob", "answer": "Clothing > Tops > Shirt"},
    ]
    page = client.get("/disagreements").text
    assert "no majority" in page and HOSTILE not in page and "&lt;script&gt;" in page
    client.post("/api/decisions", json=decision(3, reviewer="cem"))
    assert "counts: Footwear &gt; Boots" in client.get("/disagreements").text


def test_feedback_to_the_service_waits_for_a_reviewer(catalogue: Catalogue) -> None:
    of_product = category("shop.test:003", "Footwear > Boots", "carl", order=SERVICE)
    of_image = category("image-x", "Clothing > Tops > Shirt", "service", order=SERVICE, image_id="image005")
    elsewhere = category("image-y", "Footwear > Boots", "service", order=SERVICE, image_id="unknown")
    for record in (of_product, of_image, elsewhere):
        append_record(paths.REVIEWS, record)
    client = client_of(catalogue)
    found = items(client, order="feedback")
    assert subjects(found) == ["shop.test:005", "shop.test:003"] and found["left"] == 2
    first = found["items"][1]
    assert first["choices"][0]["path"] == ["Footwear", "Boots"]
    assert first["votes"] == [{"reviewer": "carl, to the service", "answer": "Footwear > Boots"}]
    assert "shop.test:003" in subjects(items(client)), "it is not decided"
    client.post("/api/decisions", json=decision(product=3))
    assert subjects(items(client, order="feedback")) == ["shop.test:005"]


def test_a_random_sample_gives_intervals(client: TestClient) -> None:
    for number, right in enumerate((True, True, True, False)):
        names = CATEGORIES.paths[number]
        shown = {"order": "random", "label": names, "predicted": names if right else CATEGORIES.paths[3 - number]}
        given = decision(number, number, category=names if right else CATEGORIES.paths[1], shown=shown)
        assert client.post("/api/decisions", json=given).status_code == 200
    client.post("/api/decisions", json=decision(9, 9, answer="unsure", category=None, shown={"order": "random"}))
    found = client.get("/api/sample", params={"queue": "categories", "reviewer": "anna"}).json()
    assert (found["decisions"], found["unsure"]) == (5, 1)
    assert found["label"] == pytest.approx({"n": 4, "right": 3, "share": 0.75, "low": 0.3006, "high": 0.9544}, abs=1e-4)
    random = items(client, order="random", reviewer="bob")
    assert random["left"] == random["total"], "each reviewer gets the whole sample"


def test_categories_are_found_by_words(client: TestClient) -> None:
    def find(text: str) -> list[str]:
        return [" > ".join(each["path"]) for each in client.get("/api/find", params={"q": text}).json()]

    assert find("pull") == ["Clothing > Tops > Pullover"]
    assert find("tops SHI") == find("clothing > shirt") == ["Clothing > Tops > Shirt"]
    assert find("bóots") == ["Footwear > Boots"] and find("zzz") == find("") == []


def test_images_are_encoded_again_and_cannot_run_scripts(client: TestClient) -> None:
    answer = client.get("/images/image000?size=thumb")
    assert answer.headers["content-type"] == "image/png" and answer.content[:4] == b"\x89PNG"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/images/nothing").status_code == client.get("/images/%2e%2e%2fx").status_code == 404
    assert client.get("/attention/image000?path=99").status_code == 404


def test_other_sites_and_strangers_are_refused(catalogue: Catalogue) -> None:
    rules = AccessRules(frozenset({"127.0.0.1"}), TOKEN)
    client = client_of(catalogue, rules)
    assert client.post("/api/decisions", json=decision()).status_code == 401
    with_token = {"authorization": f"Bearer {TOKEN}"}
    cross = with_token | {"sec-fetch-site": "cross-site"}
    assert client.post("/api/decisions", json=decision(), headers=cross).status_code == 403
    elsewhere = with_token | {"host": "attacker.example"}
    assert client.post("/api/decisions", json=decision(), headers=elsewhere).status_code == 421
    assert read_reviews(paths.REVIEWS).records == []
    assert client.post("/api/decisions", json=decision(), headers=with_token).status_code == 200


def test_a_failure_to_store_is_an_error_with_its_reason(client: TestClient) -> None:
    (paths.REVIEWS / "anna.jsonl").mkdir(parents=True)
    answer = client.post("/api/decisions", json=decision())
    assert answer.status_code == 500 and "could not be stored" in answer.json()["error"]
    (paths.REVIEWS / "anna.jsonl").rmdir()
    assert client.post("/api/decisions", json=decision()).status_code == 200
    assert items(client)["mine"] == 1


def test_disagreements_are_printed(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    for record in (category("p1", "A"), category("p1", "B", "bob"), zoom("i1", "zoomed"), zoom("i1", "zoomed", "bob")):
        append_record(paths.REVIEWS, record)
    assert list_disagreements() == 0
    found = capsys.readouterr()
    assert found.out == "category\tp1\tno majority\tanna: A\tbob: B\n"
    assert "2 reviewers disagree on 1 products and images" in found.err


def test_stored_records_are_json_lines(client: TestClient) -> None:
    client.post("/api/decisions", json=decision())
    (line,) = (paths.REVIEWS / "anna.jsonl").read_text().splitlines()
    assert json.loads(line)["category"] == ["Footwear", "Boots"]
