"""Digests of the code and profiles that read a shop's pages, stored with each item in the journal.

An item with an outdated digest is discarded, and its page is requested again. A shop's own profile enters the digest of
that shop only, so a changed profile affects no other shop.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from crawlers.pages.profile import ShopProfile, load_profiles
from crawlers.pages.shops import GENERIC, PROFILES, SHOPS_WITH_CODE, shop_of

CODE = Path(__file__).resolve().parents[1]
READING = ("sources/sitemaps.py", "http/content.py", "http/urls.py", "scrapy_app/page_reader.py")  # besides pages/
NOT_READING = {"hosts", "note", "limits"}  # keys of a profile that do not affect items


def reader_digests(robots_tags: Iterable[str]) -> dict[str, str]:
    """Name of a shop -> digest of the code and profiles that read its pages, and of ``robots_tags``."""
    profiles = load_profiles(PROFILES)
    platforms = [_text(profile) for profile in profiles.values() if profile.detect]
    paths = [*(CODE / name for name in READING), *sorted((CODE / "pages").rglob("*.py"))]
    code = [path.read_text(encoding="utf-8") for path in paths]
    common = [*code, *platforms, *sorted(robots_tags)]
    own = {shop.name: "" for shop in (GENERIC, *SHOPS_WITH_CODE.values())}
    own |= {name: _text(profile) for name, profile in profiles.items() if profile.hosts}
    return {name: _digest([*common, text]) for name, text in own.items()}


def reader_of(url: str, digests: Mapping[str, str]) -> str | None:
    """The current digest for the page at ``url``; it changes when a generically read shop gets a profile."""
    return digests.get(shop_of(urlsplit(url).hostname or "").name)


def _text(profile: ShopProfile) -> str:
    return profile.model_dump_json(exclude=NOT_READING)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]
