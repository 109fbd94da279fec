"""Host check, token and protection against requests from other sites, with real requests to a small application."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from atlas_model.core.errors import InputError
from flows.web.access import COOKIE, VARIABLE, AccessMiddleware, AccessRules, access_rules, host_of, is_loopback

TOKEN = "a-token-of-sixteen-or-more"


def client(rules: AccessRules, url: str = "http://127.0.0.1:8080") -> TestClient:
    async def reply(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("reached")

    application = Starlette(routes=[Route("/{path:path}", reply, methods=["GET", "POST", "DELETE"])])
    return TestClient(AccessMiddleware(application, rules), base_url=url, follow_redirects=False)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:9", "LOCALHOST:8080", "[::1]:8080"])
def test_loopback_is_reached_by_its_names(host: str) -> None:
    assert client(access_rules("127.0.0.1")).get("/", headers={"host": host}).text == "reached"


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example", "localhost.", "10.0.0.5", "", "[::1", "a@localhost.example"],
)
def test_another_host_is_refused(host: str) -> None:
    answer = client(access_rules("127.0.0.1")).get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "expected a Host header" in answer.text


def test_an_allowed_host_is_accepted() -> None:
    rules = access_rules("127.0.0.1", allowed_hosts=["Atlas.Example"])
    assert client(rules).get("/", headers={"host": "atlas.example:443"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "https://attacker.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_changes_come_from_pages_of_this_server(method: str, headers: dict[str, str], status: int) -> None:
    assert client(access_rules("127.0.0.1")).request(method, "/", headers=headers).status_code == status


def test_without_loopback_each_request_needs_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    server = client(access_rules("0.0.0.0", public=["/v2/health/live"]), "http://192.0.2.7:8080")
    refused = server.get("/")
    assert refused.status_code == 401
    assert TOKEN not in refused.text
    assert server.get("/v2/health/live").status_code == 200
    assert server.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert server.get("/", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert server.get("/", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    assert server.get("/?token=wrong").status_code == 401


def test_a_browser_gives_the_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    server = client(access_rules("192.0.2.7"), "http://192.0.2.7:8080")
    first = server.get(f"http://192.0.2.7:8080//evil.example/page?a=1&token={TOKEN}")
    assert (first.status_code, first.headers["location"]) == (303, "/evil.example/page?a=1")
    cookie = first.headers["set-cookie"]
    assert f"{COOKIE}={TOKEN}" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert server.get("/page").status_code == 200


def test_without_a_variable_a_server_off_loopback_makes_a_token() -> None:
    first, second = access_rules("0.0.0.0"), access_rules("0.0.0.0")
    assert first.token is not None
    assert first.token != second.token
    assert access_rules("127.0.0.1").token is None


def test_a_name_of_another_host_is_refused_off_loopback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    server = client(access_rules("0.0.0.0"))
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert server.get("/", headers=headers | {"host": "attacker.example"}).status_code == 421


@pytest.mark.parametrize("token", ["short", "kürbis-kürbis-kürbis", "line\nline\nline\nline\n"])
def test_a_weak_token_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, token)
    with pytest.raises(InputError, match="at least 16 printable ASCII characters") as caught:
        access_rules("127.0.0.1")
    assert token not in str(caught.value)


def test_every_answer_has_the_content_security_policy() -> None:
    server = client(access_rules("127.0.0.1"))
    for answer in (server.get("/"), server.get("/", headers={"host": "attacker.example"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_hosts_are_read_from_headers() -> None:
    assert [host_of(text) for text in ("A.example:80", "[::1]:80", "[", "")] == ["a.example", "::1", "", ""]
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip
