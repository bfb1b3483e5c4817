"""A server that decodes a SelectRequest and answers with a fixed slate: what the transport costs where nothing is decided. On grpcio, or
on our native front, which leaves calls that wait together to one function."""

import argparse
import concurrent.futures
import threading
from typing import Any

import grpc

from protos.events_pb2 import Slot
from protos.policy_pb2 import SelectRequest, SelectResponse

NUMERATOR = 1 << 30


def answered(request: SelectRequest, context: Any) -> SelectResponse:
    """The reply of a Select, with every field that ours has, made anew for each call."""
    slots = [Slot(action=f"item-{place:02d}", numerator=NUMERATOR, propensity=0.5, score=0.25) for place in range(3)]
    return SelectResponse(
        decision_id=bytes(16),
        slots=slots,
        joint_propensity=0.125,
        policy="linear_thompson",
        snapshot_digest="0" * 64,
        arm="champion",
        arm_probability=1.0,
        logged=True,
        request_id="0" * 32,
    )


def main() -> None:
    """Serves until it is ended; prints its port first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--front", default="grpcio", choices=("grpcio", "native"))
    given = parser.parse_args()
    server = _on_grpcio(given.threads) if given.front == "grpcio" else _on_native(given.threads)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"serving: 127.0.0.1:{port}", flush=True)
    threading.Event().wait()


def _on_grpcio(threads: int) -> grpc.Server:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads))
    method = grpc.unary_unary_rpc_method_handler(
        answered, request_deserializer=SelectRequest.FromString, response_serializer=SelectResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("slateloop.v1.PolicyService", {"Select": method})])
    return server


def _on_native(threads: int) -> Any:
    # The echo on grpcio is not to load what only this one needs.
    from serving.native import Gathered, Limits, NativeServer

    def answer_all(messages: list[bytes], *_: Any) -> list[Any]:
        return [answered(SelectRequest.FromString(message), None).SerializeToString() for message in messages]

    limits = Limits(max_message_bytes=4 << 20, max_concurrent_rpcs=4096, deadline_cap_s=30.0)
    gathered = [Gathered("/slateloop.v1.PolicyService/Select", answer_all, 32)]
    return NativeServer(concurrent.futures.ThreadPoolExecutor(threads), handlers=[], gathered=gathered, limits=limits)


if __name__ == "__main__":
    main()
