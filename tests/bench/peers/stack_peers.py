"""One peer's server, run by the interpreter of its own environment: `python stack_peers.py NAME`.

Each answers {"unit", "context": 32 numbers, "candidates": 20 x 16 numbers} with one action by SquareCB of Vowpal Wabbit and its
probability: no slate, no log. That is less work than ours.
"""

import importlib.metadata
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import vowpalwabbit

try:
    from litserve import LitAPI
except ImportError:
    # Another peer's turn, in an environment without this one.
    LitAPI = object

HERE = Path(__file__).resolve()


class SquareCB:
    """A workspace that predicts from named numbers."""

    def __init__(self) -> None:
        self._workspace = vowpalwabbit.Workspace("--cb_explore_adf --squarecb --quiet")

    def decide(self, context: list[float], candidates: list[list[float]]) -> dict[str, object]:
        """The most likely action and its probability."""
        lines = ["shared |U " + " ".join(f"{index}:{value}" for index, value in enumerate(context))]
        lines += ["|A " + " ".join(f"{index}:{value}" for index, value in enumerate(row)) for row in candidates]
        p = self._workspace.predict("\n".join(lines))
        best = max(range(len(p)), key=p.__getitem__)
        return {"action": best, "probability": p[best]}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ready(port: int, *packages: str) -> None:
    """Says on stdout where the server listens, once it does."""

    def wait() -> None:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in (*packages, "vowpalwabbit"))
        print(f"serving: 127.0.0.1:{port} {versions}", flush=True)

    threading.Thread(target=wait, daemon=True).start()


def fastapi() -> None:
    """FastAPI with orjson on uvicorn (uvloop, httptools)."""
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app, model, port = FastAPI(), SquareCB(), free_port()

    @app.post("/select")
    async def select(request: Request) -> Response:
        body = orjson.loads(await request.body())
        return Response(orjson.dumps(model.decide(body["context"], body["candidates"])), media_type="application/json")

    ready(port, "fastapi", "uvicorn", "orjson")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


class LitServeApi(LitAPI):
    """Stands in the module, since LitServe's worker is another process that imports it."""

    def setup(self, device: str) -> None:
        """Called once in the worker."""
        self.model = SquareCB()

    def predict(self, request: dict) -> dict:
        """Called for every request."""
        return self.model.decide(request["context"], request["candidates"])


def litserve() -> None:
    """LitServe with one worker."""
    import litserve

    port = free_port()
    ready(port, "litserve")
    litserve.LitServer(LitServeApi(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=port, log_level="error", generate_client_file=False
    )


def bentoml() -> None:
    """BentoML with one worker."""
    folder, port = Path(tempfile.mkdtemp()), free_port()
    (folder / "service.py").write_text(
        f"import sys; sys.path.insert(0, {str(HERE.parent)!r})\n"
        "import bentoml\nfrom stack_peers import SquareCB\n\n"
        "@bentoml.service(workers=1)\nclass Bench:\n"
        "    def __init__(self):\n        self.model = SquareCB()\n"
        "    @bentoml.api\n    def select(self, request: dict) -> dict:\n"
        "        return self.model.decide(request['context'], request['candidates'])\n"
    )
    command = [sys.executable, "-m", "bentoml", "serve", "service:Bench", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ready(port, "bentoml")
    process.wait()


def mlserver() -> None:
    """MLServer without parallel workers, V2 protocol over REST."""
    folder, port = Path(tempfile.mkdtemp()), free_port()
    (folder / "runtime.py").write_text(
        f"import sys; sys.path.insert(0, {str(HERE.parent)!r})\n"
        "import numpy as np\nfrom mlserver import MLModel\nfrom mlserver.codecs import NumpyCodec\n"
        "from mlserver.types import InferenceResponse\nfrom stack_peers import SquareCB\n\n"
        "class Runtime(MLModel):\n"
        "    async def load(self):\n        self.model = SquareCB()\n        return True\n"
        "    async def predict(self, payload):\n"
        "        flat = NumpyCodec.decode_input(payload.inputs[0]).reshape(-1)\n"
        "        found = self.model.decide(flat[:32].tolist(), flat[32:].reshape(20, 16).tolist())\n"
        "        answer = np.array([[found['action'], found['probability']]])\n"
        "        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output('answer', answer)])\n"
    )
    (folder / "model-settings.json").write_text('{"name": "squarecb", "implementation": "runtime.Runtime"}')
    settings = f'{{"debug": false, "http_port": {port}, "grpc_port": {free_port()}, "metrics_port": {free_port()}, "parallel_workers": 0}}'
    (folder / "settings.json").write_text(settings)
    script = Path(sys.executable).with_name("mlserver")
    process = subprocess.Popen([str(script), "start", "."], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/squarecb/ready", timeout=1)
            break
        except OSError:
            time.sleep(0.2)
    ready(port, "mlserver")
    process.wait()


def ray() -> None:
    """Ray Serve with one replica, set for throughput: by default a replica takes 5 requests at a time, the router looks for room with a
    growing pause, and gives up on a replica that is busy for 0.1 s."""
    os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "10"}
    import ray
    from ray import serve

    @serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
    class Bench:
        def __init__(self) -> None:
            self.model = SquareCB()

        async def __call__(self, request: object) -> dict:
            body = await request.json()
            return self.model.decide(body["context"], body["candidates"])

    port = free_port()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR", "enable_access_log": False})
    serve.run(Bench.bind())
    ready(port, "ray")
    threading.Event().wait()


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve, "bentoml": bentoml, "mlserver": mlserver, "ray": ray}[sys.argv[1]]()
