"""`atlas crawl`, `fetch` and `import-manifest`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from atlas_model.core.progress import say

PAGE_HELP = """\
The page is requested once. robots.txt and X-Robots-Tag are obeyed. Only public addresses, and those of
crawl.connect in params.yaml, are connected to. Each field is printed with its source:

  profile     a selector in the YAML profile of the shop or of its platform (crawlers/pages)
  url         a pattern in that profile, applied to the URL of the page
  css         a page object of the shop, written in Python
  json-ld, microdata, opengraph   structured data of the page
  heuristic   rules on the HTML that need no profile

Exit code 0: usable (a product with a title and an image, or a listing with products); 1: not usable, or the
request failed; 2: bad input.
"""
TRY_HELP = f"Request one page and print the fields that a crawl would read on it. Writes no files.\n\n{PAGE_HELP}"
RECORD_HELP = f"""\
Request one page, print the fields that a crawl would read on it, and save both as a test: the page as an HTML file,
the fields as a JSON file beside it. Correct the JSON file by hand: the tests compare with it.

{PAGE_HELP}"""


def add(commands: Any) -> None:
    """Add the subcommands."""
    fetch = commands.add_parser(
        "fetch",
        help="run the stage fetch alone: download the images of the products",
        description="Run the stage fetch alone, through DVC: download the images of the products that are not in "
        "data/images yet, and print the counts.",
    )
    fetch.add_argument(
        "--retry-failed", action="store_true", help="request every URL again that gave no image, whatever the reason"
    )
    fetch.set_defaults(command=run_fetch)

    crawl = commands.add_parser(
        "crawl",
        help="inspect single pages and compare snapshots",
        description="Inspect single pages (try, record) and compare the snapshots of two crawls (changes, drift). The "
        "crawl itself is a stage of DVC: dvc repro crawl.",
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    changes = crawl.add_parser(
        "changes",
        help="list what changed in the shops between two snapshots",
        description="Compare the products of two snapshots: print how many are new, gone or changed, and write each "
        "change to a file.",
    )
    drift = crawl.add_parser(
        "drift",
        help="measure the drift between two snapshots: categories, prices, titles, images",
        description="Measure the drift between two snapshots as distances from 0 (equal) to 1, and compare them with "
        "the thresholds of the section drift of params.yaml: categories, currencies, prices, lengths of titles, sizes "
        "of images, embeddings of images.",
    )
    for comparison in (changes, drift):
        comparison.add_argument("old", metavar="OLD", help="crawl.snapshot of the earlier crawl")
        comparison.add_argument("new", metavar="NEW", help="crawl.snapshot of the later crawl")
    changes.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv or .parquet; default: reports/changes/OLD..NEW.csv"
    )
    changes.set_defaults(command=run_crawl_changes)
    drift.set_defaults(command=run_crawl_drift)

    for name, summary, description, command in (
        ("try", "print the fields that a crawl would read on one page, with their sources", TRY_HELP, run_crawl_try),
        ("record", "save a page and the fields read on it as a test", RECORD_HELP, run_crawl_record),
    ):
        one = crawl.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawTextHelpFormatter
        )
        one.add_argument("url", metavar="URL", help="URL of a product page or of a listing")
        one.add_argument(
            "--as", dest="kind", choices=("listing", "product"), help="kind of the page; default: detected"
        )
        one.add_argument("--file", type=Path, metavar="PAGE", help="read the page from this file; no request is sent")
        one.add_argument("--profile", type=Path, metavar="SHOP.yaml", help="read the page with this profile")
        if name == "record":
            one.add_argument(
                "--folder",
                type=Path,
                metavar="DIR",
                help="folder of the two files; default: tests/crawlers/pages/saved/<host>",
            )
        one.set_defaults(command=command)

    importing = commands.add_parser(
        "import-manifest",
        help="download labelled images for the stage zoom_train",
        description="Download the images of a JSON manifest with the labels zoomed and normal, as training data of the "
        "stage zoom_train, and print the counts. The content of the output folder is replaced.",
    )
    importing.add_argument(
        "manifest", type=Path, metavar="FILE", help="a JSON list of {filename, image_url, label, title}"
    )
    importing.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the images; default: zoom_train.labelled of params.yaml"
    )
    importing.set_defaults(command=run_import_manifest)


def run_fetch(retry_failed: bool) -> int:
    """See `flows.cli.fetch`."""
    from flows.cli.fetch import fetch

    return fetch(retry_failed=retry_failed)


def run_crawl_changes(old: str, new: str, output: Path | None) -> int:
    """See `flows.cli.changes`."""
    from flows.cli.changes import report_changes

    return report_changes(old, new, output)


def run_crawl_drift(old: str, new: str) -> int:
    """Print the drift report."""
    import html

    from atlas_model.core.params import load_params
    from flows.monitoring.drift import compare_crawls

    report = compare_crawls(old, new, load_params())
    sys.stdout.write(html.unescape(report.markdown))
    say(f"written: {report.path}")
    return 0


def run_crawl_try(**options: Any) -> int:
    """See `flows.cli.crawl.try_page`."""
    from flows.cli.crawl import try_page

    return try_page(**options)


def run_crawl_record(**options: Any) -> int:
    """See `flows.cli.crawl.record_page`."""
    from flows.cli.crawl import record_page

    return record_page(**options)


def run_import_manifest(manifest: Path, output: Path | None) -> int:
    """Print the counts of the import."""
    import json

    from atlas_model.core.params import load_params
    from crawlers.http.user_agent import user_agent
    from flows.cli.import_manifest import import_manifest
    from flows.paths import WORK

    params = load_params()
    report = import_manifest(
        manifest,
        output or params.zoom_train.labelled,
        WORK / "import",
        connect_map=params.crawl.connect_map,
        user_agent=user_agent(params.crawl.contact),
        robots_tags=params.crawl.robots_tags,
        **params.fetch.model_dump(),
    )
    sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    return 0
