"""Finds the photographs, writes their manifest, serves them on loopback, and writes a folder with some of them."""

import csv
import io
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.files import replacing_folder, write_text

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "ATLAS_PHOTOGRAPHS"  # environment variable that names another file
DEFAULT = ROOT.parent / "shared/images/myntra.parquet"
HOST = "photographs.test"
LEVELS = ("category", "sub_category", "article_type")
COLUMNS = {"id": pa.types.is_integer, "jpeg": pa.types.is_binary} | dict.fromkeys(
    ("title", *LEVELS), pa.types.is_string
)


@dataclass(frozen=True)
class Photographs:
    """A Parquet file of product photographs, one image per product."""

    path: Path
    rows: tuple[dict[str, Any], ...]  # id, title and LEVELS, in the order of the file; without the images

    def images(self) -> dict[int, bytes]:
        """The JPEG of each id."""
        table = pq.read_table(self.path, columns=["id", "jpeg"])
        return dict(zip(table["id"].to_pylist(), table["jpeg"].to_pylist(), strict=True))


def find_photographs() -> Photographs:
    """The file in the environment variable, or the default file.

    Raises:
        MissingError: the file does not exist.
        InputError: the file has another format.
    """
    path = Path(os.environ.get(VARIABLE) or DEFAULT)
    if not path.is_file():
        raise MissingError(
            f"{path}: no such file; expected the product photographs. They are part of the data set Fashion Product "
            "Images (Kaggle, Param Aggarwal) as Parquet with the columns id, jpeg, title, category, sub_category and "
            f"article_type; set {VARIABLE}=FILE to its path"
        )
    try:
        schema = pq.read_schema(path)
        faults = [
            f"column {name}: expected another type, got {schema.field(name).type}" if name in schema.names else name
            for name, fits in COLUMNS.items()
            if name not in schema.names or not fits(schema.field(name).type)
        ]
        if faults:
            raise InputError(
                f"{path}: expected the columns {', '.join(COLUMNS)}; missing or wrong: {', '.join(faults)}"
            )
        rows = pq.read_table(path, columns=["id", "title", *LEVELS]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file of photographs, got something else: {error}") from error
    return Photographs(path, tuple(rows))


def write_manifest(path: Path, photographs: Photographs) -> None:
    """Write the manifest of all photographs, in the format of the original project."""
    images = [
        {
            "filename": f"{row['id']}.jpg",
            "title": row["title"],
            "sentences": [{"tokens": [row[level] for level in LEVELS]}],
            "image_url": f"http://{HOST}/images/{row['id']}.jpg",
        }
        for row in photographs.rows
    ]
    write_text(path, json.dumps({"images": images}, ensure_ascii=False) + "\n")


def write_folder(folder: Path, photographs: Photographs, count: int, seed: int) -> None:
    """Write a random sample of ``count`` photographs: ``images/<id>.jpg`` and ``products.csv``."""
    rows = random.Random(seed).sample(photographs.rows, min(count, len(photographs.rows)))
    images = photographs.images()
    with replacing_folder(folder) as temporary:
        (temporary / "images").mkdir()
        for row in rows:
            (temporary / "images" / f"{row['id']}.jpg").write_bytes(images[row["id"]])
        text = io.StringIO()
        table = csv.DictWriter(text, ["image", "title", *LEVELS], extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows({"image": f"{row['id']}.jpg", **row} for row in rows)
        write_text(temporary / "products.csv", text.getvalue())


@contextmanager
def serving(photographs: Photographs, port: int | None) -> Iterator[int]:
    """Serve the images of the manifest on loopback during the ``with`` block; yields the port.

    Args:
        photographs: the photographs to serve.
        port: preferred port, if it is free; None: any free port.
    """

    class Handler(_Handler):
        images: ClassVar[dict[int, bytes]] = photographs.images()

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port or 0), Handler)
    except OSError:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    images: ClassVar[dict[int, bytes]] = {}

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2].removesuffix(".jpg")
        body = self.images.get(int(name)) if name.isdecimal() else None
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/plain" if body is None else "image/jpeg")
        if body is not None:
            self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Log nothing: thousands of lines would hide the messages of the pipeline."""
