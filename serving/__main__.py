"""The command `serving`: the server, replay of its log, and single calls from the shell."""

import os

# grpcio's newer listener reads sockets on threads of its own: 24 turns of the scheduler a call, and 17 where the thread that takes the
# calls reads them itself (p99 at half of what a busy core can do is a fifth to a third shorter then). It is read when grpc is first
# imported. A release of grpcio that no longer knows the name says so in one line, and serves.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

from serving.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
