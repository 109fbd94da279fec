"""The words that the modules of this package speak to each other: a URL to ask for, and what became of it."""

from typing import NamedTuple, Self

from crawlers.http.policy import FIXABLE_FAULTS, is_transient

UNSETTLED = FIXABLE_FAULTS | {"robots", "robots_tag"}  # permanent in this run; in a later one we may be allowed


class ImageRequest(NamedTuple):
    """A URL to ask for, with what an earlier answer said of it; all null where there was none, or it is not kept."""

    id: int  # in the index
    url: str
    image_id: str | None = None
    final_url: str | None = None  # where redirects led
    etag: str | None = None  # this and the next: of the answer of final_url
    last_modified: str | None = None


class FetchOutcome(NamedTuple):
    """What became of a URL.

    ``status`` is ``ok``; ``http_<code>``; ``bad_url`` (not http or https, or no URL at all); ``bad_redirect`` (a
    redirect to such a one, or too many); ``blocked`` (the host has no public address); ``robots``,
    ``robots_tag`` (its robots.txt, its X-Robots-Tag keep us out); ``robots_unreachable`` (it is not known whether
    they do); ``certificate`` (it is not the host's); ``headers_too_large``; ``bad_http`` (the answer is no valid HTTP);
    ``timeout``; ``unreachable`` (no answer); ``truncated``, ``too_large``, ``bad_encoding``, ``decompression_bomb``,
    ``empty``, ``not_an_image``, ``too_many_pixels``, ``unknown_range`` (what came is no image that we take); or
    ``given_up`` (see `download`).
    """

    status: str
    permanent: bool  # asking again at once would give the same
    retry_after_s: float | None = None  # as the server asked
    image_id: str | None = None  # sha256 of the bytes as served, hex; this and what is below: only where status is ok
    final_url: str | None = None  # where redirects led; null where there were none
    etag: str | None = None
    last_modified: str | None = None
    unchanged: bool = False  # the server says that it is still the image that we have

    @classmethod
    def failed(cls, status: str, retry_after_s: float | None = None) -> Self:
        """No image came, for a reason of HTTP: transient or permanent as `crawlers.http.policy` says."""
        return cls(status, not is_transient(status), retry_after_s)

    @property
    def settled(self) -> bool:
        """Whether the next run need not ask again."""
        return self.permanent and self.status not in UNSETTLED


class FetchRefusedError(Exception):
    """An attempt ends here, with this outcome."""

    def __init__(self, status: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(status)
        self.outcome = FetchOutcome.failed(status, retry_after_s)
