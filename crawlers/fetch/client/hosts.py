"""What the downloads from one host share: when it may be asked again, and whether it is still worth it.

Knows no HTTP.
"""

import asyncio
import time

from crawlers.http import policy


class Host:
    """The state of one host during one run."""

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s = backoff_s
        self._resume_at = 0.0
        self._failures = 0

    @property
    def given_up(self) -> bool:
        """Whether its other URLs are left for the next run."""
        return self._failures >= policy.MAX_IMAGE_FAILURES

    def finished(self, *, permanent: bool) -> None:
        """A URL is done: with a permanent answer, or after the last failed attempt."""
        if not self.given_up:
            self._failures = 0 if permanent else self._failures + 1

    async def wait(self) -> None:
        """Until the time that the host asked us to wait for."""
        while (delay := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(delay)

    def answered(self, retry_after_s: float | None) -> None:
        """Heed what a failed attempt's answer asked for; it holds for all of the host's URLs.

        A host that asks for more than `policy.MAX_RETRY_AFTER_S` is given up.
        """
        if retry_after_s is None:
            return
        if retry_after_s > policy.MAX_RETRY_AFTER_S:
            self._failures = policy.MAX_IMAGE_FAILURES
        self._resume_at = max(self._resume_at, time.monotonic() + min(retry_after_s, policy.MAX_RETRY_AFTER_S))

    async def back_off(self, attempt: int) -> None:
        """Sleep after the failed ``attempt`` (1, 2, ...): exponentially longer, jittered."""
        await asyncio.sleep(policy.backoff_s(self._backoff_s, attempt))
