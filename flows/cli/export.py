"""``atlas export``: exports a trained model as graphs that run without torch."""

from pathlib import Path

import torch

from atlas_model.core.errors import InputError
from atlas_model.core.progress import say
from atlas_model.inference.export import Format, export
from atlas_model.model.saved_models import load_categorizer
from flows.cli.outputs import writing
from flows.registry.model_folders import model_folder


def export_model(output: Path, model: str | None, form: Format) -> int:
    """Write the graphs of ``model`` to the folder ``output``.

    Raises:
        InputError: ``output`` is not empty or cannot be written, or a package is missing.
        CheckpointError: ``model`` is not a model folder.
    """
    folder = model_folder(model)
    say(f"model: {folder}")
    trained = load_categorizer(folder, torch.device("cpu"))
    with writing(output):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise InputError(
                f"{output}: expected a new or empty folder, got one with files. Choose another, or delete it."
            )
        export(*trained, output, form=form)
    say(f"written: {output}")
    return 0
