"""The cache of a frozen encoder's features: what it holds, when it is read, and what becomes of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_model import features
from atlas_model.dataset import Split, ahead
from atlas_model.encoder import Encoder, build_encoder
from atlas_model.errors import AtlasError
from atlas_model.features import Features, load_features
from atlas_model.images import Preprocessing

CPU = torch.device("cpu")
ROWS = 20


class Killed(BaseException):
    """Stands for a kill in the middle."""


class Counting(Encoder):
    """An encoder that remembers how many pictures it saw, and can be told to die."""

    seen: int
    dies_after: int | None

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.dies_after is not None and self.seen >= self.dies_after:
            raise Killed
        self.seen += len(pictures)
        return super().forward(pictures)


def make_encoder(seed: int = 1, dies_after: int | None = None) -> Counting:
    torch.manual_seed(seed)
    encoder = build_encoder("small", in_channels=1, grid="native").eval()
    encoder.__class__ = Counting
    encoder.seen, encoder.dies_after = 0, dies_after
    return encoder


def make_split(seed: int = 1, name: str = "train") -> Split:
    pixels = np.random.default_rng(seed).integers(0, 256, (ROWS, 1, 8, 8), dtype=np.uint8)
    names = [str(row) for row in range(ROWS)]
    return Split(name, pixels, np.zeros(ROWS, dtype=np.int64), names, names, Preprocessing(8, "L", "squash"))


def load(encoder: Encoder, split: Split, cache: Path) -> Features:
    return load_features(encoder, split, cache, batch_size=6, device=CPU)


def expected(encoder: Counting, split: Split) -> torch.Tensor:
    encoder.dies_after = None
    with torch.no_grad():
        return encoder(split.pictures(np.arange(ROWS), CPU))


def test_holds_what_the_encoder_says_and_is_read_again(tmp_path: Path) -> None:
    encoder, split = make_encoder(), make_split()
    cells = load(encoder, split, tmp_path).cells_of(np.array([3, 1, 19]), CPU)
    assert encoder.seen == ROWS + 1, "one to see the shape"
    assert cells.dtype == torch.float32
    torch.testing.assert_close(cells, expected(encoder, split)[[3, 1, 19]], rtol=1e-3, atol=1e-3)
    again = load(make_encoder(dies_after=0), split, tmp_path)
    assert again.cells_of(np.array([3, 1, 19]), CPU).equal(cells)
    assert isinstance(again.cells, np.memmap)
    assert len(again) == ROWS


def test_anything_changed_is_computed_anew_and_the_old_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    split = make_split()
    other_pixels = replace(split, pixels=split.pixels.copy())
    other_pixels.pixels[7, 0, 0, 0] ^= 1
    other_order = replace(split, pixels=split.pixels[::-1])
    other_preprocessing = replace(split, preprocessing=Preprocessing(8, "L", "pad"))
    nearly = make_encoder()
    with torch.no_grad():
        nearly.trunk[1][1].running_mean[0] += 1e-3
    coarse = make_encoder()
    coarse.pool = torch.nn.AdaptiveAvgPool2d(1)
    brighter = make_encoder()
    brighter.mean += 0.1
    load(make_encoder(), make_split(name="val"), tmp_path)
    for encoder, variant in [
        (make_encoder(), split),
        (make_encoder(), other_pixels),
        (make_encoder(), other_order),
        (make_encoder(), other_preprocessing),
        (nearly, split),
        (coarse, split),
        (brighter, split),
    ]:
        cells = load(encoder, variant, tmp_path).cells_of(np.arange(ROWS), CPU)
        torch.testing.assert_close(cells, expected(encoder, variant), rtol=1e-3, atol=1e-3)
        (path,) = tmp_path.glob("train-*")
        names.add(path.name)
    assert len(names) == 7
    monkeypatch.setattr(features.encoder_module, "__file__", __file__)
    load(make_encoder(), split, tmp_path)
    assert not names & {path.name for path in tmp_path.iterdir()}, "other code may make other cells of the same"
    assert len(list(tmp_path.glob("val-*"))) == 1, "the other split keeps its own"


@pytest.mark.parametrize("torn_bytes", [0, 100])
def test_a_killed_run_goes_on_after_its_last_whole_row(torn_bytes: int, tmp_path: Path) -> None:
    split = make_split()
    with pytest.raises(Killed):
        load(make_encoder(dies_after=13), split, tmp_path)
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part", "nothing that looks whole"
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - torn_bytes)
    encoder = make_encoder()
    found = load(encoder, split, tmp_path)
    assert encoder.seen == 1 + ROWS - 12 + (torn_bytes > 0)
    torch.testing.assert_close(found.cells_of(np.arange(ROWS), CPU), expected(encoder, split), rtol=1e-3, atol=1e-3)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


@pytest.mark.usefixtures("little_room")
def test_no_room_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=r"features of 20 pictures could not be written.*Make room"):
        load(make_encoder(), make_split(), tmp_path)


def test_numbers_too_large_for_half_precision_are_an_error(tmp_path: Path) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.trunk[-1][1].weight.mul_(1e7)
    with pytest.raises(AtlasError, match="do not fit half precision"):
        load(encoder, make_split(), tmp_path)


def test_a_thread_reads_ahead_in_order_where_a_gpu_works() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    assert list(ahead(items(), CPU)) == [0, 1, 2, 3, 4]
    taken.clear()
    found = []
    for item in ahead(items(), torch.device("cuda")):
        found.append(item)
        if item == 4:
            assert taken == [0, 1, 2, 3, 4]
    assert found == [0, 1, 2, 3, 4]

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(ahead(broken(), torch.device("cuda")))
