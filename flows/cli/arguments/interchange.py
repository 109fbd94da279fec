"""`atlas export-data`, `import-original` and `taxonomy`."""

import sys
from pathlib import Path
from typing import Any

from flows.cli.arguments.types import positive


def add(commands: Any) -> None:
    """Add the subcommands."""
    exporting = commands.add_parser(
        "export-data",
        help="export the splits as a WebDataset or as a Hugging Face dataset folder",
        description="Write the images and labels of data/splits to a folder: as tar files in the WebDataset format, or "
        "as Parquet files with a data card, which datasets.load_dataset opens and the Hub accepts. The images are "
        "those of the splits, at training size.",
    )
    exporting.add_argument("output", type=Path, metavar="OUT_FOLDER", help="a folder that does not exist or is empty")
    exporting.add_argument(
        "--format", choices=("webdataset", "hub"), required=True, dest="form", help="the format of the dataset"
    )
    exporting.add_argument(
        "--shard-mb", type=positive, default=256, metavar="MB", help="largest size of a tar file (default: 256)"
    )
    exporting.set_defaults(command=run_export_data)

    taxonomy = commands.add_parser(
        "taxonomy", help="compare two versions of a taxonomy", description="Work with files of taxonomies."
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    comparing = taxonomy.add_parser(
        "compare",
        help="list renamed, moved and removed categories of two versions with ids",
        description="Compare two versions of a taxonomy whose categories have ids, and print the changes as CSV (from, "
        "to, remark), the format of split.taxonomy_changes. Categories that are gone have an empty to: name their "
        "successors.",
    )
    comparing.add_argument("old", type=Path, metavar="OLD", help="the earlier version")
    comparing.add_argument("new", type=Path, metavar="NEW", help="the later version")
    comparing.set_defaults(command=run_taxonomy_compare)

    original = commands.add_parser(
        "import-original",
        help="import the dataset file of the original project",
        description="Read atlas_dataset.json of the original project, check its tokens against its word map, write a "
        "manifest and a taxonomy, and set params.yaml to them. Prints the counts and the next command.",
    )
    original.add_argument(
        "dataset", type=Path, metavar="DATASET.json", help='{"images": [...]}, as the project wrote it'
    )
    original.add_argument(
        "--word-map", type=Path, metavar="WORDMAP.json", help="its word map; tokens that it lacks are discarded"
    )
    original.add_argument(
        "--output",
        type=Path,
        default=Path("data/original"),
        metavar="DIR",
        help="folder of the manifest and the taxonomy (default: data/original)",
    )
    original.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        dest="params_file",
        help="the file to change (default: params.yaml)",
    )
    original.add_argument("--force", action="store_true", help="overwrite it although it has uncommitted changes")
    original.set_defaults(command=run_import_original)


def run_export_data(**options: Any) -> int:
    """See `flows.cli.export_data`."""
    from flows.cli.export_data import export_data

    return export_data(**options)


def run_taxonomy_compare(old: Path, new: Path) -> int:
    """Print the changes as CSV."""
    import csv

    from atlas_model.core.errors import InputError
    from atlas_model.core.progress import say
    from atlas_model.taxonomy.changes import COLUMNS, compare_versions
    from atlas_model.taxonomy.files import load_taxonomy

    versions = [load_taxonomy(path) for path in (old, new)]
    for path, version in zip((old, new), versions, strict=True):
        if not version.ids:
            raise InputError(
                f"{path}: expected categories with ids, got none. Google's file is taxonomy-with-ids.en-US.txt; in "
                "CSV, the column id holds them"
            )
    rows = compare_versions(*versions)
    csv.writer(sys.stdout, lineterminator="\n").writerows([(*COLUMNS, "remark"), *rows])
    gone = sum(not new_path for _, new_path, _ in rows)
    say(f"{len(rows) - gone} categories were renamed or moved, {gone} are gone")
    return 0


def run_import_original(**options: Any) -> int:
    """See `flows.cli.import_original`."""
    from flows.cli.import_original import import_original

    return import_original(**options)
