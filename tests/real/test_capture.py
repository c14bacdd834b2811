"""The follower: every byte once and in order, whatever the sink, the file or the kernel does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from darkfactory.devices import capture
from darkfactory.devices.capture import Follower, Inotify
from darkfactory.model.signals import Stream

pytestmark = pytest.mark.real

OUT, ERR = Stream.STDOUT, Stream.STDERR


@define(eq=False)
class Recorder:
    """A sink that keeps what it is given; while its gate is shut, flushing waits."""

    log: list[tuple[Stream, bytes | None]] = field(factory=list)
    flushed: int = 0
    gate: trio.Event | None = None
    flushing: trio.Event = field(factory=trio.Event)

    def feed(self, stream: Stream, data: bytes) -> None:
        self.log.append((stream, data))

    def written(self, size: int) -> None:
        pass

    def truncated(self, stream: Stream) -> None:
        self.log.append((stream, None))

    async def flush(self) -> None:
        self.flushed += 1
        self.flushing.set()
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()

    def text(self, stream: Stream = OUT) -> bytes:
        return b"".join(data for source, data in self.log if source is stream and data is not None)

    async def until(self, expected: bytes, stream: Stream = OUT) -> None:
        await condition(lambda: self.text(stream) == expected)


async def condition(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110 -- the condition is in other hands
            await trio.sleep(0.005)


class Written:
    """A file that is appended to, as a child would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


@pytest.fixture
def out(tmp_path: Path) -> Written:
    return Written(tmp_path / "stdout")


@pytest.fixture
def err(tmp_path: Path) -> Written:
    return Written(tmp_path / "stderr")


def armed(follower: Follower) -> bool:
    """Whether the kernel will tell of any change, so that nothing needs to be looked at."""
    return all(file.watch is not None for followed in follower._all for file in followed._files)


async def test_what_is_appended_is_fed_while_it_is_served(nursery, out, err):
    follower, sink = Follower(), Recorder()
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open(), ERR: err.open()}, sink)
    for number in range(3):
        await condition(lambda: armed(follower))
        out.append(b"out %d" % number)
        err.append(b"err %d" % number)
        await sink.until(b"".join(b"out %d" % seen for seen in range(number + 1)))
        await sink.until(b"".join(b"err %d" % seen for seen in range(number + 1)), ERR)
    await followed.finish()


async def test_what_was_written_before_it_is_served_is_fed(nursery, out):
    follower, sink = Follower(), Recorder()
    followed = follower.follow({OUT: out.open()}, sink)
    out.append(b"early")
    nursery.start_soon(follower.serve)
    await sink.until(b"early")
    await followed.finish()


async def test_finish_feeds_the_rest_also_when_nobody_serves(out, err):
    sink = Recorder()
    followed = Follower().follow({OUT: out.open(), ERR: err.open()}, sink)
    out.append(b"a last line without its newline")
    await followed.finish()
    assert sink.log == [(OUT, b"a last line without its newline")]
    assert sink.flushed == 1


async def test_finish_right_after_follow_meets_a_reading_task_that_has_not_begun(nursery, out):
    follower, sink = Follower(), Recorder()
    nursery.start_soon(follower.serve)
    await trio.testing.wait_all_tasks_blocked()
    out.append(b"x")
    await follower.follow({OUT: out.open()}, sink).finish()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert sink.log == [(OUT, b"x")]


async def test_an_idle_file_costs_nothing(nursery, out):
    follower = Follower()
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, Recorder())
    await condition(lambda: armed(follower))
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
    await followed.finish()


async def test_a_file_is_armed_once_a_round_however_often_it_is_written(nursery, out):
    arms = 0

    class Counting(Inotify):
        def arm(self, fd: int) -> int:
            nonlocal arms
            arms += 1
            return super().arm(fd)

    follower, sink = Follower(Counting), Recorder()
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, sink)
    await condition(lambda: armed(follower))
    begun = trio.current_time()
    for _ in range(200):
        out.append(b"x")
        await trio.sleep(0.0005)
    await sink.until(b"x" * 200)
    assert arms <= 2 + (trio.current_time() - begun) / capture.ROUND_SECS
    await followed.finish()


async def test_more_than_a_round_of_one_file_is_fed_whole(nursery, out):
    follower, sink = Follower(), Recorder()
    nursery.start_soon(follower.serve)
    data = os.urandom(1024) * (2 * capture.ROUND_BYTES // 1024) + b"tail"
    out.append(data)
    followed = follower.follow({OUT: out.open()}, sink)
    await condition(lambda: len(sink.text()) == len(data))
    assert sink.text() == data
    assert max(len(part) for _, part in sink.log if part) <= capture.CHUNK_BYTES
    assert sink.flushed >= 2
    await followed.finish()


async def test_a_file_that_shrank_is_read_from_its_beginning(nursery, out):
    follower, sink = Follower(), Recorder()
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, sink)
    out.append(b"a long beginning")
    await sink.until(b"a long beginning")
    out.path.write_bytes(b"short")
    await condition(lambda: sink.log[-1] == (OUT, b"short"))
    assert sink.log == [(OUT, b"a long beginning"), (OUT, None), (OUT, b"short")]
    os.truncate(out.path, 0)
    await condition(lambda: sink.log[-1] == (OUT, None))
    await followed.finish()


async def test_a_sink_that_waits_holds_up_no_other_run(nursery, out, err):
    follower, slow, quick = Follower(), Recorder(gate=trio.Event()), Recorder()
    nursery.start_soon(follower.serve)
    held = follower.follow({OUT: out.open()}, slow)
    free = follower.follow({OUT: err.open()}, quick)
    out.append(b"1")
    await slow.until(b"1")
    for size in range(1, 4):
        err.append(b"x")
        await quick.until(b"x" * size)
    out.append(b"2")
    assert slow.text() == b"1"
    slow.gate.set()
    await slow.until(b"12")
    await held.finish()
    await free.finish()


async def test_finish_waits_for_a_round_that_is_being_flushed_and_nothing_is_fed_twice(nursery, out):
    follower, sink = Follower(), Recorder(gate=trio.Event())
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, sink)
    out.append(b"one ")
    await sink.until(b"one ")
    await sink.flushing.wait()
    out.append(b"two")
    async with trio.open_nursery() as inner:
        inner.start_soon(followed.finish)
        await trio.testing.wait_all_tasks_blocked()
        assert sink.text() == b"one "
        sink.gate.set()
    assert sink.text() == b"one two"


async def test_finish_that_is_cancelled_closes_the_files_all_the_same(nursery, out):
    follower, sink = Follower(), Recorder(gate=trio.Event())
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, sink)
    out.append(b"x")
    await sink.flushing.wait()
    with trio.move_on_after(0) as scope:
        await followed.finish()
    assert scope.cancelled_caught
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(followed._files[0].fd)


async def test_a_turn_to_read_that_comes_with_the_end_touches_no_closed_file(nursery, out):
    follower = Follower()
    nursery.start_soon(follower.serve)
    out.append(b"x")
    for _ in range(30):  # which of the two tasks goes on first is a matter of chance
        turn = follower._turns._live
        await turn.acquire()
        sink = Recorder()
        followed = follower.follow({OUT: out.open()}, sink)
        await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def finish(followed=followed, scope=scope) -> None:
            with scope:
                await followed.finish()

        async with trio.open_nursery() as ending:
            ending.start_soon(finish)
            await trio.testing.wait_all_tasks_blocked()
            turn.release()
            scope.cancel()
        assert sink.text() in {b"", b"x"}
    nursery.cancel_scope.cancel()


async def test_while_others_wait_the_readers_rest_but_an_ended_run_is_read(nursery, out, err, monkeypatch):
    monkeypatch.setattr(capture, "RESTS", 1e9)  # for hours
    follower = Follower()
    nursery.start_soon(follower.serve)
    runs = {}
    async with follower._turns._live:
        for file in (out, err):
            file.append(b"x" * 3 * capture.CHUNK_BYTES)
            sink = Recorder()
            runs[follower.follow({OUT: file.open()}, sink)] = sink
        await trio.testing.wait_all_tasks_blocked()
    await condition(lambda: any(sink.log for sink in runs.values()))
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(len(sink.text()) for sink in runs.values()) == [0, capture.CHUNK_BYTES]
    with trio.fail_after(20):
        for followed, sink in sorted(runs.items(), key=lambda run: len(run[1].log)):
            await followed.finish()
            assert sink.text() == b"x" * 3 * capture.CHUNK_BYTES
    nursery.cancel_scope.cancel()


async def test_what_was_fed_when_the_service_was_cancelled_is_flushed_at_the_end(out):
    follower, sink = Follower(), Recorder(gate=trio.Event())
    followed = follower.follow({OUT: out.open()}, sink)
    out.append(b"x")
    async with trio.open_nursery() as serving:
        serving.start_soon(follower.serve)
        await sink.flushing.wait()
        serving.cancel_scope.cancel()
    sink.gate = None
    await followed.finish()
    assert sink.log == [(OUT, b"x")]
    assert sink.flushed == 2


async def test_it_can_be_served_again(out):
    follower, sink = Follower(), Recorder()
    followed = follower.follow({OUT: out.open()}, sink)
    for number in range(1, 3):
        async with trio.open_nursery() as serving:
            serving.start_soon(follower.serve)
            out.append(b"x")
            await sink.until(b"x" * number)
            serving.cancel_scope.cancel()
    await followed.finish()


async def test_a_watch_is_given_back_at_the_end(nursery, out):
    disarmed: list[int] = []

    class Spy(Inotify):
        def disarm(self, watch: int) -> None:
            disarmed.append(watch)
            super().disarm(watch)

    follower = Follower(Spy)
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, Recorder())
    await condition(lambda: armed(follower))
    await followed.finish()
    await trio.testing.wait_all_tasks_blocked()
    assert len(disarmed) == 1


async def test_without_inotify_files_are_polled(nursery, out):
    def none_left() -> Inotify:
        raise OSError(errno.EMFILE, "Too many open files")

    follower, sink = Follower(none_left), Recorder()
    nursery.start_soon(follower.serve)
    followed = follower.follow({OUT: out.open()}, sink)
    for number in range(1, 3):
        out.append(b"x")
        await sink.until(b"x" * number)
    await followed.finish()


async def test_only_the_files_for_which_no_watch_is_left_are_polled_and_only_until_there_is(nursery, out, err):
    few = True

    class Few(Inotify):
        def arm(self, fd: int) -> int:
            if few and os.path.samestat(os.fstat(fd), err.path.stat()):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().arm(fd)

    follower, watched, polled = Follower(Few), Recorder(), Recorder()
    nursery.start_soon(follower.serve)
    first = follower.follow({OUT: out.open()}, watched)
    second = follower.follow({OUT: err.open()}, polled)
    for number in range(1, 3):
        out.append(b"x")
        err.append(b"y")
        await watched.until(b"x" * number)
        await polled.until(b"y" * number)
    await condition(lambda: first._files[0].watch is not None)
    assert second._files[0].watch is None
    few = False
    await condition(lambda: armed(follower))
    await first.finish()
    await second.finish()


async def test_after_lost_events_all_files_are_looked_at(nursery, out, err):
    class Overflowing(Inotify):
        def ended(self):
            return iter([None for _ in super().ended()])

    follower, sink, other = Follower(Overflowing), Recorder(), Recorder()
    nursery.start_soon(follower.serve)
    first = follower.follow({OUT: out.open()}, sink)
    second = follower.follow({OUT: err.open()}, other)
    for number in range(1, 4):
        await condition(lambda: armed(follower))
        out.append(b"x")
        await sink.until(b"x" * number)
    await first.finish()
    await second.finish()


def test_an_overflow_is_told_as_any_and_a_modification_alone_is_not_told(monkeypatch):
    inotify = Inotify()
    events = [(3, capture._IN_MODIFY), (3, capture._IN_IGNORED), (-1, capture._IN_Q_OVERFLOW)]
    raw = b"".join(capture._EVENT.pack(watch, mask, 0, 0) for watch, mask in events)
    monkeypatch.setattr(os, "read", lambda fd, size: raw)
    assert list(inotify.ended()) == [3, None]
    inotify.close()


def test_a_file_that_cannot_be_watched_is_an_oserror():
    inotify = Inotify()
    with pytest.raises(OSError, match="No such file"):
        inotify.arm(10_000)
    inotify.close()


async def test_what_a_sink_raises_stops_the_service(out):
    class Broken(Recorder):
        def feed(self, stream: Stream, data: bytes) -> None:
            raise RuntimeError("a bug in the sink")

    follower = Follower()
    followed = follower.follow({OUT: out.open()}, Broken())
    out.append(b"x")
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
        await follower.serve()
    await followed.finish()


@pytest.mark.parametrize("steps", range(8))
async def test_following_may_begin_at_any_step_of_the_end_of_the_service(tmp_path: Path, steps: int) -> None:
    """As a start does that was under way when the factory failed."""
    written, recorder, follower = Written(tmp_path / "file"), Recorder(), Follower()
    written.path.write_bytes(b"words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.serve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        for _ in range(steps):
            await trio.lowlevel.cancel_shielded_checkpoint()
        followed = follower.follow({OUT: written.open()}, recorder)
        with trio.CancelScope(shield=True):
            await followed.finish()
    assert recorder.text() == b"words"
