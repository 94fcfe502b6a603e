"""Interrupts (Ctrl-C) on JAX, which come once a program's new state is held."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any


class Interrupts:
    """Lets an interrupt (Ctrl-C) of the outermost call wait while `held`; a second does not wait.

    A program uses its state up: an interrupt that came before anybody had the new one would leave
    the model with none.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._came: tuple[Any, ...] | None = None
        self._waits = False

    def __enter__(self) -> None:
        self._token = _interrupts.set(self)
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._take)

    def __exit__(self, *_: object) -> None:
        _interrupts.reset(self._token)
        # A callback may have set another.
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._take:
            signal.signal(signal.SIGINT, self._before)

    def _take(self, *signal_and_frame: Any) -> None:
        if self._waits and self._came is None:
            self._came = signal_and_frame
        else:
            self._before(*signal_and_frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let an interrupt wait until the block ends."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            came, self._came = self._came, None
            if came is not None:
                self._before(*came)


# Of the call that runs; others' are not held.
_interrupts: ContextVar[Interrupts] = ContextVar("interrupts", default=Interrupts())  # noqa: B039


def interrupts_held() -> AbstractContextManager[None]:
    """Return a scope within which an interrupt of the call that runs waits."""
    return _interrupts.get().held()
