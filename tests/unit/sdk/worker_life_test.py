"""How workers stop, are killed, fork and end with their interpreter."""

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from fake_broker import PATIENCE, Over
from tocsin import Worker

SCRIPT = """
import os, signal, sys, threading, time
from tocsin import Publisher, CloudEvent, Worker
worker = Worker("orders")
"""


def get(one):
    return one.get(timeout=PATIENCE)


@pytest.fixture
def program(broker):
    """Runs Python code with a worker `worker`; what it prints comes line by line."""
    started = []

    def start(code):
        environment = dict(os.environ, TOCSIN_TARGET=broker.target, PYTHONUNBUFFERED="1")
        process = subprocess.Popen([sys.executable, "-B", "-c", SCRIPT + code], env=environment,
                                   stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def attach(broker):
    session = broker.next_session()
    assert session.pop().HasField("hello")
    session.welcome()
    return session


class TestStop:
    def test_finishes_what_it_holds_then_leaves(self, running):
        worker = running.worker()
        begun, proceed, stopped = queue.Queue(), queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event):
            begun.put(1)
            get(proceed)

        session = running.start(worker)
        session.deliver("charge", 1, 2)
        get(begun)
        threading.Thread(target=lambda: stopped.put(worker.stop(PATIENCE))).start()
        assert session.next_frame().HasField("leaving")
        proceed.put(1), proceed.put(1)
        assert session.acked(2) == [1, 2]
        with pytest.raises(Over):  # half-closed, nothing after the answers
            session.pop()
        assert get(stopped) is True

    def test_draining_batches_do_not_wait_to_fill(self, running):
        worker = running.worker()
        worker.batch("index", max_wait="1h")(lambda events: None)
        session = running.start(worker)
        session.deliver("index", 1, 2)
        session.deliver("other", 3)  # its refusal says that everything before was read
        assert session.next_other().retry.code == "unknown_function"
        threading.Thread(target=worker.stop, args=(PATIENCE,)).start()
        assert session.next_frame().HasField("leaving")
        assert session.acked(2) == [1, 2]

    # The danger: it runs what it can no longer answer, and the broker delivers it again.
    def test_what_comes_after_the_last_answer_is_not_run(self, running):
        worker = running.worker()
        ran = []
        worker.function("charge")(lambda event: ran.append(event.id))
        session = running.start(worker)
        session.keep_open()
        stopping = threading.Thread(target=worker.stop, args=(PATIENCE,))
        stopping.start()
        assert session.next_frame().HasField("leaving")
        with pytest.raises(Over):
            session.pop()
        session.deliver("charge", 1, 2)
        session.close()
        stopping.join(PATIENCE)
        assert not stopping.is_alive() and ran == []

    def test_a_handler_that_does_not_end_is_abandoned_after_the_timeout(self, running):
        worker = running.worker()
        begun, proceed = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event):
            begun.put(1)
            get(proceed)

        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        assert worker.stop(0.05) is False
        proceed.put(1)

    def test_abort_cancels_what_runs(self, running):
        worker = running.worker()
        begun, cancelled = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            begun.put(1)
            cancelled.put(ctx.wait_cancelled(PATIENCE))

        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        worker.abort()
        assert get(cancelled) is True
        assert worker.stop(PATIENCE) is False

    def test_a_handler_may_stop_its_own_worker(self, running):
        worker = running.worker()
        said = queue.Queue()
        worker.function("charge")(lambda event: said.put(worker.stop()))
        session = running.start(worker)
        session.deliver("charge", 1)
        assert get(said) is False
        frames = [session.next_frame(), session.next_frame()]
        assert any(frame.HasField("leaving") for frame in frames)
        assert any(frame.answers.acked for frame in frames)
        assert worker.stop(PATIENCE) is True

    def test_stops_while_there_is_no_broker_and_starts_again(self, running):
        running.broker.stop()
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        worker.start()
        with pytest.raises(RuntimeError, match="started already"):
            worker.start()
        with pytest.raises(RuntimeError, match="before the worker starts"):
            worker.function("late")(lambda event: None)
        assert worker.stop(PATIENCE) is True
        running.broker.start()
        session = running.start(worker)
        session.deliver("charge", 1)
        assert session.acked(1) == [1]

    def test_with_starts_and_stops(self, running):
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        with worker:
            session = running.session()
            session.deliver("charge", 1)
            assert session.acked(1) == [1]
        assert session.next_frame().HasField("leaving")

    def test_run_on_another_thread_ends_by_stop(self, running):
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        ended = queue.Queue()
        threading.Thread(target=lambda: ended.put(worker.run())).start()
        running.session()
        worker.stop()
        assert get(ended) == 0

    def test_a_worker_that_never_started_stops(self):
        assert Worker("orders").stop() is True


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_drains(self, program, broker, tmp_path, number):
        os.mkfifo(tmp_path / "pipe")
        process = program(f"""
@worker.function("charge")
def charge(event):
    print("begun")
    open({str(tmp_path / "pipe")!r}).read()
sys.exit(worker.run())
""")
        session = attach(broker)
        session.deliver("charge", 1)
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert session.next_frame().HasField("leaving")
        with open(tmp_path / "pipe", "w"):
            pass
        assert session.acked(1) == [1]
        assert process.wait(PATIENCE) == 0

    def test_the_second_ends_at_once(self, program, broker):
        process = program("""
@worker.function("charge")
def charge(event):
    print("begun")
    threading.Event().wait()
sys.exit(worker.run())
""")
        session = attach(broker)
        session.deliver("charge", 1)
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert session.next_frame().HasField("leaving")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 1

    def test_a_drain_whose_connection_breaks_still_ends_by_the_second(self, program, broker):
        process = program("""
@worker.function("charge")
def charge(event, ctx):
    print("begun")
    ctx.on_cancel(lambda: print("cancelled"))
    threading.Event().wait()
sys.exit(worker.run())
""")
        session = attach(broker)
        session.deliver("charge", 1)
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert session.next_frame().HasField("leaving")
        session.kill()
        assert process.stdout.readline() == "cancelled\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 1

    def test_the_programs_own_handlers_are_back_afterwards(self, program, broker):
        process = program("""
mine = lambda *_: None
signal.signal(signal.SIGTERM, mine)
worker.function("charge")(lambda event: worker.stop())
worker.run()
print(signal.getsignal(signal.SIGTERM) is mine)
""")
        attach(broker).deliver("charge", 1)
        assert process.stdout.readline() == "True\n"
        assert process.wait(PATIENCE) == 0

    def test_without_handling_them_ctrl_c_is_an_exception(self, program, broker):
        process = program("""
worker.function("charge")(lambda event: None)
try:
    worker.run(handle_signals=False)
except KeyboardInterrupt:
    print("interrupted")
""")
        attach(broker)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(PATIENCE) == 0


class TestProcess:
    # The danger: a thread that nobody stops holds up the end of the process for ever.
    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_the_interpreter_ends_whatever_runs(self, program, broker, kind):
        hang = "threading.Event().wait()" if kind == "def" else (
            "import asyncio; await asyncio.Event().wait()")
        process = program(f"""
begun = threading.Event()
@worker.function("charge")
{kind} charge(event, ctx):
    ctx.on_cancel(lambda: print("cancelled"))
    begun.set()
    {hang}
worker.start()
begun.wait()
print("leaving main")
""")
        attach(broker).deliver("charge", 1)
        assert process.stdout.readline() == "leaving main\n"
        assert process.stdout.readline() == "cancelled\n"
        assert process.wait(PATIENCE) == 0

    # The danger: a poisonous event kills one worker after the other and no attempt is counted.
    def test_the_broker_knows_what_was_begun_before_it_can_kill_the_process(self, program, broker):
        # The last step is gRPC's: on a busy machine the frame may be in its hands when all ends.
        started = 0
        for _ in range(5):
            process = program("""
worker.function("charge", concurrency=4)(lambda event: os._exit(9))
worker.run()
""")
            session = attach(broker)
            session.deliver("charge", 1, 3)
            with pytest.raises(Over):
                while True:
                    started = max(started, session.pop().answers.started_through)
            assert process.wait(PATIENCE) == 9
            if started == 3:
                return
        assert started == 3

    def test_a_handler_may_fork(self, program, broker):
        process = program("""
@worker.function("charge")
def charge(event):
    child = os.fork()
    if child == 0:
        sys.exit(5)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
@worker.function("spawn")
def spawn(event):
    import multiprocessing
    one = multiprocessing.get_context("fork").Process(target=print, args=("in the child",))
    one.start()
    one.join()
    print("spawned", one.exitcode)
worker.run()
""")
        session = attach(broker)
        session.deliver("spawn", 1)
        assert session.acked(1) == [1]
        assert [process.stdout.readline() for _ in range(2)] == ["in the child\n", "spawned 0\n"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0

    def test_a_worker_made_before_a_fork_runs_in_the_children(self, program, broker):
        process = program("""
@worker.function("charge")
def charge(event):
    print("charged", event.id)
    worker.stop()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(worker.run())
    children.append(child)
for child in children:
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
        sessions = [attach(broker), attach(broker)]
        for number, session in enumerate(sessions):
            session.deliver("charge", number + 1)
            assert process.stdout.readline() == f"charged {number + 1}\n"
        assert sorted(process.stdout.readline() for _ in range(2)) == ["ended 0\n"] * 2
        assert process.wait(PATIENCE) == 0

    def test_a_publisher_that_was_not_closed_is_flushed_at_the_end(self, program, broker):
        ids = queue.Queue()

        def on_publish(request, response):
            for event in request.events:
                ids.put(event.id)

        broker.on_publish = on_publish
        process = program("""
publisher = Publisher()
for number in range(100):
    publisher.publish(CloudEvent("t", "/s", id=str(number)))
""")
        assert [get(ids) for _ in range(100)] == [str(number) for number in range(100)]
        assert process.wait(PATIENCE) == 0

    def test_a_publisher_of_the_parent_says_so_in_the_child(self, program, broker):
        broker.on_publish = lambda request, response: None
        process = program("""
publisher = Publisher()
publisher.publish(CloudEvent("t", "/s")).result()
child = os.fork()
if child == 0:
    try:
        publisher.publish(CloudEvent("t", "/s"))
    except RuntimeError as error:
        print(error)
    publisher.close()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
        assert "make one after the fork" in process.stdout.readline()
        assert process.stdout.readline() == "0\n"
        assert process.wait(PATIENCE) == 0
