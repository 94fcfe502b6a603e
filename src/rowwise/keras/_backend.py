"""The backend that Keras runs on, and what a backend must offer to a table.

`backend` is one of the modules `_torch`, `_jax` and `_tensorflow`. Nothing else in the package
asks which backend runs, but for `_patches.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from rowwise._untrained import Untrained

_BACKENDS = ("torch", "jax", "tensorflow")


class Backend(Protocol):
    """The functions and classes that the module of a backend must offer."""

    supports_jit: bool
    """Whether what the backend compiles may hold a lookup."""

    @property
    def TableVariable(self) -> Any:
        """The embeddings as a `keras.Variable`, a `TableVariableBase`."""

    @property
    def DynamicVariable(self) -> Any:
        """Embeddings with an index in front, a `DynamicVariableBase`."""

    @property
    def SlotVariable(self) -> Any:
        """A slot of a table, as an optimizer's variable."""

    @property
    def AccumulatorVariable(self) -> Any:
        """Sums of a table's gradients, as an optimizer's variable."""

    @property
    def OptimizerMixin(self) -> Any:
        """A `TableOptimizer`: the methods of an optimizer that steps tables."""

    @property
    def LossScaleMixin(self) -> Any:
        """A `TableOptimizer`: those of a `LossScaleOptimizer` around one."""

    def to_ids(self, inputs: Any) -> Any:
        """Return what a layer was called with as ids (...,)."""

    def lookup(self, variable: Any, ids: Any) -> Any:
        """Return rows ids (...,) of a variable (V, ...), differentiable, cast as Keras would."""

    def find_rows(self, variable: Any, ids: Any, observe: bool) -> Any:
        """Return the rows (...,) of ids as a layer is given them; count them, if asked to."""

    def pool(self, variable: Any, ids: Any, weights: Any, learned: bool) -> Any:
        """Return weighted sums (..., D) of the rows ids (..., length); None: not a table's."""

    def fill_untrained(self, variable: Any, ids: Any, vectors: Any, untrained: Untrained) -> Any:
        """Return vectors (..., D) of rows ids (...,), those of untrained rows replaced."""

    def export_scope(self) -> AbstractContextManager[None]:
        """Trace functions for a place where there is no Python."""

    def random_state(self) -> dict[str, Any]:
        """Return the state of the backend's own random numbers, where it can be kept."""

    def set_random_state(self, arrays: dict[str, Any]) -> None:
        """Restore what `random_state` returned."""


if TYPE_CHECKING:
    from rowwise.keras import _jax, _tensorflow, _torch

    _held_to_the_protocol: tuple[Backend, ...] = (_torch, _jax, _tensorflow)


def _advice() -> str:
    installed = [name for name in _BACKENDS if importlib.util.find_spec(name)]
    if not installed:
        return "install one of torch, jax and tensorflow, and set KERAS_BACKEND to it"
    return (
        f"installed here: {', '.join(installed)}; set the environment variable "
        f"KERAS_BACKEND={installed[0]} before keras is imported"
    )


try:
    import keras
except ModuleNotFoundError as error:
    if error.name == "keras":
        raise ImportError("rowwise.keras needs Keras 3: pip install keras") from error
    raise ImportError(f"keras cannot be imported: {error}; {_advice()}") from error
except ValueError as error:  # of a backend that there is not
    raise ImportError(f"keras cannot be imported: {error}; {_advice()}") from error

BACKEND: str = keras.backend.backend()

if BACKEND not in _BACKENDS:
    raise ImportError(
        f"rowwise.keras runs on Keras's backends {', '.join(_BACKENDS)}, and Keras is using "
        f"{BACKEND!r}; {_advice()}"
    )

backend: Backend = importlib.import_module(f"rowwise.keras._{BACKEND}")  # type: ignore[assignment]
