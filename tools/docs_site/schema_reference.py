"""The reference of the Parquet tables, from atlas_model/data/schemas.py and the comments in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from atlas_model.data import schemas
from tools.docs_site.comments import comment_of
from tools.docs_site.markdown import code, plain, table

WRITTEN = {  # where the stages and commands write it; a schema without an entry is shown by its name
    "PRODUCTS": "`data/raw/products.parquet`, written by the stage crawl",
    "IMAGES": "`data/images/shards/*.parquet`, written by the stage fetch",
    "REFS": "`data/images/refs.parquet`, written by the stage fetch",
    "LABELLED": "`data/zoom/labelled/*.parquet`, written by `atlas import-manifest`, read by the stage zoom_train",
    "SCORES": "`data/zoom/scores.parquet`, written by the stage zoom",
    "SPLIT": "`data/splits/{train,val,test}.parquet`, written by the stage split",
    "QUALITY": "`reports/split/quality.parquet` and `reports/evaluate/quality.parquet`, written by these stages",
    "PREDICTIONS": "`reports/evaluate/predictions.parquet`, written by the stage evaluate",
    "PRODUCT_PREDICTIONS": "`reports/evaluate/products.parquet`, written by the stage evaluate",
    "PREDICTED": "written by `atlas predict --input FROM --output OUT.parquet`",
    "PREDICTED_WITH_BAND": "written by the same command with `--accuracy`",
    "PREDICTED_PRODUCTS": "written by `atlas predict --input FROM --output OUT.parquet --products OUT.parquet`",
}


def schema_reference() -> str:
    """Markdown: a heading and a table of the columns per schema."""
    said = dict(_comments())
    by_name = {name: text for (_, name), text in said.items()}
    parts = []
    for variable, schema in vars(schemas).items():
        if not isinstance(schema, pa.Schema):
            continue
        rows = [
            [
                code(field.name),
                code(str(field.type)) + (" or null" if field.nullable else ""),
                plain(said.get((variable, field.name)) or by_name.get(field.name, "")),
            ]
            for field in schema
        ]
        where = WRITTEN.get(variable, "")
        parts.append(f"## {variable}\n\n{where}\n\n{table(('column', 'type', 'content'), rows)}")
    return "\n".join(parts)


def _comments() -> Iterator[tuple[tuple[str, str], str]]:
    path = Path(schemas.__file__)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pa.field" and call.args:
                text = comment_of(path, call)
                if text:
                    yield (node.targets[0].id, ast.literal_eval(call.args[0])), text
