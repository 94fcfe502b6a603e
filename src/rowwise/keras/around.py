"""Taking over what is private to Keras, one method at a time."""

from __future__ import annotations

import functools
from typing import Any


def around(owner: Any, method: str) -> Any:
    """Replaces a method or function by `wrapper(original, ...)`."""

    def decorate(wrapper: Any) -> Any:
        original = getattr(owner, method)

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        setattr(owner, method, replaced)
        return wrapper

    return decorate
