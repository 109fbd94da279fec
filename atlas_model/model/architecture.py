"""Architecture of a model: the values from which it is built, saved beside its weights."""

from dataclasses import dataclass
from typing import Literal, get_args

from atlas_model.core.encoder_names import OWN_ENCODERS
from atlas_model.data.images import MAX_PIXELS, Interpolation, Mode, Preprocessing, Resize
from atlas_model.model.beam_search import Normalize

TitleName = Literal["none", "ngrams"]
MAX_TITLE_BUCKETS, MAX_TITLE_SIZE = 2**18, 2**8  # 256 MiB: limit for untrusted models


@dataclass(frozen=True)
class Architecture:
    """The values from which a model is built; the paper's in brackets."""

    encoder: str  # an `EncoderName` or timm/<name> (resnet101)
    in_channels: int  # of the images
    grid: int | Literal["native"]  # (14)
    attention_size: int  # (512)
    embedding_size: int  # (512)
    hidden_size: int  # (512)
    dropout: float  # (.5)
    # The tokens over which a step's probabilities sum to one: all (as in the paper; the default is for models saved
    # without this field), or the children in the taxonomy, so that the probabilities of all paths sum to one.
    normalize: Normalize = "vocabulary"
    deep_output: bool = False  # this and the next as in `AttentionDecoder`
    feature_dropout: float = 0.0
    path_head: bool = False  # whether a `path_head.PathHead` adds to the decoder's logits
    title: TitleName = "none"  # whether it uses titles; this and the next two as in `titles`
    title_buckets: int = 0
    title_size: int = 0


def check_architecture(architecture: Architecture) -> None:
    """Raise an AssertionError unless a model can be built from these values."""
    assert architecture.normalize in get_args(Normalize), architecture
    assert architecture.title in get_args(TitleName), architecture
    if architecture.title != "none":
        assert 0 < architecture.title_buckets <= MAX_TITLE_BUCKETS, architecture
        assert 0 < architecture.title_size <= MAX_TITLE_SIZE, architecture


def check_images(architecture: Architecture, preprocessing: Preprocessing, in_channels: int) -> None:
    """Raise an AssertionError unless the model can take images of ``preprocessing``, in bounded memory.

    Args:
        architecture: of the model.
        preprocessing: of its images.
        in_channels: of its encoder.
    """
    size, grid = preprocessing.size, architecture.grid
    assert preprocessing.mode in get_args(Mode) and preprocessing.resize in get_args(Resize), preprocessing
    assert preprocessing.interpolation in get_args(Interpolation), preprocessing
    assert isinstance(size, int) and 0 < size * size <= MAX_PIXELS, preprocessing
    assert preprocessing.mode == "L" or in_channels == 3, (architecture, preprocessing)
    assert architecture.encoder not in OWN_ENCODERS or size % 2 == 0, preprocessing  # they halve the size first
    assert grid == "native" or (isinstance(grid, int) and 0 < grid <= size), (architecture, preprocessing)
