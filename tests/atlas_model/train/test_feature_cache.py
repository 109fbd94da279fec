"""The cache of a frozen encoder's activations: content, reuse, invalidation and resuming."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas_model.core.errors import AtlasError
from atlas_model.data.augmentation import Augmentation
from atlas_model.data.dataset import Split, prefetch
from atlas_model.data.images import Preprocessing
from atlas_model.encoders.encoder import Encoder, build_encoder
from atlas_model.train import feature_cache
from atlas_model.train.feature_cache import Activations, forward_seconds, load_activations
from tests.support.full_disk import limited_file_size

CPU = torch.device("cpu")
ROWS = 20


class Killed(BaseException):
    """Simulates a kill during the computation."""


class Counting(Encoder):
    """An encoder that counts its images and can raise `Killed`."""

    counts: dict[str, int]  # shared with the copy that is run
    dies_after: int | None

    @property
    def seen(self) -> int:
        return self.counts["seen"]

    def activations(self, images: torch.Tensor) -> torch.Tensor:
        if self.dies_after is not None and self.seen >= self.dies_after:
            raise Killed
        self.counts["seen"] += len(images)
        return super().activations(images)


class Counts(dict):
    """A dict that is shared, not copied, when the encoder is copied."""

    def __deepcopy__(self, memo: dict) -> "Counts":
        return self


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ENCODED", 6)


def make_encoder(seed: int = 1, dies_after: int | None = None) -> Counting:
    torch.manual_seed(seed)
    encoder = build_encoder("small", in_channels=1, grid="native").eval()
    encoder.__class__ = Counting
    assert isinstance(encoder, Counting)
    encoder.counts, encoder.dies_after = Counts(seen=0), dies_after
    encoder.freeze_before("none")
    return encoder


def make_split(seed: int = 1, name: str = "train") -> Split:
    pixels = np.random.default_rng(seed).integers(0, 256, (ROWS, 1, 8, 8), dtype=np.uint8)
    names = [str(row) for row in range(ROWS)]
    return Split(name, pixels, np.zeros(ROWS, dtype=np.int64), names, names, Preprocessing(8, "L", "squash"))


def load(encoder: Encoder, split: Split, cache: Path) -> Activations:
    return load_activations(encoder, split, cache, device=CPU)


def expected(encoder: Counting, split: Split) -> torch.Tensor:
    encoder.dies_after = None
    with torch.no_grad():
        return encoder.activations(split.images(np.arange(ROWS), CPU))


def test_cache_holds_encoder_activations_and_is_reused(tmp_path: Path) -> None:
    encoder, split = make_encoder(), make_split()
    found = load(encoder, split, tmp_path).read(np.array([3, 1, 19]), CPU)
    assert encoder.seen == ROWS + 1, "one image determines the shape"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(encoder, split)[[3, 1, 19]], rtol=1e-3, atol=1e-3)
    again = load(make_encoder(dies_after=0), split, tmp_path)
    assert again.read(np.array([3, 1, 19]), CPU).equal(found)
    assert len(again) == ROWS


def test_reports_forward_time_also_when_read_from_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forward_seconds(tmp_path, "train") is None
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    load(make_encoder(), make_split(), tmp_path)
    assert forward_seconds(tmp_path, "train") == 4 / ROWS, "one second for each of four batches"
    load(make_encoder(dies_after=0), make_split(), tmp_path)
    assert forward_seconds(tmp_path, "train") == 4 / ROWS
    assert forward_seconds(tmp_path, "val") is None


def test_changed_inputs_replace_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    split = make_split()
    other_pixels = replace(split, pixels=split.pixels.copy())
    other_pixels.pixels[7, 0, 0, 0] ^= 1
    other_order = replace(split, pixels=split.pixels[::-1])
    other_preprocessing = replace(split, preprocessing=Preprocessing(8, "L", "pad"))
    nearly = make_encoder()
    with torch.no_grad():
        nearly.trunk[1][1].running_mean[0] += 1e-3
    shorter = make_encoder()
    shorter.freeze_before("4")
    brighter = make_encoder()
    brighter.mean += 0.1
    load(make_encoder(), make_split(name="val"), tmp_path)
    for encoder, variant in [
        (make_encoder(), split),
        (make_encoder(), other_pixels),
        (make_encoder(), other_order),
        (make_encoder(), other_preprocessing),
        (nearly, split),
        (shorter, split),
        (brighter, split),
    ]:
        found = load(encoder, variant, tmp_path).read(np.arange(ROWS), CPU)
        torch.testing.assert_close(found, expected(encoder, variant), rtol=1e-3, atol=1e-3)
        (path,) = tmp_path.glob("train-*.npy")
        assert len(list(tmp_path.glob("train-*"))) == 3, "the cache, its checksums and its timing file"
        names.add(path.name)
    assert len(names) == 7
    monkeypatch.setattr("atlas_model.encoders.encoder.__file__", __file__)
    load(make_encoder(), split, tmp_path)
    assert not names & {path.name for path in tmp_path.iterdir()}, "other code may compute other cells"
    assert len(list(tmp_path.glob("val-*.npy"))) == 1, "the other split keeps its cache"


@pytest.mark.parametrize("torn_bytes", [0, 100])
def test_killed_run_resumes_after_its_last_complete_row(torn_bytes: int, tmp_path: Path) -> None:
    split = make_split()
    with pytest.raises(Killed):
        load(make_encoder(dies_after=13), split, tmp_path)
    part, sums = sorted(tmp_path.iterdir())
    assert (part.suffix, sums.name) == (".part", f"{part.name}.crc32"), "no file with the name of a complete cache"
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - torn_bytes)
    encoder = make_encoder()
    found = load(encoder, split, tmp_path)
    assert encoder.seen == 1 + ROWS - 12 + (torn_bytes > 0)
    torch.testing.assert_close(found.read(np.arange(ROWS), CPU), expected(encoder, split), rtol=1e-3, atol=1e-3)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".crc32", ".json", ".npy"]


def test_reports_full_disk(tmp_path: Path) -> None:
    with (
        limited_file_size(),
        pytest.raises(AtlasError, match=r"activations of 20 images could not be written.*Free disk space"),
    ):
        load(make_encoder(), make_split(), tmp_path)


def test_overflow_of_half_precision_is_an_error(tmp_path: Path) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.trunk[-1][1].weight.mul_(1e7)
    with pytest.raises(AtlasError, match="overflow half precision"):
        load(encoder, make_split(), tmp_path)


def test_views_are_the_image_its_flip_and_augmentations(tmp_path: Path) -> None:
    augmentation = Augmentation(flip=True, shift=3)
    encoder, split = make_encoder(), make_split()
    options: dict[str, Any] = {"views": 4, "augmentation": augmentation, "seed": 5, "device": CPU}
    found = load_activations(encoder, split, tmp_path, **options)
    rows = np.array([2, 17])
    images = split.images(rows, CPU)
    seen = [found.read(rows, CPU, np.full(2, number)) for number in range(4)]
    with torch.no_grad():
        for number, expected_images in ((0, images), (1, images.flip(3))):
            torch.testing.assert_close(seen[number], encoder.activations(expected_images), rtol=1e-3, atol=1e-3)
    assert not any(seen[2].equal(other) for other in (seen[0], seen[1], seen[3]))
    mixed = found.read(rows, CPU, np.array([3, 1]))
    assert mixed[0].equal(seen[3][0])
    assert mixed[1].equal(seen[1][1])
    with pytest.raises(Killed):
        load_activations(make_encoder(dies_after=41), split, tmp_path / "killed", **options)
    resumed = load_activations(make_encoder(), split, tmp_path / "killed", **options)
    assert resumed.file.read_bytes() == found.file.read_bytes(), "views do not depend on where the run was killed"
    other = load_activations(encoder, split, tmp_path / "other", **{**options, "seed": 6})
    assert other.file.name != found.file.name
    assert not other.read(rows, CPU, np.full(2, 2)).equal(seen[2])


def test_truncated_cache_file_is_an_error(tmp_path: Path) -> None:
    found = load(make_encoder(), make_split(), tmp_path)
    with found.file.open("r+b") as file:
        file.truncate(found.file.stat().st_size - 1)
    with pytest.raises(AtlasError, match=r"expected \d+ bytes of row 19, got \d+. Delete the file"):
        found.read(np.array([19]), CPU)


def test_prefetches_in_order_for_a_gpu() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    assert list(prefetch(items(), CPU)) == [0, 1, 2, 3, 4]
    taken.clear()
    found = []
    for item in prefetch(items(), torch.device("cuda")):
        found.append(item)
        if item == 4:
            assert taken == [0, 1, 2, 3, 4]
    assert found == [0, 1, 2, 3, 4]

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(broken(), torch.device("cuda")))
