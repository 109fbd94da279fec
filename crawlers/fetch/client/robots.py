"""robots.txt of the hosts that images come from: whether we may ask, and how often (RFC 9309).

One request per origin, whose answer is remembered. Knows nothing of images.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from protego import Protego
from yarl import URL

from crawlers.fetch.client.outcome import FetchRefusedError
from crawlers.http.policy import MAX_CRAWL_DELAY_S
from crawlers.http.robots_txt import for_us

MAX_ORIGINS = 1_024  # remembered at once

AskFor = Callable[[URL], Awaitable[bytes | None]]
"""Gets a robots.txt: as much of it as is read, or None where there is none.

Raises `FetchRefusedError` with a transient outcome where it is not known whether there is one.
"""


class Robots:
    """What the hosts allow a robot named ``robot``; ``ask_for`` gets what they say."""

    def __init__(self, ask_for: AskFor, robot: str) -> None:
        self._ask_for, self._robot = ask_for, robot.lower()
        self._rules: dict[tuple[str, str], asyncio.Future[_Rules]] = {}  # by origin, the oldest first

    async def check(self, target: URL) -> None:
        """Return if ``target`` may be asked for.

        Raises:
            FetchRefusedError: it may not, or that is not known.
        """
        await self._allowing(target)

    async def wait_for_turn(self, target: URL) -> None:
        """Like `check`; returns when the host's Crawl-delay has passed since the last turn."""
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
                del self._rules[origin]  # the next attempt asks again
            raise
        if not rules.allow(target):
            raise FetchRefusedError("robots")
        return rules

    async def _load(self, origin: URL) -> "_Rules":
        return _Rules(await self._ask_for(origin / "robots.txt"), self._robot)


class _Rules:
    """What one robots.txt says to us."""

    def __init__(self, content: bytes | None, robot: str) -> None:
        self._robot = robot
        self._parsed = Protego.parse(for_us(content, robot)) if content else None
        self.delay_s = 0.0
        if self._parsed is not None:
            self.delay_s = min(self._parsed.crawl_delay(robot) or 0.0, MAX_CRAWL_DELAY_S)
        self.next_at = 0.0  # time.monotonic()

    def allow(self, target: URL) -> bool:
        return self._parsed is None or bool(self._parsed.can_fetch(str(target), self._robot))
