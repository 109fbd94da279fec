"""Cache of robots.txt per origin, with checks of URLs and of Crawl-delay (RFC 9309)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from protego import Protego
from yarl import URL

from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.http.policy import MAX_CRAWL_DELAY_S
from crawlers.http.robots_txt import rules_for

MAX_ORIGINS = 1_024  # cached origins

FetchRobots = Callable[[URL], Awaitable[bytes | None]]
"""Fetches a robots.txt up to the size limit; None if there is none.

Raises `FetchRefusedError` with a transient outcome if that is unknown.
"""


class Robots:
    """Rules of all hosts for the robot named ``robot``; ``fetch_robots`` fetches a robots.txt."""

    def __init__(self, fetch_robots: FetchRobots, robot: str) -> None:
        self._fetch_robots, self._robot = fetch_robots, robot.lower()
        self._rules: dict[tuple[str, str], asyncio.Future[_Rules]] = {}  # origin -> rules, oldest first

    async def check(self, target: URL) -> None:
        """Return if ``target`` may be requested.

        Raises:
            FetchRefusedError: it is forbidden, or robots.txt is unknown.
        """
        await self._allowing(target)

    async def wait_for_turn(self, target: URL) -> None:
        """Like `check`, and wait until the host's Crawl-delay has passed since the last request."""
        rules = await self._allowing(target)
        if rules.delay_s:
            turn = max(rules.next_at, time.monotonic())
            rules.next_at = turn + rules.delay_s
            await asyncio.sleep(turn - time.monotonic())

    async def _allowing(self, target: URL) -> "_Rules":
        origin = (target.scheme, target.raw_authority)
        known = self._rules.get(origin)
        if known is None:
            if len(self._rules) >= MAX_ORIGINS:
                del self._rules[next(iter(self._rules))]
            known = self._rules[origin] = asyncio.ensure_future(self._load(target.origin()))
        if not known.done():
            await asyncio.wait([known])  # others wait for it as well, with deadlines of their own
        try:
            rules = known.result()
        except FetchRefusedError:
            if self._rules.get(origin) is known:
                del self._rules[origin]  # the next attempt fetches it again
            raise
        if not rules.allow(target):
            raise FetchRefusedError("robots")
        return rules

    async def _load(self, origin: URL) -> "_Rules":
        return _Rules(await self._fetch_robots(origin / "robots.txt"), self._robot)


class _Rules:
    """The rules of one robots.txt for this robot."""

    def __init__(self, content: bytes | None, robot: str) -> None:
        self._robot = robot
        self._parsed = Protego.parse(rules_for(content, robot)) if content else None
        self.delay_s = 0.0
        if self._parsed is not None:
            self.delay_s = min(self._parsed.crawl_delay(robot) or 0.0, MAX_CRAWL_DELAY_S)
        self.next_at = 0.0  # time.monotonic()

    def allow(self, target: URL) -> bool:
        return self._parsed is None or bool(self._parsed.can_fetch(str(target), self._robot))
