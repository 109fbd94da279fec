"""Images whose embedding is far from every category: other things than the products, such as a size chart."""

import numpy as np
import torch
from jaxtyping import Float, Int

from atlas_model.quality.gaussians import CategoryGaussians, centered, parts


def outlier_scores(points: Float[np.ndarray, "n d"], category: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """How far each image is from the nearest category, range [0, 1].

    The distance is that of Lee et al. (2018), "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", section 2.1: Mahalanobis, with one covariance for all categories. It does not depend on the
    image's label, so a wrong label makes no outlier.

    Args:
        points: embeddings.
        category: label of each, as an index.

    Returns:
        1 - median distance / distance, at least 0: an image as far as the median gets 0, one twice as far 0.5.
    """
    used, compact = np.unique(category, return_inverse=True)
    moved, labels = centered(points), torch.from_numpy(compact.astype(np.int64))
    gaussians = CategoryGaussians(moved, labels, len(used))
    nearest = [gaussians.squared_distances(moved[part]).amin(dim=1) for part in parts(len(moved), len(used))]
    distance = torch.cat(nearest).sqrt().numpy()
    median = np.median(distance)
    return np.asarray(np.where(distance > median, 1 - median / np.maximum(distance, np.finfo(np.float64).tiny), 0.0))
