"""Clients of the Policy API in Python: PolicyClient for threads, AsyncPolicyClient for asyncio.

What they do is written once, in `core.py`, as steps that say what to send next; the two clients only send. Neither loads JAX.
"""

from serving.client.aio import AsyncPolicyClient
from serving.client.decision import Decision
from serving.client.failures import error_of
from serving.client.fallback import Fallback, in_given_order
from serving.client.outbox import Counts
from serving.client.sync import PolicyClient

__all__ = ["AsyncPolicyClient", "Counts", "Decision", "Fallback", "PolicyClient", "error_of", "in_given_order"]
