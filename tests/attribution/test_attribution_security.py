"""Every client that the commands make reaches a broker that wants a certificate and a password (SASL_SSL). Slow: a broker of its own."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.producer import EventProducer
from tests.attribution.event_kit import decision, heartbeat, impression, reward, task_directory, us
from tests.kafka import broker
from tests.kafka.broker import PASSWORD, USER, Cluster

pytestmark = pytest.mark.slow
PARTITIONS = 2


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    if reason := broker.missing():
        pytest.skip(f"guarded broker not run: {reason}")
    with broker.running(secured=True) as cluster:
        yield cluster


def settings(cluster: Cluster, *, password: str = PASSWORD) -> dict[str, str]:
    login = {"sasl.mechanisms": "PLAIN", "sasl.username": USER, "sasl.password": password}
    return {"security.protocol": "SASL_SSL", "ssl.ca.location": str(cluster.ca_file), **login}


def call(cluster: Cluster, *arguments: object, password: str = PASSWORD) -> Any:
    given = [f"--kafka={key}={value}" for key, value in settings(cluster, password=password).items()]
    where = ["--bootstrap", cluster.secured_bootstrap, *given, "--json"]
    return CliRunner().invoke(app, [*map(str, arguments), *where])


def test_topics_run_status_backfill_letters_and_expiry_go_through_certificate_and_password(guarded: Cluster, tmp_path: Path) -> None:
    tasks, out = task_directory(tmp_path / "tasks"), tmp_path / "out"
    made = call(guarded, "topics", "--partitions", PARTITIONS, "--replicas", 1)
    assert set(json.loads(made.stdout).values()) == {"made"}, made.output
    now = time.time() - us(0.0) / 1e6
    with EventProducer(guarded.secured_bootstrap, settings=settings(guarded)) as producer:
        producer.send(decision(1, now, unit="u1"))
        producer.send_many([impression("i1", now + 0.5, unit="u1"), reward("r1", now + 0.6, unit="u1", slot=0)])
        producer.send(reward("bad", now + 0.6, unit="u1", outcome="nothing"))
        for topic in ("decisions", "impressions", "rewards"):
            for number in range(PARTITIONS):
                end = heartbeat(topic, 0.0, final=True)
                end.heartbeat.partition = number
                producer.send(end)
    joining = ("--out", out, "--tasks", tasks)
    ran = call(guarded, "run", "--source", "kafka", "--group", "guarded", "--until-final", *joining)
    assert json.loads(ran.stdout) == {"events": 4 + 3 * PARTITIONS, "rows": 1, "final": True}, ran.output
    status = json.loads(call(guarded, "status", *joining).stdout)
    assert (status["logged"], status["joined"], {offset["lag"] for offset in status["offsets"]}) == (1, 1, {0})
    assert json.loads(call(guarded, "backfill", "--out", tmp_path / "again", "--tasks", tasks).stdout)["rows"] == 1
    assert json.loads(call(guarded, "dead-letters", "--resend", *joining).stdout)["sent_again"] == 1
    assert call(guarded, "expire", "--events-days", 400, *joining).exit_code == 0


def test_a_wrong_password_is_one_line_that_names_the_broker(guarded: Cluster, tmp_path: Path) -> None:
    tasks = task_directory(tmp_path / "tasks")
    refused = call(guarded, "status", "--out", tmp_path / "out", "--tasks", tasks, password="guessed")
    assert refused.exit_code != 0 and f"--bootstrap {guarded.secured_bootstrap}" in refused.output
    assert "guessed" not in refused.output
