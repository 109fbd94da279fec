"""The Prefect flow "atlas": the stages of dvc.yaml as one run, one task per stage, and the steps around them.

DVC says which stages there are, in which order, and which have nothing to do; Prefect adds retries, logs and the
image of the run. The work of each task is a plain function (`dvc_child`, `steps`), and so is what it shows
(`artifacts`). Without a Prefect server (no ``PREFECT_API_URL``) one lives as long as the run does.

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
from flows.prefect_app.missed_schedules import stand_in_for_missed_times
from flows.prefect_app.reporter import API_URL, FLOW_RUN, TASK_RUN
from flows.prefect_app.steps import StepResult

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

NETWORK_STAGES = {"crawl", "fetch"}  # what fails there may succeed a little later
RETRY_DELAYS_S = (10.0, 60.0)
BUSY_POLL_S = 1.0
HEALTH_TIMEOUT_S = 10.0  # of each attempt, of which Prefect makes some
REFUSED = "Refused"  # name of the state of a task or flow that was given bad input
LOGS = WORK / "logs"  # <stage>.log: what the stage said when it last ran

Work = Callable[[], State]
T = TypeVar("T")


class StepError(Exception):
    """A stage or step did not succeed."""

    def __init__(self, name: str, state: State) -> None:
        super().__init__(name, state.message)
        self.failure: State = Failed(name=state.name, message=f"{name}: {state.message}")


@flow(name="atlas", validate_parameters=False)
def atlas(recrawl: bool = False) -> State:
    """Bring every stage up to date, then judge what came of it; the first step that fails ends the run.

    Args:
        recrawl: begin a new crawl.
    """
    params = None
    try:
        with flow_lock(get_run_logger().info), DvcChild() as dvc:
            params = load_params()
            if recrawl:
                stand_in_for_missed_times(get_run_logger().info)
                run_step("recrawl", steps.recrawl)
                params = load_params()
            judge(params, run_stages(dvc, params))
    except StepError as error:
        failure = error.failure
    except AtlasError as error:
        failure = failed(error)
    else:
        return Completed(message="every stage is up to date")
    if params is not None and params.notify.on_failure:
        tell(f"atlas: The run has failed. {failure.message}", params)
    return failure


def run_stages(dvc: DvcChild, params: Params) -> list[State]:
    """Run the stages that have something to do, each after those that it builds on; the states of the last."""
    pipeline = patiently(dvc.inspect)
    states: dict[str, State] = {}
    ran: set[str] = set()
    for stage, needs in pipeline.needs.items():
        # What it builds on may be another than it was: then, and only then, it has to be looked at again.
        def work(stage: str = stage, is_known: bool = ran.isdisjoint(needs)) -> State:
            changed = stage in pipeline.changed if is_known else patiently(lambda: dvc.is_changed(stage))
            if not changed:
                return Completed(name="Cached", message="up to date")
            run_stage(dvc, stage)
            ran.add(stage)
            show(lambda: stage_artifacts(stage, params))
            return Completed(message="done")

        states[stage] = run(stage, work, [states[need] for need in needs])
    return [states[stage] for stage in states.keys() - set().union(*pipeline.needs.values())]


def run_stage(dvc: DvcChild, stage: str) -> None:
    """Run ``stage``: its lines are logs of this task run, its progress artifacts."""
    log = LOGS / f"{stage.replace('/', '_')}.log"
    relay, environment = relay_to(get_run_logger().log), of_this_task()
    patiently(lambda: dvc.run_stage(stage, relay, log, environment))


def of_this_task() -> dict[str, str]:
    """What stages have to find in their environment, so that their progress shows on the node of this task run."""
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


def judge(params: Params, stages: Sequence[State]) -> None:
    """How far the crawl has drifted, whether the run's model becomes the champion, a version of an accepted run."""
    if not CATEGORIZER.is_dir():
        return  # a pipeline without a model of ours
    if steps.is_judged():
        run_step("promote", lambda: steps.NOTHING, stages)
        return
    run_step("drift", lambda: steps.drift(params), stages)
    promotion = run_step("promote", lambda: steps.promote(params), stages)
    if promotion.news:  # at once: the next run has no news of it, should the commit fail
        tell(promotion.news, params)
    if params.pipeline.commit and promotion.accepted:
        run_step("commit", lambda: steps.commit(params), stages)
    steps.remember(params)


def tell(text: str, params: Params) -> None:
    """Notify people elsewhere, if params say where."""
    if params.notify.webhook is not None:
        run_step("notify", lambda: steps.notify(text, params))


def run_step(name: str, step: Callable[[], StepResult], after: Iterable[State] = ()) -> StepResult:
    """Run ``step`` as a task: what it says are logs, its report an artifact."""
    outcomes = []

    def work() -> State:
        with redirect_stderr(Lines(relay_to(get_run_logger().log))):
            outcome = step()
        outcomes.append(outcome)
        if outcome.markdown:
            show(lambda: [Artifact("markdown", name, name, outcome.markdown)])
        return Completed(name="Completed" if outcome.done else "Cached", message=outcome.message)

    run(name, work, after)
    return outcomes[-1]


def run(name: str, work: Work, after: Iterable[State] = ()) -> State:
    """Run ``work`` as the task ``name``; ``after`` are the states of those that it builds on.

    Raises:
        StepError: it did not succeed.
    """
    state = task_of(name)(work, return_state=True, wait_for=list(after))
    if not state.is_completed():
        raise StepError(name, state)
    return state


def _may_succeed_later(_task: Task[[Work], State], _run: TaskRun, state: State) -> bool:
    return state.name != REFUSED


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_succeed_later)  # what to skip is DVC's to say
def do(work: Work) -> State:
    """Do ``work``: what fails for a reason that it tells is a state, not a traceback."""
    try:
        return work()
    except AtlasError as error:
        return failed(error)


def task_of(name: str) -> Task[[Work], State]:
    """`do` under the name of a stage or step, repeated after a while where the network may be at fault."""
    delays_s = list(RETRY_DELAYS_S) if name in NETWORK_STAGES else []
    return do.with_options(name=name, task_run_name=name, retries=len(delays_s), retry_delay_seconds=delays_s)


def failed(error: AtlasError) -> State:
    """The state of what ended with ``error``."""
    return Failed(name=REFUSED if isinstance(error, InputError) else "Failed", message=str(error))


def patiently(ask: Callable[[], T]) -> T:
    """What ``ask`` gives, as soon as no other dvc command is in the way."""
    told = False
    while True:
        try:
            return ask()
        except DvcBusyError as error:
            if not told:
                get_run_logger().info("waiting: %s", error)
            told = True
            time.sleep(BUSY_POLL_S)


def show(find: Callable[[], Iterable[Artifact]]) -> None:
    """Post the artifacts that ``find`` gives; an image that cannot be drawn is no reason for a stage to fail."""
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
        get_run_logger().warning("not everything that there is to see can be shown", exc_info=True)


def temporary_server() -> "SubprocessASGIServer":
    """The server that Prefect starts where it is told of none: there is one in a process."""
    from prefect.server.api.server import SubprocessASGIServer  # takes as long as all else of Prefect

    return SubprocessASGIServer()


def find_server() -> None:
    """See that the server answers that Prefect is told of; if it is told of none, start one that is deaf to Ctrl-C.

    Prefect would start one as well, and stops this one at the end. If Ctrl-C reached it too, the flow could not tell it
    that the run has ended, and would try for minutes.

    Raises:
        AtlasError: it does not answer.
    """
    if url := get_current_settings().api.url:
        with get_client(sync_client=True, httpx_settings={"timeout": HEALTH_TIMEOUT_S}) as client:
            fault = client.api_healthcheck()
        if fault is not None:
            raise AtlasError(
                f"{API_URL}: expected a Prefect server at {url}, got: {str(fault) or type(fault).__name__}. Start it "
                "(`make up`), or unset that: then one lives as long as the run"
            )
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child process inherits the mask
        try:
            temporary_server().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def exit_code_of(run: Callable[[], State]) -> int:
    """The exit code of a program that does ``run``, a flow and what comes before it; a line says what went wrong."""
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
    """Run the flow once; the exit code."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # an exit stops the server as well

    def run_flow() -> State:
        load_params()  # faults are told at once, before a server starts
        find_server()
        return atlas(return_state=True)

    return exit_code_of(run_flow)


if __name__ == "__main__":
    sys.exit(main())
