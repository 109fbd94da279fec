"""The sections of params.yaml about data quality: split.quality and evaluate.quality.

Scores are in [0, 1]; 1 is the most suspicious. docs/data-quality.md defines them.
"""

from atlas_model.core.param_sections.types import ParamsSection, Probability


class SplitQualityParams(ParamsSection):
    """Issues of images. Each key is the score from which an image is listed; null: the issue is not searched."""

    dark: Probability | None  # 1 - the 99 % quantile of the brightness
    light: Probability | None  # the 5 % quantile of the brightness
    blurred: Probability | None  # share of the differences between adjacent pixels that remains after blurring
    blank: Probability | None  # 1 - entropy of the grey values / 8 bits
    tiny: Probability | None  # share of split.image_size that the shorter side lacks
    odd_aspect: Probability | None  # 1 - shorter side / longer side
    duplicate: Probability | None  # share of equal bits of the perceptual hashes; halved if the labels are equal
    warn_share: Probability  # of the images in the splits; if more have an issue, the stage warns. 1: never


class LabelQualityParams(ParamsSection):
    """Issues found with the trained model. Each key is the score from which an image is listed; null: not searched."""

    outlier: Probability | None  # 1 - median distance / distance, of the embedding from the nearest category
    label_error: Probability | None  # 1 - probability of the label; of the images that confident learning finds
