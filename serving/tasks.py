"""What the server needs to know of a task, worked out once from its file."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

from bandits.catalog import PolicySpec
from bandits.config import TaskPolicy, parse_task
from bandits.features import Schema
from bandits.programs import candidate_bucket
from protos import config
from protos.errors import ConfigError
from protos.task import TaskFile
from serving.catalogues import Catalogue, catalogue_of
from serving.config import Limits
from serving.traffic.section import Traffic
from serving.traffic.target import Target, target

__all__ = ["Shapes", "TaskKey", "TaskRules", "compiled_shapes", "parse_rules", "rules_by_key"]

# Tenant and name: the same name may exist for several tenants.
TaskKey = tuple[str, str]
# Two compiled widths of candidate lists lie at most this far apart: a compilation costs about a second, padding its share of a call.
_WIDTH_STEP = 8
# Pairs of candidates and slots whose shape is kept.
_KEPT_PAIRS = 4096


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Compiled shapes: numbers of candidates and of slots to which requests are padded, ascending."""

    widths: tuple[int, ...]
    slots: tuple[int, ...]
    _found: dict[tuple[int, int], tuple[int, int]] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def of(self, candidates: int, slots: int) -> tuple[int, int]:
        """`width` and `slot_count`, looked up once for each pair."""
        found = self._found.get((candidates, slots))
        if found is None:
            if len(self._found) >= _KEPT_PAIRS:
                self._found.clear()
            found = self._found[candidates, slots] = (self.width(candidates), self.slot_count(slots))
        return found

    def width(self, candidates: int) -> int:
        """The narrowest compiled width that holds so many candidates."""
        return self.widths[bisect.bisect_left(self.widths, candidates)]

    def slot_count(self, slots: int) -> int:
        """The smallest compiled number of slots that holds so many."""
        return self.slots[bisect.bisect_left(self.slots, slots)]


@dataclasses.dataclass(frozen=True)
class TaskRules:
    """A task as its requests meet it: sizes, catalogue, limits. Immutable."""

    policy: TaskPolicy
    limits: Limits
    schema: Schema
    schema_digest: str
    context_size: int
    feature_size: int
    catalogue: Catalogue
    shapes: Shapes
    #: Encoded features of a candidate that names none, little-endian float32.
    default_features: bytes
    traffic: Traffic
    #: Targets of the experiments that have one, by experiment.
    targets: Mapping[str, Target]
    #: Policies that the section `traffic` declares, by full name of their arm, or "shadow/NAME".
    arm_specs: Mapping[str, PolicySpec]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.policy.name

    @property
    def tenant(self) -> str:
        """Who owns it."""
        return self.policy.tenant

    @functools.cached_property
    def default_context(self) -> tuple[bytes, tuple[str, ...]]:
        """The encoded context of a request that names no feature, and the features that took their default: all."""
        vector, defaulted = self.schema.encode_context({})
        return vector.astype("<f4").tobytes(), defaulted

    @functools.cached_property
    def key(self) -> TaskKey:
        """What requests name it by."""
        return (self.policy.tenant, self.policy.name)


def parse_rules(task: TaskFile) -> TaskRules:
    """The rules of a task. Raises ConfigError or PolicyError naming key, value and remedy."""
    policy = parse_task(task)
    limits = config.parse(Limits, task.section("limits"), where="limits")
    traffic = config.parse(Traffic, task.section("traffic"), where="traffic")
    schema = policy.schema
    _check_limits(policy, limits)
    return TaskRules(
        policy=policy,
        limits=limits,
        schema=schema,
        schema_digest=schema.digest,
        context_size=schema.context_size,
        feature_size=schema.action_feature_size,
        catalogue=catalogue_of({action: {} for action in schema.actions}, schema, limits),
        shapes=compiled_shapes(policy, limits),
        default_features=schema.encode_action({}).vector.astype("<f4").tobytes(),
        traffic=traffic,
        targets={
            name: target(found.target, schema, where=f"traffic.experiments.{name}.target")
            for name, found in traffic.experiments.items()
            if found.target
        },
        arm_specs=_arm_specs(task, traffic),
    )


def rules_by_key(tasks: Mapping[str, TaskFile]) -> dict[TaskKey, TaskRules]:
    """The rules of every task file. Raises ConfigError where experiments of two tasks share segments of a namespace."""
    found = {rules.key: rules for rules in map(parse_rules, tasks.values())}
    _check_namespaces(list(found.values()))
    return found


def _check_namespaces(tasks: Sequence[TaskRules]) -> None:
    spans: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for rules in tasks:
        held = spans.setdefault((rules.tenant, rules.traffic.namespace or f"task {rules.name}"), [])
        held += [(*found.segments, f"{rules.name}: {name}") for name, found in rules.traffic.experiments.items()]
    for (_, namespace), held in spans.items():
        for (_, end, one), (begin, _, other) in itertools.pairwise(sorted(held)):
            if begin < end:
                raise ConfigError(f"traffic.experiments: {one} and {other} share segments of namespace {namespace!r}; give each its own")


def _arm_specs(task: TaskFile, traffic: Traffic) -> dict[str, PolicySpec]:
    """The policies that arms and shadows declare: the task's own section with their keys laid over it."""
    sources = [*traffic.arms(), *((f"shadow/{name}", shadow) for name, shadow in traffic.shadows.items())]
    specs = {}
    for name, source in sources:
        if source.policy is not None:
            # The settings of one policy are seldom another's.
            kept = {key: value for key, value in task.section("policy").items() if key != "settings"}
            changed = dataclasses.replace(task, sections={**task.sections, "policy": {**kept, **source.policy}})
            specs[name] = parse_task(changed).spec
    return specs


def compiled_shapes(policy: TaskPolicy, limits: Limits) -> Shapes:
    """Few shapes that hold every request of the task: the catalogue's own width, the widest, and steps between them."""
    width, widest = candidate_bucket(max(len(policy.schema.actions), 1)), candidate_bucket(limits.max_candidates)
    widths = []
    while width < widest:
        widths.append(width)
        width *= _WIDTH_STEP
    return Shapes(widths=(*widths, widest), slots=tuple(sorted({policy.section.slate_size, limits.max_slots})))


def _check_limits(policy: TaskPolicy, limits: Limits) -> None:
    if len(policy.schema.actions) > limits.max_candidates:
        raise ConfigError(
            f"limits.max_candidates: {limits.max_candidates} is below the {len(policy.schema.actions)} actions of the catalogue; raise it"
        )
    if policy.section.slate_size > limits.max_slots:
        raise ConfigError(f"limits.max_slots: {limits.max_slots} is below policy.slate_size {policy.section.slate_size}; raise it")
