"""Builds requests. Pure."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from protos.events_pb2 import CandidateSet
from protos.policy_pb2 import Context, FeatureValue, NumberList, SelectRequest

__all__ = ["ContextInput", "SelectOptions", "context_of", "identified", "select_request"]

# A context as an encoded vector f32[d], or as named features.
ContextInput = np.ndarray | Mapping[str, float | bool | str | Sequence[float]]


class SelectOptions(TypedDict, total=False):
    """What a select may say beside its task, unit and context.

    `candidates`: ids, empty = the task's catalogue; `slate_size`: None = the task's own; `request_id`: drawn at random where empty;
    `explain`: the reasons come with the slate.
    """

    candidates: Sequence[str]
    slate_size: int | None
    request_id: str
    explain: bool


def select_request(
    task: str,
    *,
    tenant: str,
    unit_id: str,
    context: ContextInput,
    candidates: Sequence[str] = (),
    slate_size: int | None = None,
    request_id: str = "",
    explain: bool = False,
) -> SelectRequest:
    """A request; a packed context still lacks the digest of its schema."""
    return SelectRequest(
        tenant=tenant,
        task=task,
        unit_id=unit_id,
        request_id=request_id,
        context=context_of(context),
        candidates=CandidateSet(actions=candidates) if candidates else None,
        slate_size=slate_size,
        explain=explain,
    )


def identified(request: SelectRequest, *, request_id: str) -> SelectRequest:
    """The request with a request id: every attempt carries the same one."""
    if request.request_id:
        return request
    named = SelectRequest(request_id=request_id)
    named.MergeFrom(request)
    return named


def context_of(context: ContextInput) -> Context:
    """Its message; a packed one lacks the digest of its schema."""
    if isinstance(context, Mapping):
        return Context(features={name: _feature(value) for name, value in context.items()})
    return Context(packed=np.asarray(context, dtype="<f4").tobytes())


def _feature(value: float | bool | str | Sequence[float]) -> FeatureValue:
    if isinstance(value, bool):
        return FeatureValue(flag=value)
    if isinstance(value, str):
        return FeatureValue(category=value)
    if isinstance(value, int | float | np.number):
        return FeatureValue(number=float(value))
    return FeatureValue(numbers=NumberList(values=[float(number) for number in value]))
