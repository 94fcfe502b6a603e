"""Which optimizer steps a table, and how."""

from __future__ import annotations

import warnings
import weakref
from typing import Any, Literal

Mode = Literal["sparse", "dense"]


class DenseFallback(Exception):
    """Why an optimizer's step has to visit every row; the message names the cause."""


class OptimizerBinding:
    """The optimizer that a table belongs to, held weakly, and the mode of its steps.

    In mode "sparse" a step costs what the batch costs; in mode "dense" the framework makes it, over
    all rows. Without an optimizer the mode is "dense". A copy, or a pickle, has no optimizer.
    """

    def __init__(self) -> None:
        self._owner: weakref.ref[Any] | None = None
        self._sparse = False
        self._warned = False

    @property
    def owner(self) -> Any:
        """The optimizer, or None: there was none, or nobody holds it any more."""
        return None if self._owner is None else self._owner()

    @property
    def mode(self) -> Mode:
        """How the next step will be made."""
        alive = self._owner is not None and self._owner() is not None
        return "sparse" if self._sparse and alive else "dense"

    def attach(self, optimizer: Any, mode: Mode = "sparse") -> None:
        """Make `optimizer` the owner."""
        if self.owner is not optimizer:
            self._owner = weakref.ref(optimizer)
        self._sparse = mode == "sparse"

    def detach(self) -> None:
        """Leave the table without an optimizer."""
        self._owner, self._sparse, self._warned = None, False, False

    def fall_back_to_dense(
        self, reason: object, *, rows: int, name: str = "this embedding", stacklevel: int = 2
    ) -> None:
        """Make steps dense from now on, and warn with the reason, once.

        Args:
            reason: what stands in the way of sparse steps.
            rows: number of rows of the table.
            name: of the embedding.
            stacklevel: of the warning, counted from the caller.
        """
        self._sparse = False
        self.warn(reason, rows=rows, name=name, stacklevel=stacklevel + 1)

    def warn(
        self, reason: object, *, rows: int, name: str = "this embedding", stacklevel: int = 2
    ) -> None:
        """Warn that a step visits every row; the first reason is the only one reported."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{reason}; every step visits all {rows} rows of {name}, with the numbers of dense "
                "training and at its speed",
                stacklevel=stacklevel + 1,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
