"""The `atlas` command: arguments in, exit code out. What the subcommands do is elsewhere, imported when called.

Results go to stdout, words about them to stderr. Exit codes: 0 done, 1 the work failed, 2 bad input, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from flows.text import printable_lines

PAGE_HELP = """\
The page is asked for once: robots.txt and X-Robots-Tag are obeyed, and only public addresses (and those of
crawl.connect in params.yaml) are connected to. Each field is printed with its source:

  profile     the shop's YAML file in crawlers/pages, or that of the platform it runs on
  url         the same, from the page's URL
  css         the shop's own page object
  json-ld, microdata, opengraph   what the page says to machines
  heuristic   a guess

Exit code 0: of use (a product has a title and an image, a listing has products); 1: of no use; 2: bad input.
"""
LARGEST = 1_000_000  # number that an option takes: more is a slip
BROKEN_PIPE = 141  # as a shell reports a program that wrote to a reader who had gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `atlas` command; the exit code."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        exit_code: int = command(**options)
        sys.stdout.flush()
        return exit_code
    except AtlasError as error:
        say(printable_lines(f"error: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        return BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atlas", description="Product images, categorised in one taxonomy.")
    parser.add_argument("--version", action="version", version=f"atlas {version('atlas')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _add_predict_command(commands)

    export = commands.add_parser("export", help="a trained model as graphs that run without torch")
    export.add_argument("output", type=Path, metavar="OUT_FOLDER", help="a new one")
    export.add_argument("--model", metavar="DIR", help="as of predict")
    export.add_argument("--format", choices=("onnx", "openvino"), default="onnx", dest="form", help="default: onnx")
    export.set_defaults(command=_export)

    fetch = commands.add_parser("fetch", help="bring the images up to date: the stage fetch alone")
    fetch.add_argument(
        "--retry-failed", action="store_true", help="ask again for every URL that gave no image, whatever the reason"
    )
    fetch.set_defaults(command=_fetch)

    crawl = commands.add_parser("crawl", help="look at what a crawl does").add_subparsers(metavar="WHAT", required=True)
    changes = crawl.add_parser("changes", help="what changed in the shops between two crawls")
    drift = crawl.add_parser("drift", help="how far two crawls are apart: categories, prices, titles, images")
    for comparison in (changes, drift):
        comparison.add_argument("old", metavar="OLD", help="crawl.snapshot of the earlier crawl")
        comparison.add_argument("new", metavar="NEW", help="of the later one")
    changes.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv or .parquet; default: reports/changes/OLD..NEW.csv"
    )
    changes.set_defaults(command=_crawl_changes)
    drift.set_defaults(command=_crawl_drift)

    for name, words, command in (
        ("try", "what would be read on one page, field by field, and where", _crawl_try),
        ("record", "save a page with what is read on it, as a test", _crawl_record),
    ):
        one = crawl.add_parser(name, help=words, description=PAGE_HELP, formatter_class=argparse.RawTextHelpFormatter)
        one.add_argument("url", metavar="URL", help="of a product or of a category")
        one.add_argument("--as", dest="kind", choices=("listing", "product"), help="what it is; default: as it looks")
        one.add_argument("--file", type=Path, metavar="PAGE", help="read this file as the page; nobody is asked")
        one.add_argument("--profile", type=Path, metavar="SHOP.yaml", help="read it with this profile")
        if name == "record":
            one.add_argument("--folder", type=Path, metavar="DIR", help="default: tests/crawlers/pages/saved/<host>")
        one.set_defaults(command=command)

    _add_champion_commands(commands)

    results = commands.add_parser("results", help="the figures of the last run on one screen, and where to look next")
    results.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    results.set_defaults(command=_results)

    importing = commands.add_parser("import-manifest", help="fetch labelled images for the stage zoom_train")
    importing.add_argument("manifest", type=Path, metavar="FILE", help="[{filename, image_url, label, title}]")
    importing.add_argument("--output", type=Path, metavar="DIR", help="default: zoom_train.labelled of params.yaml")
    importing.set_defaults(command=_import_manifest)

    _add_project_commands(commands)
    return parser


def _add_project_commands(commands: Any) -> None:
    starting = commands.add_parser(
        "init",
        help="look at a folder of images and its table, and write params.yaml for them",
        description="Look at a folder of images and its table (CSV, JSONL, Parquet; docs/files.md), write params.yaml "
        "for them, and say what was chosen and why, what is wrong with the data, and what to do next.",
    )
    starting.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder; a Parquet table may hold the images itself"
    )
    starting.add_argument(
        "--table", type=Path, metavar="FILE", help="default: none; the folders that an image is in are its category"
    )
    starting.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        dest="columns",
        help="image, category (several times: one per level), product, title, price or split; default: guessed",
    )
    starting.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", dest="params_file")
    starting.add_argument("--force", action="store_true", help="also over changes that are not committed")
    starting.set_defaults(command=_init)

    check = commands.add_parser("check", help="find the faults of params.yaml and the files that it names")
    check.set_defaults(command=_check)


def _add_predict_command(commands: Any) -> None:
    predict = commands.add_parser("predict", help="the category of images")
    predict.add_argument(
        "images", nargs="*", metavar="IMAGE", help="files and folders; - or none: their paths on stdin, one a line"
    )
    predict.add_argument(
        "--model",
        metavar="DIR",
        help="pretrained: the shipped one; default: the champion, else the last trained one, else the shipped one",
    )
    predict.add_argument("--beam", type=_positive, default=5, metavar="K", help="width of the search (default 5)")
    predict.add_argument("--top", type=_positive, default=1, metavar="N", help="paths per image (default 1)")
    predict.add_argument("--attention", type=Path, metavar="OUT.png", help="draw where the model looked (one image)")
    predict.add_argument("--json", action="store_true", dest="as_json", help="one JSON object per image")
    predict.add_argument(
        "--product", action="store_true", help="all images together are one product, and get one answer"
    )
    predict.add_argument(
        "--title",
        metavar="TEXT",
        help="of the product that the images show, for a model that reads titles; without images, all it answers "
        "from (with --input, titles are read from the column title)",
    )
    predict.add_argument(
        "--min-confidence",
        type=_probability,
        metavar="P",
        help="answer down to the deepest level that is at least so probable (0 to 1), or that it is not sure",
    )
    predict.add_argument(
        "--accuracy",
        type=_accuracy,
        metavar="A",
        help="answer as deep as the held-out part promises that so many answers are right (such as 0.95), with a band: "
        "accept (a whole path), review (the beginning of one), no answer",
    )
    predict.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime", "onnxruntime-int8", "openvino"),
        default="auto",
        help="what runs the encoder; default: the fastest that is installed, once there are many images",
    )
    predict.add_argument(
        "--input",
        type=Path,
        metavar="FROM",
        dest="given",
        help="many images: a folder, or Parquet with the columns image_id and bytes, or image, and title where the "
        "model reads titles; needs --output",
    )
    predict.add_argument(
        "--output", type=Path, metavar="OUT.parquet", help="for the answers; interrupted, the same command goes on"
    )
    predict.add_argument(
        "--products",
        type=Path,
        metavar="OUT.parquet",
        help="for answers of products, with --input: its column product_id says whose each image is, or its folders",
    )
    predict.add_argument(
        "--batch-size", type=_positive, default=64, metavar="N", help="images at once, of --input (default 64)"
    )
    predict.set_defaults(command=_predict)


def _add_champion_commands(commands: Any) -> None:
    promoting = commands.add_parser("promote", help="make the last trained model the champion, if it is not worse")
    promoting.add_argument("--force", action="store_true", help="also if it is, or if the champion's folder is damaged")
    promoting.set_defaults(command=_promote)

    rolling_back = commands.add_parser("rollback", help="make an earlier champion the champion again")
    rolling_back.add_argument(
        "version",
        nargs="?",
        type=_positive,
        metavar="VERSION",
        help="its number in models/champions.json; default: the one whose place the champion took",
    )
    rolling_back.set_defaults(command=_roll_back)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {LARGEST}, got {text!r}")
    return int(text)


def _probability(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")


def _accuracy(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, such as 0.95, got {text!r}")


def _predict(given: Path | None, output: Path | None, *, products: Path | None, batch_size: int, **options: Any) -> int:
    import gc

    gc.disable()  # to look through what is being imported for garbage takes a tenth of the start
    from flows.cli.predict import predict

    gc.enable()
    if given is None and output is None and products is None:
        return predict(**options)
    from flows.cli.predict_file import predict_file

    return predict_file(given, output, products=products, batch_size=batch_size, **options)


def _export(**options: Any) -> int:
    from flows.cli.export import export_model

    return export_model(**options)


def _fetch(retry_failed: bool) -> int:
    from flows.cli.fetch import fetch

    return fetch(retry_failed=retry_failed)


def _crawl_changes(old: str, new: str, output: Path | None) -> int:
    from flows.cli.changes import report_changes

    return report_changes(old, new, output)


def _crawl_drift(old: str, new: str) -> int:
    import html

    from atlas_model.core.params import load_params
    from flows.monitoring.drift import compare_crawls

    report = compare_crawls(old, new, load_params())
    sys.stdout.write(html.unescape(report.markdown))
    say(f"written: {report.path}")
    return 0


def _crawl_try(**options: Any) -> int:
    from flows.cli.crawl import try_page

    return try_page(**options)


def _crawl_record(**options: Any) -> int:
    from flows.cli.crawl import record_page

    return record_page(**options)


def _promote(force: bool) -> int:
    import html

    from atlas_model.core.params import load_params
    from flows.registry.promote import promote

    decision = promote(load_params(), force=force)
    sys.stdout.write(html.unescape(decision.markdown))
    return 0 if decision.accepted else AtlasError.exit_code


def _roll_back(version: int | None) -> int:
    from flows.registry.champion import roll_back

    champion = roll_back(version)
    sys.stdout.write(f"the champion is version {champion.version} again: {champion.reason}\n")
    return 0


def _results(as_json: bool) -> int:
    from flows.cli.results import show_results

    return show_results(as_json=as_json)


def _import_manifest(manifest: Path, output: Path | None) -> int:
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


def _init(**options: Any) -> int:
    from flows.init.command import init

    return init(**options)


def _check() -> int:
    from flows.cli.check import check

    return check()


if __name__ == "__main__":
    sys.exit(main())
