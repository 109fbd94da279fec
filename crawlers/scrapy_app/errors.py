"""Why a page did not come: the reasons under which crawls count. Knows nothing of what follows from them."""

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadTimeoutError,
    IgnoreRequest,
    NotSupported,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)
from scrapy.spidermiddlewares.httperror import HttpError

REASON_OF_ERROR = {  # the first that matches
    DownloadTimeoutError: "timeout",
    CannotResolveHostError: "no_such_host",
    DownloadConnectionRefusedError: "refused",
    DownloadCancelledError: "too_large",
    ResponseDataLossError: "truncated",
    NotSupported: "bad_url",  # schemes other than http and https
    UnsupportedURLSchemeError: "bad_url",
    IgnoreRequest: "redirects",  # Scrapy's own, of which our settings leave only this
}


class PageRefusedError(IgnoreRequest):
    """A page that is not taken, or not asked for; nothing is retried.

    ``reason`` is ``robots`` (robots.txt forbids it), ``robots_unreachable`` (nobody knows what that says),
    ``robots_tag`` (the page itself does), ``offsite`` (a redirect to a host that is no source), ``host_down`` (the
    host does not answer, or asks to be left alone for long), ``blocked`` (no public address), ``certificate`` (TLS
    does not say that it is the host), ``headers_too_large``, ``bad_http`` (the answer is no valid HTTP), ``too_large``
    and ``bad_encoding`` (what came is not fit to be read), ``bad_redirect`` (to what is no URL of http),
    ``redirects`` (too many), ``no_browser`` (Chromium does not start; the log says why).
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def reason_of(error: BaseException) -> str:
    """The reason why a request ended in ``error``."""
    if isinstance(error, PageRefusedError):
        return error.reason
    if isinstance(error, HttpError):
        return f"http_{error.response.status}"
    return next((reason for kind, reason in REASON_OF_ERROR.items() if isinstance(error, kind)), "connection")
