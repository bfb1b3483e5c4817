"""The JSON behind the dashboard: its figures against slow ones, and what it says of sources that are not there."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from prometheus_client import generate_latest
from typer.testing import CliRunner

import attribution.metrics
import serving.metrics
from bandits.config import TaskPolicy, parse_task
from bandits.store import Store
from protos.errors import ObservationsError
from protos.task import load_task
from serving.commands import app
from serving.dashboard.demo_folder import metrics_of
from serving.dashboard.loads import Look, loads
from serving.dashboard.prometheus import read_samples, summed
from serving.dashboard.rows import COLUMNS, figures, read_recent
from serving.dashboard.standing import standing
from serving.dashboard.state import Board, Places
from serving.dashboard.web import Website
from serving.errors import ServingError
from serving.metrics import Metrics
from serving.observers import Observed
from tests.serving.dashboard_world import BEGAN_US, JOINER, MEANS, ROWS, SECONDS, endpoint, exposition, joined, moved, rows
from tests.serving.kit import TASK

ACTIONS = list("abcde")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TaskPolicy:
    path = tmp_path_factory.mktemp("task") / "shop.yaml"
    path.write_text(yaml.safe_dump(TASK))
    return parse_task(load_task(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shop: TaskPolicy) -> Path:
    """A whole loop at rest."""
    found = tmp_path_factory.mktemp("loop")
    policies = moved(found, shop)
    joined(found, rows("shop", policies, actions=ACTIONS))
    return found


def places(folder: Path, **more: Any) -> Places:
    return Places(folder / "store", folder / "attribution" / "observations", **more)


def now_us() -> int:
    return BEGAN_US + (SECONDS + 5) * 1_000_000


def test_figures_of_rows_are_those_that_a_loop_counts(folder: Path) -> None:
    table = read_recent(places(folder).observations, task="shop", now_us=now_us())
    found, whole = figures(table), table.to_pylist()
    assert found is not None and found["decisions"] == ROWS and found["counts"] == {"open": 20, "overridden": 1, "fallback": 1}
    judged = [row for row in whole if row["status"] != "provisional" and not row["overridden"] and not row["fallback"]]
    assert found["reward"]["n"] == len(judged) == ROWS - 22
    for group in found["policies"]:
        own = [row["reward"] for row in judged if row["snapshot_digest"] == group["name"]]
        assert group["n"] == len(own) and group["mean"] == pytest.approx(np.mean(own))
        assert group["error"] == pytest.approx(np.std(own, ddof=1) / np.sqrt(len(own)))
    # Six standard errors: a false alarm in a billion, with a fixed key.
    assert all(abs(group["mean"] - mean) < 6 * group["error"] for group, mean in zip(found["policies"], (0.45, 0.2, 0.6), strict=True))
    assert sorted(MEANS) == sorted((0.45, 0.2, 0.6)) and {group["name"] for group in found["arms"]} == {"champion", "challenger"}
    seen = [(a, r) for row in judged for a, r in zip(row["slot_action"], row["slot_reward"], strict=True) if r is not None]
    assert found["actions"]["seen"] == len(seen)
    for action in found["actions"]["top"]:
        own = [value for name, value in seen if name == action["name"]]
        assert (action["n"], action["mean"]) == (len(own), pytest.approx(np.mean(own)))
    drawn = [p for row in whole if not row["fallback"] for p in row["slot_propensity"]]
    assert sum(found["propensities"]["counts"]) == len(drawn) and found["propensities"]["smallest"] == pytest.approx(min(drawn))


def test_bins_of_time_hold_every_row_once_and_have_the_widths_of_a_clock(folder: Path) -> None:
    table = read_recent(places(folder).observations, task="shop", now_us=now_us())
    found = figures(table)
    assert found is not None
    bins = found["bins"]
    assert bins["width_s"] == 5 and len(bins["time_us"]) == 120
    assert sum(bins["per_s"]) * bins["width_s"] == pytest.approx(ROWS) and bins["lag_s"][7] == pytest.approx(3.0)
    first = [
        row for row in table.to_pylist() if row["decision_time_us"] < BEGAN_US + 5_000_000 and not row["overridden"] and not row["fallback"]
    ]
    assert bins["reward"][0] == pytest.approx(np.mean([row["reward"] for row in first]))
    # The last rows are open still: a reward of theirs would be too small.
    assert bins["reward"][-1] is not None and bins["time_us"][0] == BEGAN_US + 2_500_000


def test_no_rows_and_one_row_are_no_error(folder: Path) -> None:
    table = read_recent(places(folder).observations, task="shop", now_us=now_us())
    assert figures(table.slice(0, 0)) is None
    one = figures(table.slice(0, 1))
    assert one is not None and one["reward"] == {"mean": table["reward"][0].as_py(), "error": None, "n": 1}
    open_only = figures(table.slice(ROWS - 3))
    assert open_only is not None and open_only["reward"]["mean"] is None and open_only["actions"]["top"] == []


def test_old_rows_are_found_however_long_ago_they_were(folder: Path) -> None:
    later = now_us() + 200 * 86_400 * 1_000_000
    assert read_recent(places(folder).observations, task="shop", now_us=later).num_rows == ROWS
    assert read_recent(places(folder).observations, task="nobody", now_us=now_us()).num_rows == 0
    with pytest.raises(ObservationsError):
        read_recent(folder / "nowhere", task="shop", now_us=now_us())


def test_the_rows_of_a_fallback_alone_have_no_propensity_of_a_policy(folder: Path) -> None:
    table = read_recent(places(folder).observations, task="shop", now_us=now_us()).slice(18, 1)
    found = figures(table.select(COLUMNS))
    assert isinstance(table, pa.Table) and found is not None and found["propensities"] is None


def test_the_standing_of_a_task_says_who_serves_who_wants_to_and_the_way_back(folder: Path) -> None:
    said = standing(folder / "store", "shop")
    assert said is not None and said["champion"]["policy"] == "linear_thompson" and not said["champion"]["is_baseline"]
    assert said["since_us"] == BEGAN_US + 200_000_000, "the step of the one beside it changed nothing for the champion"
    assert said["staged"]["share"] == 0.1 and said["moves"] == 3 and len(said["waiting"]) == 1
    assert said["rollback"]["command"].startswith("ope rollback --task shop --store ") and "staged" in said["rollback"]["does"]
    assert said["verdict_counts"] == {"promote": 2, "hold": 1, "veto": 1}
    by_decision = {item["decision"]: item for item in said["verdicts"] if item["next_share"] == 1.0}
    assert by_decision["promote"]["difference"] == pytest.approx([0.25, 0.21, 0.29]) and by_decision["promote"]["came"]["wrong"] is False
    assert by_decision["veto"]["difference"] is None and by_decision["veto"]["label"] == "drill"
    assert [move["action"] for move in said["history"]] == ["stage", "promote", "begin"]


def test_the_way_back_follows_the_pointer(tmp_path: Path, shop: TaskPolicy) -> None:
    assert standing(tmp_path, "shop") is None
    _, second, _ = moved(tmp_path, shop)
    store = Store(tmp_path / "store", "shop")
    store.rollback(reason="test", now_us=BEGAN_US + 1, actor="test")
    said = standing(tmp_path / "store", "shop")
    assert said is not None and said["champion"]["digest"] == second and "Brings back uniform" in said["rollback"]["does"]
    fresh = Store(tmp_path / "fresh", "shop")
    fresh.begin(fresh_snapshot(fresh, store, second), now_us=1, actor="test")
    begun = standing(tmp_path / "fresh", "shop")
    assert begun is not None and begun["rollback"]["command"] is None and "nothing to go back to" in begun["rollback"]["does"]


def fresh_snapshot(to: Store, source: Store, digest: str) -> str:
    """The same snapshot in another store."""
    target = to.snapshot_dir(digest)
    target.mkdir(parents=True)
    for path in source.snapshot_dir(digest).iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return digest


def test_a_snapshot_or_verdict_that_is_broken_leaves_the_others_to_be_seen(tmp_path: Path, shop: TaskPolicy) -> None:
    moved(tmp_path, shop)
    store = Store(tmp_path / "store", "shop")
    pointer = store.champion()
    assert pointer is not None
    (store.snapshot_dir(pointer.digest) / "manifest.json").write_text("{")
    store.put_verdict({"decision": "hold"})
    said = standing(tmp_path / "store", "shop")
    assert said is not None and said["champion"] == {**said["champion"], "policy": "?", "digest": pointer.digest}
    assert any(item["digest"] == "" and item["decision"] == "hold" for item in said["verdicts"])


def look(at_s: float, calls: int) -> Look:
    return Look(BEGAN_US + int(at_s * 1e6), read_samples(exposition(calls)))


def test_rates_and_quantiles_are_those_of_what_came_between_two_looks() -> None:
    said = loads([look(0, 100), look(5, 600), look(10, 600), look(15, 700)])
    assert said["series"]["per_s"] == [100.0, 0.0, 20.0]
    # Half of the calls are within 1 ms; 99 of 100 lie in the middle of 5 to 20 ms, where the last fiftieth is.
    assert said["series"]["p50_ms"] == [pytest.approx(1.0), None, pytest.approx(1.0)]
    assert said["series"]["p99_ms"][0] == pytest.approx(12.5) and said["series"]["p99_ms"][1] is None
    assert said["now"]["per_s"] == pytest.approx(40.0) and said["codes"] == {"OK": 700.0, "NOT_FOUND": 3.0}


def test_one_look_has_latency_since_the_start_and_no_rate_and_a_restart_has_none_either() -> None:
    first = loads([look(0, 100)])
    assert first["now"]["p50_ms"] == pytest.approx(1.0) and first["now"]["per_s"] is None and first["series"]["per_s"] == []
    restarted = loads([look(0, 100), look(5, 10)])
    assert restarted["series"] == {**restarted["series"], "per_s": [None], "p50_ms": [None]}


def test_workers_are_added_up_and_what_is_not_ours_is_left_out() -> None:
    text = exposition(50) + 'python_gc_total{generation="0"} 5\n'
    both = summed([read_samples(text), read_samples(text)])
    assert sum(both["slateloop_decisions_total"].values()) == 100 and not any(name.startswith("python") for name in both)
    with pytest.raises(ValueError):
        read_samples("<html>not an exporter</html>")


def test_a_source_that_is_not_there_says_so_in_its_place_with_the_remedy(tmp_path: Path, folder: Path) -> None:
    said = Board(places(tmp_path), now_us=now_us).state("shop")
    assert said["tasks"] == [] and said["run"] == {}
    assert "metrics_address" in said["server"]["absent"] and "attribution run --metrics-address" in said["joiner"]["absent"]
    assert "attribution run" in said["rows"]["absent"] and "bandits begin" in said["standing"]["absent"]
    nowhere = places(folder, servers=["127.0.0.1:1"], joiner="127.0.0.1:1")
    board = Board(nowhere, now_us=now_us)
    board.look()
    half = board.state("shop")
    assert "127.0.0.1:1 does not answer" in half["server"]["absent"] and "does not answer" in half["joiner"]["absent"]
    assert half["rows"]["decisions"] == ROWS and half["standing"]["moves"] == 3
    assert "has no row of 'shoppe' yet" in board.state("shoppe")["rows"]["absent"]


def test_a_board_says_what_server_and_joiner_say(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"select_p50_ms": 1.5, "select_p99_ms": 9.0, "decisions_per_s": 900.0, "traffic_s": 60.0})
    )
    with endpoint(exposition(100), exposition(300)) as server, endpoint(JOINER) as joiner:
        board = Board(places(folder, servers=[server, server], joiner=joiner, demo=tmp_path), now_us=now_us)
        board.look()
        said = board.state("shop")
    assert said["server"]["now"]["decisions"] == 400 and said["run"]["select_p99_ms"] == 9.0
    assert said["joiner"]["behind_s"] == 1.25 and said["joiner"]["freshness_s"] == {"0.5": 0.4, "0.99": 1.9}


def test_beside_a_running_demo_its_own_server_and_joiner_are_asked_until_it_ends(folder: Path, tmp_path: Path) -> None:
    board = Board(places(folder, demo=tmp_path), now_us=now_us)
    board.look()
    assert "The demo is not running" in board.state("shop")["server"]["absent"]
    with endpoint(exposition(100)) as server, endpoint(JOINER) as joiner:
        (tmp_path / "server.out").write_text(f"warning\nmetrics: {server}\nserving: 127.0.0.1:1\n")
        (tmp_path / "joiner.out").write_text(f"metrics: {joiner}\n")
        board = Board(places(folder, demo=tmp_path), now_us=now_us)
        board.look()
        said = board.state("shop")
        assert said["server"]["now"]["decisions"] == 100 and said["joiner"]["behind_s"] == 1.25
        (tmp_path / "summary.json").write_text("{}")
        board.look()
        ended = Board(places(folder, demo=tmp_path), now_us=now_us).state("shop")
    assert "The demo is not running" in board.state("shop")["server"]["absent"]
    assert "The demo is not running" in ended["joiner"]["absent"]


def test_an_address_that_is_still_being_written_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "server.out").write_text("metrics: 127.0.0.1:4")
    assert metrics_of(tmp_path, "server") == ""


@pytest.fixture
def website(folder: Path) -> Iterator[Website]:
    running = Website(Board(places(folder), now_us=now_us), "127.0.0.1:0")
    running.start()
    yield running
    running.close()


def get(website: Website, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    host, _, port = website.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_the_page_is_our_own_files_and_the_state_is_json(website: Website) -> None:
    for path in ("/", "/index.html", "/page.css", "/page.js", "/charts.js", "/icon.svg"):
        answer, body = get(website, path)
        assert answer.status == 200 and body and "script-src 'self'" in str(answer.getheader("Content-Security-Policy"))
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in body
    answer, body = get(website, "/api/state.json?task=shop")
    assert answer.status == 200 and json.loads(body)["rows"]["decisions"] == ROWS
    assert json.loads(get(website, "/api/state.json")[1])["task"] == "shop" and json.loads(get(website, "/api/tasks.json")[1]) == {
        "tasks": ["shop"]
    }


@pytest.mark.parametrize("path", ["/nothing", "/../web.py", "/page/../../web.py", "/%2e%2e/web.py", "/api/", "//etc/passwd"])
def test_there_is_nothing_else_to_get(website: Website, path: str) -> None:
    assert get(website, path)[0].status == 404


@pytest.mark.parametrize("task", ["..", "../shop", "%00", "a/b", "x" * 300, "<script>"])
def test_a_task_that_cannot_be_is_said_and_is_no_error(website: Website, task: str) -> None:
    answer, body = get(website, f"/api/state.json?task={task}")
    assert answer.status == 200 and "absent" in json.loads(body)["standing"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed_through_it(website: Website, method: str) -> None:
    assert get(website, "/api/state.json", method)[0].status == 501


def test_no_unit_is_in_the_json(folder: Path) -> None:
    said = Board(places(folder), now_us=now_us).state("shop")
    assert "unit" not in json.dumps(said)


def test_an_address_that_cannot_be_bound_is_refused_by_name(website: Website) -> None:
    for bad in (website.address, "nonsense", "127.0.0.1:99999"):
        with pytest.raises(ServingError, match="--address: "):
            Website(Board(Places(Path("a"), Path("b")), now_us=now_us), bad)


def test_the_command_prints_the_state_once(folder: Path) -> None:
    ended = CliRunner().invoke(app, ["dashboard", "--folder", str(folder), "--json"])
    assert ended.exit_code == 0 and json.loads(ended.stdout)["standing"]["moves"] == 3


def test_the_names_that_are_read_are_those_that_servers_and_joiner_say() -> None:
    metrics = Metrics(now_us=lambda: 1)
    for seconds in (0.0008, 0.0008, 0.004):
        metrics.ended("/slateloop.v1.PolicyService/Select", "OK", seconds)
    metrics.batch(Observed(requests=3, decided=3, admit_s=0.0, decide_s=0.0, append_s=0.0))
    metrics.fell_back()
    metrics.refused("NOT_FOUND")
    said = loads([Look(1, read_samples(generate_latest(metrics.registry).decode()))])
    assert (said["now"]["decisions"], said["now"]["fallbacks"], said["now"]["refused"]) == (3.0, 1.0, 1.0)
    assert said["codes"] == {"OK": 3.0} and 0.5 <= said["now"]["p50_ms"] <= 1.0 and 2.0 <= said["now"]["p99_ms"] <= 5.0
    for name in read_samples(JOINER):
        assert name in str(attribution.metrics.__doc__)
    for name in ("slateloop_snapshot", "slateloop_log_blocked", "slateloop_snapshot_failures", "slateloop_shipping_lag_seconds"):
        assert f'"{name}"' in Path(str(serving.metrics.__file__)).read_text()


def test_an_address_that_speaks_something_else_is_said_like_one_that_is_silent(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as caller:
                caller.recv(4096)
                caller.sendall(b"\x00\x00\x12\x04 not http\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        board = Board(places(folder, servers=[f"127.0.0.1:{listening.getsockname()[1]}"]), now_us=now_us)
        board.look()
        answering.join()
    assert "does not answer" in board.state("shop")["server"]["absent"]
