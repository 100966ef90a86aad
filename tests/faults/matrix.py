"""Take a world through one iteration, an audit's answer and an export, and strike at each step."""

import html
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.faults import Fault
from tests.faults.user import Person
from tests.faults.world import PASSWORD, STAGE_NAMES, STEPS, QuietRun, World
from tests.workers.cluster import Process

ANSWER = {"points": "3", "confidence": "2", "comment": "once"}
STEP_SECONDS = 150.0
"""A step that has not ended so long after a fault's end is wedged."""

Plan = Mapping[str, Fault]


@dataclass(frozen=True)
class Cell:
    """One step that was struck.

    Attributes:
        seconds: from the end of the fault until the step was done and the next one was begun.
    """

    fault: str
    step: str
    seconds: float


def run(here: World, plan: Plan) -> list[Cell]:
    """Run everything, strike each step of the plan, and give what was seen."""
    for step, fault in plan.items():
        if fault.point and step in STAGE_NAMES:
            here.points.arm(step, fault.point)
    here.new_worker()
    here.start_reconciler()
    following = here.queue_iteration()
    cells = [_strike_stage(here, plan[step], step) for step in STAGE_NAMES if step in plan]
    here.wait_for(lambda: here.status() == "finished")
    _check_command(following)
    here.start_site()
    here.wait_until(lambda: _answers(here))
    cells += [
        _strike_after(here, plan[step], step)
        for step in STEPS
        if step in plan and step not in STAGE_NAMES
    ]
    return cells


def _check_command(following: Process) -> None:
    """Whoever followed may have been told of a failure, but never lost in a stack of calls."""
    following.wait(60)


def _strike_stage(here: World, fault: Fault, step: str) -> Cell:
    if fault.point:
        here.wait_for(lambda: here.points.reached(step, fault.point))
    fault.strike(here, step)
    here.points.release(step, fault.point)
    fault.lift(here, step)
    ended = time.monotonic()
    here.wait_for(lambda: here.stage_status(step) == "finished", seconds=STEP_SECONDS)
    here.wait_for(lambda: _goes_on(here, step), seconds=STEP_SECONDS)
    return Cell(fault.name, step, time.monotonic() - ended)


def _goes_on(here: World, step: str) -> bool:
    """Whether a worker has begun with the stage after this one, or nothing is left to do."""
    following = STAGE_NAMES[STAGE_NAMES.index(step) + 1 :]
    return here.status() == "finished" or bool(following and here.was_begun(following[0]))


def _strike_after(here: World, fault: Fault, step: str) -> Cell:
    return (_strike_answer if step == "answer" else _strike_export)(here, fault)


def _answers(here: World) -> bool:
    """Whether the site is up; it is asked like a stranger would."""
    try:
        Person(here.web_port, "bob", PASSWORD)
    except AssertionError:
        return False
    return True


def _strike_answer(here: World, fault: Fault) -> Cell:
    """An auditor sends an answer; whatever the site says to it, in the end it counts once."""
    batch = ("--experiment", "tiny", "--iteration", "1", "--kind", "responses")
    options = (
        "--size",
        "3",
        "--same-auditor-share",
        "0",
        "--other-auditor-share",
        "0",
        "--auditor",
        "bob",
    )
    made = here.site.manage("create_audit", *batch, *options, "--strategy", "uniform")
    assert made.returncode == 0, made.stdout
    bob = Person(here.web_port, "bob", PASSWORD)
    led = bob.read("/audits/1/annotate")
    assert led is not None
    path = led[0]
    here.points.arm("answer", "working")
    sending = threading.Thread(target=bob.send, args=[path, ANSWER], daemon=True)
    sending.start()
    here.wait_for(lambda: here.points.reached("answer", "working"))
    fault.strike(here, "answer")
    here.points.release("answer", "working")
    fault.lift(here, "answer")
    ended = time.monotonic()
    sending.join()
    here.wait_for(lambda: _has_answer(bob, path), seconds=STEP_SECONDS)
    seconds = time.monotonic() - ended
    assert here.site.rows("select comment from audit_answer") == [("once",)]
    return Cell(fault.name, "answer", seconds)


def _has_answer(bob: Person, path: str) -> bool:
    """Look whether the answer is there, as a person would, and send it again if it is not."""
    page = bob.read(path)
    if page is None:
        return False
    if "Your answer" not in page[1]:
        bob.send(path, ANSWER)
        return False
    return True


def _strike_export(here: World, fault: Fault) -> Cell:
    """The command ends well with the whole file, or badly with a reason and without one."""
    here.points.arm("export", "working")
    first = here.export()
    here.wait_for(lambda: here.points.reached("export", "working"))
    fault.strike(here, "export")
    here.points.release("export", "working")
    fault.lift(here, "export")
    ended = time.monotonic()
    said, _ = first.communicate(timeout=STEP_SECONDS)
    assert (first.returncode == 0) == here.exported.exists(), f"{first.returncode}: {said}"
    assert "Traceback" not in said, said
    if fault.refused:
        assert first.returncode != 0, said
        assert re.search(fault.refused, said), said
    if first.returncode != 0:
        again = here.export()
        said, _ = again.communicate(timeout=STEP_SECONDS)
        assert again.returncode == 0, said
    return Cell(fault.name, "export", time.monotonic() - ended)


def check(here: World, plan: Plan, quiet: QuietRun) -> None:
    """Nothing is lost, nothing is double, the result is the quiet run's, and somebody could see."""
    assert here.site.digests() == quiet.digests()
    if "export" in plan:
        assert here.exported.read_bytes() == quiet.exported()
    assert set(here.site.statuses("shard")) == {"finished"}
    assert "running" not in here.site.statuses("attempt")
    remade = {_MADE_IN.get(step, step) for step, fault in plan.items() if fault.remakes}
    assert {stage for (stage,) in here.site.rows(_TWICE)} <= remade
    assert here.site.statuses("iteration") == {"finished": 1}
    _check_page(here, plan)
    _check_log(here, plan)


_MADE_IN = {"answer": "judge", "export": "pair_actor"}

_TWICE = (
    "select distinct t.name from experiments_stage t join experiments_shard s on s.stage_id = t.id "
    "where (select count(*) from experiments_attempt a where a.shard_id = s.id "
    "and a.status = 'finished' and a.seconds is not null) > 1"
)


def _check_page(here: World, plan: Plan) -> None:
    alice = Person(here.web_port, "alice", PASSWORD)
    page = alice.read("/experiments/tiny/iterations/1")
    assert page is not None
    words = " ".join(re.sub("<[^>]+>", " ", html.unescape(page[1])).split())
    for step, fault in plan.items():
        if step in STAGE_NAMES and fault.said:
            assert re.search(fault.said, words), (
                f"{fault.said!r} is not on the page: {words[-3000:]}"
            )


def _check_log(here: World, plan: Plan) -> None:
    log = here.whole_log()
    for step, fault in plan.items():
        if step in STAGE_NAMES and fault.logged:
            assert re.search(fault.logged, log), f"{fault.logged!r} is not in the log"
