"""Keras variables whose numbers a table keeps, on JAX.

To whoever reads one it is the whole array (rows, dim), as it is now. In a trainer's state it is a
token, a vector; whoever reads it there gets the whole array as well, from a call of the host.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend import in_stateless_scope
from keras.src.backend.common.stateless_scope import StatelessScope, get_stateless_scope
from numpy.typing import NDArray

from rowwise.keras.around import around
from rowwise.keras.jax.host import HostCall, call

# Whether a variable read in a program gives its token: to an optimizer that hands all it has round.
tokens_as_they_are: ContextVar[bool] = ContextVar("tokens_as_they_are", default=False)
# Of the variables that a trainer is reading for its state: those of which it gets the token.
read_as_tokens: ContextVar[frozenset[int]] = ContextVar("read_as_tokens", default=frozenset())


def is_token(value: Any) -> bool:
    """Whether a value in a state stands for a whole array."""
    return getattr(value, "ndim", None) == 1


class OnTable(keras.Variable):
    """A variable (rows, dim) whose numbers a table keeps."""

    def whole(self) -> NDArray[np.float32]:
        """The present values (rows, dim)."""
        raise NotImplementedError

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes values (rows, dim)."""
        raise NotImplementedError

    def token(self) -> NDArray[np.float32]:
        """What stands for the present values."""
        return np.zeros(1, np.float32)

    def take_token(self, token: Any) -> None:
        """Takes back what `token` gave, or what became of it in a program."""

    @property
    def ready(self) -> bool:
        """Whether there is a table: not while Keras learns a model's shapes."""
        return self._shape is not None and len(self._shape) == 2 and self._initializer is None

    @property
    def given(self) -> Any:
        """What a caller's state holds for this variable; None if nothing."""
        return get_stateless_scope().get_current_value(self) if in_stateless_scope() else None

    @property
    def holds_token(self) -> bool:
        """Whether a caller's state holds a token for this variable."""
        return is_token(self.given)

    @property
    def value(self) -> Any:
        """The whole array; while a trainer takes its state, the token."""
        given = self.given
        if given is None:
            if not self.ready:
                return super().value
            if id(self) in read_as_tokens.get():
                return jnp.asarray(self.token())
            jax.effects_barrier()  # steps that were asked for have been made
            given = jnp.asarray(self.whole())
        elif is_token(given) and not tokens_as_they_are.get():
            given = self._whole_in_a_program(given)
        return self._maybe_autocast(given)

    def _whole_in_a_program(self, token: Any) -> Any:
        return call(HostCall(self, "write_whole"), self._shape, np.float32, token)

    def write_whole(self, out: Any, token: Any) -> None:
        """`whole`, as a program asks for it."""
        out[...] = self.whole()

    def assign(self, value: Any) -> Any:
        """Takes the whole array, or a token that comes back from a program."""
        if not is_token(value):
            return super().assign(value)
        if in_stateless_scope():
            get_stateless_scope().add_update((self, value))
        else:
            self.take_token(jax.block_until_ready(value))  # so are the steps that led to it
        return value

    def _direct_assign(self, value: Any) -> None:
        jax.effects_barrier()
        self.take(np.asarray(value))


@around(StatelessScope, "__init__")
def _take_tokens(original: Any, self: Any, state_mapping: Any = None, *args: Any, **k: Any) -> None:
    """A scope checks that values have their variables' shapes; tokens have not."""
    tokens, others = {}, []
    for variable, value in state_mapping or ():
        value = value.given if isinstance(value, OnTable) and value.holds_token else value
        if isinstance(variable, OnTable) and is_token(value):
            tokens[id(variable)] = value
        else:
            others.append((variable, value))
    original(self, others, *args, **k)
    self.state_mapping.update(tokens)
