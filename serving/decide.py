"""The decision: checked requests, as rows of words through the policy, to slates and the numerators they were drawn from. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bandits.keys import decision_id, sticky_key
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.traffic import Assignment
from serving.tasks import TaskRules
from serving.validate import Selection

__all__ = ["Asked", "Decided", "decide", "draw_epoch", "epoch_of", "row_of"]


class Asked(NamedTuple):
    """A selection, who decides it, in which arm, and whether that is so because of the kill switch."""

    selection: Selection
    policy: LoadedPolicy
    assignment: Assignment
    kill_switch: bool


class Decided(NamedTuple):
    """Decisions of one policy and compiled shape, as columns; n requests, L slots.

    `places` of the requests in what was asked; `ids` the decision ids; `draw_keys` 8 bytes each; `slates` i32[n, L] index of the candidate
    of each slot, ABSENT behind the slate's end, and `numerators` u32[n, L] out of 2^31, `scores` and `uncertainties` f64[n, L] in units of
    reward; `sound` bool[n]: false where a number of the request is not finite or subnormal, and then there is no decision.
    """

    places: list[int]
    asked: list[Asked]
    ids: list[bytes]
    draw_keys: list[bytes]
    slates: np.ndarray
    numerators: np.ndarray
    scores: np.ndarray
    uncertainties: np.ndarray
    sound: np.ndarray
    bucket_batch: list[int]
    bucket_candidates: int


def decide(asked: Sequence[Asked]) -> list[Decided]:
    """A decision for each, in groups: requests of one policy and shape go through its program together."""
    groups: dict[tuple[str, bool, tuple[int, int]], list[int]] = {}
    for place, (selection, policy, _, kill_switch) in enumerate(asked):
        shape = selection.rules.shapes.of(len(selection.candidates.actions), selection.slate_size)
        groups.setdefault((policy.digest, kill_switch, shape), []).append(place)
    return [
        _decide_alike(places, [asked[place] for place in places], width=width, slots=slots)
        for (_, _, (width, slots)), places in groups.items()
    ]


def draw_epoch(selection: Selection) -> int:
    """The epoch that keys the draw; 0 unless the task draws by unit and epoch."""
    return epoch_of(selection.rules)


def epoch_of(rules: TaskRules) -> int:
    """The epoch that keys the draws of a task; 0 unless it draws by unit and epoch."""
    section = rules.policy.section
    return section.epoch if section.draw_by == "unit+epoch" else 0


def _decide_alike(places: list[int], asked: list[Asked], *, width: int, slots: int) -> Decided:
    policy, rules = asked[0].policy, asked[0].selection.rules
    layout = RowLayout(rules.context_size, width, rules.feature_size)
    ids = [_decision_id(item) for item in asked]
    keys = [_draw_key(item.selection, identifier) for item, identifier in zip(asked, ids, strict=True)]
    parts: list[bytes] = []
    for item, key in zip(asked, keys, strict=True):
        parts += _parts(item.selection, policy, key, layout)
    rows = np.frombuffer(b"".join(parts), np.uint32).reshape(len(asked), layout.words)
    outputs = policy.decide_rows(rows, layout=layout, slots=slots)
    return Decided(
        places=places,
        asked=asked,
        ids=ids,
        draw_keys=keys,
        slates=outputs.slates,
        numerators=outputs.numerators,
        scores=outputs.mean,
        uncertainties=outputs.scale,
        sound=outputs.sound,
        bucket_batch=outputs.bucket_batch.tolist(),
        bucket_candidates=width,
    )


def _decision_id(asked: Asked) -> bytes:
    (tenant, task), request_id = asked.selection.rules.key, asked.selection.request_id
    arm, digest = asked.assignment.arm, asked.policy.digest
    return decision_id(tenant=tenant, task=task, request_id=request_id, arm=arm, snapshot_digest=digest)


def _draw_key(selection: Selection, identifier: bytes) -> bytes:
    """The eight bytes of the key; see bandits.keys."""
    if selection.rules.policy.section.draw_by == "decision":
        return identifier[:8]
    return sticky_key(task=selection.rules.name, unit_id=selection.unit_id, epoch=draw_epoch(selection)).astype("<u4").tobytes()


def row_of(selection: Selection, policy: LoadedPolicy, key: bytes, layout: RowLayout) -> bytes:
    """The request as a row of words: what came packed is joined as it came."""
    return b"".join(_parts(selection, policy, key, layout))


def _parts(selection: Selection, policy: LoadedPolicy, key: bytes, layout: RowLayout) -> tuple[bytes, ...]:
    candidates, width = selection.candidates, layout.width
    padding = bytes(4 * layout.features * (width - len(candidates.actions)))
    if selection.eligible or selection.scores:
        words = candidates.words_of(policy, width, eligible=selection.eligible, scores=selection.scores)
    else:
        words = candidates.words(policy, width)
    return selection.context, selection.features, padding, words, selection.slate_size.to_bytes(4, "little"), key
