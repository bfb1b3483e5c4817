"""The command `serving`: the server, replay of its log, and single calls from the shell."""

from serving.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
