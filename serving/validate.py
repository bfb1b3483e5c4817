"""From a message to a selection that the engine can trust, or a refusal that names field, value and remedy. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bandits.errors import FeatureError
from bandits.features import FeatureInput
from protos import config
from protos.events_pb2 import CandidateSet
from protos.policy_pb2 import CandidateFeatures, Context, FeatureValue, SelectRequest
from protos.task import DEFAULT_TENANT
from serving.candidates import CandidateList, candidate_list
from serving.errors import NotFound, RequestRefused
from serving.fields import check_decision_id, check_digest, check_id, check_packed, normal_floats, refused, shown
from serving.tasks import TaskKey, TaskRules

__all__ = ["Selection", "Unit", "encoded_context", "find_task", "refuse_unsound", "validate"]

# Name of a task's own catalogue.
_CATALOGUE = "default"


class Selection(NamedTuple):
    """One request to decide, checked and encoded.

    `context` and `features` are the bytes of little-endian float32 [d] and [K, f], of the right length but not yet known to be sound;
    `eligible` bool[K], empty = all; `scores` of an external ranker, [K] or empty.
    """

    rules: TaskRules
    unit_id: str
    request_id: str
    context: bytes
    defaulted: tuple[str, ...]
    candidates: CandidateList
    eligible: list[bool]
    features: bytes
    scores: list[float]
    slate_size: int
    explain: bool
    parent_decision_id: bytes
    pinned: str
    #: Arm that the unit had before; "" where the caller names none.
    sticky_arm: str = ""
    #: Version of the unit features that stand in `context`, and fields of the Decision that few have, serialised. Of traffic.beside.
    unit_features: str = ""
    further: bytes = b""


class Unit(NamedTuple):
    """As much of a `Selection` as an arm depends on."""

    rules: TaskRules
    unit_id: str
    context: bytes
    defaulted: tuple[str, ...]
    sticky_arm: str
    unit_features: str = ""


def validate(message: SelectRequest, rules: TaskRules, *, request_id: str = "") -> Selection:
    """The selection that a message asks for; `request_id` names one that has none. Raises RequestRefused with the path of the field at
    fault."""
    unit_id, own_id, parent, pinned = message.unit_id, message.request_id, message.parent_decision_id, message.snapshot_digest
    check_id(unit_id, field="unit_id")
    check_id(own_id, field="request_id", optional=True)
    check_decision_id(parent, field="parent_decision_id", optional=True)
    check_digest(pinned, field="snapshot_digest")
    context, defaulted = encoded_context(message.context, rules)
    given = message.candidates
    candidates = _candidates(message, given, rules)
    count = len(candidates.actions)
    eligible = list(given.eligible)
    _check_length(len(eligible), count, field="candidates.eligible")
    return Selection(
        rules=rules,
        unit_id=unit_id,
        request_id=own_id or request_id,
        context=context,
        defaulted=defaulted,
        candidates=candidates,
        eligible=eligible,
        features=_candidate_features(message, given, rules, candidates),
        scores=_scores(given, count),
        slate_size=_slate_size(message, rules, sum(eligible) if eligible else count),
        explain=message.explain,
        parent_decision_id=parent,
        pinned=pinned,
        sticky_arm=message.sticky_arm,
    )


def find_task(tasks: Mapping[TaskKey, TaskRules], *, tenant: str, task: str) -> TaskRules:
    """The rules of a task, empty tenant = "default". Raises NotFound; tasks of other tenants are not told apart from none."""
    found = tasks.get((tenant or DEFAULT_TENANT, task))
    if found is not None:
        return found
    check_id(tenant, field="tenant", optional=True)
    check_id(task, field="task")
    own = [name for owner, name in tasks if owner == (tenant or DEFAULT_TENANT)]
    remedy = config.nearest(task, own) if own else "this tenant has no task here"
    raise NotFound(f"task: {shown(task)} does not exist; {remedy}", field="task")


def refuse_unsound(selection: Selection) -> RequestRefused:
    """The refusal of a selection whose packed numbers are not all sound."""
    for data, field in ((selection.context, "context.packed"), (selection.features, "candidates.packed_features")):
        try:
            normal_floats(np.frombuffer(data, "<f4"), field=field)
        except RequestRefused as error:
            return error
    raise AssertionError("sound numbers were called unsound")


def encoded_context(context: Context, rules: TaskRules) -> tuple[bytes, tuple[str, ...]]:
    """The encoded vector of a context, and the features that took their default. Raises RequestRefused."""
    digest, packed = context.schema_digest, context.packed
    if digest and digest != rules.schema_digest:
        remedy = f"this server encodes by {rules.schema_digest}; read the schema again with GetPolicy"
        raise refused("context.schema_digest", f"{shown(digest)} is another schema; {remedy}")
    if not packed:
        return _encoded_context(context.features, rules)
    if context.features:
        raise refused("context", "has both `features` and `packed`; give one of the two")
    if not digest:
        raise refused("context.schema_digest", "is empty; packed features need the digest of their schema (GetPolicy tells it)")
    check_packed(packed, count=rules.context_size, field="context.packed")
    return packed, ()


def _encoded_context(features: Mapping[str, FeatureValue], rules: TaskRules) -> tuple[bytes, tuple[str, ...]]:
    path = "context.features"
    try:
        vector, defaulted = rules.schema.encode_context(_plain(features, path=path))
    except FeatureError as error:
        raise _of_feature(error) from error
    return normal_floats(vector, field=path).tobytes(), defaulted


def _encoded_action(item: CandidateFeatures, rules: TaskRules, *, path: str) -> bytes:
    try:
        vector = rules.schema.encode_action(_plain(item.features, path=path), path=path).vector
    except FeatureError as error:
        raise _of_feature(error) from error
    return normal_floats(vector, field=path).tobytes()


def _of_feature(error: FeatureError) -> Exception:
    return refused(error.field, str(error).removeprefix(f"{error.field}: "))


def _plain(features: Mapping[str, FeatureValue], *, path: str) -> dict[str, FeatureInput]:
    plain: dict[str, FeatureInput] = {}
    for name, value in features.items():
        kind = value.WhichOneof("kind")
        if kind is None:
            raise refused(f"{path}.{name}", "has no value; give number, flag, category or numbers, or leave the feature out")
        plain[name] = list(value.numbers.values) if kind == "numbers" else getattr(value, kind)
    return plain


def _candidates(message: SelectRequest, given: CandidateSet, rules: TaskRules) -> CandidateList:
    field = "candidates.actions"
    named, catalogue = tuple(given.actions), given.catalogue
    if catalogue not in ("", _CATALOGUE):
        raise refused("candidates.catalogue", f"{shown(catalogue)} is not held here; give `{_CATALOGUE}`, or name the actions")
    own = rules.catalogue
    if not named:
        if own.listed is None or (not catalogue and message.HasField("candidates")):
            raise refused(field, f"is empty; name at least one action, or the catalogue `{_CATALOGUE}`")
        return own.listed
    most = rules.limits.max_candidates
    if len(named) > most:
        raise refused(field, f"names {len(named)} actions; give at most {most} (limits.max_candidates)")
    strange = [action for action in named if action not in own.vectors] if catalogue else []
    if strange:
        raise refused(field, f"{shown(strange[0])} is not in catalogue `{catalogue}`; {config.nearest(strange[0], own.vectors)}")
    return candidate_list(named)


def _check_length(length: int, candidates: int, *, field: str) -> None:
    if length not in (0, candidates):
        raise refused(field, f"has {length} entries for {candidates} candidates; give one each, or none")


def _candidate_features(message: SelectRequest, given: CandidateSet, rules: TaskRules, listed: CandidateList) -> bytes:
    candidates = len(listed.actions)
    named, packed = message.candidate_features, given.packed_features
    if named and packed:
        raise refused("candidate_features", "given beside candidates.packed_features; give one of the two")
    if packed:
        check_packed(packed, count=candidates * rules.feature_size, field="candidates.packed_features")
        return packed
    _check_length(len(named), candidates, field="candidate_features")
    if not named and rules.feature_size and (listed is rules.catalogue.listed or given.catalogue):
        return rules.catalogue.features(listed.actions)
    if not named:
        return rules.default_features * candidates
    return b"".join(_encoded_action(item, rules, path=f"candidate_features[{index}]") for index, item in enumerate(named))


def _scores(given: CandidateSet, candidates: int) -> list[float]:
    field, scores = "candidates.scores", list(given.scores)
    _check_length(len(scores), candidates, field=field)
    if scores and not np.isfinite(scores).all():
        raise refused(field, "holds a number that is not finite; give finite scores")
    return scores


def _slate_size(message: SelectRequest, rules: TaskRules, eligible: int) -> int:
    size = message.slate_size if message.HasField("slate_size") else rules.policy.section.slate_size
    if eligible == 0:
        raise refused("candidates.eligible", "no candidate is eligible; let at least one be shown, or do not ask")
    if not 1 <= size <= rules.limits.max_slots:
        raise refused("slate_size", f"{size} is refused; give 1 to {rules.limits.max_slots} (limits.max_slots)")
    if size > eligible:
        raise refused("slate_size", f"{size} is more than the {eligible} eligible candidates; give at most {eligible}")
    return size
