"""Mapping of exceptions to the reasons under which a crawl counts failed pages."""

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

REASON_OF_ERROR = {  # exception -> reason; the first match counts
    DownloadTimeoutError: "timeout",
    CannotResolveHostError: "no_such_host",
    DownloadConnectionRefusedError: "refused",
    DownloadCancelledError: "too_large",
    ResponseDataLossError: "truncated",
    NotSupported: "bad_url",  # schemes other than http and https
    UnsupportedURLSchemeError: "bad_url",
    IgnoreRequest: "redirects",  # the only case in which Scrapy raises it with our settings
}


class PageRefusedError(IgnoreRequest):
    """A page that is not requested or not accepted; it is not retried in this run.

    ``reason`` is ``robots`` (forbidden by robots.txt), ``robots_unreachable`` (robots.txt is unknown), ``robots_tag``
    (forbidden by the page itself), ``offsite`` (redirect to a host that is no source), ``host_down`` (no response, or a
    long Retry-After), ``blocked`` (no public address), ``certificate`` (invalid), ``headers_too_large``, ``bad_http``
    (not valid HTTP), ``too_large``, ``bad_encoding``, ``bad_redirect`` (to an invalid URL), ``redirects`` (too many),
    or ``no_browser`` (Chromium does not start; see the log).
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def reason_of(error: BaseException) -> str:
    """The reason for which a request failed with ``error``."""
    if isinstance(error, PageRefusedError):
        return error.reason
    if isinstance(error, HttpError):
        return f"http_{error.response.status}"
    return next((reason for kind, reason in REASON_OF_ERROR.items() if isinstance(error, kind)), "connection")
