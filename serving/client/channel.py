"""How clients' channels are set up: retries by service config, reconnects that come back soon, and what says who calls. Plain data."""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["Token", "call_metadata", "channel_options"]

# Gives the token of a call: asked each time, so that a new one is used as soon as there is one.
Token = Callable[[], str]

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "slateloop.v1.PolicyService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                # CANCELLED, by a server that began to drain while the call was on its way: nothing was decided.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # After some 50 failed attempts in a row nothing is retried until calls succeed again: retries help through a restart, and would
    # only make an outage last longer.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 1},
}
# grpc's own pause between attempts to connect grows to two minutes: so long would an outage go on for clients after its end.
_FIRST_RECONNECT_MS, _LONGEST_RECONNECT_MS = 100, 1_000


def channel_options() -> list[tuple[str, Any]]:
    """Options for grpc.insecure_channel and its asyncio twin. Every attempt carries the same request id: a retry is the same decision."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        # A connection of its own: what shares a connection reaches one worker of the server, and no other.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
    ]


def call_metadata(token: Token | None) -> list[tuple[str, str]]:
    """Metadata of a call: the bearer token, where there is one."""
    return [] if token is None else [("authorization", f"Bearer {token()}")]
