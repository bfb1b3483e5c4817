"""The server's log as one JSON object a line. The rooms log through the standard library; only the binary decides how it looks."""

import logging
import sys

import structlog

__all__ = ["log_as_json"]


def log_as_json() -> None:
    """Sends every record of the standard library's logging to stderr as JSON: event, level, logger, time in UTC, and the traceback."""
    common = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    finish = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=finish))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
