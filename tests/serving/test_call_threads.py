"""The threads of calls: each call runs once, whoever asks hears once, and no more run at a time than may."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.call_threads import CallThreads
from serving.calls import CallHandler, Method
from tests.serving.raw_http2 import END_HEADERS, HEADERS, RawConnection, call_headers


def test_every_call_runs_once_and_is_heard_of_once() -> None:
    threads, ran, heard, all_heard = CallThreads(4), list[int](), list[Any](), threading.Event()

    def hear(call: Any) -> None:
        heard.append(call)
        if len(heard) == 2_000:
            all_heard.set()

    calls = [threads.submit(ran.append, number) for number in range(2_000)]
    for call in calls:
        call.add_done_callback(hear)
    assert all_heard.wait(30)
    assert sorted(ran) == list(range(2_000)) and len(set(map(id, heard))) == 2_000


def test_no_more_run_at_a_time_than_there_are_threads_and_the_rest_wait_in_order() -> None:
    threads, begun, order, go_on = CallThreads(2), threading.Semaphore(0), list[int](), threading.Event()

    def held(number: int) -> None:
        order.append(number)
        begun.release()
        go_on.wait(30)

    for number in range(6):
        threads.submit(held, number)
    assert begun.acquire(timeout=30) and begun.acquire(timeout=30) and not begun.acquire(blocking=False)
    go_on.set()
    for _ in range(4):
        assert begun.acquire(timeout=30)
    assert order[2:] == [2, 3, 4, 5]


def test_the_thread_that_has_rested_the_shortest_is_woken() -> None:
    threads, names = CallThreads(8), list[str]()

    def note() -> None:
        names.append(threading.current_thread().name)

    for _ in range(20):
        threads.submit(note)
        # Between running and resting lies a moment.
        while len(threads._resting) < 8:
            pass
    assert len(names) == 20 and set(names) == {"call-7"}


def test_a_call_that_ends_badly_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    threads, heard = CallThreads(1), threading.Semaphore(0)
    go_on = threading.Event()
    threads.submit(go_on.wait, 30).add_done_callback(lambda _: 1 / 0)
    go_on.set()
    for function in (lambda: 1 / 0, lambda: None):
        threads.submit(function).add_done_callback(lambda _: heard.release())
        assert heard.acquire(timeout=30)
    assert "a call ended badly" in caplog.text and "heard badly" in caplog.text


def test_after_the_end_none_is_taken_and_what_waits_is_finished() -> None:
    threads, go_on, ran = CallThreads(1), threading.Event(), threading.Semaphore(0)
    threads.submit(go_on.wait, 30)
    threads.submit(ran.release)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="has ended"):
        threads.submit(ran.release)
    go_on.set()
    assert ran.acquire(timeout=30)


ECHO = "/test.Service/Echo"
CALLS: dict[str, Any] = {"max_streams": 0, "new_error_id": lambda: "id"}


@contextmanager
def server_on(threads: CallThreads, answer: Callable[[bytes], bytes] = bytes) -> Iterator[str]:
    """A grpcio server with one method, on so many threads; its address."""
    server = grpc.server(threads, handlers=[CallHandler({ECHO: Method(bytes, answer)}, deadline_cap_s=30.0, **CALLS)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address
    finally:
        server.stop(0).wait()


def echoed(address: str, *, timeout_s: float) -> bytes:
    with grpc.insecure_channel(address) as channel:
        return bytes(channel.unary_unary(ECHO)(b"message", timeout=timeout_s))


def send_headers_alone(connection: RawConnection, calls: int) -> None:
    for number in range(calls):
        connection.send(HEADERS, call_headers(ECHO), flags=END_HEADERS, stream=2 * number + 1)


def test_callers_that_send_no_message_do_not_hold_the_server_up() -> None:
    """As many as there are threads, and as many again that wait behind them. (What grpcio hands to a thread is known by its own name: this
    fails if that changes.)"""
    with server_on(CallThreads(3, message_within_s=0.1)) as address, RawConnection(address) as connection:
        send_headers_alone(connection, 6)
        assert echoed(address, timeout_s=30.0) == b"message"


def test_without_the_watch_they_would() -> None:
    """The known-bad case."""
    threads = CallThreads(3)
    with server_on(threads) as address, RawConnection(address) as connection:
        send_headers_alone(connection, 3)
        while threads._resting:
            pass
        with pytest.raises(grpc.RpcError) as caught:
            echoed(address, timeout_s=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_whose_message_has_come_may_take_its_time(caplog: pytest.LogCaptureFixture) -> None:
    looked = threading.Event()
    with server_on(CallThreads(1, message_within_s=0.01), lambda _: b"sooner" if looked.wait(0.2) else b"late") as address:
        assert echoed(address, timeout_s=30.0) == b"late"
    assert "given up" not in caplog.text


# A server in the process of the command, and what the threads that are grpcio's own have been switched to once its input ends.
LISTENING = """
import sys, serving.__main__, grpc, concurrent.futures
from pathlib import Path
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
status = [(task / "status").read_text() for task in Path("/proc/self/task").iterdir() if "event_engine" in (task / "comm").read_text()]
print(sum(int(text.partition("voluntary_ctxt_switches:")[2].split()[0]) for text in status))
"""
ASKED = 300


@pytest.mark.parametrize(("setting", "switched"), [(None, False), ("event_engine_listener", True)])
def test_calls_of_the_command_are_read_without_a_change_of_threads(setting: str | None, switched: bool) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    given = {} if setting is None else {"GRPC_EXPERIMENTS": setting}
    command, root = [sys.executable, "-c", LISTENING], Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, env=kept | given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            for _ in range(ASKED):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary("/none/None")(b"")
        process.stdin.close()
        assert (int(process.stdout.readline()) > ASKED) is switched
