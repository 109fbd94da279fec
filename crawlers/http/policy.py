"""The HTTP policy of every client: pages, images, robots.txt, `atlas crawl try`, and the browser.

| answer | class | what follows |
|---|---|---|
| 200 | success | it is read |
| 301, 302, 303, 307, 308 with a Location | redirect | followed, `MAX_REDIRECTS` times at most |
| 408, 425, 429, all of 5xx | transient | retried; if it never succeeds, the next run asks again |
| all others | permanent | counted with its reason |

A transient robots.txt forbids its whole host for now; a permanent one, or too many redirects, means that there is none
(RFC 9309, 2.3.1). How often a request is tried is ``max_attempts`` in params.yaml (``crawl``, ``fetch``).

Knows no client.
"""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10  # of one request; browsers stop at 20, RFC 9309 (2.3.1.2) asks for 5 at least for robots.txt

# Request Timeout, Too Early, Too Many Requests; of 5xx also those that are registered nowhere (520-530 of a CDN about
# its origin, 599 of proxies): by the first digit, the fault is the server's (RFC 9110, 15.6).
TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
TRANSIENT_FAULTS = frozenset(  # no answer came, or not a whole one
    {
        *("timeout", "truncated", "connection", "refused", "unreachable", "no_such_host"),
        *("host_down", "given_up", "robots_unreachable"),  # not asked for, for a reason that is transient itself
    }
)
FIXABLE_FAULTS = frozenset({"blocked", "certificate"})  # permanent until this machine or params.yaml is changed

MAX_VALIDATOR_CHARS = 500  # of an ETag or a Last-Modified; a longer one is not worth keeping
MAX_PAGE_BYTES = 5_000_000  # also after decompression; for images there is fetch.max_bytes

MAX_BACKOFF_S = 60.0
IMAGE_BACKOFF_S = 0.5  # base of the back-off for images; for pages it is the delay between two requests to their host
MAX_RETRY_AFTER_S = 60.0  # a host that asks for more is asked for nothing else in this run
MAX_CRAWL_DELAY_S = 60.0  # between two requests, whatever robots.txt asks for
# URLs in a row that failed at each attempt, after which a host counts as down. More for images, because many more of
# them are under way at once when a host fails for a moment.
MAX_PAGE_FAILURES = 10
MAX_IMAGE_FAILURES = 32


def is_transient_status(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in TRANSIENT_STATUSES


def is_transient(reason: str) -> bool:
    """Whether a request that ended for ``reason`` (``http_503``, ``timeout``) may succeed later."""
    kind, _, status = reason.partition("_")
    if kind == "http" and status.isdecimal():
        return is_transient_status(int(status))
    return reason in TRANSIENT_FAULTS


def is_asked_again(reason: str) -> bool:
    """Whether the next run asks again for what ended for ``reason``: it is transient, or may be fixed until then."""
    return is_transient(reason) or reason in FIXABLE_FAULTS


def backoff_s(base_s: float, attempt: int) -> float:
    """How long to wait after the failed ``attempt`` (1, 2, ...): doubled each time, jittered, bounded.

    Args:
        base_s: the longest wait after the first attempt.
        attempt: that failed.
    """
    longest = min(base_s * 2 ** (attempt - 1), MAX_BACKOFF_S)
    return random.uniform(longest / 2, longest)


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After ``header`` asks for, not negative; None where it is missing or means nothing.

    It is a number or a date (RFC 9110, 10.2.3): https://www.rfc-editor.org/rfc/rfc9110#field.retry-after. It counts on
    every transient answer.
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
    """The value of an ETag or Last-Modified ``header``, if it can be kept and sent back as it is."""
    text = header or ""
    return text if text.isascii() and text.isprintable() and 0 < len(text) <= MAX_VALIDATOR_CHARS else None
