"""The gate on an Open Bandit log: a candidate, as item probabilities, against the policy that logged. Rows are their own units."""

from pathlib import Path

import numpy as np

from ope import open_bandit
from ope.gate.calibration import Draws
from ope.gate.config import GateConfig
from ope.gate.decide import gate
from ope.gate.evidence import Contest, JudgedRows, Setting, evidence_of
from ope.gate.verdict import Verdict
from protos.config import digest

__all__ = ["gate_open_bandit", "judged_rows"]


def gate_open_bandit(log: Path, *, target: str, config: GateConfig, now_us: int) -> Verdict:
    """The verdict on a candidate in one look at the whole log. Raises SourceError for what cannot be read."""
    rows = judged_rows(log, target=target)
    config = config.model_copy(update={"looks": 1})
    contest = Contest(
        task="open-bandit",
        challenger=digest({"target": target}),
        champion=digest({"log": str(log)}),
        kind="change",
        label=f"{target} against the policy that logged {log}",
        generation=0,
        training_watermark_us=0,
        config_digest=digest(config.model_dump(mode="json")),
    )
    names = (config.estimator, config.cross_check)
    return gate(evidence_of(contest, rows, estimators=names, setting=Setting(complete=True, now_us=now_us)), config)


def judged_rows(log: Path, *, target: str) -> JudgedRows:
    """The impressions of a log as slates of one, numbered for want of times; the champion is the policy that logged them."""
    frame = open_bandit.read_log(log)
    policy = open_bandit.target_probabilities(target, frame)
    batches = list(open_bandit.batches(frame, policy))
    weight = np.concatenate([batch.weight for batch in batches if batch.weight is not None])
    n, items = len(frame), frame["item_id"].n_unique()
    return JudgedRows(
        decision_time_us=np.arange(1, n + 1, dtype=np.int64),
        unit=np.arange(n, dtype=np.uint64),
        reward=np.concatenate([batch.reward for batch in batches]),
        challenger=weight,
        champion=np.ones((n, 1)),
        # A pair of item and position that the log lacks shows in the mean weight.
        unsupported=np.zeros(n, bool),
        excluded={},
        draws=Draws(
            version=np.asarray([log.parent.name] * n, np.str_),
            action=np.asarray(frame["item_id"].cast(str).to_list(), np.str_),
            propensity=frame["propensity"].to_numpy(),
            candidates=np.full(n, items, np.int64),
            comparable=np.ones(n, bool),
        ),
    )
