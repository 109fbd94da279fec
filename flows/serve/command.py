"""`atlas serve`: loads the model, opens the socket, and serves until SIGINT or SIGTERM."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_model.core.errors import InputError
from atlas_model.core.params import PARAMS_FILE, load_params
from atlas_model.core.progress import say
from crawlers.http.user_agent import user_agent
from flows.paths import REVIEWS
from flows.serve.app import build_app
from flows.serve.inference.model_holder import ModelHolder
from flows.serve.inference.served_model import ServedModel
from flows.serve.inference.urls import UrlFetcher
from flows.serve.metrics import Metrics
from flows.serve.problems import refusal
from flows.serve.settings import Limits
from flows.web import server
from flows.web.access import access_rules

if TYPE_CHECKING:
    from atlas_model.inference.engines import EngineName

PUBLIC = ("/v2/health/live", "/v2/health/ready")


def serve(
    *,
    model: str | None,
    engine: "EngineName",
    engine_cache: Path,
    host: str,
    port: int,
    allowed_hosts: list[str],
    allow_urls: bool,
    reviews: Path | None,
    drain_s: float,
    limits: Limits,
) -> int:
    """Serve until a signal; 0 when all requests in progress have been answered.

    Args:
        model: as in `model_folder`.
        engine: of the encoder; see `engines`.
        engine_cache: folder of the engines' files.
        host: address to listen on.
        port: port; 0: a free one.
        allowed_hosts: further names in the ``Host`` header.
        allow_urls: whether images are fetched from URLs, by the rules in params.yaml.
        reviews: folder for feedback; None: data/reviews in the folder of a project, else no feedback.
        drain_s: time between the signal and the end of listening, in which requests are still answered.
        limits: of requests.

    Raises:
        InputError: an option is wrong, the model cannot be loaded, or the address cannot be used.
    """
    rules = access_rules(host, allowed_hosts=allowed_hosts, public=PUBLIC)
    url_options = _url_options(limits) if allow_urls else None
    listening = server.listen(host, port)  # before the model is loaded, which takes seconds
    metrics = Metrics()
    holder = ModelHolder(
        model, lambda folder: ServedModel.load(folder, engine, engine_cache, limits.max_batch), metrics
    )
    folder = reviews if reviews is not None else REVIEWS if PARAMS_FILE.exists() else None
    app, readiness = build_app(
        holder,
        limits,
        metrics,
        reviews=folder,
        make_fetcher=None if url_options is None else lambda: UrlFetcher(**url_options),
        has_token=rules.token is not None,
    )
    say(f"feedback: {folder or 'off; ' + 'start in the folder of a project, or with --reviews DIR'}")
    sys.stdout.write(f"serving on {server.url_of(listening, rules)}\n")
    sys.stdout.flush()

    def stop() -> None:
        readiness.ready = False
        metrics.ready.set(0)
        say("stopping: requests in progress are answered")

    server.serve(app, listening, rules, on_stop=stop, drain_s=drain_s, refuse=refusal)
    say("stopped")
    return 0


def _url_options(limits: Limits) -> dict[str, Any]:
    """The crawler's rules, for images that requests name by URL."""
    if not PARAMS_FILE.exists():
        raise InputError(
            f"--allow-urls: expected {PARAMS_FILE}, whose sections crawl and fetch have the rules for requests to "
            "other hosts; got none. Start the service in the folder of a project"
        )
    params = load_params()
    return {
        "user_agent": user_agent(params.crawl.contact),
        "connect_map": params.crawl.connect_map,
        "robots_tags": params.crawl.robots_tags,
        "obey_robots": params.fetch.obey_robots,
        "concurrency": params.fetch.concurrency,
        "timeout_s": min(params.fetch.timeout_s, limits.timeout_s),
        "max_bytes": min(params.fetch.max_bytes, limits.max_image_bytes),
        "max_pixels": min(params.fetch.max_pixels, limits.max_pixels),
    }
