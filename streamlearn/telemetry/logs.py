"""What the process says on standard error, and what it must not.

One way out for all: our own events, other libraries' records, warnings and
uncaught exceptions. Each becomes one JSON line, or a readable one on a
terminal, with every secret replaced. Never raises: a log line is not worth a
worker.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from streamlearn.telemetry.masking import Masking

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["auto", "json", "console"]

_OURS = "streamlearn"


def configure(level: Level, format: Format, secrets: Iterable[str] = ()) -> None:  # noqa: A002 - `log.format` it is
    """Send everything that is logged in this process to standard error.

    Other libraries are heard from `warning` on, from `info` on where `level` is `debug`: below that they quote whole
    requests, signatures included. librdkafka says as much as `kafka.client.debug` asks of it.

    Args:
        secrets: replaced by `***` wherever they occur.
    """
    if format == "auto":
        format = "console" if sys.stderr.isatty() else "json"  # noqa: A001
    masking = Masking(secrets)
    handler = _StandardError(masking)
    handler.setFormatter(_formatter(format, masking))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel({"debug": logging.INFO, "error": logging.ERROR}.get(level, logging.WARNING))
    for name in (_OURS, "librdkafka"):
        logging.getLogger(name).setLevel(level.upper())
    route_libraries()
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _catch_what_nobody_catches()


def route_libraries() -> None:
    """Take over the handlers that libraries set up for themselves (transformers does, when it is imported)."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and not logger.name.startswith(_OURS):
            for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
                logger.removeHandler(handler)
                logger.propagate = True


def masked(text: str) -> str:
    """Return `text` as it would be logged now: without secrets and control characters."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StandardError):
            text = handler.masking.text(text)
    return text


class _StandardError(logging.Handler):
    """Writes to whatever standard error is at the moment: a live view on the terminal replaces it for a while."""

    def __init__(self, masking: Masking) -> None:
        super().__init__()
        self.masking = masking

    def emit(self, record: logging.LogRecord) -> None:
        # What cannot be written is let go: there is no other place to say it, and Python's own complaint would
        # print the record, secrets and all.
        with suppress(Exception):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def _formatter(style: Format, masking: Masking) -> logging.Formatter:
    render: Processor = _json
    if style == "console":
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        render = structlog.dev.ConsoleRenderer(
            colors=colours,
            timestamp_key="time",
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        )
    return _Formatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_COMMON],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            masking,
            render,
        ],
    )


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Formats any record, even one that cannot be."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - of a record that a library made, anything may be wrong
            # Its own text stays out: it was not masked.
            fault = f"a log record could not be formatted: {type(error).__name__}"
            return super().format(logging.LogRecord(record.name, logging.WARNING, "", 0, fault, None, None))


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    head = {key: event.pop(key) for key in ("time", "level", "logger", "event") if key in event}
    # ASCII, so that no locale of standard error can break a line.
    return json.dumps({**head, **event}, allow_nan=False)


def _catch_what_nobody_catches() -> None:
    """Log what would end the process, or a thread, with a bare traceback."""
    log = structlog.get_logger(_OURS)
    earlier = sys.excepthook

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            earlier(kind, error, trace)
        else:
            log.error("uncaught exception", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else None
        if args.exc_value is not None:
            log.error("uncaught exception in a thread", thread=name, exc_info=args.exc_value)

    # Whoever has set a hook of their own (a test runner, a debugger) keeps it; not Typer, whose hook prints the bare
    # traceback, secrets and all.
    if sys.excepthook is sys.__excepthook__ or sys.excepthook.__module__.partition(".")[0] == "typer":
        sys.excepthook = uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = uncaught_in_thread


_COMMON: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
)
