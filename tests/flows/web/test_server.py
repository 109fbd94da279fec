"""A server on a real socket: requests in progress are answered after the signal to stop."""

import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests

from atlas_model.core.errors import InputError
from flows.web.access import AccessRules
from flows.web.server import listen, url_of

PROGRAM = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from flows.web.access import access_rules
from flows.web.server import listen, serve, url_of

async def slowly(request):
    print("begun", flush=True)
    await asyncio.sleep(0.5)
    return PlainTextResponse("whole")

rules = access_rules("127.0.0.1")
listening = listen("127.0.0.1", 0)
print(url_of(listening, rules), flush=True)
serve(Starlette(routes=[Route("/", slowly)]), listening, rules, on_stop=lambda: print("stopping", flush=True))
print("stopped", flush=True)
"""


def test_a_request_in_progress_is_answered_before_the_server_stops() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(requests.get(url, timeout=10).text))
        asking.start()
        assert server.stdout.readline() == "begun\n"
        server.send_signal(signal.SIGTERM)
        asking.join()
        assert answers == ["whole"]
        assert server.stdout.read() == "stopping\nstopped\n"
        assert server.wait() == 0


def test_a_port_in_use_is_bad_input() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127.0.0.1 port {port}: .* another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="Choose an address of this machine"):
        listen("192.0.2.1", 0)


def test_the_url_has_the_token_and_a_name_that_a_browser_can_open() -> None:
    with listen("0.0.0.0", 0) as listening:
        port = listening.getsockname()[1]
        assert (
            url_of(listening, AccessRules(frozenset(), "secret", token_is_new=True))
            == f"http://{socket.gethostname()}:{port}/?token=secret"
        )
    with listen("127.0.0.1", 0) as listening:
        assert url_of(listening, AccessRules(frozenset())) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
        assert "secret" not in url_of(listening, AccessRules(frozenset(), "secret")), "the output may become a log"
