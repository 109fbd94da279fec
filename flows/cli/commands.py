"""One function per subcommand of `atlas`: takes the parsed arguments, returns the exit code.

Each imports its module only when called, so that no subcommand waits for the imports of the others.
"""

import sys
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say


def predict(given: Path | None, output: Path | None, *, products: Path | None, batch_size: int, **options: Any) -> int:
    """Predict named images on stdout; if a file is among the arguments, the images of ``given`` into ``output``."""
    import gc

    gc.disable()  # garbage collection during the imports takes a tenth of the start
    from flows.cli.predict import predict

    gc.enable()
    if given is None and output is None and products is None:
        return predict(**options)
    from flows.cli.predict_file import predict_file

    return predict_file(given, output, products=products, batch_size=batch_size, **options)


def export(**options: Any) -> int:
    """See `flows.cli.export`."""
    from flows.cli.export import export_model

    return export_model(**options)


def fetch(retry_failed: bool) -> int:
    """See `flows.cli.fetch`."""
    from flows.cli.fetch import fetch

    return fetch(retry_failed=retry_failed)


def crawl_changes(old: str, new: str, output: Path | None) -> int:
    """See `flows.cli.changes`."""
    from flows.cli.changes import report_changes

    return report_changes(old, new, output)


def crawl_drift(old: str, new: str) -> int:
    """Print the drift report."""
    import html

    from atlas_model.core.params import load_params
    from flows.monitoring.drift import compare_crawls

    report = compare_crawls(old, new, load_params())
    sys.stdout.write(html.unescape(report.markdown))
    say(f"written: {report.path}")
    return 0


def crawl_try(**options: Any) -> int:
    """See `flows.cli.crawl.try_page`."""
    from flows.cli.crawl import try_page

    return try_page(**options)


def crawl_record(**options: Any) -> int:
    """See `flows.cli.crawl.record_page`."""
    from flows.cli.crawl import record_page

    return record_page(**options)


def promote(force: bool) -> int:
    """Print the decision."""
    import html

    from atlas_model.core.params import load_params
    from flows.registry.promote import promote

    decision = promote(load_params(), force=force)
    sys.stdout.write(html.unescape(decision.markdown))
    return 0 if decision.accepted else AtlasError.exit_code


def roll_back(version: int | None) -> int:
    """Print the new champion."""
    from flows.registry.champion import roll_back

    champion = roll_back(version)
    sys.stdout.write(f"the champion is version {champion.version} again: {champion.reason}\n")
    return 0


def results(as_json: bool) -> int:
    """See `flows.cli.results`."""
    from flows.cli.results import show_results

    return show_results(as_json=as_json)


def import_manifest(manifest: Path, output: Path | None) -> int:
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


def init(**options: Any) -> int:
    """See `flows.init.command`."""
    from flows.init.command import init

    return init(**options)


def check() -> int:
    """See `flows.cli.check`."""
    from flows.cli.check import check

    return check()
