"""The decision: a batch of checked requests, as columns through the policy, to slates and the numerators they were drawn from. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bandits.continuous import Valued, slot_values
from bandits.keys import decision_id, draw_key, sticky_key
from bandits.loaded import LoadedPolicy
from bandits.requests import Requests
from bandits.slates import ABSENT
from bandits.traffic import Assignment
from serving.validate import Selection

__all__ = ["Asked", "Decided", "decide", "draw_epoch"]


class Asked(NamedTuple):
    """A selection, who decides it, in which arm, and whether that is so because of the kill switch."""

    selection: Selection
    policy: LoadedPolicy
    assignment: Assignment
    kill_switch: bool


class Decided(NamedTuple):
    """One slate: `actions` in order, `numerators` out of 2^31, `scores` and `uncertainties` in units of reward; all of one length.

    `values`: of a continuous parameter, None for other actions.
    """

    asked: Asked
    decision_id: bytes
    actions: list[str]
    numerators: list[int]
    scores: list[float]
    uncertainties: list[float]
    values: list[Valued | None]
    bucket_batch: int
    bucket_candidates: int


def decide(asked: Sequence[Asked]) -> list[Decided]:
    """A decision for each, in order. Requests of one policy and shape go through its program together."""
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(asked):
        selection, shapes = item.selection, item.selection.rules.shapes
        width, slots = shapes.width(len(selection.candidates)), shapes.slot_count(selection.slate_size)
        groups[item.policy.digest, width, slots].append(index)
    decided: dict[int, Decided] = {}
    for (_, width, slots), members in groups.items():
        answers = _decide_alike([asked[index] for index in members], width=width, slots=slots)
        decided.update(zip(members, answers, strict=True))
    return [decided[index] for index in range(len(asked))]


def draw_epoch(selection: Selection) -> int:
    """The epoch that keys the draw; 0 unless the task draws by unit and epoch."""
    section = selection.rules.policy.section
    return section.epoch if section.draw_by == "unit+epoch" else 0


def _decide_alike(asked: Sequence[Asked], *, width: int, slots: int) -> list[Decided]:
    policy = asked[0].policy
    ids = [_decision_id(item) for item in asked]
    requests = _requests(asked, ids, width)
    outputs = policy.decide(requests, slots=slots)
    rows = zip(*(column.tolist() for column in (outputs.slates, outputs.numerators, outputs.mean, outputs.scale)), strict=True)
    return [
        _decided(item, identifier, key, row, int(batch), outputs.bucket_candidates)
        for item, identifier, key, row, batch in zip(asked, ids, requests.draw_key, rows, outputs.bucket_batch, strict=True)
    ]


def _decided(
    asked: Asked, identifier: bytes, key: np.ndarray, row: tuple[list[int], list[int], list[float], list[float]], batch: int, width: int
) -> Decided:
    # A slate ends early where the policy may show none of the candidates that are left.
    size = min(asked.selection.slate_size, sum(index != ABSENT for index in row[0]))
    slate, numerators, scores, uncertainties = (column[:size] for column in row)
    actions = [asked.selection.candidates[int(index)] for index in slate]
    counts = list(map(int, numerators))
    is_range = asked.selection.rules.policy.section.range is not None
    values: list[Valued | None] = slot_values(actions, counts, key) if is_range else [None] * size
    return Decided(asked, identifier, actions, counts, list(scores), list(uncertainties), values, batch, width)


def _decision_id(asked: Asked) -> bytes:
    (tenant, task), request_id = asked.selection.rules.key, asked.selection.request_id
    arm, digest = asked.assignment.arm, asked.policy.digest
    return decision_id(tenant=tenant, task=task, request_id=request_id, arm=arm, snapshot_digest=digest)


def _requests(asked: Sequence[Asked], ids: Sequence[bytes], width: int) -> Requests:
    n, rules, cold = len(asked), asked[0].selection.rules, asked[0].policy.cold_action
    index = asked[0].policy.action_index
    requests = Requests(
        context=np.stack([item.selection.context for item in asked]),
        actions=np.full((n, width), cold, np.int32),
        features=np.zeros((n, width, rules.feature_size), np.float32),
        scores=np.zeros((n, width)),
        eligible=np.zeros((n, width), bool),
        slots=np.array([item.selection.slate_size for item in asked], np.int32),
        draw_key=np.stack([_key(item.selection, identifier) for item, identifier in zip(asked, ids, strict=True)]),
    )
    for row, selection in enumerate(item.selection for item in asked):
        count = len(selection.candidates)
        requests.actions[row, :count] = [index.get(action, cold) for action in selection.candidates]
        requests.features[row, :count] = selection.features
        requests.scores[row, :count] = selection.scores or 0.0
        requests.eligible[row, :count] = selection.eligible or True
    return requests


def _key(selection: Selection, identifier: bytes) -> np.ndarray:
    if selection.rules.policy.section.draw_by == "decision":
        return draw_key(identifier)
    return sticky_key(task=selection.rules.name, unit_id=selection.unit_id, epoch=draw_epoch(selection))
