"""The peer's side of the evaluator's benchmark, run by the interpreter of its own environment: one request a line in, one answer out.

`{"task": "version" | "dr" | "policy", "file": ..., "interval": bool, "learner": "q" | "ipw"}`. Only the modules that these need are
loaded: the package's own `__init__` imports learners and plots (torch, seaborn) that nothing here touches, and with them it could not be
installed beside a recent Python. So names of torch are stand-ins.
"""

import importlib
import importlib.metadata
import json
import sys
import time
import types
from pathlib import Path

import numpy as np

LEARNED_ROWS = 5_000


def _load():
    root = Path(importlib.metadata.distribution("obp").locate_file("obp"))
    for name, folder in (("obp", root), ("obp.ope", root / "ope"), ("obp.policy", root / "policy")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    sys.modules.setdefault("torch", types.ModuleType("torch"))
    # Named in annotations of functions that no estimate calls.
    sys.modules["torch"].Tensor = sys.modules["torch"].tensor = object
    sys.modules["obp.ope"].RegressionModel = importlib.import_module("obp.ope.regression_model").RegressionModel
    for name in ("torch.nn", "torch.nn.functional", "torch.optim"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torch"].nn, sys.modules["torch"].optim = sys.modules["torch.nn"], sys.modules["torch.optim"]
    # Named in annotations of a learner that is not asked.
    sys.modules["torch"].utils = types.SimpleNamespace(data=types.SimpleNamespace(DataLoader=object, Dataset=object))
    sys.modules["torch.nn"].Module, sys.modules["torch.nn.functional"].mse_loss = object, None
    return importlib.import_module("obp.ope.estimators"), importlib.import_module("obp.policy.offline")


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


def _policy(estimators, offline, file, learner):
    """Seconds for the value of a learned policy by IPS on arrays that are in memory: its distribution over all actions in every row, by
    the learner's own `predict_proba`, then the estimate. It has learned from the first rows before, which is not timed."""
    from sklearn.linear_model import LogisticRegression, Ridge

    context, action, reward, pscore = (np.load(Path(file) / f"policy_{name}.npy") for name in ("context", "action", "reward", "pscore"))
    actions, first = int(action.max()) + 1, slice(0, LEARNED_ROWS)
    if learner == "q":
        policy = offline.QLearner(n_actions=actions, base_model=Ridge())
    else:
        policy = offline.IPWLearner(n_actions=actions, base_classifier=LogisticRegression())
    policy.fit(context=context[first], action=action[first], reward=reward[first], pscore=pscore[first])
    started, cpu = time.perf_counter(), time.process_time()
    distribution = policy.predict_proba(context)
    position = np.zeros(len(reward), int)
    value = estimators.InverseProbabilityWeighting().estimate_policy_value(
        reward=reward, action=action, pscore=pscore, action_dist=distribution, position=position
    )
    spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    return {**spent, "value": float(value), "peak_mb": _peak_mb()}


def _peak_mb():
    """Of this program alone: what getrusage says includes the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    estimators, offline = _load()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["task"] == "version":
                answer = {"value": importlib.metadata.version("obp")}
            elif request["task"] == "policy":
                answer = {"value": _policy(estimators, offline, request["file"], request["learner"])}
            else:
                answer = {"value": _dr(estimators, request["file"], request["interval"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
