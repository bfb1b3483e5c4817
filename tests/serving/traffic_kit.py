"""A task with experiments, a holdout and an override, and requests for it."""

from typing import Any

import numpy as np

from bandits.allocation import ExperimentState, moved
from bandits.config import TaskPolicy
from protos.policy_pb2 import Context, SelectRequest
from protos.task import TaskFile
from serving.tasks import parse_rules
from serving.traffic.experiments import Experiments
from tests.serving.kit import TASK, select_request

TRAFFIC = {
    "namespace": "home",
    "holdout": {"share": 0.1},
    "experiments": {
        "ranker": {
            "segments": [0, 5000],
            "target": "member",
            "arms": {"control": {"share": 0.5}, "even": {"share": 0.4, "policy": {"name": "uniform", "floor": 1.0}}},
        },
        "first": {"segments": [5000, 8000], "arms": {"old": {"share": 1.0, "serves": "baseline"}}},
    },
    "overrides": {"tester": "ranker/even"},
}
SHOP = {**TASK, "traffic": TRAFFIC}


def file_of(content: dict[str, Any]) -> TaskFile:
    sections = {key: value for key, value in content.items() if key not in ("task", "tenant")}
    return TaskFile(name=content["task"], tenant=content.get("tenant", "default"), digest="0" * 64, sections=sections)


def experiments_of(content: dict[str, Any]) -> Experiments:
    """The experiments of a task, or of a section `traffic`, as they begin, all arms served."""
    rules = parse_rules(file_of(content if "task" in content else {**TASK, "traffic": content}))
    found = {
        name: ExperimentState(moved({}, {arm: a.share for arm, a in e.arms.items()}), {}, {})
        for name, e in rules.traffic.experiments.items()
    }
    return Experiments(rules.traffic, found, task="shop", targets=rules.targets, arms={name for name, _ in rules.traffic.arms()})


MEMBER, STRANGER = (np.array([0, 0, 0, flag], "<f4").tobytes() for flag in (1, 0))


def asked(shop: TaskPolicy, unit: str, *, member: bool, **fields: Any) -> SelectRequest:
    packed = np.array([1, 2, 3, member], "<f4").tobytes()
    return select_request(shop, unit=unit, context=Context(packed=packed, schema_digest=shop.schema.digest), **fields)
