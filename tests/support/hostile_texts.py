"""Damaged and hostile text files: parameters, taxonomies, sources, sitemaps, manifests, tables, review decisions."""

import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from atlas_model.core.params import load_params
from atlas_model.core.yaml_files import read_yaml
from atlas_model.data.dataset import load_taxonomy_json
from atlas_model.data.reviews import read_reviews
from atlas_model.taxonomy.changes import load_changes
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.names import clean_name
from crawlers.files.entries import Columns
from crawlers.files.products import write_products
from crawlers.files.table import SUFFIXES
from crawlers.pages.profile import ShopProfile
from crawlers.sources.csv_sources import read_sources
from crawlers.sources.manifest import iterate_entries, read_labelled_manifest, read_manifest_products
from crawlers.sources.sitemaps import read_sitemap
from tests.support.isolated_runs import Kind
from tests.support.mutations import mutated, mutated_text
from tests.support.paths import ROOT

Input = tuple[str, bytes]  # a name, and the content

PATHS = b"taxonomy,id\nClothing->Tops->Shirt,1\nClothing > Tops,2\nShoes->Boots,3\nBags,\n"
NODES = b"id,parent_id,name\n1,,Clothing\n2,1,Tops\n3,2,Shirt\n4,,Bags\n"
PLAIN = b"# a comment\nClothing > Tops > Shirt\nShoes > Boots\nBags\n"
GOOGLE = b"166 - Apparel\n1604 - Apparel > Clothing\n212 - Apparel > Clothing > Shirts\n"
SOURCES = b"Taxonomy,a.test,b.test\nClothing->Tops,http://a.test/c/1 http://a.test/c/2,https://b.test/t?x=1\nBags,,http://b.test/b\n"
CHANGES = b"from,to\nClothing > Tops,Clothing > Shirts\nBags,Bags > Large\nBags,Bags > Small\nOld,\n"
TABLE = (
    b"image,category,title,product,price,split\n"
    b'1.jpg,Clothing>Tops,"A shirt, red",1,12.50,train\n2.jpg,Bags,Bag,2,7,test\n3.jpg,Bags,,2,,\n'
)
SITEMAP = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    b"<url><loc>https://a.test/p/1</loc><lastmod>2026-01-01</lastmod></url>\n"
    b"<url><loc>https://a.test/p/2?a=1&amp;b=2</loc></url>\n</urlset>\n"
)
INDEX = SITEMAP.replace(b"urlset", b"sitemapindex").replace(b"<url>", b"<sitemap>").replace(b"</url>", b"</sitemap>")
ENTITIES = (
    b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>'
)
RECORD = {
    "version": 1, "id": "0" * 32, "at": "2026-01-01T00:00:00.000000Z", "reviewer": "ann", "kind": "category",
    "product_id": "a:1", "answer": "category", "category": ["Clothing", "Tops"],
}  # fmt: skip
UNDO = {
    "version": 1,
    "id": "1" * 32,
    "at": "2026-01-01T00:00:01.000000Z",
    "reviewer": "ann",
    "kind": "undo",
    "undoes": "0" * 32,
}
COLUMNS = Columns(image="image", category=["category"], product="product", title="title", price="price", split="split")


def _yaml(data: bytes, random: Random) -> bytes:
    """Insert what only YAML has: anchors that multiply, merge keys, tags, lists in themselves."""
    bomb = b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 108))
    odd = (
        *(b"a: &a [x,x,x,x,x,x,x,x,x]\n" + bomb, b"a: &a [*a]\n", b"&a a: *a\n", b"<<: [1]\n", b"%YAML 9.9\n---\n"),
        *(b"? [a, b]\n: c\n", b"? {a: b}\n: c\n", b"x: !!binary =\n", b"x: !!timestamp 2026-13-45\n", b"x: '\n"),
        *(
            b"x: !!int abc\n",
            b"x: !!float x\n",
            b"x: !!set {a, b}\n",
            b"x: !!omap [a]\n",
            b"x: !!python/name:os.system\n",
        ),
        *(b"x: 0b\n", b"x: 0x\n", b"x: 0o9\n", b"x: _\n", b"x: -_\n", b"x: 1e99999\n", b"x: .e+1\n"),
    )
    if random.random() < 0.1:  # the value of a key stands for billions
        return odd[0] + re.sub(rb": (\d+|auto)\b", b": *k", data, count=random.choice((1, 5)))
    lines = data.split(b"\n")
    at, piece = random.randrange(len(lines) + 1), random.choice(odd)
    if random.random() < 0.5 and piece.startswith(b"x: ") and lines:  # as the value of a key that exists
        at = random.randrange(len(lines))
        lines[at] = lines[at].partition(b":")[0] + piece.rstrip()[1:]
        return b"\n".join(lines)
    return b"\n".join([*lines[:at], piece.rstrip(), *lines[at:]])


@cache
def _params() -> bytes:
    return (ROOT / "params.yaml").read_bytes()


@cache
def _profiles() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "crawlers/pages").glob("*.yaml"))]


def _one_of(**texts: bytes) -> Callable[[Random], Input]:
    def make(random: Random) -> Input:
        name = random.choice(list(texts))
        return name, mutated_text(texts[name], random, list(texts.values()))

    return make


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def check_params(made: Input, folder: Path) -> str:
    """Read the parameters."""
    load_params(_write(folder, "params.yaml", made[1]))
    return "ok"


def check_profile(made: Input, folder: Path) -> str:
    """Read the profile of a shop."""
    read_yaml(_write(folder, "profile.yaml", made[1]), ShopProfile)
    return "ok"


def check_taxonomy(made: Input, folder: Path) -> str:
    """Read a taxonomy, sources or changes; no name may be one that is not in the file."""
    name, content = made
    path = _write(folder, "taxonomy.csv", content)
    if name == "sources":
        read_sources(path)
        return "ok"
    if name == "changes":
        load_changes(path, None)
        return "ok"
    if name == "json":
        load_taxonomy_json(path)
        return "ok"
    taxonomy = load_taxonomy(path)
    text = "".join(clean_name(content.decode("utf-8-sig")).split()).replace('""', '"')
    for category in taxonomy.names:
        assert "".join(category.split()) in text, category
    return "ok"


def make_sitemap(random: Random) -> Input:
    """A sitemap or an index, maybe compressed, before or after it was damaged."""
    text = random.choice((SITEMAP, INDEX, SITEMAP.replace(b"<urlset", ENTITIES + b"<urlset").replace(b"p/1", b"&c;")))
    if random.random() < 0.3:
        text = text.replace(
            b"</url>", b"</url>" + b"<url><loc>https://a.test/x</loc></url>" * random.choice((50_001, 3))
        )
    if random.random() < 0.4:
        return "gzip", mutated(gzip.compress(mutated_text(text, random), 1), random)
    if random.random() < 0.02:
        return "bomb", gzip.compress(text + bytes(60_000_000), 1)
    return "xml", mutated_text(text, random)


def check_sitemap(made: Input, folder: Path) -> str:
    """Read a sitemap; each URL is an http URL."""
    found = read_sitemap("https://a.test/sitemap.xml", made[1])
    if found is None:
        return "no_sitemap"
    assert all(url.startswith(("http://", "https://")) for url in (*found.urls, *found.sitemaps))
    assert len(found.urls) <= 50_000
    return "ok" if found.complete else "cut_off"


def make_manifest(random: Random) -> Input:
    """A manifest of products or of labelled images."""
    entry = {
        "filename": "a",
        "title": "T",
        "sentences": [{"tokens": ["A", "B"]}],
        "image_url": "http://a.test/1.jpg",
        "split": "train",
    }
    labelled = {"filename": "a", "title": "T", "label": "zoomed", "image_url": "http://a.test/1.jpg"}
    texts = {
        "products": json.dumps({"images": [entry, entry | {"filename": "b"}]}).encode(),
        "labelled": json.dumps([labelled, labelled | {"filename": "b", "label": "normal"}]).encode(),
    }
    name = random.choice(list(texts))
    return name, mutated_text(texts[name], random, list(texts.values()))


def check_manifest(made: Input, folder: Path) -> str:
    """Read a manifest with each of its readers."""
    name, content = made
    path = _write(folder, "manifest.json", content)
    if name == "labelled":
        read_labelled_manifest(path)
        return "ok"
    entries = list(iterate_entries(path))
    assert all(entry.product is not None or entry.faults for entry in entries), "neither a product nor a fault"
    read_manifest_products(path)
    assert all(not entry.faults for entry in entries), "a fault that is no error"
    return "ok"


def make_table(random: Random) -> Input:
    """A table of a local folder or of URLs."""
    rows = [
        dict(zip(TABLE.decode().splitlines()[0].split(","), ("1.jpg", "A>B", "T", n, n, "train"), strict=True))
        for n in range(3)
    ]
    texts = {
        ".csv": TABLE,
        ".tsv": TABLE.replace(b",", b"\t"),
        ".jsonl": "\n".join(map(json.dumps, rows)).encode(),
        ".txt": b"http://a.test/1.jpg\n# none\n\nhttp://a.test/2.jpg\n",
    }
    name = random.choice(list(texts))
    return name, mutated_text(texts[name], random, list(texts.values()))


def check_table(made: Input, folder: Path) -> str:
    """Write the products of a table; each row is a product's, or is counted."""
    suffix, content = made
    assert suffix in SUFFIXES
    path = _write(folder, f"table{suffix}", content)
    lists = suffix == ".txt"
    columns = Columns(image="url", category=[], product=None, title=None, price=None, split=None) if lists else COLUMNS
    counts = write_products(
        folder / "products.parquet", table=path, images=folder, separator=">", columns=columns, urls=lists
    )
    assert counts.rows >= counts.products
    return "ok"


def make_reviews(random: Random) -> Input:
    """Records of reviews."""
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in (RECORD, UNDO, RECORD | {"id": "2" * 32}))
    return "ann", mutated_text(lines, random)


def check_reviews(made: Input, folder: Path) -> str:
    """Read records; a line that is none is an error, and only an incomplete last one is left out, with a warning."""
    reviews = folder / "reviews"
    reviews.mkdir(exist_ok=True)
    _write(reviews, "ann.jsonl", made[1])
    found = read_reviews(reviews)
    assert len(found.warnings()) == len(found.torn)
    lines = {line for line in made[1].split(b"\n") if line.strip()}
    assert len(found.records) + len(found.torn) <= len(lines)
    assert len({record.id for record in found.records}) == len(found.records)
    return "torn" if found.torn else "ok"


PARAMS = Kind(lambda random: ("params", mutated_text(_params(), random, more=[_yaml])), check_params)
PROFILES = Kind(
    lambda random: ("profile", mutated_text(random.choice(_profiles()), random, more=[_yaml])), check_profile
)
TAXONOMIES = Kind(
    _one_of(
        paths=PATHS, nodes=NODES, plain=PLAIN, google=GOOGLE, sources=SOURCES, changes=CHANGES,
        json=b'{"paths": [["Clothing", "Tops"], ["Bags"]], "ids": [], "keys": null}',
    ),
    check_taxonomy,
)  # fmt: skip
SITEMAPS = Kind(make_sitemap, check_sitemap)
MANIFESTS = Kind(make_manifest, check_manifest)
TABLES = Kind(make_table, check_table)
REVIEWS = Kind(make_reviews, check_reviews)
