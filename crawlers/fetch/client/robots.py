"""Cache of robots.txt per origin, with checks of URLs, and Crawl-delay (RFC 9309)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from protego import Protego
from yarl import URL

from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.http.policy import MAX_BACKOFF_S, MAX_CRAWL_DELAY_S, MAX_ROBOTS_FAILURES
from crawlers.http.robots_txt import rules_for

MAX_ORIGINS = 1_024  # cached origins

FetchRobots = Callable[[URL], Awaitable[bytes | None]]
"""Fetches a robots.txt up to the size limit; None if there is none.

Raises `FetchRefusedError` with a transient outcome if that is unknown.
"""


class Robots:
    """Rules of all hosts for the robot named ``robot``; ``fetch_robots`` fetches a robots.txt.

    After a failure the next attempt at a URL fetches it again, but see `policy.MAX_ROBOTS_FAILURES`.
    """

    def __init__(self, fetch_robots: FetchRobots, robot: str) -> None:
        self._fetch_robots, self._robot = fetch_robots, robot.lower()
        self._rules: dict[tuple[str, str], _Loading] = {}  # by origin, oldest first

    async def check(self, target: URL) -> float:
        """The Crawl-delay (s) of ``target``, which may be requested.

        Raises:
            FetchRefusedError: it is forbidden, or robots.txt is unknown.
        """
        origin = (target.scheme, target.raw_authority)
        loading = self._rules.get(origin)
        if loading is None or loading.may_be_repeated:
            if loading is None and len(self._rules) >= MAX_ORIGINS:
                del self._rules[next(iter(self._rules))]
            failures = 0 if loading is None else loading.failures
            loading = self._rules[origin] = _Loading(self._load(target.origin()), failures)
        rules = await loading.result()
        if not rules.allow(target):
            raise FetchRefusedError("robots")
        return rules.delay_s

    async def _load(self, origin: URL) -> "_Rules":
        return _Rules(await self._fetch_robots(origin / "robots.txt"), self._robot)


class _Loading:
    """One attempt at a robots.txt, after ``failures`` others in a row."""

    def __init__(self, load: Coroutine[Any, Any, "_Rules"], failures: int) -> None:
        self._task = asyncio.ensure_future(load)
        self.failures = failures
        self._repeat_at = float("inf")  # time.monotonic()

    @property
    def may_be_repeated(self) -> bool:
        return time.monotonic() >= self._repeat_at

    async def result(self) -> "_Rules":
        if not self._task.done():
            await asyncio.wait([self._task])  # others wait for it as well, with deadlines of their own
        try:
            return self._task.result()
        except FetchRefusedError:
            if self._repeat_at == float("inf"):
                self.failures += 1
                wait_s = 0.0 if self.failures < MAX_ROBOTS_FAILURES else MAX_BACKOFF_S
                self._repeat_at = time.monotonic() + wait_s
            raise


class _Rules:
    """The rules of one robots.txt for this robot."""

    def __init__(self, content: bytes | None, robot: str) -> None:
        self._robot = robot
        self._parsed = Protego.parse(rules_for(content, robot)) if content else None
        self.delay_s = 0.0
        if self._parsed is not None:
            self.delay_s = min(self._parsed.crawl_delay(robot) or 0.0, MAX_CRAWL_DELAY_S)

    def allow(self, target: URL) -> bool:
        return self._parsed is None or bool(self._parsed.can_fetch(str(target), self._robot))
