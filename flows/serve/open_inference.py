"""Endpoints of the Open Inference Protocol, version 2, over REST.

The specification: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md. The input
`image` is a tensor of type BYTES whose elements are the files of images in base64; the optional input `title` has as
many elements. The model is always called `atlas`, so that clients need not change when it is exchanged.
"""

import json
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from atlas_model.taxonomy.tree import SEPARATOR
from flows.serve.inference.images import Base64Image
from flows.serve.inference.served_model import ServedModel
from flows.serve.prediction import Item, PredictionService
from flows.serve.problems import Problem, shown
from flows.serve.routes import form_options
from flows.serve.schemas import PROBLEMS, SQUARE

MODEL = "atlas"
INPUTS: list[dict[str, Any]] = [
    {"name": "image", "datatype": "BYTES", "shape": [-1]},
    {"name": "title", "datatype": "BYTES", "shape": [-1]},
]
OUTPUTS: list[dict[str, Any]] = [
    {"name": "path", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "probability", "datatype": "FP64", "shape": [-1, -1]},
    {"name": "band", "datatype": "BYTES", "shape": [-1, -1]},
]
PARAMETERS = ("top", "beam", "min_confidence", "accuracy")


class InputTensor(BaseModel):
    """An input."""

    model_config = ConfigDict(frozen=True)

    name: Literal["image", "title"]
    shape: list[Annotated[int, Field(ge=0)]] = Field(examples=[[1]])
    datatype: Literal["BYTES"]
    parameters: dict[str, Any] | None = None
    data: list[str] = Field(examples=[[SQUARE]])


class OutputRequest(BaseModel):
    """An output that the response should have."""

    model_config = ConfigDict(frozen=True)

    name: Literal["path", "probability", "band"]
    parameters: dict[str, Any] | None = None


class InferenceRequest(BaseModel):
    """Images, and how to predict them: the parameters are those of `/v1/predict`."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "42",
                    "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [SQUARE]}],
                    "parameters": {"top": 3},
                }
            ]
        },
    )

    id: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="top, beam, min_confidence, accuracy")
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: list[OutputRequest] | None = None


class OutputTensor(BaseModel):
    """An output: items x paths. Missing paths are empty, with probability 0."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class InferenceResponse(BaseModel):
    """The predictions."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Live(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether it accepts work."""

    ready: bool


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor; -1: any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """Whether the model accepts work."""

    name: str
    ready: bool


class Readiness:
    """Whether the service accepts work; false as soon as it is told to stop."""

    def __init__(self) -> None:
        self.ready = False


def open_inference_routes(service: PredictionService, readiness: Readiness) -> APIRouter:
    """All endpoints under `/v2`."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses=PROBLEMS)
    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Ready, "description": "It does not accept work"}}
    unknown: dict[int | str, dict[str, Any]] = {404: {**PROBLEMS[422], "description": "There is no such model"}}

    @router.get("/health/live", response_model=Live)
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready", response_model=Ready, responses=not_ready)
    async def ready(response: Response) -> dict[str, bool]:
        """Whether the service accepts work: 503 from the signal to stop on."""
        response.status_code = 200 if readiness.ready else 503
        return {"ready": readiness.ready}

    @router.get("", response_model=ServerMetadata)
    async def server_metadata() -> dict[str, Any]:
        """Name and version of the service."""
        return {"name": "atlas", "version": version("atlas"), "extensions": []}

    @router.get("/models/{name}", response_model=ModelMetadata, responses=unknown)
    @router.get("/models/{name}/versions/{model_version}", response_model=ModelMetadata, responses=unknown)
    async def model_metadata(name: str, model_version: str | None = None) -> dict[str, Any]:
        """Inputs and outputs of the model."""
        model = _model(service, name, model_version)
        inputs = INPUTS if model.predictor.reads_titles else INPUTS[:1]
        return {
            "name": MODEL,
            "versions": [model.version],
            "platform": f"atlas_{model.engine}",
            "inputs": inputs,
            "outputs": OUTPUTS,
        }

    @router.get("/models/{name}/ready", response_model=ModelReady, responses={**not_ready, **unknown})
    @router.get(
        "/models/{name}/versions/{model_version}/ready", response_model=ModelReady, responses={**not_ready, **unknown}
    )
    async def model_ready(response: Response, name: str, model_version: str | None = None) -> dict[str, Any]:
        """Whether the model accepts work."""
        _model(service, name, model_version)
        response.status_code = 200 if readiness.ready else 503
        return {"name": MODEL, "ready": readiness.ready}

    @router.post("/models/{name}/infer", response_model=InferenceResponse, responses=unknown)
    @router.post("/models/{name}/versions/{model_version}/infer", response_model=InferenceResponse, responses=unknown)
    async def infer(request: InferenceRequest, name: str, model_version: str | None = None) -> Response:
        """Predict images. If one of them cannot be read, the whole request is refused."""
        _model(service, name, model_version)
        items = _items(request)
        model, results = await service.predict(items, _parameters(request.parameters or {}))
        for index, result in enumerate(results):
            if result["status"] == "error":
                raise Problem(
                    422,
                    "image",
                    expected=f"inputs: an image that can be read as element {index}",
                    got=result["detail"],
                    remedy="Leave it out, or use /v1/predict, which predicts the others",
                )
        wanted: list[str] | None = None if request.outputs is None else [output.name for output in request.outputs]
        content = {"model_name": MODEL, "model_version": model.version, "outputs": _outputs(results, wanted)}
        if request.id is not None:
            content["id"] = request.id
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")

    return router


def _model(service: PredictionService, name: str, model_version: str | None) -> ServedModel:
    model = service.holder.current
    if name != MODEL or model_version not in (None, model.version):
        found = name if model_version is None else f"{name}, version {model_version}"
        raise Problem(
            404,
            "unknown-model",
            expected=f"the model {MODEL}, version {model.version}",
            got=shown(found),
            remedy=f"Omit the version: /v2/models/{MODEL}",
        )
    return model


def _items(request: InferenceRequest) -> list[Item]:
    tensors = {tensor.name: tensor for tensor in request.inputs}
    image, title = tensors.get("image"), tensors.get("title")
    for tensor in request.inputs:
        if tensor.shape != [len(tensor.data)] or len(tensors) < len(request.inputs):
            raise _bad_input(f"{tensor.name} with one dimension, of {len(tensor.data)} elements", str(tensor.shape))
    counts = {len(tensor.data) for tensor in tensors.values()}
    if len(counts) > 1 or counts == {0}:
        raise _bad_input("image and title with the same number of elements, at least one", str(sorted(counts)))
    sources = [[Base64Image(data)] for data in image.data] if image else [[]] * len(title.data if title else ())
    titles: list[str | None] = [*title.data] if title else [None] * len(sources)
    return [Item(each, text, product=False) for each, text in zip(sources, titles, strict=True)]


def _bad_input(expected: str, got: str) -> Problem:
    return Problem(422, "tensor", expected=f"inputs: {expected}", got=got, remedy="See /v2/models/atlas")


def _parameters(given: dict[str, Any]) -> Any:
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        raise Problem(
            422,
            "parameter",
            expected=f"parameters: some of {', '.join(PARAMETERS)}",
            got=shown(unknown[0]),
            remedy="Omit it",
        )
    return form_options(**given)


def _outputs(results: list[dict[str, Any]], wanted: list[str] | None) -> list[dict[str, Any]]:
    rows = [result["predictions"] for result in results]
    width = max(map(len, rows))
    nothing = {"path": (), "probability": None}
    cells = [each for row in rows for each in [*row, *[nothing] * (width - len(row))]]
    data: dict[str, list[Any]] = {
        "path": [SEPARATOR.join(each["path"]) for each in cells],
        "probability": [each["probability"] or 0.0 for each in cells],
        "band": [each.get("band", "") for each in cells],
    }
    has_bands = any(data["band"])
    shape = [len(rows), width]
    return [
        {"name": each["name"], "datatype": each["datatype"], "shape": shape, "data": data[each["name"]]}
        for each in OUTPUTS
        if (each["name"] in wanted if wanted is not None else each["name"] != "band" or has_bands)
    ]
