"""The states and messages of failed tasks: which stage or step, why, and what to do."""

import re

from prefect.client.schemas.objects import State
from prefect.states import Failed

from atlas_model.core.errors import AtlasError, InputError

STEP = re.compile(r"((?:stage )?\S+ (?:failed|refused its input)): ")  # start of the message of a `StepError`
REFUSED = "Refused"  # name of the state of a task or flow with bad input
CONTINUE = "To continue, run the flow again (Run in the UI, or `make flow`): completed stages are not repeated."


def failed_state(error: AtlasError) -> State:
    """The state for ``error``."""
    return Failed(name=REFUSED if isinstance(error, InputError) else "Failed", message=str(error))


class StepError(Exception):
    """A stage or step has failed."""

    def __init__(self, name: str, state: State) -> None:
        super().__init__(name, state.message)
        text = state.message or "it failed"
        if is_stage_message(name, text):  # says what to do in its last two lines
            message, self.remedy = text, "\n".join(text.splitlines()[-2:])
        else:
            message, self.remedy = f"{name} failed: {text}\n{CONTINUE}", CONTINUE
        self.name = name
        self.failure: State = Failed(name=state.name, message=message)


def is_stage_message(name: str, text: str) -> bool:
    """Whether ``text`` is the message of `flows.dvc.repo.failure` for the stage ``name``."""
    return text.startswith(f"stage {name} ") and "\n" in text


def last_line(message: str) -> str:
    """What a program prints last about a failed run, whose log above it has the reason already."""
    step = STEP.match(message)
    return f"{step[1]}: the reason and what to do are above" if step else message
