"""How much a tenant may ask for: a bucket of tokens that fills with time, and calls at once. The clock comes in."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from serving.door.section import TenantLimits
from serving.errors import Overloaded

__all__ = ["OTHERS", "Limits"]

#: In the section `tenants`: every tenant that is not named; each has a budget of its own.
OTHERS = "*"
# When a call of a crowded tenant may come again: about as long as one takes.
_CROWDED_S = 0.05
_ROUNDING = 1e-9
# Budgets that are kept: a name that nobody knows has one too, and callers can invent names.
_KEPT = 4096


class _Budget:
    def __init__(self, limits: TenantLimits, now_s: float) -> None:
        self.limits = limits
        self.most = float(limits.burst or max(limits.rate_per_s or 1.0, 1.0))
        self.left, self.filled_s, self.running = self.most, now_s, 0

    def filled(self, now_s: float) -> float:
        """What is left of it by now."""
        return min(self.left + (now_s - self.filled_s) * (self.limits.rate_per_s or 0.0), self.most)

    def full(self, now_s: float) -> bool:
        """Is it as good as new?"""
        return self.filled(now_s) >= self.most


class Limits:
    """Budgets by tenant. Thread-safe."""

    def __init__(self, tenants: Mapping[str, TenantLimits], *, now_s: Callable[[], float]) -> None:
        """`now_s`: seconds of a clock that only goes forward."""
        self._tenants, self._now_s = tenants, now_s
        self._budgets: dict[str, _Budget] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def within(self, tenant: str, requests: int) -> Iterator[None]:
        """A call of a tenant with so many requests. Raises Overloaded, saying when to come again."""
        budget = self._enter(tenant, requests)
        try:
            yield
        finally:
            if budget is not None:
                with self._lock:
                    budget.running -= 1

    def _enter(self, tenant: str, requests: int) -> _Budget | None:
        limits = self._tenants.get(tenant) or self._tenants.get(OTHERS)
        if limits is None:
            return None
        with self._lock:
            budget = self._budgets.get(tenant)
            if budget is None:
                if len(self._budgets) >= _KEPT:
                    self._forget_full()
                budget = self._budgets[tenant] = _Budget(limits, self._now_s())
            if limits.concurrent is not None and budget.running >= limits.concurrent:
                raise Overloaded(
                    f"tenants: {limits.concurrent} calls of this tenant run already; send fewer at once", retry_after_s=_CROWDED_S
                )
            if limits.rate_per_s is not None:
                self._take(budget, requests, limits.rate_per_s)
            budget.running += 1
            return budget

    def _forget_full(self) -> None:
        """Lets budgets go that nothing uses and that are full again: one that is made anew is the same."""
        now_s = self._now_s()
        self._budgets = {tenant: budget for tenant, budget in self._budgets.items() if budget.running or not budget.full(now_s)}

    def _take(self, budget: _Budget, requests: int, rate_per_s: float) -> None:
        now_s = self._now_s()
        budget.left = budget.filled(now_s)
        budget.filled_s = now_s
        # A call of more requests than may ever come at once takes a full bucket, and leaves a debt.
        needed = min(float(requests), budget.most)
        if budget.left < needed - _ROUNDING:
            wait_s = (needed - budget.left) / rate_per_s
            raise Overloaded(
                f"tenants: this tenant may send {rate_per_s:g} requests a second; send the rest in {wait_s:.3f} s", retry_after_s=wait_s
            )
        budget.left -= requests
