"""The Prefect flow "atlas": runs the stages of dvc.yaml, one task per stage, and the steps before and after them.

DVC determines the stages, their order, and which are up to date; Prefect adds retries, logs and the UI. The work of the
tasks is in `flows.dvc.worker` and `steps`, their artifacts are in `artifacts`. Without ``PREFECT_API_URL``, a temporary
Prefect server runs during the flow.

``python -m flows.prefect_app.flow`` ends with exit code 0 (done), 1 (a step failed) or 2 (bad input).
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed
from prefect.tasks import Task

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.params import Params, load_params
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import WATCHER, say
from flows.dvc.pipeline_lock import flow_lock
from flows.dvc.repo import DvcBusyError
from flows.dvc.worker import DvcChild
from flows.paths import CATEGORIZER, WORK
from flows.prefect_app import steps
from flows.prefect_app.artifacts import Artifact, stage_artifacts
from flows.prefect_app.log_relay import Lines, relay_to
from flows.prefect_app.missed_schedules import cancel_missed_runs
from flows.prefect_app.reporter import API_URL, FLOW_RUN, TASK_RUN
from flows.prefect_app.steps import StepResult

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

NETWORK_STAGES = {"crawl", "fetch"}  # their failures may be transient
RETRY_DELAYS_S = (10.0, 60.0)
BUSY_POLL_S = 1.0
HEALTH_TIMEOUT_S = 10.0  # of each of Prefect's attempts
REPORT_STAGE = "report"
REFUSED = "Refused"  # name of the state of a task or flow with bad input
LOGS = WORK / "logs"  # <stage>.log: output of the last run of the stage

Work = Callable[[], State]
T = TypeVar("T")


class StepError(Exception):
    """A stage or step has failed."""

    def __init__(self, name: str, state: State) -> None:
        super().__init__(name, state.message)
        self.failure: State = Failed(name=state.name, message=f"{name}: {state.message}")


@flow(name="atlas", validate_parameters=False)
def atlas(recrawl: bool = False) -> State:
    """Run the stages that are not up to date, then the final steps; the first failure ends the run.

    Args:
        recrawl: start a new crawl.
    """
    params = None
    try:
        with flow_lock(get_run_logger().info), DvcChild() as dvc:
            params = load_params()
            if recrawl:
                cancel_missed_runs(get_run_logger().info)
                run_step("recrawl", steps.recrawl)
                params = load_params()
            run_final_steps(params, run_stages(dvc, params), dvc)
    except StepError as error:
        failure = error.failure
    except AtlasError as error:
        failure = failed_state(error)
    else:
        return Completed(message="every stage is up to date")
    if params is not None and params.notify.on_failure:
        send_notification(f"atlas: The run has failed. {failure.message}", params)
    return failure


def run_stages(dvc: DvcChild, params: Params) -> list[State]:
    """Run the stages that are not up to date, in order; returns the states of the stages without successors."""
    pipeline = retry_while_busy(dvc.inspect)
    states: dict[str, State] = {}
    ran: set[str] = set()
    for stage, needs in pipeline.needs.items():
        # Check again only if a dependency was run in this flow.
        def work(stage: str = stage, is_known: bool = ran.isdisjoint(needs)) -> State:
            changed = stage in pipeline.changed if is_known else retry_while_busy(lambda: dvc.is_changed(stage))
            if not changed:
                return Completed(name="Cached", message="up to date")
            run_stage(dvc, stage)
            ran.add(stage)
            create_artifacts(lambda: stage_artifacts(stage, params))
            return Completed(message="done")

        states[stage] = run(stage, work, [states[need] for need in needs])
    return [states[stage] for stage in states.keys() - set().union(*pipeline.needs.values())]


def run_stage(dvc: DvcChild, stage: str) -> None:
    """Run ``stage``; its output becomes the log of this task run, its progress artifacts."""
    log = LOGS / f"{stage.replace('/', '_')}.log"
    relay, environment = relay_to(get_run_logger().log), task_environment()
    retry_while_busy(lambda: dvc.run_stage(stage, relay, log, environment))


def task_environment() -> dict[str, str]:
    """The environment variables with which stages report their progress to this task run."""
    context = TaskRunContext.get()
    assert context is not None
    api = get_current_settings().api
    environment = {
        WATCHER: "flows.prefect_app.reporter:post",
        API_URL: api.url or temporary_server().api_url,
        FLOW_RUN: str(context.task_run.flow_run_id),
        TASK_RUN: str(context.task_run.id),
    }
    for name, secret in (("PREFECT_API_KEY", api.key), ("PREFECT_API_AUTH_STRING", api.auth_string)):
        if secret is not None:
            environment[name] = secret.get_secret_value()
    return environment


def run_final_steps(params: Params, stages: Sequence[State], dvc: DvcChild) -> None:
    """Report the drift, promote the model, renew the report, commit an accepted run."""
    if not CATEGORIZER.is_dir():
        return  # the pipeline has no stage train
    if steps.is_unchanged():
        run_step("promote", lambda: steps.NOTHING, stages)
        return
    run_step("drift", lambda: steps.drift(params), stages)
    promotion = run_step("promote", lambda: steps.promote(params), stages)
    if promotion.news:  # now, because it would not be sent again if the commit failed
        send_notification(promotion.news, params)
    if promotion.done and promotion.accepted:
        renew_report(dvc, params, stages)
    if params.pipeline.commit and promotion.accepted:
        run_step("commit", lambda: steps.commit(params), stages)
    steps.record_run(params)


def renew_report(dvc: DvcChild, params: Params, after: Sequence[State]) -> None:
    """Run the stage report again: a promotion has changed models/champions.json, which it reads."""

    def work() -> State:
        run_stage(dvc, REPORT_STAGE)
        create_artifacts(lambda: stage_artifacts(REPORT_STAGE, params))
        return Completed(message="done, with the promotion")

    if REPORT_STAGE in retry_while_busy(dvc.inspect).changed:
        run(REPORT_STAGE, work, after)


def send_notification(text: str, params: Params) -> None:
    """Send a notification, if notify.webhook is set."""
    if params.notify.webhook is not None:
        run_step("notify", lambda: steps.notify(text, params))


def run_step(name: str, step: Callable[[], StepResult], after: Iterable[State] = ()) -> StepResult:
    """Run ``step`` as a task; its output becomes the log, its report an artifact."""
    outcomes = []

    def work() -> State:
        with redirect_stderr(Lines(relay_to(get_run_logger().log))):
            outcome = step()
        outcomes.append(outcome)
        if outcome.markdown:
            create_artifacts(lambda: [Artifact("markdown", name, name, outcome.markdown)])
        return Completed(name="Completed" if outcome.done else "Cached", message=outcome.message)

    run(name, work, after)
    return outcomes[-1]


def run(name: str, work: Work, after: Iterable[State] = ()) -> State:
    """Run ``work`` as the task ``name``; ``after`` has the states of the tasks before it.

    Raises:
        StepError: it failed.
    """
    state = make_task(name)(work, return_state=True, wait_for=list(after))
    if not state.is_completed():
        raise StepError(name, state)
    return state


def _may_succeed_later(_task: Task[[Work], State], _run: TaskRun, state: State) -> bool:
    return state.name != REFUSED


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_succeed_later)  # DVC decides what to skip
def do(work: Work) -> State:
    """Run ``work``; an `AtlasError` becomes a failed state without traceback."""
    try:
        return work()
    except AtlasError as error:
        return failed_state(error)


def make_task(name: str) -> Task[[Work], State]:
    """`do` with the name of a stage or step, with retries if the stage uses the network."""
    delays_s = list(RETRY_DELAYS_S) if name in NETWORK_STAGES else []
    return do.with_options(name=name, task_run_name=name, retries=len(delays_s), retry_delay_seconds=delays_s)


def failed_state(error: AtlasError) -> State:
    """The state for ``error``."""
    return Failed(name=REFUSED if isinstance(error, InputError) else "Failed", message=str(error))


def retry_while_busy(call: Callable[[], T]) -> T:
    """The result of ``call``, retried while another dvc command is running."""
    logged = False
    while True:
        try:
            return call()
        except DvcBusyError as error:
            if not logged:
                get_run_logger().info("waiting: %s", error)
            logged = True
            time.sleep(BUSY_POLL_S)


def create_artifacts(find: Callable[[], Iterable[Artifact]]) -> None:
    """Create the artifacts that ``find`` yields; an error is a warning and does not fail the stage."""
    try:
        for artifact in find():
            shared = {"key": artifact.key, "description": artifact.description}
            if artifact.kind == "table":
                create_table_artifact(artifact.data, **shared)
            elif artifact.kind == "image":
                create_image_artifact(artifact.data, **shared)
            else:
                create_markdown_artifact(artifact.data, **shared)
    except Exception:
        get_run_logger().warning("not all artifacts could be created", exc_info=True)


def temporary_server() -> "SubprocessASGIServer":
    """The temporary server of Prefect, one per process."""
    from prefect.server.api.server import SubprocessASGIServer  # takes as long as all other imports of Prefect

    return SubprocessASGIServer()


def ensure_server() -> None:
    """Check that the server of ``PREFECT_API_URL`` responds; without it, start a temporary one that ignores Ctrl-C.

    Prefect would also start one, and stops this one at the end. If Ctrl-C ended it, the flow could not report the end
    of the run, and would retry for minutes.

    Raises:
        AtlasError: the server does not respond.
    """
    if url := get_current_settings().api.url:
        with get_client(sync_client=True, httpx_settings={"timeout": HEALTH_TIMEOUT_S}) as client:
            fault = client.api_healthcheck()
        if fault is not None:
            raise AtlasError(
                f"{API_URL}: expected a Prefect server at {url}, got: {str(fault) or type(fault).__name__}. Start it "
                "(`make up`), or unset that variable: then a temporary server runs during the flow"
            )
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child process inherits the mask
        try:
            temporary_server().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def exit_code_of(run: Callable[[], State]) -> int:
    """Run a flow and return the exit code of the program; an error is printed."""
    try:
        state = run()
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if state.is_completed():
        return 0
    say(f"error: {state.message}")
    return InputError.exit_code if state.name == REFUSED else AtlasError.exit_code


def main() -> int:
    """Run the flow once, and return the exit code."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # an exit also stops the server

    def run_flow() -> State:
        load_params()  # reports faults before a server starts
        ensure_server()
        return atlas(return_state=True)

    return exit_code_of(run_flow)


if __name__ == "__main__":
    sys.exit(main())
