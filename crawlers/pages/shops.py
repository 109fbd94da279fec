"""Lookup of a host's shop, with the settings that a crawl needs before it reads a page.

A shop has a YAML profile in this folder or page objects in `crawlers.pages.registry`; any other host is the generic
shop. The lookup does not use web-poet's `handle_urls`, because that matches URLs with tldextract, which downloads the
public suffix list on first use.

This module imports no page object, so that starting a crawl loads neither web-poet nor Scrapy.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from atlas_model.core.errors import InputError
from crawlers.http.host_limits import DEFAULT_PROFILE, BrowserProfile, HostProfile
from crawlers.pages.profile import ShopProfile, load_profiles

PROFILES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Shop:
    """Settings of one shop."""

    name: str
    profile: ShopProfile | None = None
    pace: HostProfile | None = None  # request rate; None: the default
    max_pages: int | None = None  # per category
    browser: BrowserProfile | None = None  # for shops whose pages are rendered by scripts
    product_url: re.Pattern[str] | None = None  # matches URLs of product pages


GENERIC = Shop("generic")
SHOPS_WITH_CODE = {  # host -> shop with its own page objects
    "shop-a.demo.test": Shop("shop_a"),
    "shop-b.demo.test": Shop("shop_b"),
}


def shop_of(host: str) -> Shop:
    """The shop of ``host`` or of its closest parent domain that has one; else the generic shop.

    Raises:
        InputError: a profile is invalid.
    """
    while host:
        shop = SHOPS_WITH_CODE.get(host) or shops_in(PROFILES).get(host)
        if shop is not None:
            return shop
        host = host.partition(".")[2]
    return GENERIC


def shop_from(name: str, profile: ShopProfile) -> Shop:
    """Build a shop from its profile."""
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
def platforms() -> tuple[ShopProfile, ...]:
    """The profiles of shop platforms (Magento, Shopify, ...)."""
    return tuple(profile for profile in load_profiles(PROFILES).values() if profile.detect)


@cache
def shops_in(folder: Path) -> dict[str, Shop]:
    """The shops whose profiles are in ``folder``, by host.

    Raises:
        InputError: a file is invalid, or two files name the same host.
    """
    shops: dict[str, Shop] = {}
    for name, profile in load_profiles(folder).items():
        for host in profile.hosts:
            if host in shops:
                raise InputError(f"{folder / name}.yaml: hosts: {host} is in {shops[host].name}.yaml already")
            shops[host] = shop_from(name, profile)
    return shops


def _pace(profile: ShopProfile) -> HostProfile | None:
    limits = profile.limits
    if limits is None or (limits.delay_s is None and limits.concurrency is None):
        return None
    return HostProfile(
        delay_s=DEFAULT_PROFILE.delay_s if limits.delay_s is None else limits.delay_s,
        concurrency=limits.concurrency or DEFAULT_PROFILE.concurrency,
        autothrottle=DEFAULT_PROFILE.autothrottle,
    )
