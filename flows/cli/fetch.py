"""``atlas fetch``: runs the stage fetch through DVC, if wanted also for the URLs that failed for good."""

import json
import sys

from atlas_model.core.params import load_params
from atlas_model.core.progress import say
from crawlers.fetch.restore import restore
from crawlers.fetch.spool import Spool
from flows import paths
from flows.dvc import repo
from flows.dvc.after_kill import mend
from flows.stages.entry import read_metrics
from flows.stages.fetch import spool_folder


def fetch(*, retry_failed: bool) -> int:
    """Run the stage fetch if it is not up to date, and print its counts.

    Args:
        retry_failed: request each URL again that gave no image. Images that the spool does not have (any more) are
            copied from data/images, so nothing is downloaded twice.

    Raises:
        MissingError: no image has been downloaded yet, so there are no failures to retry.
        AtlasError: the stage failed.
    """
    params = load_params()
    mend()
    if retry_failed and params.crawl.source != "files":  # local files are read again in any case
        # The metrics name the snapshot that was fetched; params.yaml may name a newer one.
        with Spool(spool_folder(params.crawl)) as spool:
            restore(spool, paths.SHARDS, paths.REFS, read_metrics("fetch").get("snapshot", ""))
    repo.run_stage("fetch", say, force=retry_failed)
    sys.stdout.write(json.dumps(read_metrics("fetch"), indent=2) + "\n")
    say("data/images is up to date. To run the stages that depend on it: dvc repro")
    return 0
