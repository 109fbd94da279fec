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
from typing import TypeVar

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed
from prefect.tasks import Task

from atlas_model.core.errors import AtlasError
from atlas_model.core.machine import machine_errors
from atlas_model.core.params import Params, load_params
from atlas_model.core.progress import WATCHER
from flows.dvc.descriptions import stage_descriptions
from flows.dvc.pipeline_lock import flow_lock
from flows.dvc.repo import DvcBusyError
from flows.dvc.worker import DvcChild
from flows.paths import CATEGORIZER, WORK
from flows.prefect_app import steps
from flows.prefect_app.connection import ensure_server, exit_code_of, temporary_server
from flows.prefect_app.failures import CONTINUE, REFUSED, StepError, failed_state, is_stage_message
from flows.prefect_app.missed_schedules import cancel_missed_runs
from flows.prefect_app.steps import StepResult
from flows.prefect_app.ui import run_page
from flows.prefect_app.ui.artifacts import Artifact, stage_artifacts
from flows.prefect_app.ui.engine import send_through_outbox
from flows.prefect_app.ui.log_relay import Lines, relay_to
from flows.prefect_app.ui.reporter import API_URL, FLOW_RUN, TASK_RUN
from flows.prefect_app.ui.run_log import is_cancelling, shorten_run_logs
from flows.prefect_app.ui.run_names import name_of_current_run
from flows.prefect_app.ui.summary import CACHED, RAN, RunRecord, summary

NETWORK_STAGES = {"crawl", "fetch"}  # their failures may be transient
RETRY_DELAYS_S = (10.0, 60.0)
BUSY_POLL_S = 1.0
REPORT_STAGE = "report"
LOGS = WORK / "logs"  # <stage>.log: output of the last run of the stage

Work = Callable[[], State]
T = TypeVar("T")


DESCRIPTION = (  # one line per paragraph: Prefect's UI breaks lines where the text does
    "Takes the catalogue from the shops to an evaluated model, and promotes the model if it is not inferior.\n\n"
    "There is one task per stage of dvc.yaml. A stage that is up to date ends as `Cached`. After the stages: the drift "
    "report, the promotion, the commit of an accepted run. The artifact `summary` of a run has its result and links."
    "\n\nA run that failed or was cancelled continues where it stopped when the flow runs again."
)
STEPS = {
    "recrawl": "Writes a new snapshot to params.yaml, so that the stage crawl runs.",
    "drift": "Compares the crawl with that of the last completed run.",
    "promote": "Makes the model the champion if it is not inferior to the current one.",
    "commit": "Pushes the data, then commits and tags the accepted run.",
    "notify": "Posts to notify.webhook.",
}

shorten_run_logs()
send_through_outbox()


@flow(name="atlas", description=DESCRIPTION, flow_run_name=name_of_current_run, validate_parameters=False)
def atlas(recrawl: bool = False) -> State:
    """Run the stages that are not up to date, then the final steps; the first failure ends the run.

    Args:
        recrawl: Start a new crawl. Otherwise the crawl of params.yaml is kept. The schedule sets it.
    """
    record = RunRecord()
    try:
        state = _run_all(record, recrawl=recrawl)
    except KeyboardInterrupt:
        state = Cancelled(message=f"interrupted. {CONTINUE}")
    message = state.message or ""
    create_artifacts(lambda: [Artifact("markdown", "summary", "The result of the run", summary(record, message))])
    return state


def _run_all(record: RunRecord, *, recrawl: bool) -> State:
    params = None
    try:
        with machine_errors(), flow_lock(get_run_logger().info), DvcChild() as dvc:
            params = load_params()
            if recrawl:
                record.missed += cancel_missed_runs(relay_to(get_run_logger().log))
                run_step("recrawl", steps.recrawl, record)
                params = load_params()
                run_page.append_to_name(params.crawl.snapshot)
            run_final_steps(params, run_stages(dvc, params, record), record, dvc)
    except StepError as error:
        failure = error.failure
        if params is not None and error.name == "crawl":
            event = steps.degraded_crawl(failure.message or "", params.crawl.snapshot)
            if event is not None:
                run_page.emit(event)
    except AtlasError as error:
        get_run_logger().error(str(error))
        failure = failed_state(error)
    else:
        return Completed(message=record.message)
    if params is not None and params.notify.on_failure:
        send_notification(f"atlas: The run has failed. {failure.message}", params, record)
    return failure


def run_stages(dvc: DvcChild, params: Params, record: RunRecord) -> list[State]:
    """Run the stages that are not up to date, in order; returns the states of the stages without successors."""
    pipeline = retry_while_busy(dvc.inspect)
    descriptions = stage_descriptions()
    states: dict[str, State] = {}
    for stage, needs in pipeline.needs.items():
        # Check again only if a dependency was run in this flow.
        def work(stage: str = stage, is_known: bool = set(record.ran).isdisjoint(needs)) -> State:
            changed = stage in pipeline.changed if is_known else retry_while_busy(lambda: dvc.is_changed(stage))
            if not changed:
                return Completed(name="Cached", message=CACHED)
            state = run_changed_stage(dvc, stage, params)
            if state.is_completed():
                record.ran.append(stage)
            return state

        before = [states[need] for need in needs]
        states[stage] = run(stage, work, record, before, descriptions.get(stage, ""))
    return [states[stage] for stage in states.keys() - set().union(*pipeline.needs.values())]


def run_changed_stage(dvc: DvcChild, stage: str, params: Params, message: str = RAN) -> State:
    """Run ``stage`` and create its artifacts; ``message`` is for a completed one."""
    try:
        run_stage(dvc, stage)
    except AtlasError as error:
        if not is_stage_message(stage, str(error)):
            raise
        return failed_state(error)  # not logged: the reason is in the log, with the output of the stage
    create_artifacts(lambda: stage_artifacts(stage, params))
    return Completed(message=message)


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
        WATCHER: "flows.prefect_app.ui.reporter:post",
        API_URL: api.url or temporary_server().api_url,
        FLOW_RUN: str(context.task_run.flow_run_id),
        TASK_RUN: str(context.task_run.id),
    }
    for name, secret in (("PREFECT_API_KEY", api.key), ("PREFECT_API_AUTH_STRING", api.auth_string)):
        if secret is not None:
            environment[name] = secret.get_secret_value()
    return environment


def run_final_steps(params: Params, stages: Sequence[State], record: RunRecord, dvc: DvcChild) -> None:
    """Report the drift, promote the model, renew the report, commit an accepted run."""
    if not CATEGORIZER.is_dir():
        return  # the pipeline has no stage train
    if steps.is_unchanged():
        run_step("promote", lambda: steps.NOTHING, record, stages)
        return
    drift = run_step("drift", lambda: steps.drift(params), record, stages)
    promotion = run_step("promote", lambda: steps.promote(params), record, stages)
    record.results += filter(None, [promotion.summary, drift.summary])
    if promotion.news:  # now, because it would not be sent again if the commit failed
        send_notification(promotion.news, params, record)
    if promotion.done and promotion.accepted:
        renew_report(dvc, params, record, stages)
    if params.pipeline.commit and promotion.accepted:
        run_step("commit", lambda: steps.commit(params), record, stages)
    steps.record_run(params)


def renew_report(dvc: DvcChild, params: Params, record: RunRecord, after: Sequence[State]) -> None:
    """Run the stage report again: a promotion has changed models/champions.json, which it reads."""
    if REPORT_STAGE in retry_while_busy(dvc.inspect).changed:
        run(
            REPORT_STAGE,
            lambda: run_changed_stage(dvc, REPORT_STAGE, params, "done, with the promotion"),
            record,
            after,
        )


def send_notification(text: str, params: Params, record: RunRecord) -> None:
    """Send a notification, if notify.webhook is set."""
    if params.notify.webhook is not None:
        run_step("notify", lambda: steps.notify(text, params), record)


def run_step(name: str, step: Callable[[], StepResult], record: RunRecord, after: Iterable[State] = ()) -> StepResult:
    """Run ``step`` as a task; its output becomes the log, its report an artifact; its tags and events are sent."""
    outcomes = []

    def work() -> State:
        with redirect_stderr(Lines(relay_to(get_run_logger().log))):
            outcome = step()
        outcomes.append(outcome)
        if outcome.markdown:
            create_artifacts(lambda: [Artifact("markdown", name, STEPS[name], outcome.markdown)])
        run_page.add_tags(outcome.tags)
        for event in outcome.events:
            run_page.emit(event)
        return Completed(name="Completed" if outcome.done else "Cached", message=outcome.message)

    run(name, work, record, after, STEPS[name])
    return outcomes[-1]


def run(name: str, work: Work, record: RunRecord, after: Iterable[State] = (), description: str = "") -> State:
    """Run ``work`` as the task ``name``; ``after`` has the states of the tasks before it.

    Raises:
        StepError: it failed.
    """
    interruptions: list[BaseException] = []

    def interruptible() -> State:
        if description:
            get_run_logger().info(description)
        try:
            return work()
        except (KeyboardInterrupt, TerminationSignal) as interruption:
            context = FlowRunContext.get()
            run_id = context.flow_run.id if context is not None and context.flow_run is not None else None
            if isinstance(interruption, TerminationSignal) and not is_cancelling(run_id):
                raise  # the process is ended from outside: a crash
            interruptions.append(interruption)
            return Cancelled(message="the run was cancelled")

    with record.timed(name) as result:
        state = make_task(name, description)(interruptible, return_state=True, wait_for=list(after))
        result.append(str(state.message if state.is_completed() else state.name))
    if interruptions:
        raise interruptions[-1]
    if not state.is_completed():
        failed = StepError(name, state)
        get_run_logger().error(f"{name} failed. {failed.remedy}")
        raise failed
    return state


def _may_succeed_later(_task: Task[[Work], State], _run: TaskRun, state: State) -> bool:
    return state.name != REFUSED


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_succeed_later)  # DVC decides what to skip
def do(work: Work) -> State:
    """Run ``work``; an `AtlasError` becomes a failed state without traceback."""
    try:
        with machine_errors():
            return work()
    except AtlasError as error:
        get_run_logger().error(str(error))
        return failed_state(error)


def make_task(name: str, description: str = "") -> Task[[Work], State]:
    """`do` with the name of a stage or step, with retries if the stage uses the network."""
    delays_s = list(RETRY_DELAYS_S) if name in NETWORK_STAGES else []
    return do.with_options(
        name=name,
        description=description or name,
        task_run_name=name,
        retries=len(delays_s),
        retry_delay_seconds=delays_s,
    )


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
            run_page.add_artifact(artifact)
    except Exception:
        get_run_logger().warning("not all artifacts could be created", exc_info=True)


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
