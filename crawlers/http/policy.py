"""The HTTP policy of every client: pages, images, robots.txt, `atlas crawl try`, and the browser.

| response | class | action |
|---|---|---|
| 200 | success | read |
| 301, 302, 303, 307, 308 with a Location | redirect | followed, `MAX_REDIRECTS` times at most |
| 408, 425, 429, all of 5xx | transient | retried; if every attempt fails, the next run requests it again |
| no page: other 3xx, 206, invalid HTTP, a loop of redirects | suspect | not retried; the next run requests it again |
| all others | permanent | counted with its reason |

Transient and suspect faults are no statement of the shop about its page, so a stage fails if more URLs than its
``max_failed_share`` have one. A transient or suspect error of robots.txt forbids its whole host in this run; a
permanent one, or too many redirects, means that there is no robots.txt (RFC 9309, 2.3.1). ``max_attempts`` in
params.yaml (``crawl``, ``fetch``) limits the attempts. The HTTP library repeats a request by itself only as
`session.GuardedConnector.limit_repeats` says.
"""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10  # per request; browsers stop at 20, RFC 9309 (2.3.1.2) requires at least 5 for robots.txt

# Request Timeout, Too Early, Too Many Requests; all of 5xx, including unregistered ones (520-530 of CDNs, 599 of
# proxies), because the first digit says that the server failed (RFC 9110, 15.6).
TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
TRANSIENT_FAULTS = frozenset(  # no response, or a truncated one
    {
        *("timeout", "truncated", "connection", "refused", "unreachable", "no_such_host"),
        *("host_down", "given_up", "robots_unreachable"),  # not requested, for a transient reason
    }
)
FIXABLE_FAULTS = frozenset({"blocked", "certificate"})  # permanent until this machine or params.yaml changes
# What a shop does not say of a page, but a network or a broken server makes of it: a retry at once would mostly repeat
# it, and to count the page as discarded would lose it.
SUSPECT_FAULTS = frozenset({"bad_http", "headers_too_large", "bad_encoding", "redirects", "bad_redirect", "empty"})
# Neither a page nor an error: redirects without a target, "not modified" to an unconditional request, and a part.
SUSPECT_STATUSES = frozenset({206, *range(300, 400)})

MAX_VALIDATOR_CHARS = 500  # of an ETag or a Last-Modified; a longer one is not stored
MAX_PAGE_BYTES = 5_000_000  # also after decompression; images have fetch.max_bytes

MAX_BACKOFF_S = 60.0
IMAGE_BACKOFF_S = 0.5  # base of the backoff for images; for pages it is the delay between two requests to their host
MAX_RETRY_AFTER_S = 60.0  # a host with a longer Retry-After gets no more requests in this run
MAX_CRAWL_DELAY_S = 60.0  # limit of Crawl-delay in robots.txt
# Consecutive URLs with failed attempts only, after which a host counts as down. The limit is higher for images, because
# more requests are in flight when a host fails briefly.
MAX_PAGE_FAILURES = 10
MAX_IMAGE_FAILURES = 32
# Failed requests in a row for one robots.txt, after which a fetch makes one per minute for all URLs of the host.
MAX_ROBOTS_FAILURES = 8


def is_transient_status(status: int) -> bool:
    """Whether a request that got ``status`` may succeed later."""
    return status in TRANSIENT_STATUSES


def is_transient(reason: str) -> bool:
    """Whether a request that ended for ``reason`` (``http_503``, ``timeout``) may succeed later."""
    kind, _, status = reason.partition("_")
    if kind == "http" and status.isdecimal():
        return is_transient_status(int(status))
    return reason in TRANSIENT_FAULTS


def is_retried_next_run(reason: str) -> bool:
    """Whether the next run requests again what failed for ``reason``: it is transient, suspect, or may be fixed."""
    kind, _, status = reason.partition("_")
    if kind == "http" and status.isdecimal():
        return int(status) in TRANSIENT_STATUSES | SUSPECT_STATUSES
    return reason in TRANSIENT_FAULTS | FIXABLE_FAULTS | SUSPECT_FAULTS


def robots_fault(reason: str) -> str | None:
    """The reason for not requesting a host whose robots.txt failed for ``reason``; None: it has no robots.txt.

    A redirect that leads nowhere means that there is none (RFC 9309, 2.3.1.2).
    """
    if reason in FIXABLE_FAULTS:
        return reason
    unknown = is_retried_next_run(reason) or reason == "decompression_bomb"
    return "robots_unreachable" if unknown and reason not in ("redirects", "bad_redirect") else None


def backoff_s(base_s: float, attempt: int) -> float:
    """Wait (s) after the failed ``attempt``: exponential backoff with jitter and an upper bound.

    Args:
        base_s: longest wait after the first attempt.
        attempt: number of the failed attempt (1, 2, ...).
    """
    longest = min(base_s * 2 ** (attempt - 1), MAX_BACKOFF_S)
    return random.uniform(longest / 2, longest)


def retry_after_s(header: str | None) -> float | None:
    """The wait (s, not negative) in a Retry-After ``header``; None if it is missing or invalid.

    The value is a number or a date (RFC 9110, 10.2.3): https://www.rfc-editor.org/rfc/rfc9110#field.retry-after. It is
    observed on every transient response.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def validator(header: str | None) -> str | None:
    """The value of an ETag or Last-Modified ``header`` if it can be stored and sent back unchanged; else None."""
    text = header or ""
    return text if text.isascii() and text.isprintable() and 0 < len(text) <= MAX_VALIDATOR_CHARS else None
