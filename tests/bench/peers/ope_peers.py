"""The peer's side of the evaluator's benchmark, run by the interpreter of its own environment: one request a line in, one answer out.

`{"task": "version" | "dr", "file": ..., "interval": bool}`. Only the modules that its DR needs are loaded: the package's own `__init__`
imports learners and plots (torch, seaborn) that no estimate touches, and with them it could not be installed beside a recent Python.
"""

import importlib
import importlib.metadata
import json
import sys
import time
import types
from pathlib import Path

import numpy as np


def _load():
    root = Path(importlib.metadata.distribution("obp").locate_file("obp"))
    for name, folder in (("obp", root), ("obp.ope", root / "ope")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    sys.modules.setdefault("torch", types.ModuleType("torch"))
    # Named in annotations of functions that no estimate calls.
    sys.modules["torch"].Tensor = sys.modules["torch"].tensor = object
    return importlib.import_module("obp.ope.estimators")


def _dr(estimators, file, interval):
    """Seconds for the value, and for the value with its 100-resample interval where asked, on arrays that are in memory."""
    names = ("reward", "action", "pscore", "action_dist", "q_hat")
    arrays = {name: np.load(Path(file) / f"{name}.npy") for name in names}
    given = {
        "reward": arrays["reward"],
        "action": arrays["action"],
        "pscore": arrays["pscore"],
        "action_dist": arrays["action_dist"][:, :, None],
        "estimated_rewards_by_reg_model": arrays["q_hat"][:, :, None],
        "position": np.zeros(len(arrays["reward"]), int),
    }
    entry = estimators.DoublyRobust()
    started, cpu = time.perf_counter(), time.process_time()
    value = entry.estimate_policy_value(**given)
    if interval:
        entry.estimate_interval(**given, n_bootstrap_samples=100, random_state=12345)
    spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    return {**spent, "value": float(value), "peak_mb": _peak_mb()}


def _peak_mb():
    """Of this program alone: what getrusage says includes the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    estimators = _load()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["task"] == "version":
                answer = {"value": importlib.metadata.version("obp")}
            else:
                answer = {"value": _dr(estimators, request["file"], request["interval"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
