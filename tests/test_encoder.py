"""Encoders: shapes, frozen blocks, weights from files."""

import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atlas_model.encoder import build_encoder
from atlas_model.errors import InputError, RetryError


@pytest.mark.parametrize(
    ("name", "size", "grid", "cells", "channels"),
    [
        ("small", 28, "native", 49, 128),
        ("small", 64, "native", 256, 128),
        ("small", 28, 14, 196, 128),
        ("medium", 28, "native", 49, 128),
        ("resnet18", 64, "native", 4, 512),
        ("resnet101", 64, 14, 196, 2048),
    ],
)
def test_grid_and_features(name, size, grid, cells, channels) -> None:
    encoder = build_encoder(name, in_channels=3, grid=grid).eval()
    with torch.no_grad():
        out = encoder(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert out.shape == (2, cells, channels)
    assert encoder.channels == channels


def test_a_grey_picture_is_repeated_for_a_resnet() -> None:
    encoder = build_encoder("resnet18", in_channels=1, grid="native").eval()
    grey = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)))


def test_frozen_blocks_neither_learn_nor_drift() -> None:
    encoder = build_encoder("resnet18", in_channels=3, grid="native")
    encoder.freeze_before("layer4")
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, tensor in encoder.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"layer4"}


def test_weights_from_a_file(tmp_path: Path) -> None:
    from atlas_model.torchvision_compat import models

    net = models.resnet18()
    save_file(net.state_dict(), tmp_path / "ours.safetensors")
    encoder = build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / "ours.safetensors"))
    assert encoder.trunk.conv1.weight.equal(net.conv1.weight)


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"something": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"other\.safetensors does not fit resnet18"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(other))
    with pytest.raises(InputError, match="expected a safetensors file"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / "none.safetensors"))


def test_unreachable_imagenet_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made at the first use, with the proxies of then
    with pytest.raises(RetryError, match=r"(?s)could not be downloaded.*put it into .*checkpoints"):
        build_encoder("resnet18", in_channels=3, grid="native", weights="imagenet")
