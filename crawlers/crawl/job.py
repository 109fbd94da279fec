"""What the process that crawls and the one that started it tell each other: a job, and a report. Plain values only.

What pages say goes through the journal.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from atlas_model.core.files import write_text
from crawlers.http.address_guard import ConnectMap
from crawlers.http.host_limits import HostProfile
from crawlers.sources.csv_sources import Source


@dataclass(frozen=True)
class CrawlJob:
    """A crawl to do; the arguments are those of `crawlers.crawl.run.crawl`."""

    snapshot: str  # name of the crawl: an unfinished one of the same name is gone on with
    sources: list[Source]  # a source's place in the list is its rank: the first one's label wins
    readers: dict[str, str]  # name of a shop -> a digest of what reads its pages
    connect_map: ConnectMap
    profiles: dict[str, HostProfile]
    user_agent: str
    max_pages_per_category: int
    max_attempts: int
    timeout_s: float
    robots_tags: list[str]
    check_sitemaps: bool
    browser: str | None
    folder: str

    @property
    def journal(self) -> Path:
        """What pages say."""
        return Path(self.folder) / "journal.sqlite"

    @property
    def report(self) -> Path:
        """A `CrawlReport`."""
        return Path(self.folder) / "report.json"

    @property
    def log(self) -> Path:
        """Scrapy's own lines."""
        return Path(self.folder) / "log.txt"

    def to_json(self) -> str:
        """As text, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Undo `to_json`."""
        value = json.loads(text)
        value["sources"] = [Source(one["site"], tuple(one["taxonomy"]), one["url"]) for one in value["sources"]]
        value["connect_map"] = {host: (address, port) for host, (address, port) in value["connect_map"].items()}
        value["profiles"] = {host: HostProfile(**profile) for host, profile in value["profiles"].items()}
        return cls(**value)


@dataclass(frozen=True)
class CrawlReport:
    """What is not in the journal: how the run went."""

    finished: bool  # False: interrupted
    counts: dict[str, int]  # listing, product, sitemap: pages that came now; not_modified, same_content, variants
    walk_ends: dict[str, int]  # reason -> ways through categories
    category_faults: list[tuple[str, str]]  # category page, reason
    listed: dict[str, dict[str, int]]  # site -> category pages, and items on them
    retries: int
    errors: int  # of ours, in the spider

    def save(self, path: Path) -> None:
        """Write it, whole."""
        write_text(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Undo `save`."""
        value = json.loads(path.read_text(encoding="utf-8"))
        value["category_faults"] = [(url, reason) for url, reason in value["category_faults"]]
        return cls(**value)
