"""Input (`CrawlJob`) and report (`CrawlReport`) of the crawling child process, as JSON.

The items read from pages are passed through the journal instead.
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
    """Input of a crawl; the arguments are those of `crawlers.crawl.run.crawl`."""

    snapshot: str  # name of the crawl; an unfinished crawl of the same name is resumed
    again: bool  # whether a finished crawl of the same name is begun again; False: resumed
    sources: list[Source]  # the index in the list is the source's rank; the label of the lowest rank wins
    readers: dict[str, str]  # name of a shop -> digest of the code and profile that read its pages
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
        """Path of the journal."""
        return Path(self.folder) / "journal.sqlite"

    @property
    def report(self) -> Path:
        """Path of the `CrawlReport`."""
        return Path(self.folder) / "report.json"

    @property
    def log(self) -> Path:
        """Path of Scrapy's log."""
        return Path(self.folder) / "log.txt"

    def to_json(self) -> str:
        """The job as JSON text, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the result of `to_json`."""
        value = json.loads(text)
        value["sources"] = [Source(one["site"], tuple(one["taxonomy"]), one["url"]) for one in value["sources"]]
        value["connect_map"] = {host: (address, port) for host, (address, port) in value["connect_map"].items()}
        value["profiles"] = {host: HostProfile(**profile) for host, profile in value["profiles"].items()}
        return cls(**value)


@dataclass(frozen=True)
class CrawlReport:
    """Figures of a run that are not in the journal."""

    finished: bool  # False: interrupted
    counts: dict[str, int]  # listing, product, sitemap: pages of this run; not_modified, same_content, variants
    walk_ends: dict[str, int]  # reason -> sources whose pages ended for it
    category_faults: list[tuple[str, str]]  # URL of a category page, reason
    sitemap_faults: list[tuple[str, str]]  # URL of a sitemap that could not be fetched, reason
    listed: dict[str, dict[str, int]]  # site -> number of category pages and of items on them
    retries: int
    errors: int  # exceptions in the spider

    def save(self, path: Path) -> None:
        """Write the report atomically."""
        write_text(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a report that `save` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        for faults in ("category_faults", "sitemap_faults"):
            value[faults] = [(url, reason) for url, reason in value[faults]]
        return cls(**value)
