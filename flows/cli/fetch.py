"""``atlas fetch``: the stage fetch through DVC, also for the URLs that it would not ask for again by itself."""

import json
import sys

from atlas_model.core.params import load_params
from atlas_model.core.progress import say
from crawlers.fetch.restore import restore
from crawlers.fetch.spool import Spool
from flows import paths
from flows.dvc import repo
from flows.stages.entry import read_metrics
from flows.stages.fetch import spool_folder


def fetch(*, retry_failed: bool) -> int:
    """Bring data/images up to date and print the counts of the stage.

    Args:
        retry_failed: ask again for each URL that gave no image. What gave one is taken from data/images where the
            spool does not have it (any more), so that nothing is fetched twice.

    Raises:
        MissingError: nothing was fetched yet whose failures could be retried.
        AtlasError: the stage failed.
    """
    params = load_params()
    if retry_failed and params.crawl.source != "files":  # local files are all looked at again anyway
        # The metrics say which snapshot was fetched, which need not be today's.
        with Spool(spool_folder(params.crawl)) as spool:
            restore(spool, paths.SHARDS, paths.REFS, read_metrics("fetch").get("snapshot", ""))
    repo.run_stage("fetch", say, force=retry_failed)
    sys.stdout.write(json.dumps(read_metrics("fetch"), indent=2) + "\n")
    say("Up to date: data/images. What depends on it: dvc repro")
    return 0
