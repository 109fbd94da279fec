"""Values of params.yaml that are refused, and their limits."""

import pytest
from pydantic import TypeAdapter, ValidationError

from atlas_model.core.param_sections.types import Cron, Timezone

CRON: TypeAdapter[str] = TypeAdapter(Cron)
TIMEZONE: TypeAdapter[str] = TypeAdapter(Timezone)


@pytest.mark.parametrize(
    "cron",
    ["0 25 * * *", "61 * * * *", "0 0 30 2 *", "0 0 31 4,6 *", "* * * *", "@daily", "every day at 3", "", "R H * * *"],
)
def test_refuses_invalid_cron(cron: str) -> None:
    with pytest.raises(ValidationError, match="expected five fields"):
        CRON.validate_python(cron)


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/5 8-18 * * MON-FRI", "0 0 29 2 *", "15,45 0 1 jan,jul *"])
def test_accepts_valid_cron(cron: str) -> None:
    assert CRON.validate_python(cron) == cron


@pytest.mark.parametrize("timezone", ["Europe/Berln", "", "europe", "../etc/passwd", "Europe", "a\0b", "x" * 300])
def test_refuses_unknown_time_zones(timezone: str) -> None:
    with pytest.raises(ValidationError, match="expected a name"):
        TIMEZONE.validate_python(timezone)


def test_accepts_time_zone() -> None:
    assert TIMEZONE.validate_python("Europe/Zurich") == "Europe/Zurich"
