"""Names of flow runs."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.prefect_app.ui.run_names import name_of

TIME = datetime(2026, 11, 29, 2, 0, tzinfo=UTC)
AUTOMATION = {"type": "AUTOMATION", "display_value": "Review after drift"}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"auto_scheduled": True}, "schedule 2026-11-29 03:00"),
        ({}, "manual"),
        ({"created_by": AUTOMATION}, "automation Review after drift"),
        ({"name": "Fix of shop-a", "auto_scheduled": True}, "Fix of shop-a"),
        ({"name": "schedule 2026-11-28 03:00"}, "schedule 2026-11-28 03:00"),
    ],
    ids=["schedule", "manual", "automation", "named by the user", "retried"],
)
def test_run_is_named_after_its_origin(fields: dict[str, object], name: str) -> None:
    run = FlowRun.model_validate({"name": "radical-deer", "flow_id": uuid4(), "expected_start_time": TIME} | fields)
    assert name_of(run, "Europe/Zurich") == name
