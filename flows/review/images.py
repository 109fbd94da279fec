"""Images from the shards as a browser may show them: decoded here, with the limits of `images`, and encoded again."""

import io
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

from atlas_model.data.images import decode
from atlas_model.data.schemas import open_parquet, shard_paths

SMALL_PIXELS = 200 * 200  # at most: as PNG, without loss
CACHED = 512  # encoded images; some tens of MB


class ImageStore:
    """The images of a folder of shards (`schemas.IMAGES`), by image_id. Thread-safe.

    Reads only the row group that has an image. In memory are the image ids and the encoded images of `CACHED` requests.
    """

    def __init__(self, shards: Path) -> None:
        self._shards = shard_paths(shards, "fetch")
        self._groups: list[tuple[int, int]] = []  # shard, row group
        self._starts: list[int] = []  # of the groups: the number of rows before them
        self._row_of: dict[str, int] = {}
        for shard, path in enumerate(self._shards):
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    self._groups.append((shard, group))
                    self._starts.append(len(self._row_of))
                    for image_id in file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist():
                        self._row_of.setdefault(image_id, len(self._row_of))
        self.render = lru_cache(CACHED)(self._render)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row_of

    def read(self, image_id: str) -> bytes:
        """The bytes as they were downloaded.

        Raises:
            KeyError: there is no such image.
        """
        row = self._row_of[image_id]
        index = bisect_right(self._starts, row) - 1
        shard, group = self._groups[index]
        with open_parquet(self._shards[shard]) as file:
            found = file.read_row_group(group, columns=["image_id", "bytes"])
        data: bytes = found["bytes"][row - self._starts[index]].as_py()
        return data

    def _render(self, image_id: str, side: int) -> tuple[bytes, str]:
        """The image with a longer side of at most ``side`` px, and its media type.

        Raises:
            KeyError: there is no such image.
            ImageError: it cannot be decoded.
        """
        image = decode(self.read(image_id), side=side)
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        if image.width * image.height <= SMALL_PIXELS:
            image.save(buffer, "PNG")
            return buffer.getvalue(), "image/png"
        image.save(buffer, "JPEG", quality=88)
        return buffer.getvalue(), "image/jpeg"
