"""The calls of the admin service: each is one function of the store, under the caller's name in its audit log. Knows no transport."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bandits.allocation import TrafficState, moved, share_of
from bandits.errors import BanditsError, ChampionMoved, TrafficMoved
from bandits.pointer import Pointer
from bandits.store import Store
from protos import admin_pb2 as messages
from protos import config
from serving.calls import Method
from serving.door.door import ANYONE
from serving.door.rights import ADMIN
from serving.door.tokens import Caller
from serving.errors import MoveRefused, NotFound, Outdated
from serving.fields import check_digest, refused, shown
from serving.snapshots import SnapshotHolder
from serving.tasks import TaskKey
from serving.validate import find_task

__all__ = ["Admin", "admin_methods"]


class Admin:
    """The methods of slateloop.v1.AdminService. Thread-safe."""

    def __init__(self, holders: Mapping[TaskKey, SnapshotHolder], stores: Mapping[TaskKey, Store], *, now_us: Callable[[], int]) -> None:
        self._holders, self._stores, self._now_us = holders, stores, now_us

    def get_traffic(self, request: Any, caller: Caller) -> bytes:
        """Where the traffic of a task stands."""
        return self._told(self._key(request))

    def promote(self, request: Any, caller: Caller) -> bytes:
        """One step of a promotion, by a kept verdict."""
        key, store = self._place(request)
        check_digest(request.verdict, field="verdict")
        if not request.verdict:
            raise refused("verdict", "is empty; give the id of a verdict `promote` (`ope verdicts` lists them)")
        with _moving("verdict"):
            pointer, verdict = self._expected(store, request), store.verdict(request.verdict)
            challenger, share = str(verdict.get("challenger")), float(verdict.get("next_share", 1.0))
            about: dict[str, Any] = {"expected": pointer, "now_us": self._now_us(), "actor": _actor(caller)}
            store.promote(challenger, verdict=verdict, share=share, **about)
        return self._looked(key)

    def rollback(self, request: Any, caller: Caller) -> bytes:
        """Ends a staged promotion, or restores the previous champion."""
        key, store = self._place(request)
        reason = _reason(request)
        with _moving("task"):
            pointer = self._expected(store, request)
            store.rollback(reason=reason, now_us=self._now_us(), actor=_actor(caller), expected=pointer)
        return self._looked(key)

    def reload(self, request: Any, caller: Caller) -> bytes:
        """Looks at the store now."""
        key, store = self._place(request)
        store.remark("reload", actor=_actor(caller), time_us=self._now_us())
        return self._looked(key)

    def set_traffic(self, request: Any, caller: Caller) -> bytes:
        """Moves the shares of an experiment's arms, and no unit more than that takes."""
        key, store = self._place(request)
        reason = _reason(request)
        if not request.HasField("expected_generation"):
            raise refused("expected_generation", "is not given; read it with GetTraffic, so that two operators don't undo each other")
        change = functools.partial(_with_shares, experiment=request.experiment, shares=dict(request.shares))
        with _moving("shares"):
            about: dict[str, Any] = {"now_us": self._now_us(), "actor": _actor(caller), "reason": reason}
            store.move_traffic(change, expected=request.expected_generation, **about)
        return self._looked(key)

    def set_kill_switch(self, request: Any, caller: Caller) -> bytes:
        """Turns the kill switch."""
        key, store = self._place(request)
        store.set_kill_switch(request.on, reason=_reason(request), now_us=self._now_us(), actor=_actor(caller))
        return self._looked(key)

    def _key(self, request: Any) -> TaskKey:
        rules = {key: holder.rules for key, holder in self._holders.items()}
        return find_task(rules, tenant=request.tenant, task=request.task).key

    def _place(self, request: Any) -> tuple[TaskKey, Store]:
        key = self._key(request)
        return key, self._stores[key]

    def _expected(self, store: Store, request: Any) -> Pointer:
        """The pointer, if it is the one that the caller has seen."""
        if not request.HasField("expected_generation"):
            raise refused("expected_generation", "is not given; read it with GetTraffic, so that two operators don't undo each other")
        pointer = store.champion()
        if pointer is None:
            raise MoveRefused("task: has no champion yet; begin it with `bandits begin`", field="task")
        if pointer.generation != request.expected_generation:
            raise Outdated(f"expected_generation: {request.expected_generation} was read, {pointer.generation} stands; read it again")
        return pointer

    def _looked(self, key: TaskKey) -> bytes:
        holder = self._holders[key]
        if holder.ready:
            holder.refresh()
            holder.refresh_catalogue()
        return self._told(key)

    def _told(self, key: TaskKey) -> bytes:
        store, holder = self._stores[key], self._holders[key]
        pointer, state = store.champion(), store.traffic()
        if pointer is None:
            raise NotFound(f"task: {shown(key[1])} has no champion yet; wait until the server is ready", field="task")
        return messages.TrafficResponse(
            champion=pointer.digest,
            previous=pointer.previous,
            baseline=pointer.baseline,
            generation=pointer.generation,
            challenger=pointer.challenger,
            share=pointer.share,
            kill_switch=store.kill_switch,
            traffic_generation=state.generation,
            experiments={name: _arms(found) for name, found in state.experiments.items()},
            serving=holder.served.deciding.digest if holder.ready else "",
        ).SerializeToString()


def admin_methods(admin: Admin) -> dict[str, Method]:
    """The calls of the service by full name."""
    calls: dict[str, tuple[Any, Callable[[Any, Caller], bytes]]] = {
        "GetTraffic": (messages.GetTrafficRequest, admin.get_traffic),
        "Promote": (messages.PromoteRequest, admin.promote),
        "Rollback": (messages.RollbackRequest, admin.rollback),
        "Reload": (messages.ReloadRequest, admin.reload),
        "SetTraffic": (messages.SetTrafficRequest, admin.set_traffic),
        "SetKillSwitch": (messages.SetKillSwitchRequest, admin.set_kill_switch),
    }
    return {f"{ADMIN}{name}": Method(kind.FromString, _by_anyone(call), answer_as=call) for name, (kind, call) in calls.items()}


def _by_anyone(call: Callable[[Any, Caller], bytes]) -> Callable[[Any], bytes]:
    return lambda request: call(request, ANYONE)


def _with_shares(standing: TrafficState, *, experiment: str, shares: Mapping[str, float]) -> TrafficState:
    found = standing.experiments.get(experiment)
    if found is None:
        raise refused("experiment", f"{shown(experiment)} is not in this task; {config.nearest(experiment, standing.experiments)}")
    for arm in shares:
        if arm not in found.serves:
            raise refused("shares", f"{shown(arm)} is no arm of {shown(experiment)}; {config.nearest(arm, found.serves)}")
    after = found._replace(ranges=moved(found.ranges, {arm: shares.get(arm, 0.0) for arm in found.serves}))
    return standing._replace(experiments={**standing.experiments, experiment: after})


def _arms(found: Any) -> messages.ExperimentArms:
    arms = {arm: messages.ArmState(share=share_of(found.ranges.get(arm, ())), serves=served) for arm, served in found.serves.items()}
    return messages.ExperimentArms(arms=arms)


def _reason(request: Any) -> str:
    if not request.reason.strip():
        raise refused("reason", "is empty; say why, for the audit log")
    return str(request.reason)


def _actor(caller: Caller) -> str:
    return f"admin: {caller.name}"


@contextlib.contextmanager
def _moving(field: str) -> Iterator[None]:
    """What the store refuses, as the caller is told it."""
    try:
        yield
    except (ChampionMoved, TrafficMoved) as error:
        raise Outdated(str(error)) from error
    except BanditsError as error:
        raise MoveRefused(str(error), field=field) from error
