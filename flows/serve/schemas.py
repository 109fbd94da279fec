"""Requests and responses of the API, as OpenAPI documents them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atlas_model.data.titles import Modality
from atlas_model.inference.predictor import Band
from flows.serve.inference.explanation import OverlayFormat

MAX_LEVELS = 20  # of a category path in feedback, so that a record fits into its line
LONGEST_TEXT = 2048  # characters of a title, a URL or a name
# A grey square of 8 x 8 px, as an example.
SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=="

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Level = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageIn(_Request):
    """An image: its bytes in base64, or its URL if the service was started with `--allow-urls`."""

    bytes: str | None = Field(None, description="the file in base64 (JPEG, PNG, WebP, ...)", examples=[SQUARE])
    url: Text | None = Field(None, description="http or https", examples=["https://shop.example/shirt.jpg"])

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.bytes is None) == (self.url is None):
            raise ValueError("expected bytes or url, and not both")
        return self


class ItemIn(_Request):
    """What gets one prediction: an image, a title, or a product with several images."""

    id: Text | None = Field(None, description="returned with the result", examples=["sku-4711"])
    images: list[ImageIn] = Field(default_factory=list, description="all of them show the same product")
    title: Text | None = Field(None, description="for a model that reads titles; else ignored", examples=["Blue shirt"])
    product: bool | None = Field(
        None,
        description="predict the product from all images (true), or an image (false). Default: true for several images",
    )

    @model_validator(mode="after")
    def _something_to_predict(self) -> Self:
        if not self.images and not (self.title or "").strip():
            raise ValueError("expected images or a title")
        if self.product is False and len(self.images) > 1:
            raise ValueError("expected one image where product is false")
        return self

    @property
    def is_product(self) -> bool:
        """Whether the product is predicted, and not an image."""
        return len(self.images) > 1 if self.product is None else self.product and bool(self.images)


class Options(_Request):
    """How deep and how many."""

    top: int = Field(1, ge=1, le=100, description="category paths of each item, best first")
    beam: int = Field(5, ge=1, le=100, description="width of the beam search")
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="predict the deepest category with at least this probability"
    )
    accuracy: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="predict the deepest category with a guaranteed accuracy of at least this, and a band: accept (a "
        "whole path), review (its first levels) or no_answer",
    )
    explain: bool = Field(False, description="add the attention of the decoder at each level of the best path")
    explain_format: OverlayFormat = "webp"

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.min_confidence is not None and self.accuracy is not None:
            raise ValueError("expected min_confidence or accuracy, because both set how deep a prediction goes")
        if self.top > 1 and (self.min_confidence is not None or self.accuracy is not None):
            raise ValueError("min_confidence and accuracy give one prediction: expected top 1")
        return self


class PredictRequest(Options):
    """Items to predict, with common options."""

    items: Annotated[list[ItemIn], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"images": [{"bytes": SQUARE}]}], "top": 3},
                {
                    "items": [{"id": "sku-4711", "images": [{"bytes": SQUARE}, {"bytes": SQUARE}]}],
                    "min_confidence": 0.5,
                },
            ]
        }
    )


class FeedbackRequest(_Request):
    """What a person says about a prediction."""

    product_id: Name | None = Field(None, description="id of the product in the catalogue", examples=["sku-4711"])
    image: ImageIn | None = Field(None, description="the image that was predicted; it is stored for the review")
    verdict: Literal["right", "wrong"]
    predicted: list[Level] = Field(
        max_length=MAX_LEVELS, description="the category path that was predicted", examples=[["Clothing", "Tops"]]
    )
    category: list[Level] | None = Field(
        None,
        max_length=MAX_LEVELS,
        description="the right category path, if the prediction is wrong and the right one is known",
    )
    probability: float | None = Field(None, ge=0, le=1, description="of the prediction")
    reviewer: Annotated[str, Field(max_length=64)] | None = Field(None, examples=["anna"])

    @model_validator(mode="after")
    def _category_if_wrong(self) -> Self:
        if self.verdict == "right" and self.category is not None:
            raise ValueError("category: expected only with the verdict wrong")
        if self.product_id is None and self.image is None:
            raise ValueError("expected product_id or image, so that a reviewer knows what this is about")
        if self.verdict == "right" and not self.predicted:
            raise ValueError("predicted: expected the path that is right, got an empty one")
        return self


class ModelOut(BaseModel):
    """The model that answered."""

    name: str = Field(examples=["champion"])
    version: str = Field(description="digest of its description and weights", examples=["0f3a9b1c22de"])
    champion: int | None = Field(description="its version in models/champions.json", examples=[3])
    engine: str = Field(examples=["onnxruntime"])


class PredictionOut(BaseModel):
    """A category path, or its prefix down to the deepest confident level."""

    path: list[str] = Field(examples=[["Clothing", "Tops", "Shirts"]])
    probability: float | None
    levels: list[float] = Field(description="of each name, the probability that the right path goes through it")
    category_id: str | None = Field(None, description="of the predicted category, if the taxonomy has ids")
    band: Band | None = None


class ImageOut(BaseModel):
    """What became of an image."""

    status: str = Field(description="ok, or why it was not used", examples=["ok", "not_an_image"])
    image_id: str | None = Field(None, description="SHA-256 of its bytes")
    detail: str | None = None


class LevelOut(BaseModel):
    """Attention at one level."""

    name: str
    grid: list[list[float]] = Field(description="weights of the cells, row by row; they cover the whole overlay")
    overlay: str = Field(description="image with a heat map, in base64")


class AttentionOut(BaseModel):
    """Attention on one image, for the best path."""

    image: int = Field(description="number of the image in the item, from 0")
    media_type: str = Field(examples=["image/webp"])
    levels: list[LevelOut]


class ResultOut(BaseModel):
    """The result of an item."""

    id: str | None = None
    status: Literal["ok", "not_sure", "error"]
    modality: Modality | None = Field(description="what the prediction was made from")
    product: bool
    predictions: list[PredictionOut]
    guaranteed_accuracy: float | None = None
    disagree: bool | None = Field(None, description="of a product: the images have different best paths")
    images: list[ImageOut]
    attention: list[AttentionOut] | None = None
    detail: str | None = Field(None, description="why there is no prediction")


class PredictResponse(BaseModel):
    """The results, in the order of the items."""

    model: ModelOut
    results: list[ResultOut]


class FeedbackResponse(BaseModel):
    """The stored feedback."""

    id: str
    reviewer: str
    model: ModelOut


class CategoriesResponse(BaseModel):
    """Category paths that match a text."""

    total: int = Field(description="paths of the taxonomy")
    matches: list[list[str]]
    model: ModelOut


class ProblemOut(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:atlas:problem:validation"])
    title: str
    status: int
    detail: str
    expected: str | None = None
    got: str | None = None
    remedy: str | None = None
    errors: list[dict[str, Any]] | None = None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/problem+json": {"schema": ProblemOut.model_json_schema()}}}
    for code, text in {
        400: "The body cannot be parsed",
        401: "The token is missing",
        403: "A page of another site sent the request",
        408: "The body took too long",
        413: "The body is too large",
        421: "The Host header does not name this server",
        422: "The request is invalid, or no item could be predicted",
        503: "The service is busy or stopping; Retry-After says when to send the request again",
        504: "The prediction took too long",
    }.items()
}
