"""The API of a running `atlas serve`: predictions, errors, limits, URLs, feedback, the Open Inference Protocol."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import schemathesis
import yaml
from PIL import Image
from schemathesis import checks

from atlas_model.data.reviews import read_reviews, stored_image
from atlas_model.inference.predictor import Predictor
from tests.support.paths import ROOT
from tests.support.servers import Reply, Shop, serving
from tests.support.serving import PROMISED, image_file, save_model
from tests.support.web_pages import atlas_server

FILES = [image_file(seed) for seed in range(4)]
CHECKS = [  # of schemathesis
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = int(os.environ.get("EXAMPLES", "8"))  # requests that are generated for each operation, at most
LIMITS = {"--max-image-bytes": 60_000, "--max-body-bytes": 300_000, "--max-pixels": 90_000, "--max-images": 6}


def encoded(data: bytes) -> dict[str, str]:
    return {"bytes": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    image, other = {"Content-Type": "image/png"}, {"Content-Type": "text/plain"}
    pages = {
        "/robots.txt": Reply("User-agent: *\nDisallow: /private/", headers=other),
        "/image.png": Reply(FILES[0], headers=image),
        "/private/image.png": Reply(FILES[0], headers=image),
        "/large.png": Reply(image_file(1, side=200), headers=image),
    }
    with serving(Shop(pages)) as found:
        yield found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Path:
    folder = tmp_path_factory.mktemp("project")
    save_model(folder / "model")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["crawl"]["connect"] = {host: f"{address}:{port}" for host, (address, port) in shop.connect_map.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


@pytest.fixture(scope="module")
def client(project: Path) -> Iterator[httpx.Client]:
    limits = [str(part) for pair in LIMITS.items() for part in pair]
    arguments = ["serve", "--model", "model", "--port", "0", "--allow-urls", "--engine", "torch", "--drain", "0"]
    with (
        atlas_server(project, *arguments, "--timeout", "3", *limits) as (url, _),
        httpx.Client(base_url=url, timeout=30) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def predictor(project: Path) -> Predictor:
    return Predictor.load(project / "model", "cpu")


def predict(client: httpx.Client, *items: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    answered = client.post("/v1/predict", json={"items": items, **options})
    assert answered.status_code == 200, answered.text
    results: list[dict[str, Any]] = answered.json()["results"]
    return results


def same(predictions: list[dict[str, Any]], expected: list[Any]) -> bool:
    assert [tuple(each["path"]) for each in predictions] == [each.path for each in expected]
    assert [each.get("band") for each in predictions] == [each.band for each in expected]
    return all(
        np.allclose(found["levels"], wanted.levels, atol=1e-5)
        for found, wanted in zip(predictions, expected, strict=True)
    )


def test_predictions_equal_those_of_atlas_predict(client: httpx.Client, predictor: Predictor) -> None:
    images = [predictor.read(data) for data in FILES]
    rule = predictor.predict(images, min_confidence=0.3, titles=["Blue bag", None, None, None])
    items = [{"id": str(number), "images": [encoded(data)]} for number, data in enumerate(FILES)]
    top = predict(client, *items, top=3)
    assert [each["id"] for each in top] == ["0", "1", "2", "3"]
    for found, expected in zip(top, predictor.predict(images, top=3), strict=True):
        assert same(found["predictions"], expected)
    titled = predict(client, {**items[0], "title": "Blue bag"}, *items[1:], min_confidence=0.3)
    assert [each["modality"] for each in titled] == ["image_and_title", "image", "image", "image"]
    for found, expected in zip(titled, rule, strict=True):
        assert same(found["predictions"], expected)
        assert found["status"] == ("ok" if expected[0].path else "not_sure")
    (alone,) = predict(client, {"title": "Blue bag"})
    assert same(alone["predictions"], predictor.predict_prepared(None, titles=["Blue bag"])[0])


def test_product_gets_one_prediction_from_its_images(client: httpx.Client, predictor: Predictor) -> None:
    from atlas_model.confidence.risk_control import Thresholds

    pool = predictor.pool()
    pool.add(predictor.distribution(np.stack([predictor.prepare(predictor.read(data)) for data in FILES[:3]])))
    broken = encoded(FILES[3][:500])
    (found,) = predict(client, {"images": [*map(encoded, FILES[:3]), broken]}, accuracy=0.8)
    expected = predictor.predict_product(pool, 1, Thresholds(0.5, 0.3))
    assert same(found["predictions"], expected.predictions)
    assert found["guaranteed_accuracy"] == PROMISED
    assert found["disagree"] == expected.disagree
    assert [each["status"] for each in found["images"]] == ["ok", "ok", "ok", "truncated"]
    files = [("images", (f"{number}.png", data)) for number, data in enumerate(FILES[:3])]
    uploaded = client.post("/v1/predict/files", files=files, data={"product": "true", "accuracy": "0.8"}).json()
    assert uploaded["results"][0]["predictions"] == found["predictions"]
    single = client.post("/v1/predict/files", files=files, data={"top": "2"}).json()["results"]
    assert [(each["id"], len(each["predictions"])) for each in single] == [("0.png", 2), ("1.png", 2), ("2.png", 2)]


def test_explanation_draws_the_attention_of_each_level(client: httpx.Client, predictor: Predictor) -> None:
    (found,) = predict(client, {"images": [encoded(FILES[0])]}, explain=True, explain_format="png")
    (attention,) = found["attention"]
    assert [level["name"] for level in attention["levels"]] == found["predictions"][0]["path"]
    image = predictor.read(FILES[0])
    expected = predictor.attention(predictor.prepare(image), tuple(found["predictions"][0]["path"]))
    for level, weights in zip(attention["levels"], expected, strict=False):
        assert np.allclose(np.ravel(level["grid"]), weights, atol=1e-5)
        drawn = Image.open(io.BytesIO(base64.b64decode(level["overlay"])))
        assert (drawn.format, max(drawn.size)) == ("PNG", 512)


def test_urls_are_fetched_under_the_rules_of_the_crawler(client: httpx.Client, shop: Shop) -> None:
    address = f"http://127.0.0.1:{shop.port}/image.png"
    urls = [f"http://shop.test/{path}" for path in ("image.png", "private/image.png", "missing.png", "large.png")]
    found = predict(client, *({"images": [{"url": url}]} for url in [*urls, address]))
    statuses = [each["images"][0]["status"] for each in found]
    assert statuses == ["ok", "robots", "http_404", "too_large", "blocked"]
    assert same_prediction(found[0], predict(client, {"images": [encoded(FILES[0])]})[0])
    assert shop.asked["/private/image.png"] == 0


def same_prediction(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["predictions"] == other["predictions"] and one["images"] == other["images"])


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "PNG")
    return buffer.getvalue()


ITEM = {"images": [encoded(FILES[0])]}
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("no JSON", {"content": b"{"}, 422, "JSON"),
    ("nested JSON", {"content": b"[" * 100_000}, 400, "valid request"),
    ("NaN", {"content": json.dumps({"items": [ITEM], "min_confidence": float("nan")}).encode()}, 422, "min_confidence"),
    ("unknown key", {"json": {"items": [ITEM], "tops": 2}}, 422, "tops"),
    ("no items", {"json": {"items": []}}, 422, "items"),
    ("empty item", {"json": {"items": [{}]}}, 422, "images or a title"),
    (
        "both kinds of image",
        {"json": {"items": [{"images": [{**ITEM["images"][0], "url": "http://a.test"}]}]}},
        422,
        "not both",
    ),
    (
        "two rules",
        {"json": {"items": [ITEM], "accuracy": 0.9, "min_confidence": 0.9}},
        422,
        "min_confidence or accuracy",
    ),
    ("accuracy out of reach", {"json": {"items": [ITEM], "accuracy": 0.99}}, 422, "at most 0.9"),
    ("lone surrogate", {"content": b'{"items": [{"title": "\\ud800"}]}'}, 422, "title"),
    ("title without a word", {"json": {"items": [{"title": "!"}]}}, 422, "a word in it"),
    ("broken JSON", {"content": b"{nonsense"}, 422, "expected #/: valid JSON, got"),
    (
        "files",
        {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        422,
        "/predict/files",
    ),
    ("not base64", {"json": {"items": [{"images": [{"bytes": "?"}]}]}}, 422, "base64"),
    ("not an image", {"json": {"items": [{"images": [encoded(b"text")]}]}}, 422, "other bytes"),
    ("decompression bomb", {"json": {"items": [{"images": [encoded(bomb())]}]}}, 422, "90000 pixels"),
    ("large image", {"json": {"items": [{"images": [encoded(bytes(90_000))]}]}}, 422, "60000 bytes"),
    ("large body", {"content": bytes(400_000)}, 413, "300000 bytes"),
    ("large body without a length", {"content": (bytes(50_000) for _ in range(10))}, 413, "300000 bytes"),
    ("too many images", {"json": {"items": [ITEM] * 7}}, 422, "at most 6"),
    ("other host", {"json": {"items": [ITEM]}, "headers": {"Host": "evil.test"}}, 421, "evil.test"),
    ("other site", {"json": {"items": [ITEM]}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403, "another site"),
]


@pytest.mark.parametrize(
    ("request_", "status", "text"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
def test_bad_request_gets_a_problem(client: httpx.Client, request_: dict[str, Any], status: int, text: str) -> None:
    headers = {"Content-Type": "application/json", **request_.get("headers", {})}
    answered = client.post("/v1/predict", **{**request_, "headers": headers})
    assert (answered.status_code, answered.headers["content-type"]) == (status, "application/problem+json")
    problem = answered.json()
    assert problem["status"] == status
    assert text in problem["detail"], problem
    assert answered.headers["content-security-policy"].startswith("default-src 'none'")
    if status not in (403, 421):
        assert {"expected", "got", "remedy"} <= set(problem)


def test_unusable_image_is_reported_beside_the_others(client: httpx.Client) -> None:
    good, bad = predict(client, ITEM, {"id": "x", "images": [encoded(b"text")]})
    assert good["status"] == "ok"
    assert (bad["status"], bad["id"], bad["predictions"], bad["images"][0]["status"]) == (
        "error",
        "x",
        [],
        "not_an_image",
    )


def test_open_inference_protocol(client: httpx.Client, predictor: Predictor) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}
    about = client.get("/v2/models/atlas").json()
    assert [each["name"] for each in about["inputs"]] == ["image", "title"]
    versioned = f"/v2/models/atlas/versions/{about['versions'][0]}"
    assert client.get(f"{versioned}/ready").json() == {"name": "atlas", "ready": True}
    data = [encoded(each)["bytes"] for each in FILES]
    tensor = {"name": "image", "shape": [4], "datatype": "BYTES", "data": data}
    asked = {"id": "42", "inputs": [tensor], "parameters": {"top": 2}}
    answered = client.post(f"{versioned}/infer", json=asked).json()
    assert (answered["model_name"], answered["model_version"], answered["id"]) == ("atlas", about["versions"][0], "42")
    path, probability = answered["outputs"]
    assert (path["name"], path["datatype"], path["shape"]) == ("path", "BYTES", [4, 2])
    expected = [each for row in predictor.predict([predictor.read(each) for each in FILES], top=2) for each in row]
    assert path["data"] == [" > ".join(each.path) for each in expected]
    assert np.allclose(probability["data"], [each.probability or 0 for each in expected], atol=1e-5)
    one = client.post(f"{versioned}/infer", json={**asked, "outputs": [{"name": "probability"}]}).json()
    assert [each["name"] for each in one["outputs"]] == ["probability"]
    for wrong, status in (
        ({"inputs": [{**tensor, "shape": [3]}]}, 422),
        ({"inputs": [{**tensor, "data": [*data[:3], "dGV4dA=="]}]}, 422),
        ({"inputs": [tensor], "parameters": {"topk": 2}}, 422),
    ):
        failed = client.post("/v2/models/atlas/infer", json=wrong)
        assert failed.status_code == status
        assert failed.json()["error"]
    assert client.get("/v2/models/other").status_code == 404
    assert client.get("/v2/models/atlas/versions/other").json()["error"]


def test_feedback_becomes_a_record_of_the_reviews(client: httpx.Client, project: Path) -> None:
    found = client.get("/v1/categories", params={"q": "low men"}).json()
    assert (found["total"], found["matches"]) == (5, [["Men", "Shoes", "Low"], ["Women", "Shoes", "Low"]])
    given = {"predicted": ["Bags"], "image": encoded(FILES[0]), "reviewer": "anna", "product_id": "sku-1"}
    stored = client.post("/v1/feedback", json={**given, "verdict": "wrong", "category": ["Men", "Tops"]})
    assert stored.status_code == 201
    client.post("/v1/feedback", json={**given, "verdict": "right", "reviewer": None}).raise_for_status()
    client.post("/v1/feedback", json={**given, "verdict": "wrong"}).raise_for_status()
    corrected, confirmed, unsure = read_reviews(project / "data/reviews").records
    assert corrected.image_id is not None
    assert (corrected.id, corrected.reviewer, corrected.category) == (stored.json()["id"], "anna", ("Men", "Tops"))
    assert (confirmed.reviewer, confirmed.category, confirmed.product_id) == ("service", ("Bags",), "sku-1")
    assert (unsure.answer, unsure.shown.predicted) == ("unsure", ("Bags",))
    assert stored_image(project / "data/reviews", corrected.image_id) == FILES[0]
    unknown = client.post("/v1/feedback", json={**given, "verdict": "wrong", "category": ["Men", "Topps"]})
    assert unknown.status_code == 422
    assert "Men > Tops" in unknown.json()["remedy"]
    assert client.post("/v1/feedback", json={**given, "verdict": "right", "reviewer": "../x"}).status_code == 422
    assert len(read_reviews(project / "data/reviews").records) == 3


def test_concurrent_requests_share_batches(client: httpx.Client) -> None:
    async def send_many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=30) as many:
            return await asyncio.gather(*(many.post("/v1/predict", json={"items": [ITEM]}) for _ in range(32)))

    assert {answered.status_code for answered in asyncio.run(send_many())} == {200}
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["atlas_batch_images_sum"]) > 1.5 * float(values["atlas_batch_images_count"])
    assert float(values['atlas_requests_total{method="POST",route="/v1/predict",status="200"}']) >= 32
    assert float(values["atlas_queue_images"]) == 0
    assert 'atlas_model_info{engine="torch",name="model",version="' in text


def test_slow_body_is_refused(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        slow.settimeout(20)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_commands_of_the_documentation_work(client: httpx.Client, project: Path) -> None:
    page = (ROOT / "docs/serving.md").read_text()
    commands = [block for block in re.findall(r"(?:^ {4}.*\n)+", page, re.MULTILINE) if "curl" in block]
    assert len(commands) == 4
    for command in commands:
        script = re.sub("curl ", "curl --silent --fail-with-body ", textwrap.dedent(command))
        script = script.replace("http://127.0.0.1:8080/", str(client.base_url)).replace(
            '"Clothing", "Tops", "T-shirt"', '"Bags"'
        )
        ran = subprocess.run(["/bin/sh", "-ec", script], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), f"{script}\n{ran.stdout}"
        assert '"version":' in ran.stdout or '"model_version":' in ran.stdout


@pytest.mark.slow
def test_no_generated_request_gets_a_server_error(client: httpx.Client) -> None:
    schema = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    settings = hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings
        @hypothesis.given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(checks=CHECKS)

        check()
    assert sent > 6 * EXAMPLES
