"""Judges again what a verdict judged: the same rows, as they were then, by the same config or by one with overrides. Touches the store."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bandits.store import Store
from ope.errors import VerdictError
from ope.gate.config import GateConfig
from ope.gate.decide import both, gate
from ope.gate.judge import Judge, Look, Policies
from ope.gate.verdict import Verdict, from_mapping
from protos import config as configs
from protos.task import TaskFile

__all__ = ["rerun"]


def rerun(data: Mapping[str, Any], *, overrides: Sequence[str], store: Store, task: TaskFile, observations: Path) -> Verdict:
    """The verdict once more; from the same inputs, without overrides, to the same byte.

    `overrides`: key=value of the gate's config. An overridden verdict says so, and never promotes. Raises VerdictError where the rows are
    no longer those that were judged, or the verdict was reached on something else than an observations table.
    """
    verdict = from_mapping(data)
    changed = dict(_override(text) for text in overrides)
    config = configs.parse(GateConfig, {**verdict.config, **changed}, where="gate")
    inputs = verdict.inputs
    if "closed_until_us" not in inputs:
        raise VerdictError("verdict: was reached on no observations table (a file of another log, or a refusal); it cannot be judged again")
    judge = Judge(
        verdict.contest,
        _policies(store, verdict),
        task=task,
        config=config,
        observations=observations,
        until={int(partition): seq for partition, seq in inputs["cursor"].items()},
    )
    kinds = ("offline", "online") if verdict.evidence == "both" else (verdict.evidence,)
    # The level of one of several candidates is not in the config.
    level = None if {"level", "error_budget"} & set(changed) else verdict.level
    verdicts = [gate(judge.gather(_look(verdict), kind=kind), config, level=level) for kind in kinds]
    again = verdicts[0] if len(verdicts) == 1 else both(verdicts[0], verdicts[1])
    if again.inputs["rows_sha256"] != inputs["rows_sha256"]:
        raise VerdictError(
            f"verdict: its rows had the digest {inputs['rows_sha256'][:12]}, what is there now has {again.inputs['rows_sha256'][:12]}: "
            "rows were deleted or derived anew since; give the table as it was"
        )
    return dataclasses.replace(again, overridden=changed)


def _look(verdict: Verdict) -> Look:
    inputs = verdict.inputs
    names = ("complete", "looks_before", "challenger_in_period", "logged", "lost", "closed_until_us", "watermark_us")
    psi, feature = inputs.get("drift", (0.0, ""))
    return Look(now_us=verdict.decided_us, drift=(psi, feature), **{name: inputs[name] for name in names})


def _policies(store: Store, verdict: Verdict) -> Policies:
    contest, anchor = verdict.contest, verdict.inputs["anchor"]
    return Policies(store.load(contest.challenger), store.load(contest.champion), store.load(anchor) if anchor else None)


def _override(text: str) -> tuple[str, Any]:
    key, mark, value = text.removeprefix("gate.").partition("=")
    if not mark:
        raise VerdictError(f"--set: {text!r} is no key=value; say --set margin_change=0.01")
    return key, yaml.safe_load(value)
