"""The two clients on a server that answers, goes away, and comes back: what they show meanwhile is flagged, logged and accounted for."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
import yaml

from protos.events_pb2 import FALLBACK_REASON_CLIENT, Event
from serving.client import AsyncPolicyClient, Counts, Decision, Fallback, PolicyClient
from serving.errors import NotFound, Unavailable
from serving.server import Server
from tests.serving.kit import FRONTS, ROOT, TASK, Process, records_of, serving_from

OUTCOME = {"window_s": 30.0}
WHOLE_TASK = {
    **TASK,
    "policy": {"name": "uniform", "floor": 1.0, "slate_size": 2},
    "limits": {"max_candidates": 8, "max_slots": 2},
    "rewards": {"outcomes": {"reward": OUTCOME, "click": OUTCOME}},
    "attribution": {"impression_window_s": 30.0},
}
CONTEXT = np.zeros(4)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task, decided by the policy that starts fastest."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "shop.yaml").write_text(yaml.safe_dump(WHOLE_TASK))
    return folder


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, task_folder: Path) -> Iterator[Server]:
    with serving_from(tmp_path_factory.mktemp("served"), task_folder, front=request.param) as running:
        yield running


def told(folder: Path, log: str = "feedback") -> list[Any]:
    """The events of a log below `folder`, each as its own message."""
    events = [Event.FromString(item.payload) for item in records_of(folder / "logs" / log)]
    return [getattr(event, str(event.WhichOneof("kind"))) for event in events]


def free_address() -> str:
    """An address that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_decide_and_observe_are_the_loop_in_two_calls(server: Server) -> None:
    with PolicyClient(server.address) as client:
        decision = client.decide("shop", unit_id="u", context=CONTEXT)
        assert len(decision.actions) == 2 and decision.propensity == pytest.approx(1 / 20) and not decision.is_fallback
        assert client.observe(decision, 1.0) and client.observe(decision, {"click": 1.0}, slot=0)
        assert client.counts == Counts()


def test_the_asyncio_client_answers_as_the_other_does_and_raises_what_it_raises(server: Server) -> None:
    async def ask() -> Decision:
        async with AsyncPolicyClient(server.address) as client:
            decision = await client.decide("shop", unit_id="u", context=CONTEXT, request_id="twin")
            assert await client.observe(decision, 1.0)
            assert (await client.policy("shop")).policy == "uniform" and (await client.assign("shop", unit_id="u")).arm == "champion"
            with pytest.raises(NotFound, match="did you mean `shop`"):
                await client.select("shoppe", unit_id="u", context={}, candidates=["a"])
            return decision

    with PolicyClient(server.address) as client:
        assert client.decide("shop", unit_id="u", context=CONTEXT, request_id="twin") == asyncio.run(ask())


def test_selects_that_wait_at_the_same_time_travel_together_and_are_answered_each_by_itself(server: Server) -> None:
    sizes: list[int] = []

    async def ask() -> list[Any]:
        async with AsyncPolicyClient(server.address) as client:
            gathering = client._gathering
            assert gathering is not None
            send = gathering._send
            gathering._send = lambda requests: (sizes.append(len(requests)), send(requests))[1]
            await client.policy("shop")
            asked = [client.select("shop", unit_id=f"u{i}", context=CONTEXT, slate_size=1 + i % 2) for i in range(200)]
            asked.append(client.select("shop", unit_id="", context=CONTEXT))
            return await asyncio.gather(*asked, return_exceptions=True)

    *answers, refused = asyncio.run(ask())
    assert [len(answer.slots) for answer in answers] == [1, 2] * 100 and "unit_id" in str(refused)
    assert sum(sizes) == 201 and len(sizes) <= 8 and len({answer.decision_id for answer in answers}) == 200


def test_a_select_that_is_cancelled_while_it_waits_is_not_sent(server: Server) -> None:
    async def ask() -> int:
        async with AsyncPolicyClient(server.address) as client:
            tasks = [asyncio.create_task(client.select("shop", unit_id="u", context=CONTEXT)) for _ in range(3)]
            await client.policy("shop")
            tasks[0].cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            return sum(isinstance(answer, asyncio.CancelledError) for answer in done)

    assert asyncio.run(ask()) == 1


def test_a_server_that_was_never_there_raises_without_a_fallback_and_what_waits_is_said_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere = free_address()
    with PolicyClient(nowhere) as client, pytest.raises(Unavailable, match="cannot be reached"):
        client.decide("shop", unit_id="u", context=CONTEXT)
    with PolicyClient(nowhere, timeout_s=0.2, fallback=Fallback(actions={"shop": ["a"]})) as client:
        assert client.decide("shop", unit_id="u", context=CONTEXT).is_fallback
    assert "1 events waited for the server: they are lost" in caplog.text and client.counts.waiting == 1


def answered_again(client: PolicyClient) -> None:
    """Asks until the server answers: a minute, and then it is a fault."""
    began = time.monotonic()
    while client.decide("shop", unit_id="u", context=CONTEXT).is_fallback:
        assert time.monotonic() - began < 60


def test_while_the_server_is_away_nothing_is_raised_and_all_is_told_when_it_is_back(tmp_path: Path, task_folder: Path, front: str) -> None:
    address, own = free_address(), []
    with PolicyClient(address, timeout_s=2.0, fallback=Fallback()) as client:
        with serving_from(tmp_path, task_folder, address=address, front=front):
            assert not client.decide("shop", unit_id="u", context=CONTEXT).is_fallback
        for number in range(20):
            own.append(client.decide("shop", unit_id=f"u{number}", context=CONTEXT))
            assert client.observe(own[-1], {"click": float(number)}) is False
        assert all(decision.is_fallback and not decision.response.logged and len(decision.actions) == 2 for decision in own)
        with serving_from(tmp_path, task_folder, address=address, front=front):
            answered_again(client)
            client.close()
    fallbacks, kept = client.counts.fallbacks, told(tmp_path)
    assert client.counts == Counts(fallbacks=fallbacks, delivered=40 + fallbacks)
    flagged = [event.decision_id for event in kept if getattr(event, "fallback", 0) == FALLBACK_REASON_CLIENT]
    assert len(flagged) == fallbacks and {decision.decision_id for decision in own} <= set(flagged)
    assert sorted(event.value for event in kept if hasattr(event, "value")) == [float(number) for number in range(20)]


def test_a_sink_that_raises_is_called_again_with_the_same_events() -> None:
    taken: list[list[bytes]] = []

    async def sink(batch: Any) -> None:
        taken.append([event.decision.decision_id for event in batch])
        if len(taken) == 1:
            raise OSError("disk")

    async def ask() -> Counts:
        fallback = Fallback(actions={"shop": ["a"]})
        async with AsyncPolicyClient(free_address(), timeout_s=0.2, fallback=fallback, sink=sink) as client:
            await client.decide("shop", unit_id="u", context={})
            await client.close()
            return client.counts

    assert asyncio.run(ask()) == Counts(fallbacks=1, delivered=1) and taken[0] == taken[-1]


class Witness(grpc.GenericRpcHandler):
    """A server that answers every call with an empty message, and keeps what the callers said of themselves."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def service(self, handler_call_details: Any) -> Any:
        self.said.append(dict(handler_call_details.invocation_metadata).get("authorization", ""))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


def test_both_clients_speak_tls_and_give_a_token_of_the_moment_with_every_call() -> None:
    authority, witness = trustme.CA(), Witness()
    own = authority.issue_cert("localhost")
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[witness])
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(own.private_key_pem.bytes(), chain)]))
    server.start()
    credentials, numbers = grpc.ssl_channel_credentials(authority.cert_pem.bytes()), itertools.count()

    async def ask() -> None:
        async with AsyncPolicyClient(f"localhost:{port}", credentials=credentials, token=lambda: f"t{next(numbers)}") as client:
            await client.policy("shop")

    with PolicyClient(f"localhost:{port}", credentials=credentials, token=lambda: f"t{next(numbers)}") as client:
        client.policy("shop")
        client.signal(unit_id="u", name="n")
    asyncio.run(ask())
    server.stop(None).wait()
    assert witness.said == ["Bearer t0", "Bearer t1", "Bearer t2"]


class Load:
    """Callers of both kinds, each some 50 decisions a second; whatever they raise is kept."""

    def __init__(self, address: str) -> None:
        fallback = Fallback(most_waiting=500_000)
        self.client = PolicyClient(address, timeout_s=1.0, fallback=fallback)
        self.decided: list[Decision] = []
        self.raised: list[BaseException] = []
        self.counts: list[Counts] = []
        self._stop, self._numbers = threading.Event(), itertools.count()
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (*[self._single] * 4, self._loop)]
        self._address, self._fallback = address, fallback
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ends the callers, and lets each client deliver what waits."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.client.close()
        self.counts.append(self.client.counts)

    def fallbacks(self) -> int:
        return sum(decision.is_fallback for decision in self.decided)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.raised.append(error)

    def _single(self) -> None:
        while not self._stop.wait(0.02):
            decision = self.client.decide("shop", unit_id=f"u{next(self._numbers)}", context=CONTEXT)
            self.decided.append(decision)
            self.client.observe(decision, 1.0)

    def _loop(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        async with AsyncPolicyClient(self._address, timeout_s=1.0, fallback=self._fallback) as client:
            await asyncio.gather(*[self._coroutine(client) for _ in range(8)])
            await client.close()
            self.counts.append(client.counts)

    async def _coroutine(self, client: AsyncPolicyClient) -> None:
        while not self._stop.is_set():
            decision = await client.decide("shop", unit_id=f"u{next(self._numbers)}", context=CONTEXT)
            self.decided.append(decision)
            await client.observe(decision, 1.0)
            await asyncio.sleep(0.02)


def status_of(folder: Path, tasks: Path) -> dict[str, Any]:
    """What attribution makes of the logs: the account of all decisions, those of the clients included."""
    module = [sys.executable, "-m", "attribution"]
    where = ["--out", str(folder / "joined"), "--tasks", str(tasks)]
    subprocess.run([*module, "run", "--source", "embedded", "--logs", str(folder / "logs"), *where, "--until-final"], cwd=ROOT, check=True)
    shown = subprocess.run([*module, "status", *where, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(shown.stdout))


@pytest.mark.slow
def test_a_server_that_is_killed_twice_in_a_minute_of_load_raises_nothing_and_every_fallback_is_flagged_and_logged(
    tmp_path: Path, task_folder: Path, compilation_cache: Path, front: str
) -> None:
    flags = ("--front", front, "--address", free_address(), "--final-heartbeat")
    process = Process(tmp_path, task_folder, compilation_cache, *flags)
    load, began = Load(process.start()), time.monotonic()
    try:
        for second in (10.0, 35.0):
            load._stop.wait(max(0.0, began + second - time.monotonic()))
            process.end(signal.SIGKILL)
            load._stop.wait(8.0)
            process.start()
        load._stop.wait(max(0.0, began + 60.0 - time.monotonic()))
    finally:
        with contextlib.suppress(Exception):
            load.end()
    assert time.monotonic() - began >= 60 and load.raised == []
    with PolicyClient(load._address) as last:
        for source in ("impressions", "rewards"):
            last.heartbeat(source, event_time_us=time.time_ns() // 1000, final=True)
    process.end(signal.SIGTERM)
    own = [decision for decision in load.decided if decision.is_fallback]
    served = [decision for decision in load.decided if not decision.is_fallback]
    kept = {event.decision_id for event in told(tmp_path) if getattr(event, "fallback", 0) == FALLBACK_REASON_CLIENT}
    logged = {event.decision_id for event in told(tmp_path, "decisions") if hasattr(event, "decision_id")}
    assert len(own) > 500 and len(served) > 1_000
    assert kept == {decision.decision_id for decision in own} and all(decision.response.logged for decision in served)
    assert {decision.decision_id for decision in served} <= logged
    assert sum(counts.fallbacks for counts in load.counts) == len(own)
    assert all((counts.waiting, counts.dropped, counts.refused) == (0, 0, 0) for counts in load.counts)
    status = status_of(tmp_path, task_folder)
    assert status["closes"] and status["quarantined"] == 0 and status["joined"] >= len(load.decided)
    print(f"decisions {len(load.decided)}, of them fallbacks {len(own)}, raised 0, dropped 0")
