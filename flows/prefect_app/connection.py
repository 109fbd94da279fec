"""Connects a program that runs a flow once to its Prefect server: checks it or starts one, and reports its failures."""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.machine import machine_errors
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from flows.prefect_app.failures import REFUSED, last_line
from flows.prefect_app.ui.outbox import reason_of
from flows.prefect_app.ui.reporter import API_URL

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

HEALTH_TIMEOUT_S = 30.0  # of each attempt: a server on a busy machine may answer after many seconds
HEALTH_RETRIES = 1
# Of Prefect, if the server refuses, cannot be reached, or sends nonsense (pydantic's errors are ValueErrors, too).
SERVER_FAULTS = (httpx.HTTPError, PrefectException, ValueError)


def temporary_server() -> "SubprocessASGIServer":
    """The temporary server of Prefect, one per process; it ends with this one."""
    from flows.prefect_app.temporary_server import TemporaryServer  # takes as long as all other imports of Prefect

    return TemporaryServer()


def ensure_server() -> None:
    """Check that the server of ``PREFECT_API_URL`` responds; without it, start a temporary one that ignores Ctrl-C.

    Prefect would also start one, and stops this one at the end. If Ctrl-C ended it, the flow could not report the end
    of the run, and would retry for minutes.

    Raises:
        AtlasError: the server does not respond, or has another major version; or the temporary one does not start.
    """
    if url := get_current_settings().api.url:
        _check_server(url)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child process inherits the mask
    try:
        temporary_server().start()
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        raise AtlasError(f"the temporary Prefect server does not start: {reason_of(error)}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _check_server(url: str) -> None:
    """Check that a Prefect server of this major version responds at ``url``."""
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: HEALTH_RETRIES}),
            get_client(sync_client=True, httpx_settings={"timeout": HEALTH_TIMEOUT_S}) as client,
        ):
            version = str(client.api_version())
        known = prefect.__version__
        fault = "" if _major(version) == _major(known) else f"version {version[:100]!r}, which {known} cannot talk to"
    except Exception as error:
        fault = reason_of(error)
    if fault:
        raise AtlasError(
            f"{API_URL}: expected a Prefect server at {url}, got: {fault}. Start it (`make up`), or unset that "
            "variable: then a temporary server runs during the flow"
        )


def _major(version: str) -> str:
    return version.partition(".")[0]


def exit_code_of(run: Callable[[], State]) -> int:
    """Run a flow and return the exit code of the program; an error is printed."""
    try:
        with machine_errors():
            state = run()
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except SERVER_FAULTS as error:  # those of the flow's own code end in a state
        say(
            f"error: the run could not be started at the Prefect server: {reason_of(error)}. Run again when the server "
            f"responds, or unset {API_URL}: then a temporary server runs during the flow. Completed stages are not "
            "repeated"
        )
        return AtlasError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if state.is_completed():
        return 0
    if state.is_cancelled():
        say(f"cancelled: {state.message}")
        return INTERRUPTED
    say(f"error: {last_line(state.message or state.name or 'the run failed')}")
    return InputError.exit_code if state.name == REFUSED else AtlasError.exit_code
