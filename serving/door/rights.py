"""Which scope a call needs. A call that is not in the table is nobody's: default deny. Pure."""

from collections.abc import Collection, Mapping

from serving.errors import PermissionDenied

__all__ = ["ADMIN", "EVERY_TENANT", "POLICY", "RIGHTS", "SCOPES", "check_scope"]

POLICY, ADMIN = "/slateloop.v1.PolicyService/", "/slateloop.v1.AdminService/"
#: Scopes that a token may have: `select` asks for slates and arms, `feedback` sends events, `read` sees what serves, `promote` moves the
#: champion by a verdict and back, `traffic` moves shares and the kill switch, `reload` has the store looked at.
SCOPES = ("select", "feedback", "read", "promote", "traffic", "reload")
#: In a token's `tenants`: all of them.
EVERY_TENANT = "*"
#: Full name of a call -> scopes of which one is enough.
RIGHTS: Mapping[str, frozenset[str]] = {
    f"{POLICY}Select": frozenset({"select"}),
    f"{POLICY}SelectBatch": frozenset({"select"}),
    f"{POLICY}SelectStream": frozenset({"select"}),
    f"{POLICY}Assign": frozenset({"select"}),
    f"{POLICY}Feedback": frozenset({"feedback"}),
    f"{POLICY}GetPolicy": frozenset({"select", "read"}),
    f"{ADMIN}GetTraffic": frozenset({"read", "promote", "traffic", "reload"}),
    f"{ADMIN}Promote": frozenset({"promote"}),
    f"{ADMIN}Rollback": frozenset({"promote"}),
    f"{ADMIN}Reload": frozenset({"reload"}),
    f"{ADMIN}SetTraffic": frozenset({"traffic"}),
    f"{ADMIN}SetKillSwitch": frozenset({"traffic"}),
}


def check_scope(method: str, scopes: Collection[str]) -> None:
    """Raises PermissionDenied unless one of the scopes allows the call."""
    needed = RIGHTS.get(method, frozenset())
    if needed.isdisjoint(scopes):
        remedy = f"ask for a token with scope {' or '.join(sorted(needed))}" if needed else "no scope allows it"
        raise PermissionDenied(f"scope: the token does not allow {method.rpartition('/')[2]}; {remedy}")
