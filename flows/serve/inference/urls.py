"""Images from URLs, fetched by the crawler's client: public addresses only, robots.txt, limited sizes, no cookies.

A URL is requested once. The crawl's retries and pauses would take longer than a request may.
"""

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from atlas_model.core.errors import ImageError
from crawlers.fetch.check import check
from crawlers.fetch.client.client import Client
from crawlers.fetch.client.outcome import FetchOutcome, ImageRequest
from crawlers.http.address_guard import ConnectMap
from flows.serve.inference.images import UnreadableImage

KEPT_IMAGES = 8  # times the largest image: bytes of fetched images that are kept until their requests take them


class UrlFetcher(AbstractAsyncContextManager["UrlFetcher"]):
    """Fetches images; use as a context manager in the event loop.

    Args:
        user_agent: value of the User-Agent header.
        connect_map: as in `Client`, as the next.
        robots_tags: directives of X-Robots-Tag that forbid an image.
        obey_robots: whether to obey robots.txt.
        concurrency: concurrent downloads.
        timeout_s: of a download.
        max_bytes: of an image.
        max_pixels: of an image.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        connect_map: ConnectMap,
        robots_tags: Collection[str],
        obey_robots: bool,
        concurrency: int,
        timeout_s: float,
        max_bytes: int,
        max_pixels: int,
    ) -> None:
        self._max_pixels, self._max_kept = max_pixels, KEPT_IMAGES * max_bytes
        self._taken: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._client = Client(
            self._take,
            Path(tempfile.gettempdir()),
            connect_map=connect_map,
            user_agent=user_agent,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            obey_robots=obey_robots,
            robots_tags=robots_tags,
            patience_s=timeout_s,
        )

    async def __aenter__(self) -> "UrlFetcher":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def get(self, url: str) -> bytes | UnreadableImage:
        """The bytes of the image at ``url``."""
        outcome = await self._client.get(ImageRequest(0, url))
        if outcome.status != "ok" or outcome.image_id is None:
            return UnreadableImage(outcome.status, f"expected an image at the URL, got: {outcome.status}")
        with self._lock:
            data = self._taken.get(outcome.image_id)
        return data or UnreadableImage("busy", "too many images were fetched at once. Send the request again")

    def _take(self, data: bytes) -> FetchOutcome:
        """Validate ``data`` as the crawl does, and keep it for `get`; called in a thread of the client."""
        try:
            check(data, self._max_pixels)
        except ImageError as error:
            return FetchOutcome(error.status, permanent=True)
        image_id = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._taken[image_id] = data
            self._taken.move_to_end(image_id)
            while len(self._taken) > 1 and sum(map(len, self._taken.values())) > self._max_kept:
                self._taken.popitem(last=False)
        return FetchOutcome("ok", permanent=True, image_id=image_id)
