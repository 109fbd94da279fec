"""`atlas review`."""

import argparse
from typing import Any

LAST_PORT = 65_535


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "review",
        help="correct categories and close-ups on a page in the browser",
        description="Serve a page on which people correct categories and close-ups with one key a decision. Decisions "
        "are stored at once in data/reviews/<reviewer>.jsonl; the stages split and zoom_train use them. See "
        "docs/review.md.",
    )
    parser.add_argument("--reviewer", metavar="NAME", help="whose decisions these are (default: your user name)")
    parser.add_argument(
        "--queue",
        choices=("categories", "zoom"),
        default="categories",
        help="what to review first (default: categories)",
    )
    parser.add_argument(
        "--order",
        choices=("uncertain", "errors", "unlabelled", "issues", "feedback", "disagreements", "random"),
        default="uncertain",
        help="uncertain: the least certain predictions first (default); errors: likely label errors first; random: a "
        "sample, whose accuracy is shown with an interval",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random order (default: 1)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1); elsewhere a token is needed"
    )
    parser.add_argument("--port", type=_port, default=4300, help="default: 4300; 0: a free port")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        dest="allowed_hosts",
        metavar="NAME",
        help="another name by which browsers reach this server, such as that of a proxy",
    )
    parser.add_argument("--model", metavar="DIR", help="see atlas predict --help (default: the last trained model)")
    parser.add_argument(
        "--disagreements", action="store_true", help="print on what reviewers disagree, and serve no page"
    )
    parser.set_defaults(command=run_review)


def run_review(*, disagreements: bool, **options: Any) -> int:
    """See `flows.review.command`."""
    from flows.review.command import list_disagreements, review

    return list_disagreements() if disagreements else review(**options)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {LAST_PORT}, got {text!r}")
    return int(text)
