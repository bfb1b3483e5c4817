"""Apache Kafka on localhost, from its Maven artifacts: one KRaft node, or three. Touches network, disk and processes.

    python tests/kafka/broker.py [--nodes 3] [--data FOLDER]     prints the bootstrap address, runs until SIGTERM or SIGINT
    python tests/kafka/broker.py --run COMMAND ...               runs a command beside it, with `--bootstrap ADDRESS` behind it

The jars are fetched once into `.kafka/lib` (ignored by git). Needs Java 17 and, for the first time, Maven.
"""

import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

__all__ = ["PASSWORD", "USER", "Cluster", "missing", "running"]

HERE = Path(__file__).resolve().parent
JARS = HERE.parents[1] / ".kafka" / "lib"
READY_S, STOP_S = 60.0, 30.0
# Small heaps: three of them share a laptop with the tests.
JAVA = ("java", "-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


# Who may come in by the secured listener.
USER, PASSWORD = "joiner", "of decisions"
_STORE_PASSWORD = "nothing to hide"


class Ports(NamedTuple):
    """What a node listens on."""

    clients: int
    controllers: int
    secured: int


class Cluster:
    """Running nodes; `bootstrap` is their address. Nodes are numbered from 1.

    With `secured` there is a listener beside, at `secured_bootstrap`: SASL_SSL, PLAIN, USER and PASSWORD, certificate in `ca_file`.
    """

    def __init__(self, folder: Path, *, nodes: int, secured: bool = False) -> None:
        self._folder, self._ports = folder, [Ports(*three) for three in zip(*[iter(_free_ports(3 * nodes))] * 3, strict=True)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.bootstrap = ",".join(f"localhost:{port.clients}" for port in self._ports)
        self.secured_bootstrap, self.ca_file = ",".join(f"localhost:{port.secured}" for port in self._ports), folder / "ca.pem"
        if secured:
            _make_certificate(folder, self.ca_file)
        cluster_id = _java("kafka.tools.StorageTool", "random-uuid").stdout.split()[-1]
        for node in self.nodes:
            path = folder / f"node{node}.properties"
            lines = _properties(node, self._ports, folder)
            path.write_text("\n".join(_secured(lines, self._ports[node - 1], folder) if secured else lines) + "\n")
            _java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(path))

    @property
    def nodes(self) -> Sequence[int]:
        """Numbers of the nodes."""
        return range(1, len(self._ports) + 1)

    def start(self, node: int) -> None:
        """Starts a node; `await_ready` says when the cluster answers."""
        with (self._folder / f"node{node}.out").open("ab") as out:
            command = [*JAVA, "-cp", f"{JARS}/*", "kafka.Kafka", str(self._folder / f"node{node}.properties")]
            self._processes[node] = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def await_ready(self) -> None:
        """Waits until an admin client sees every node that was started."""
        admin, deadline = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}), time.monotonic() + READY_S
        while True:
            with contextlib.suppress(KafkaException):
                if len(admin.describe_cluster(request_timeout=2.0).result().nodes) >= len(self._processes):
                    return
            for node, process in self._processes.items():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"node {node} is not ready: {(self._folder / f'node{node}.out').read_text()[-2000:]}")

    def stop(self, node: int) -> None:
        """A clean shutdown."""
        self._end(node, signal.SIGTERM)

    def kill(self, node: int) -> None:
        """Ends a node at once, as a lost machine would."""
        self._end(node, signal.SIGKILL)

    def close(self) -> None:
        """Stops what still runs, all nodes at a time: the last voter has nobody to hand over to, and would wait."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for node in list(self._processes):
            self._end(node, signal.SIGTERM if node == min(self._processes) else signal.SIGKILL)

    def _end(self, node: int, number: signal.Signals) -> None:
        process = self._processes.pop(node)
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running(*, nodes: int = 1, folder: Path | None = None, secured: bool = False) -> Iterator[Cluster]:
    """A cluster that is ready, and is gone afterwards. Without a folder its data is too."""
    fetch_jars()
    own = folder or Path(tempfile.mkdtemp(prefix="kafka-"))
    cluster = Cluster(own, nodes=nodes, secured=secured)
    try:
        for node in cluster.nodes:
            cluster.start(node)
        cluster.await_ready()
        yield cluster
    finally:
        cluster.close()
        if folder is None:
            shutil.rmtree(own, ignore_errors=True)


def missing() -> str:
    """Why no broker can be started here; empty = one can."""
    if shutil.which("java") is None:
        return "needs Java 17, and there is no `java` here"
    if not any(JARS.glob("kafka_*.jar")) and shutil.which("mvn") is None:
        return "needs Maven (`mvn`) to fetch Apache Kafka the first time"
    return ""


def fetch_jars() -> None:
    """Fetches the jars where they are not there yet; a fetch that is cut short leaves nothing."""
    if any(JARS.glob("kafka_*.jar")):
        return
    JARS.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=JARS.parent))
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    subprocess.run([*command, f"-DoutputDirectory={fresh}"], check=True, cwd=fresh)
    try:
        fresh.rename(JARS)
    except OSError:
        # Another process was faster.
        shutil.rmtree(fresh)


def _properties(node: int, ports: Sequence[Ports], folder: Path) -> list[str]:
    clients, controllers, _ = ports[node - 1]
    copies, in_sync = (3, 2) if len(ports) >= 3 else (1, 1)
    voters = ",".join(f"{number}@localhost:{port.controllers}" for number, port in enumerate(ports, 1))
    return [
        "process.roles=broker,controller",
        f"node.id={node}",
        f"controller.quorum.voters={voters}",
        f"listeners=PLAINTEXT://localhost:{clients},CONTROLLER://localhost:{controllers}",
        f"advertised.listeners=PLAINTEXT://localhost:{clients}",
        "controller.listener.names=CONTROLLER",
        "inter.broker.listener.name=PLAINTEXT",
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        f"log.dirs={folder / f'node{node}'}",
        "num.partitions=4",
        "auto.create.topics.enable=false",
        f"default.replication.factor={copies}",
        f"min.insync.replicas={in_sync}",
        f"offsets.topic.replication.factor={copies}",
        "offsets.topic.num.partitions=4",
        f"transaction.state.log.replication.factor={copies}",
        f"transaction.state.log.min.isr={in_sync}",
        f"share.coordinator.state.topic.replication.factor={copies}",
        f"share.coordinator.state.topic.min.isr={in_sync}",
        # A first assignment at once, and members that died found soon: tests wait for neither.
        "group.initial.rebalance.delay.ms=0",
        "group.min.session.timeout.ms=1000",
    ]


def _secured(lines: Sequence[str], ports: Ports, folder: Path) -> list[str]:
    """The properties with the secured listener beside."""
    address, login = f",SECURED://localhost:{ports.secured}", "org.apache.kafka.common.security.plain.PlainLoginModule"
    behind = {"listeners=": address, "advertised.listeners=": address, "listener.security.protocol.map=": ",SECURED:SASL_SSL"}
    own = "listener.name.secured."
    return [
        *(line + next((more for key, more in behind.items() if line.startswith(key)), "") for line in lines),
        f"{own}sasl.enabled.mechanisms=PLAIN",
        f'{own}plain.sasl.jaas.config={login} required user_{USER}="{PASSWORD}";',
        f"{own}ssl.keystore.location={folder / 'node.p12'}",
        f"{own}ssl.keystore.type=PKCS12",
        f"{own}ssl.keystore.password={_STORE_PASSWORD}",
    ]


def _make_certificate(folder: Path, ca_file: Path) -> None:
    """A key and a certificate of localhost, which signs itself."""
    store = ("-alias", "node", "-keystore", str(folder / "node.p12"), "-storetype", "PKCS12", "-storepass", _STORE_PASSWORD)
    make = ("-genkeypair", "-keyalg", "RSA", "-dname", "CN=localhost", "-ext", "san=dns:localhost", "-validity", "30")
    for command in ([*make, *store], ["-exportcert", "-rfc", "-file", str(ca_file), *store]):
        subprocess.run(["keytool", *command], check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: all are held open until each is known."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def _java(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*JAVA, "-cp", f"{JARS}/*", *arguments], check=True, capture_output=True, text=True)


def main() -> None:
    """Runs a cluster until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--data", type=Path, default=None, help="an empty folder for the data; default: one that is deleted at the end")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="a command to run beside it, with `--bootstrap ADDRESS` behind it")
    arguments = parser.parse_args()
    if reason := missing():
        sys.exit(f"error: {reason}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if arguments.data is not None:
        arguments.data.mkdir(parents=True, exist_ok=True)
    with running(nodes=arguments.nodes, folder=arguments.data) as cluster:
        if arguments.run:
            sys.exit(subprocess.run([*arguments.run, "--bootstrap", cluster.bootstrap], check=False).returncode)
        print(cluster.bootstrap, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
