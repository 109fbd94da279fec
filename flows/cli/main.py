"""Entry point of the `atlas` command: parses arguments and calls the subcommand, whose module is imported only then.

Results go to stdout, messages to stderr. Exit codes: 0 done, 1 failure, 2 bad input, 130 Ctrl-C.
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
from flows.cli import commands as run
from flows.text import printable_lines

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
LARGEST = 1_000_000  # number that an option accepts: a larger one is a typing error
BROKEN_PIPE = 141  # as a shell reports a program whose reader closed the pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `atlas` command and return its exit code."""
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
    parser = argparse.ArgumentParser(prog="atlas", description="Categorises product images in one taxonomy.")
    parser.add_argument("--version", action="version", version=f"atlas {version('atlas')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _add_predict_command(commands)

    export = commands.add_parser(
        "export",
        help="export a trained model as graphs that run without torch",
        description="Export a trained model to a folder: its graphs in the format ONNX or OpenVINO, and export.json, "
        "which describes them and holds the taxonomy. Running the graphs needs neither torch nor Atlas.",
    )
    export.add_argument("output", type=Path, metavar="OUT_FOLDER", help="a folder that does not exist or is empty")
    export.add_argument("--model", metavar="DIR", help="see atlas predict --help")
    export.add_argument("--format", choices=("onnx", "openvino"), default="onnx", dest="form", help="default: onnx")
    export.set_defaults(command=run.export)

    fetch = commands.add_parser(
        "fetch",
        help="run the stage fetch alone: download the images of the products",
        description="Run the stage fetch alone, through DVC: download the images of the products that are not in "
        "data/images yet, and print the counts.",
    )
    fetch.add_argument(
        "--retry-failed", action="store_true", help="request every URL again that gave no image, whatever the reason"
    )
    fetch.set_defaults(command=run.fetch)

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
    changes.set_defaults(command=run.crawl_changes)
    drift.set_defaults(command=run.crawl_drift)

    for name, summary, description, command in (
        ("try", "print the fields that a crawl would read on one page, with their sources", TRY_HELP, run.crawl_try),
        ("record", "save a page and the fields read on it as a test", RECORD_HELP, run.crawl_record),
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

    _add_champion_commands(commands)

    results = commands.add_parser(
        "results",
        help="print the metrics of the last run on one screen, and the files with the details",
        description="Print the metrics of the last run on one screen: the model on the validation and test split, the "
        "discarded images, the comparison with the champion, the weakest categories, warnings, and the files with the "
        "details.",
    )
    results.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object instead")
    results.set_defaults(command=run.results)

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
    importing.set_defaults(command=run.import_manifest)

    _add_project_commands(commands)
    return parser


def _add_project_commands(commands: Any) -> None:
    starting = commands.add_parser(
        "init",
        help="inspect a folder of images and its table, and write params.yaml for them",
        description="Inspect a folder of images and its table (CSV, JSONL or Parquet; see docs/files.md), and write "
        "params.yaml for them. Prints each choice with its reason, the faults of the data, and the next command.",
    )
    starting.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of images; not needed if a Parquet table contains them"
    )
    starting.add_argument(
        "--table", type=Path, metavar="FILE", help="the table; without one, the folder of an image is its category path"
    )
    starting.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        dest="columns",
        help="the column NAME has this role: image, category (several times: one per level), product, title, price or "
        "split; default: detected",
    )
    starting.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        dest="params_file",
        help="the file to change (default: params.yaml)",
    )
    starting.add_argument("--force", action="store_true", help="overwrite it although it has uncommitted changes")
    starting.set_defaults(command=run.init)

    check = commands.add_parser(
        "check",
        help="find the faults of params.yaml and of the files that it names",
        description="Read params.yaml and the input files that it names, and print all faults. Runs no stage. Exit "
        "code 0: no faults; 2: faults.",
    )
    check.set_defaults(command=run.check)


def _add_predict_command(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="predict the category paths of images",
        description="Predict category paths of the taxonomy, with probabilities: for named images, on stdout; for many "
        "images (--input), in a Parquet file.",
    )
    predict.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="files and folders; without any, or with -, paths are read from stdin, one per line",
    )
    predict.add_argument(
        "--model",
        metavar="DIR",
        help="folder of the model, or pretrained: the bundled model; default: the champion, else the last trained "
        "model, else the bundled model",
    )
    predict.add_argument("--beam", type=_positive, default=5, metavar="K", help="width of the beam search (default: 5)")
    predict.add_argument("--top", type=_positive, default=1, metavar="N", help="category paths per image (default: 1)")
    predict.add_argument(
        "--attention", type=Path, metavar="OUT.png", help="draw the attention of the decoder (one image)"
    )
    predict.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object per image")
    predict.add_argument(
        "--product", action="store_true", help="all images show one product: one prediction for all of them"
    )
    predict.add_argument(
        "--title",
        metavar="TEXT",
        help="title of the product that the images show, for a model trained with titles. Without images, the "
        "prediction is from the title alone. With --input, titles come from the column title instead",
    )
    predict.add_argument(
        "--min-confidence",
        type=_probability,
        metavar="P",
        help="predict the deepest category with at least this probability (0 to 1); if there is none, 'not sure'",
    )
    predict.add_argument(
        "--accuracy",
        type=_accuracy,
        metavar="A",
        help="predict the deepest category with a guaranteed accuracy of at least A (for example 0.95), measured on "
        "the held-out products of the model. Adds a band: accept (a whole category path), review (its first levels) "
        "or no answer",
    )
    predict.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime", "onnxruntime-int8", "openvino"),
        default="auto",
        help="library that runs the encoder; auto (default): torch for few images, else the fastest one installed, "
        "which is measured once per machine",
    )
    predict.add_argument(
        "--input",
        type=Path,
        metavar="FROM",
        dest="given",
        help="many images: a folder, or a Parquet file (or a folder of them) with the columns image_id and bytes, or "
        "the column image; and the column title, if the model reads titles. Needs --output",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="OUT.parquet",
        help="file for the predictions of --input. After an interruption, the same command resumes",
    )
    predict.add_argument(
        "--products",
        type=Path,
        metavar="OUT.parquet",
        help="with --input: file for one prediction per product. The product of an image is in the column product_id, "
        "or is the folder of the image",
    )
    predict.add_argument(
        "--batch-size", type=_positive, default=64, metavar="N", help="images per batch of --input (default: 64)"
    )
    predict.set_defaults(command=run.predict)


def _add_champion_commands(commands: Any) -> None:
    promoting = commands.add_parser(
        "promote",
        help="make the last trained model the champion, if it is non-inferior",
        description="Compare the last trained model with the champion on today's validation split. If it is "
        "non-inferior (95 % interval, margins in the section promote of params.yaml), it becomes the champion: the "
        "model that atlas predict uses. Exit code 1: it was not promoted.",
    )
    promoting.add_argument(
        "--force",
        action="store_true",
        help="promote it without the comparison, also if the champion's folder is damaged",
    )
    promoting.set_defaults(command=run.promote)

    rolling_back = commands.add_parser(
        "rollback",
        help="make an earlier champion the champion again",
        description="Make an earlier champion the champion again. The model that it replaces is not promoted again "
        "without --force.",
    )
    rolling_back.add_argument(
        "version",
        nargs="?",
        type=_positive,
        metavar="VERSION",
        help="its version in models/champions.json; default: the previous champion",
    )
    rolling_back.set_defaults(command=run.roll_back)


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


if __name__ == "__main__":
    sys.exit(main())
