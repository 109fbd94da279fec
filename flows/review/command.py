"""``atlas review``: reads the outputs of the stages and serves the page until Ctrl-C."""

import getpass
import sys
from collections.abc import Sequence

from atlas_model.core.errors import InputError
from atlas_model.core.params import load_params
from atlas_model.core.progress import say
from atlas_model.data.decisions import answer_of, verdicts
from atlas_model.data.reviews import read_reviews, reviewer_name
from atlas_model.taxonomy.changes import NO_CHANGES, load_changes
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.tree import SEPARATOR
from flows import paths
from flows.registry.model_folders import bundled_model, model_folder
from flows.review.api import Reviewing
from flows.review.app import Start, create_app
from flows.review.catalogue import read_catalogue
from flows.review.images import ImageStore
from flows.review.model import Advisor
from flows.review.queues import Order, Queue, available_orders
from flows.review.session import Session
from flows.text import printable
from flows.web.access import access_rules
from flows.web.server import listen, serve, url_of


def review(
    *,
    reviewer: str | None,
    queue: Queue,
    order: Order,
    seed: int,
    host: str,
    port: int,
    allowed_hosts: Sequence[str],
    model: str | None,
) -> int:
    """Serve the page.

    Args:
        reviewer: whose decisions these are; None: the user's name.
        queue: that the page shows first.
        order: likewise.
        seed: of the random order.
        host: address to listen on.
        port: likewise; 0: a free one.
        allowed_hosts: further names of this server.
        model: folder of the model; None: the last trained model.

    Raises:
        InputError: options or files are invalid.
        MissingError: the stages crawl and fetch have not run.
    """
    if order not in available_orders(queue):
        raise InputError(f"--order: expected {', '.join(available_orders(queue))} for --queue {queue}, got {order}")
    name = reviewer_name(reviewer or getpass.getuser())
    rules = access_rules(host, allowed_hosts=allowed_hosts)
    options = load_params().split
    session = Session(paths.REVIEWS)
    listed = load_taxonomy(options.taxonomy) if options.labels == "listed" else None
    changed = options.taxonomy_changes.exists()
    catalogue = read_catalogue(listed, load_changes(options.taxonomy_changes, listed) if changed else NO_CHANGES)
    images = ImageStore(paths.SHARDS)
    folder = model_folder(model or (str(paths.CATEGORIZER) if paths.CATEGORIZER.is_dir() else None))
    advisor = Advisor(None if model is None and folder == bundled_model() else folder, images, catalogue.taxonomy)
    elsewhere = [each for each in session.suggestions() if not catalogue.product_with(each.product_id, each.image_id)]
    if elsewhere:
        catalogue.notes.append(f"Feedback to the service on images that are not in this snapshot: {len(elsewhere)}.")
    for note in catalogue.notes:
        say(f"review: {note}")
    if advisor.folder is None:
        say("review: there is no trained model of this project, so alternatives and attention are not shown")
    reviewing = Reviewing(catalogue, images, advisor, session, paths.REVIEWS, seed)
    app = create_app(reviewing, Start(reviewer=name, queue=queue, order=order))
    with listen(host, port) as listening:
        advisor.start()
        sys.stdout.write(f"review as {name}: {url_of(listening, rules)}   (Ctrl-C stops)\n")
        sys.stdout.flush()
        serve(app, listening, rules)
    say(f"review: {session.count(name)} decisions of {name} in {paths.REVIEWS}. The next dvc repro uses them")
    return 0


def list_disagreements() -> int:
    """Print a line for each product and image on which reviewers disagree, with tabs between the columns."""
    reviews = read_reviews(paths.REVIEWS)
    for warning in reviews.warnings():
        say(warning)
    count = 0
    for kind in ("category", "zoom"):
        for verdict in verdicts(reviews.records, kind).values():
            if verdict.disagree:
                count += 1
                votes = (f"{vote.reviewer}: {_text(answer_of(vote))}" for vote in verdict.votes)
                counts = "no majority" if verdict.answer is None else f"counts: {_text(verdict.answer)}"
                sys.stdout.write("\t".join(map(printable, (kind, verdict.subject, counts, *votes))) + "\n")
    say(f"review: {len(reviews.reviewers)} reviewers disagree on {count} products and images")
    return 0


def _text(answer: str | tuple[str, ...]) -> str:
    return answer if isinstance(answer, str) else SEPARATOR.join(answer) or "no category fits"
