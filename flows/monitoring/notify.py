"""Sends a notification to a webhook in Slack's format: ``{"text": ...}``.

A run neither waits long for the receiver nor fails because of it: an error becomes one warning. The URL of a webhook is
a secret, so only its host is shown. Callers check ``notify.on_failure`` and ``notify.on_promotion``.
"""

import os
from threading import Thread
from urllib.parse import urlsplit

from atlas_model.core.params import Params
from atlas_model.core.progress import say

TIMEOUT_S = 5.0  # of the whole request, from the DNS lookup to the end of the response


def notify(text: str, params: Params) -> None:
    """Post ``text`` to ``notify.webhook``, if it is set; a failure is a warning, not an error.

    Args:
        text: plain text; several lines are fine.
        params: ``notify.webhook`` is the URL, or $NAME of the environment variable that holds it.
    """
    given = params.notify.webhook
    if given is None:
        return
    url = os.environ.get(given[1:], "") if given.startswith("$") else given
    if not url:
        say(f"warning: no notification was sent: notify.webhook is {given}, but that environment variable is not set")
        return
    outcome = [f"no response within {TIMEOUT_S:.0f} s"]
    # A thread, because timeouts of HTTP clients cover neither DNS lookups nor responses that arrive byte by byte.
    poster = Thread(target=lambda: outcome.insert(0, _post(url, text)), daemon=True)
    poster.start()
    poster.join(TIMEOUT_S)
    fault = outcome[0]
    if fault:
        say(f"warning: {_host(url)} was not notified: {fault}")
    else:
        say(f"{_host(url)} was notified")


def _post(url: str, text: str) -> str:
    """Send the request; returns the error without the URL, or nothing."""
    import requests

    body = {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}  # Slack's only markup
    try:
        answer = requests.post(url, json=body, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.Timeout:
        return f"no response within {TIMEOUT_S:.0f} s"
    except (requests.RequestException, ValueError) as error:  # their texts show the URL
        return f"{type(error).__name__}. Check that notify.webhook is the URL of the receiver, and that it is reachable"
    return "" if 200 <= answer.status_code < 300 else f"HTTP status {answer.status_code}"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the webhook"
    except ValueError:
        return "the webhook"
