"""A line to people through a webhook that speaks as Slack's do: ``{"text": ...}``.

A run never waits long for the receiver, nor fails because of it: what goes wrong is one warning line. Whoever has
the webhook's URL can post, so no more of it than the host is ever shown. Knows nothing of what there is to tell, nor
when: whoever calls heeds ``notify.on_failure`` and ``notify.on_promotion``.
"""

import os
from threading import Thread
from urllib.parse import urlsplit

from atlas_model.core.params import Params
from atlas_model.core.progress import say

TIMEOUT_S = 5.0  # for everything together, from the host's address to the answer


def notify(text: str, params: Params) -> None:
    """Post ``text`` to ``notify.webhook``, if there is one; a receiver that fails costs a warning line, no error.

    Args:
        text: plain text; several lines are fine.
        params: ``notify.webhook`` is the URL, or $NAME of the environment variable that holds it.
    """
    given = params.notify.webhook
    if given is None:
        return
    url = os.environ.get(given[1:], "") if given.startswith("$") else given
    if not url:
        say(f"warning: nobody was notified: notify.webhook names {given}, and the environment has no such variable")
        return
    outcome = [f"no answer within {TIMEOUT_S:.0f} s"]
    # A thread, because no time-out of HTTP clients covers all: the look-up of the address, an answer byte by byte.
    poster = Thread(target=lambda: outcome.insert(0, _post(url, text)), daemon=True)
    poster.start()
    poster.join(TIMEOUT_S)
    fault = outcome[0]
    if fault:
        say(f"warning: {_host(url)} was not notified: {fault}")
    else:
        say(f"{_host(url)} was notified")


def _post(url: str, text: str) -> str:
    """What went wrong, in words that do not name the URL; nothing where all went well."""
    import requests

    body = {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}  # Slack's only markup
    try:
        answer = requests.post(url, json=body, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.Timeout:
        return f"no answer within {TIMEOUT_S:.0f} s"
    except (requests.RequestException, ValueError) as error:  # their texts show the URL
        return f"{type(error).__name__}. Is notify.webhook the URL that the receiver gave you, and is it up?"
    return "" if 200 <= answer.status_code < 300 else f"it answered {answer.status_code}"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the webhook"
    except ValueError:
        return "the webhook"
