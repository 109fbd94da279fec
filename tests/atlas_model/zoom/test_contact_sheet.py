"""The contact sheet of discarded images."""

from pathlib import Path

import pyarrow as pa
from PIL import Image

from atlas_model.data.images import encode_png
from atlas_model.data.schemas import IMAGES, SCORES, ShardWriter
from atlas_model.zoom.contact_sheet import SHOWN, write_sheet
from tests.support.zoom_images import image_row


def test_contact_sheet_is_bounded_and_sorted_by_confidence(tmp_path: Path) -> None:
    count = SHOWN + 5
    with ShardWriter(tmp_path / "shards", IMAGES, rows_per_shard=50) as writer:
        for number in range(count):
            shade = Image.new("L", (300, 200), number)
            writer.append(image_row(f"{number:03}", encode_png(shade)))
    rows = [
        {"image_id": f"{number:03}", "p_zoomed": number / count, "keep": False, "reason": "zoomed", "phash": 1}
        for number in range(count)
    ]
    table = pa.Table.from_pylist(rows, schema=SCORES)
    assert write_sheet(tmp_path / "sheet.png", table, tmp_path / "shards") == SHOWN
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (10 * 112, SHOWN // 10 * 126)
        assert sheet.getpixel((56, 56)) == (count - 1,) * 3
        assert sheet.getpixel((112 + 56, 56)) == (count - 2,) * 3
