"""Saves and loads categorizers and classifiers: a folder with weights and description."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from atlas_model.core.checkpoint import check_shapes, load_model, load_weights, save_model
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture, check_architecture, check_images
from atlas_model.model.categorizer import Categorizer, Model, reads_titles
from atlas_model.model.classifier import Classifier
from atlas_model.model.evidence import TitleWeights
from atlas_model.taxonomy.tree import Taxonomy


def save(
    model: Model,
    folder: Path,
    preprocessing: Preprocessing,
    *,
    params: dict[str, Any],
    metrics: dict[str, Any],
    guarantees: dict[str, Any] | None = None,
) -> None:
    """Write weights and description to ``folder`` atomically.

    Args:
        model: the trained model.
        folder: replaced if it exists.
        preprocessing: of the images that it was trained on.
        params: parameters of the training, for information.
        metrics: likewise.
        guarantees: of `guarantees.Guarantees`, the accuracies that it guarantees; None if not computed.
    """
    description = {
        "kind": model.kind,
        "architecture": asdict(model.architecture),
        "taxonomy": model.taxonomy.to_json(),
        "temperature": model.temperature,
        "preprocessing": preprocessing.to_json(),
        "params": params,
        "metrics": metrics,
        **({} if guarantees is None else {"guarantees": guarantees}),
    }
    if isinstance(model, Categorizer) and reads_titles(model):
        description["title_weights"] = model.title_weights.to_json()
    save_model(folder, model.state_dict(), description)


def load_categorizer(folder: Path, device: torch.device) -> tuple[Categorizer, Preprocessing]:
    """Load the sequence model in ``folder``, in evaluation mode.

    Raises:
        CheckpointError: the folder does not hold one, or its weights do not fit its description.
    """
    model, preprocessing = _load(Categorizer, folder, device)
    assert isinstance(model, Categorizer)
    return model, preprocessing


def load_classifier(folder: Path, device: torch.device) -> tuple[Classifier, Preprocessing]:
    """Load the baseline in ``folder``, in evaluation mode; raises as `load_categorizer`."""
    model, preprocessing = _load(Classifier, folder, device)
    assert isinstance(model, Classifier)
    return model, preprocessing


def _load(
    model_class: type[Categorizer] | type[Classifier], folder: Path, device: torch.device
) -> tuple[Model, Preprocessing]:
    tensors, description = load_model(folder, model_class.kind)
    try:
        taxonomy = Taxonomy.from_json(description["taxonomy"], source=f"{folder}: taxonomy")
        architecture = Architecture(**description["architecture"])
        check_architecture(architecture)
        sizes = (architecture.attention_size, architecture.embedding_size, architecture.hidden_size)
        check_shapes(lambda: model_class(architecture, taxonomy), tensors, folder, largest=max(sizes))
        model = model_class(architecture, taxonomy)
        model.temperature = _temperature(description.get("temperature", 1.0))
        if isinstance(model, Categorizer) and reads_titles(model):
            model.title_weights = TitleWeights.from_json(description["title_weights"])
        preprocessing = Preprocessing(**description["preprocessing"])
        check_images(architecture, preprocessing, model.encoder.in_channels)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError, InputError) as error:
        raise CheckpointError(
            f"{folder}: its description is not one of a {model_class.kind}: {str(error)[:500]}"
        ) from error
    load_weights(model, tensors, folder)
    return model.to(device).eval(), preprocessing


def _temperature(value: Any) -> float:
    temperature = float(value)
    assert 0 < temperature < float("inf"), temperature
    return temperature
