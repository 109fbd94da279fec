"""The section report of params.yaml."""

from typing import Annotated

from pydantic import Field

from atlas_model.core.param_sections.types import ParamsSection, PositiveInt

Text = Annotated[str, Field(min_length=1, max_length=2_000)]
License = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", max_length=60)]  # as the Hugging Face Hub writes them


class ReportParams(ParamsSection):
    """The report of a run, the model card and the data card."""

    title: Annotated[
        str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=100)
    ]  # heading of the report, name of model and data set
    description: Text | None  # a few sentences below the heading
    contact: Text | None  # whom readers may ask
    intended_use: Text | None  # for the model card; null: the card says that it is unknown
    license: License | None  # of the model; null: unknown
    data_license: License | None  # of the images and titles; null: unknown
    pairs: Annotated[int, Field(ge=0, le=100)]  # of confused categories that are shown, at most
    images: Annotated[int, Field(gt=0, le=24)]  # of each kind in a pair; strips of discarded images have twice as many
    image_side: Annotated[int, Field(ge=32, le=512)]  # px, longer side of the images
    max_bytes: PositiveInt  # of the report; images that do not fit are left out, which the report says
