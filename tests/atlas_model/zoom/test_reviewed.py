"""Reviewed images in the training data of the close-up filter."""

from pathlib import Path

from atlas_model.data.decisions import verdicts
from atlas_model.data.reviews import store_image
from atlas_model.zoom.reviewed import EFFECTS, add_reviewed
from tests.support.reviews import zoom
from tests.support.zoom_images import image, row, table_of


def test_each_decision_is_added_or_counted_with_its_reason(tmp_path: Path) -> None:
    labelled = table_of([row("normal", 1), row("zoomed", 2)])
    store_image(tmp_path, "new", image("zoomed", 3))
    records = [
        zoom("new", "zoomed", product_id="shop:7"),
        zoom("normal-001", "zoomed"),
        zoom("zoomed-002", "zoomed"),
        zoom("i4", "unsure"),
        zoom("i5", "zoomed"),
        zoom("i5", "normal", "bob"),
        zoom("lost", "normal"),
    ]
    table, counts = add_reviewed(labelled, verdicts(records, "zoom"), tmp_path)
    assert counts == dict.fromkeys(EFFECTS, 1)
    found = {each["image_id"]: each for each in table.to_pylist()}
    assert {image_id: each["label"] for image_id, each in found.items()} == {
        "normal-001": "zoomed",
        "zoomed-002": "zoomed",
        "new": "zoomed",
    }
    assert found["new"]["bytes"] == image("zoomed", 3) and found["new"]["source_id"] == "review:shop:7"
    assert labelled["label"].to_pylist() == ["normal", "zoomed"]
