"""State that all downloads from one host share: its consecutive failures."""

import asyncio

from crawlers.http import policy


class Host:
    """The state of one host during one run."""

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s = backoff_s
        self._failures = 0

    @property
    def given_up(self) -> bool:
        """Whether the host's other URLs are left for the next run."""
        return self._failures >= policy.MAX_IMAGE_FAILURES

    def record_result(self, *, permanent: bool) -> None:
        """Record the end of a URL: with a permanent outcome, or after the last failed attempt."""
        if not self.given_up:
            self._failures = 0 if permanent else self._failures + 1

    def record_retry_after(self, retry_after_s: float | None) -> None:
        """Record the Retry-After (s) of a failed attempt; `Client` waits for it.

        A host with more than `policy.MAX_RETRY_AFTER_S` is given up.
        """
        if (retry_after_s or 0.0) > policy.MAX_RETRY_AFTER_S:
            self._failures = policy.MAX_IMAGE_FAILURES

    async def back_off(self, attempt: int) -> None:
        """Sleep after the failed ``attempt`` (1, 2, ...): exponential backoff with jitter."""
        await asyncio.sleep(policy.backoff_s(self._backoff_s, attempt))
