"""Connections are open files, and a process may have only so many."""

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_WORDS = 60.0

Context: TypeAlias = dict[str, Any]


def allow_many_files() -> None:
    """Take as many as the system lets this process have; shells often give it a thousand."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS takes no limit that is infinite
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def exhaustion_handler() -> Callable[[asyncio.AbstractEventLoop, Context], None]:
    """An event loop's exception handler that says in one line that there are no more files.

    asyncio goes on as soon as a connection is closed, but until then it would log thousands of
    stacks a second.
    """
    silent_until = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: Context) -> None:
        nonlocal silent_until
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif time.monotonic() >= silent_until:
            silent_until = time.monotonic() + _SECONDS_BETWEEN_WORDS
            _LOG.error(
                "no new connection can be taken until others are closed: %s; "
                "`ulimit -n` allows more",
                (error.strerror or str(error)).lower(),
            )

    return handle
