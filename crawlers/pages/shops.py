"""Which shop a host belongs to, and what is known about it before any of its pages is read.

A shop is a YAML profile beside this module, or has page objects of its own in `crawlers.pages.registry`; all others are
read generically. A table of our own rather than web-poet's `handle_urls`: that one matches URLs with tldextract, which
fetches the list of public suffixes from the network when it is first used.

Imports no page object, and so neither web-poet nor Scrapy: who starts a crawl needs no more than this.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from atlas_model.core.errors import InputError
from crawlers.http.host_limits import POLITE, BrowserProfile, HostProfile
from crawlers.pages.profile import Profile, load_profiles

PROFILES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Shop:
    """What is known about a shop before any of its pages is read."""

    name: str
    profile: Profile | None = None
    pace: HostProfile | None = None  # how fast it may be asked
    max_pages: int | None = None  # of a category
    browser: BrowserProfile | None = None  # where its pages are built by script
    product_url: re.Pattern[str] | None = None  # what the URL of a product looks like


GENERIC = Shop("generic")
WITH_CODE = {  # hosts of shops with page objects of their own
    "shop-a.demo.test": Shop("shop_a"),
    "shop-b.demo.test": Shop("shop_b"),
}


def shop_of(host: str) -> Shop:
    """The shop of ``host`` or of the domain above it that is one; else the generic one.

    Raises:
        InputError: one of the profiles is faulty.
    """
    while host:
        shop = WITH_CODE.get(host) or shops_in(PROFILES).get(host)
        if shop is not None:
            return shop
        host = host.partition(".")[2]
    return GENERIC


def shop_from(name: str, profile: Profile) -> Shop:
    """The shop that ``profile`` describes."""
    limits, browser = profile.limits, profile.browser
    return Shop(
        name,
        profile=profile,
        pace=_pace(profile),
        max_pages=None if limits is None else limits.max_pages,
        browser=None if browser is None else BrowserProfile(**browser.model_dump()),
        product_url=None if profile.product_url is None else re.compile(profile.product_url),
    )


@cache
def platforms() -> tuple[Profile, ...]:
    """The profiles of platforms that many shops run on."""
    return tuple(profile for profile in load_profiles(PROFILES).values() if profile.detect)


@cache
def shops_in(folder: Path) -> dict[str, Shop]:
    """The shops whose profiles are in ``folder``, by host.

    Raises:
        InputError: one of the files is faulty, or two speak of the same host.
    """
    shops: dict[str, Shop] = {}
    for name, profile in load_profiles(folder).items():
        for host in profile.hosts:
            if host in shops:
                raise InputError(f"{folder / name}.yaml: hosts: {host} is in {shops[host].name}.yaml already")
            shops[host] = shop_from(name, profile)
    return shops


def _pace(profile: Profile) -> HostProfile | None:
    limits = profile.limits
    if limits is None or (limits.delay_s is None and limits.concurrency is None):
        return None
    return HostProfile(
        delay_s=POLITE.delay_s if limits.delay_s is None else limits.delay_s,
        concurrency=limits.concurrency or POLITE.concurrency,
        autothrottle=POLITE.autothrottle,
    )
