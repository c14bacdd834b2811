import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.ends import Reason, Verdict
from darkfactory.model.signals import Finished
from darkfactory.tools.text import MAX_DETAIL
from darkfactory.tools.verdict import Evidence, judge

OK = Finished(ok=True, detail="all done")
BAD = Finished(ok=False, detail="no key")


def seen(
    *, finished=None, exit_code=0, stopped=None, stop_detail="", lingered=False, output_bytes=9, reports=True
) -> Evidence:
    return Evidence(
        finished=finished,
        exit_code=exit_code,
        stopped=stopped,
        stop_detail=stop_detail,
        lingered=lingered,
        output_bytes=output_bytes,
        reports=reports,
    )


MATRIX = {
    # It said how it ended.
    "said ok, exited 0": (seen(finished=OK), Verdict(Reason.SUCCEEDED, "all done")),
    "said not ok, exited 0": (seen(finished=BAD), Verdict(Reason.FAILED, "no key")),
    "said not ok, exited 1": (seen(finished=BAD, exit_code=1), Verdict(Reason.FAILED, "no key")),
    "said not ok, without a word why": (
        seen(finished=Finished(ok=False), exit_code=1),
        Verdict(Reason.FAILED, "said that it failed"),
    ),
    "said ok, exited 1": (seen(finished=OK, exit_code=1), Verdict(Reason.FAILED, "said ok, then exit code 1")),
    "said ok, killed by a stranger": (
        seen(finished=OK, exit_code=-signal.SIGKILL),
        Verdict(Reason.FAILED, "said ok, then killed by SIGKILL"),
    ),
    "said ok, never reaped": (
        seen(finished=OK, exit_code=None),
        Verdict(Reason.FAILED, "said ok, then could not be reaped"),
    ),
    # It said how it ended, and had to be stopped.
    "said ok, lingered": (
        seen(finished=OK, exit_code=-signal.SIGTERM, lingered=True),
        Verdict(Reason.SUCCEEDED, "all done", hung_after_result=True),
    ),
    "said not ok, lingered": (
        seen(finished=BAD, exit_code=-signal.SIGTERM, lingered=True),
        Verdict(Reason.FAILED, "no key", hung_after_result=True),
    ),
    "said ok, stopped with the factory": (
        seen(finished=OK, exit_code=-signal.SIGKILL, stopped=Reason.SHUTDOWN),
        Verdict(Reason.SUCCEEDED, "all done", hung_after_result=True),
    ),
    "said ok, ignored the stop and was never reaped": (
        seen(finished=OK, exit_code=None, stopped=Reason.TIMED_OUT),
        Verdict(Reason.SUCCEEDED, "all done", hung_after_result=True),
    ),
    "said not ok, stopped": (
        seen(finished=BAD, exit_code=143, stopped=Reason.CANCELLED),
        Verdict(Reason.FAILED, "no key", hung_after_result=True),
    ),
    # It did not say, and was stopped.
    "stopped, killed": (
        seen(exit_code=-signal.SIGKILL, stopped=Reason.STALLED, stop_detail="silent for 900 s"),
        Verdict(Reason.STALLED, "silent for 900 s"),
    ),
    "stopped, exited 0 on SIGTERM": (seen(stopped=Reason.TIMED_OUT), Verdict(Reason.TIMED_OUT)),
    "stopped, never reaped": (seen(exit_code=None, stopped=Reason.MEMORY), Verdict(Reason.MEMORY)),
    "stopped plain tool": (seen(stopped=Reason.CANCELLED, reports=False), Verdict(Reason.CANCELLED)),
    "stopped for a result that it took back meanwhile": (
        seen(exit_code=-signal.SIGTERM, lingered=True),
        Verdict(Reason.FAILED, "went on after its result and was stopped before the next one"),
    ),
    # It ended by itself, without a word.
    "silent tool that reports, exited 0": (seen(), Verdict(Reason.FAILED, "exited 0 without a result")),
    "silent tool that reports, exited 2": (seen(exit_code=2), Verdict(Reason.FAILED, "exit code 2")),
    "plain tool, exited 0": (seen(reports=False), Verdict(Reason.SUCCEEDED)),
    "plain tool, exited 0 with no output": (
        seen(reports=False, output_bytes=0),
        Verdict(Reason.SUCCEEDED, no_evidence=True),
    ),
    "plain tool, exited 3": (seen(reports=False, exit_code=3), Verdict(Reason.FAILED, "exit code 3")),
    "plain tool, exited 3 with no output": (
        seen(reports=False, exit_code=3, output_bytes=0),
        Verdict(Reason.FAILED, "exit code 3"),
    ),
    "plain tool, crashed": (
        seen(reports=False, exit_code=-signal.SIGSEGV),
        Verdict(Reason.FAILED, "killed by SIGSEGV"),
    ),
    "plain tool, died of a signal without a name": (
        seen(reports=False, exit_code=-40),
        Verdict(Reason.FAILED, "killed by signal 40"),
    ),
    "plain tool, never reaped": (
        seen(reports=False, exit_code=None),
        Verdict(Reason.FAILED, "could not be reaped"),
    ),
}


@pytest.mark.parametrize(("evidence", "verdict"), MATRIX.values(), ids=MATRIX.keys())
def test_the_verdict_on(evidence, verdict):
    assert judge(evidence) == verdict


@given(
    st.builds(
        Evidence,
        finished=st.none() | st.builds(Finished, ok=st.booleans(), detail=st.text(st.characters(codec=None))),
        exit_code=st.none() | st.integers(),
        stopped=st.none() | st.sampled_from(Reason),
        stop_detail=st.text(st.characters(codec=None)),
        lingered=st.booleans(),
        output_bytes=st.integers(min_value=0),
        reports=st.booleans(),
    )
)
def test_any_evidence_has_a_verdict_with_a_detail_of_one_short_line(evidence):
    verdict = judge(evidence)
    assert verdict.detail.isprintable()
    assert len(verdict.detail) <= MAX_DETAIL
    if verdict.reason is Reason.SUCCEEDED and evidence.stopped is not Reason.SUCCEEDED:
        assert evidence.exit_code == 0 or verdict.hung_after_result
        assert evidence.finished is not None or not evidence.reports
