"""What has to be known of a model to build it again: plain values, saved beside its weights."""

from dataclasses import dataclass
from typing import Literal, get_args

from atlas_model.core.encoder_names import OWN_ENCODERS
from atlas_model.data.images import MAX_PIXELS, Interpolation, Mode, Preprocessing, Resize
from atlas_model.model.beam_search import Normalize

TitleName = Literal["none", "ngrams"]
MAX_TITLE_BUCKETS, MAX_TITLE_SIZE = 2**18, 2**8  # 256 MiB: what a stranger's model may take of memory


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a model again; the paper's values in brackets."""

    encoder: str  # an `EncoderName` or timm/<name> (resnet101)
    in_channels: int  # of the images
    grid: int | Literal["native"]  # (14)
    attention_size: int  # (512)
    embedding_size: int  # (512)
    hidden_size: int  # (512)
    dropout: float  # (.5)
    # Over which tokens a step's probabilities sum to one: all (the paper's, and what a model saved without a word
    # on it means), or the names that can follow in the taxonomy, so that those of all paths sum to one.
    normalize: Normalize = "vocabulary"
    deep_output: bool = False  # as of the `AttentionDecoder`, as the next one
    feature_dropout: float = 0.0
    path_head: bool = False  # whether a `path_head.PathHead` adds to the decoder's logits
    title: TitleName = "none"  # whether it reads products' titles, as in `titles`, as the next two
    title_buckets: int = 0
    title_size: int = 0


def check_architecture(architecture: Architecture) -> None:
    """Fail with an AssertionError unless these are values that a model can be built from."""
    assert architecture.normalize in get_args(Normalize), architecture
    assert architecture.title in get_args(TitleName), architecture
    if architecture.title != "none":
        assert 0 < architecture.title_buckets <= MAX_TITLE_BUCKETS, architecture
        assert 0 < architecture.title_size <= MAX_TITLE_SIZE, architecture


def check_images(architecture: Architecture, preprocessing: Preprocessing, in_channels: int) -> None:
    """Fail with an AssertionError unless the model takes what ``preprocessing`` makes, in bounded memory.

    Args:
        architecture: of the model.
        preprocessing: of images.
        in_channels: that its encoder takes.
    """
    size, grid = preprocessing.size, architecture.grid
    assert preprocessing.mode in get_args(Mode) and preprocessing.resize in get_args(Resize), preprocessing
    assert preprocessing.interpolation in get_args(Interpolation), preprocessing
    assert isinstance(size, int) and 0 < size * size <= MAX_PIXELS, preprocessing
    assert preprocessing.mode == "L" or in_channels == 3, (architecture, preprocessing)
    assert architecture.encoder not in OWN_ENCODERS or size % 2 == 0, preprocessing  # they halve images first
    assert grid == "native" or (isinstance(grid, int) and 0 < grid <= size), (architecture, preprocessing)
