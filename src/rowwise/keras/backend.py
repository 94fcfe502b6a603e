"""How rows are reached on the backend that Keras runs on.

Each backend has a folder: `variable` (what Keras takes for a variable, and is a table), `lookup`
(rows of it, and the gradient's way back) and `bridge` (an optimizer's step). Here and in
variables.py alone it is asked which one runs.
"""

import importlib
import importlib.util

_BACKENDS = ("torch", "jax", "tensorflow")


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

BACKEND = keras.backend.backend()

if BACKEND not in _BACKENDS:
    raise ImportError(
        f"rowwise.keras runs on Keras's backends {', '.join(_BACKENDS)}, and Keras is using "
        f"{BACKEND!r}; {_advice()}"
    )

_lookup = importlib.import_module(f"rowwise.keras.{BACKEND}.lookup")
importlib.import_module(f"rowwise.keras.{BACKEND}.bridge")  # from now on optimizers step tables

compiles: bool = _lookup.compiles  # whether what the backend compiles may hold a lookup
ids_of = _lookup.ids_of
pooled = _lookup.pooled
rows_of = _lookup.rows_of
with_untrained_filled = _lookup.with_untrained_filled

# The state of the backend's own random numbers, where it can be kept: name -> array.
random_state = _lookup.random_state
set_random_state = _lookup.set_random_state
