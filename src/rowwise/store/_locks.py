"""Locks that a fork waits for."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

_all: weakref.WeakSet[Any] = weakref.WeakSet()
_held: list[Any] = []


def new_lock(kind: Callable[[], Any] = threading.RLock) -> Any:
    """Return a reentrant lock that a child process never finds held."""
    lock = kind()
    _all.add(lock)
    return lock


def _before_fork() -> None:
    locks = list(_all)
    while len(_held) < len(locks):
        # A thread that has one of them may wait for another: it gets all that are held here, and
        # the time to take them.
        if locks[len(_held)].acquire(timeout=0.01):
            _held.append(locks[len(_held)])
        else:
            _after_fork()
            time.sleep(0.001)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


# A child must inherit neither a lock that another thread of its parent held, nor half a step.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
