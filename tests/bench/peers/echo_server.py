"""A grpcio server that decodes a SelectRequest and answers with a fixed slate: what the transport costs where nothing is decided."""

import argparse
import concurrent.futures
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
    given = parser.parse_args()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(given.threads))
    method = grpc.unary_unary_rpc_method_handler(
        answered, request_deserializer=SelectRequest.FromString, response_serializer=SelectResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("slateloop.v1.PolicyService", {"Select": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"serving: 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
