"""Requests for images and their outcomes."""

from typing import NamedTuple, Self

from crawlers.http.policy import is_retried_next_run, is_transient

FORBIDDEN = frozenset({"robots", "robots_tag"})  # permanent in this run; requested again in the next one


class ImageRequest(NamedTuple):
    """A URL to request, with the data of its stored image; None where there is no stored image."""

    id: int  # id in the index
    url: str
    image_id: str | None = None
    final_url: str | None = None  # URL after redirects
    etag: str | None = None  # this and the next: headers of the response from final_url
    last_modified: str | None = None


class FetchOutcome(NamedTuple):
    """The result of one attempt at a URL.

    ``status`` is ``ok``; ``http_<code>``; ``bad_url`` (not a valid http or https URL); ``bad_redirect`` (to an invalid
    URL, or too many redirects); ``blocked`` (no public address); ``robots``, ``robots_tag`` (forbidden by robots.txt or
    X-Robots-Tag); ``robots_unreachable`` (robots.txt is unknown); ``certificate`` (invalid); ``headers_too_large``;
    ``bad_http`` (not valid HTTP); ``timeout``; ``unreachable`` (no response); ``truncated``, ``too_large``,
    ``bad_encoding``, ``decompression_bomb``, ``empty``, ``not_an_image``, ``too_many_pixels``, ``unknown_range`` (the
    body is not an accepted image); or ``given_up`` (see `download`).
    """

    status: str
    permanent: bool  # an immediate retry would have the same result
    retry_after_s: float | None = None  # from the server's Retry-After
    image_id: str | None = None  # sha256 (hex) of the bytes as served; this and the following only if status is ok
    final_url: str | None = None  # URL after redirects; None without redirects
    etag: str | None = None
    last_modified: str | None = None
    unchanged: bool = False  # the server responded that the stored image is unchanged

    @classmethod
    def failed(cls, status: str, retry_after_s: float | None = None) -> Self:
        """A failure by HTTP, classified as transient or permanent by `crawlers.http.policy`."""
        return cls(status, not is_transient(status), retry_after_s)

    @property
    def settled(self) -> bool:
        """Whether the next run of the snapshot does not request the URL again."""
        if not self.permanent or self.status in FORBIDDEN:
            return False
        # An image that is permanently "truncated" was transferred whole, and is so at the shop.
        return is_transient(self.status) or not is_retried_next_run(self.status)


class FetchRefusedError(Exception):
    """Ends an attempt with an outcome."""

    def __init__(self, status: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(status)
        self.outcome = FetchOutcome.failed(status, retry_after_s)
