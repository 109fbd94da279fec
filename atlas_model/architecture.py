"""What has to be known of a model to build it again: plain values, saved beside its weights."""

from dataclasses import dataclass
from typing import Literal

from atlas_model.search import Normalize


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a model again; the paper's values in brackets."""

    encoder: str  # an `EncoderName` or timm/<name> (resnet101)
    in_channels: int  # of the pictures
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
