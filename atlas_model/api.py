"""The public Python interface of models and data: these names stay, or CHANGELOG.md says so (docs/python-api.md).

Everything else in this package may move. For the web there is `crawlers.api`.
"""

from atlas_model.core.errors import AtlasError, InputError, RetryError
from atlas_model.data.dataset import Split, load_split, load_taxonomy_json
from atlas_model.inference.predictor import Prediction, Predictor, ProductPrediction
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.tree import CategoryPath, Taxonomy

__all__ = [
    "AtlasError",
    "CategoryPath",
    "InputError",
    "Prediction",
    "Predictor",
    "ProductPrediction",
    "RetryError",
    "Split",
    "Taxonomy",
    "load_split",
    "load_taxonomy",
    "load_taxonomy_json",
]
