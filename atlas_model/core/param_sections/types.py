"""Types of the values in params.yaml, with their limits. The sections are in `params`."""

import ipaddress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atlas_model.core.encoder_names import TIMM, EncoderName

CRON_FIELDS = 5


class ParamsSection(BaseModel):
    """A section of params.yaml: frozen, with strict types; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


FilePath = Annotated[Path, Field(strict=False)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
ColumnName = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Device = Literal["auto", "cpu", "cuda"]


def _check_address(text: str) -> str:
    address, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(address.strip("[]"))
        valid = 0 < int(port) < 2**16
    except ValueError:
        valid = False
    if not valid:
        raise ValueError('expected an IP address and a port, as in "127.0.0.1:8000"')
    return text


def _check_cron(text: str) -> str:
    from cronsim import CronSim, CronSimError  # only where there is a schedule

    try:
        if len(text.split()) == CRON_FIELDS:
            next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))  # no date matches the 30th of February
            return text
    except (CronSimError, StopIteration, AssertionError, ValueError):
        pass
    raise ValueError('expected five fields as in "0 3 * * *" that match some date, or null for never')


def _check_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError('expected a name as in "Europe/Zurich"') from None
    return name


def _check_encoder(name: str) -> str:
    names = get_args(EncoderName)
    if name not in names and not name.startswith(TIMM):
        raise ValueError(f"expected one of {', '.join(names)}, or {TIMM}<name of a network of timm>")
    return name


Address = Annotated[str, AfterValidator(_check_address)]
Cron = Annotated[str, AfterValidator(_check_cron)]
Timezone = Annotated[str, AfterValidator(_check_timezone)]
Encoder = Annotated[str, AfterValidator(_check_encoder)]
