"""What the process that crawls and the one that started it tell each other: a job, and a report. Plain values only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from atlas_model.files import write_text
from atlas_model.taxonomy import CategoryPath
from crawlers.connect import ConnectMap
from crawlers.profiles import HostProfile
from crawlers.sources import Source

Label = tuple[str, CategoryPath]  # site, taxonomy

# Reasons that may be gone on the next try: such a page is asked for again when the crawl is resumed.
TRANSIENT = {"robots_unreachable", "host_down", "timeout", "no_such_host", "refused", "connection"}
TRANSIENT |= {f"http_{status}" for status in (408, 429, 500, 502, 503, 504, 522, 524)}


@dataclass(frozen=True)
class CrawlJob:
    """A crawl to do; the arguments are those of `crawlers.crawl.crawl`."""

    sources: list[Source]
    connect_map: ConnectMap
    profiles: dict[str, HostProfile]
    user_agent: str
    max_pages_per_category: int
    max_attempts: int
    timeout_s: float
    folder: str

    @property
    def spool(self) -> Path:
        """What product pages say."""
        return Path(self.folder) / "products.jsonl"

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
    """What is not in the spool: which category links to which product, and what went wrong."""

    finished: bool  # False: interrupted
    links: dict[str, list[Label]]  # product page -> its categories
    failed: dict[str, str]  # product page -> a reason that may be gone on the next try
    category_faults: list[tuple[str, str]]  # category page, reason
    listing_pages: int
    product_pages: int
    offsite: int  # links to other hosts
    retries: int
    errors: int  # of ours, in the spider

    def save(self, path: Path) -> None:
        """Write it, whole."""
        write_text(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Undo `save`."""
        value = json.loads(path.read_text(encoding="utf-8"))
        value["links"] = {
            url: [(site, tuple(taxonomy)) for site, taxonomy in labels] for url, labels in value["links"].items()
        }
        return cls(**value)
