"""Keras's variable of the embeddings, on JAX, and what the programs that read it call."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._ids import as_ids
from rowwise._untrained import Untrained, fill_untrained
from rowwise.keras import bags
from rowwise.keras.bags import coalesce
from rowwise.keras.given_ids import given_ids, ids_in_range
from rowwise.keras.in_care import InCare, but_for, step_but_for
from rowwise.keras.jax.host import call
from rowwise.keras.jax.noting import Noting, noted
from rowwise.keras.jax.on_table import OnTable, is_token
from rowwise.keras.jax.passes import PASSES, WHOLE, Passes, rows_in
from rowwise.keras.jax.slots import AccumulatorVariable, SlotVariable
from rowwise.keras.optimizers import NoRule
from rowwise.rules import Rule
from rowwise.table import Table

__all__ = ["AccumulatorVariable", "SlotVariable", "TableVariable"]

_COUNTED = 2**24  # a float32 counts no further
_lookups = itertools.count()


def next_order() -> int:
    """Of a lookup: one more for each that is traced."""
    return next(_lookups) % 2**31


class TableVariable(InCare, Noting, OnTable):
    """The embeddings: a trainable (rows, dim) float32 variable on a `rowwise.Table`."""

    in_state_as_array = False  # whether a trainer's state holds the whole array

    def _initialize(self, value: Any) -> None:
        array = np.asarray(value)
        self._table = Table(*array.shape, init=lambda _: array)
        self._shape, self._value = self._table.shape, None
        self.forget_optimizers()

    @property
    def table(self) -> Table:  # type: ignore[override]
        """The table, all steps made that were asked for."""
        jax.effects_barrier()
        return self._table

    def forget_optimizers(self) -> None:
        """No optimizer has this table in its care."""
        super().forget_optimizers()
        self.passes = Passes(self._path)
        self._warned = False
        self._version = 0  # steps, and writes from outside
        self.forget_programs()

    def check_followed_by_rows(self, optimizer: Any) -> None:
        """Raises NoRule where this backend cannot follow what a rule could."""
        if keras.distribution.distribution() is not None:
            raise NoRule("a keras.distribution is set, and a table lies on one host")
        several = optimizer.gradient_accumulation_steps
        if several and several > PASSES // 4:
            raise NoRule(f"gradient_accumulation_steps={several} are more than wait on JAX")

    def warn_of_whole_state(self) -> None:
        """Says once that a step of the whole array is made in a caller's own loop."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.path}: the state of this loop holds the whole table, as it would any "
                f"variable; every training step visits all {self.shape[0]} rows. fit and "
                "train_on_batch visit those of the batch",
                stacklevel=4,
            )

    @property
    def regularizer(self) -> Any:
        """Keras calls it with what a state holds; it gets the whole array."""
        own = self._regularizer
        return own and (lambda value: own(self.value if is_token(value) else value))

    @regularizer.setter
    def regularizer(self, value: Any) -> None:
        keras.Variable.regularizer.fset(self, value)

    def leave_to_keras(self) -> None:
        """From now on Keras makes the steps."""
        mine = [*self.accumulators.values()]
        mine += [slot for slots in self.slots.values() for slot in slots.values()]
        for variable in mine:
            variable.leave()
        super().leave_to_keras()

    def whole(self) -> NDArray[np.float32]:
        """The present rows (rows, dim)."""
        return self._table.to_numpy()

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes rows (rows, dim)."""
        if self.in_state_as_array:  # Keras has made steps; nobody knows how many on which row
            self._table.store.record_external_step(
                np.flatnonzero((self.whole() != values).any(axis=1))
            )
            self.in_state_as_array = False
        self._table.store.write(values)
        self._advance()

    def token(self) -> NDArray[np.float32]:
        """(size,) the version, then zeros: the shape of a gradient."""
        token = np.zeros(self.passes.size, np.float32)
        token[0] = self._version
        return token

    def _whole_in_a_program(self, token: Any) -> Any:
        """Differentiable: the gradient is one of all rows."""

        @jax.custom_vjp
        def read(token: Any) -> Any:
            return call(self.calling("write_whole"), self._shape, np.float32, token)

        order = next_order()
        read.defvjp(
            lambda token: (read(token), token),
            lambda token, gradient: (self.kept("keep_whole", order, token, gradient),),
        )
        return read(token)

    # ------------------------------------------------------ what a program asks for

    def kept(self, method: str, order: int, token: Any, *batch: Any) -> Any:
        """The gradient of the token, which counts the pass that `method` keeps."""
        # The order is an argument: where nothing is compiled, each pass has one of its own.
        batch = (jnp.int32(order), token, *batch)
        return call(self.calling(method), (self.passes.size,), np.float32, *batch, changes=True)

    def stepped(
        self,
        rule: Rule,
        clipvalue: float | None,
        token: Any,
        weights: Any,
        waiting: Any,
        *numbers: Any,
    ) -> Any:
        """The token after a step by `rule`: (iteration, rate, whether now, whether at all)."""
        step = self.calling("step", rule, clipvalue)
        kinds = ("int32", "float32", "bool", "bool")
        whole = (jnp.asarray(n, kind) for n, kind in zip(numbers, kinds, strict=True))
        return call(step, token.shape, np.float32, token, weights, waiting, *whole, changes=True)

    # ------------------------------------------------------ what the host then does

    @noted
    def read(self, out: Any, token: Any, ids: Any) -> None:
        """vectors (..., dim) of the rows ids (...,), at the step that the token names."""
        self._check(token)
        self.read_now(out, ids)

    def read_now(self, out: Any, ids: Any) -> None:
        """`read` for whoever has no token, and gets the error."""
        self._table.store.gather(given_ids(ids), out)

    @noted
    def pool(self, out: Any, token: Any, *batch: Any) -> None:
        """Weighted sums (..., dim) of the rows ids (..., length), at the step of the token."""
        self._check(token)
        shape = (*out.shape[:-1], batch[0].shape[-1])  # under `jax.vmap`, some are of all samples
        out[...] = bags.pool(self._table, *(np.broadcast_to(array, shape) for array in batch))

    @noted
    def gradient_of_weights(self, out: Any, ids: Any, gradients: Any) -> None:
        """The gradients (..., length) of such sums' weights."""
        gradients = np.broadcast_to(gradients, (*out.shape[:-1], self._table.dim))
        ids = np.broadcast_to(ids, out.shape)
        out[...] = bags.gradient_of_weights(self._table, ids, gradients)

    def settle_now(self, out: Any, untrained: Untrained, ids: Any, vectors: Any) -> None:
        """`fill_untrained` for whoever has no token, and gets the error."""
        out[...] = vectors
        fill_untrained(self._table.store, as_ids(ids), out, untrained)

    fill_untrained = noted(settle_now)

    @noted
    def norm(self, out: Any, weights: Any) -> None:
        """The Euclidean norm () of a gradient."""
        _, gradients = self.passes.summed(self._table, weights)
        out[...] = np.sqrt(np.square(gradients, dtype=np.float64).sum())

    @noted
    def finite(self, out: Any, weights: Any) -> None:
        """1 () if every number of a gradient is finite, else NaN."""
        _, gradients = self.passes.summed(self._table, weights)
        out[...] = 1 if np.isfinite(gradients).all() else np.nan

    @noted
    def keep(self, out: Any, order: Any, token: Any, ids: Any, gradients: Any) -> None:
        """Keeps gradients (..., dim) of rows ids (...,)."""
        ids = ids_in_range(ids, self._shape[0]).reshape(-1)  # JAX may have left out the lookup
        gradients = gradients.reshape(-1, self._table.dim)
        if len(ids) > self._table.rows:  # so that sums are fewer
            ids, gradients = coalesce(self._table, ids, gradients)
        else:
            ids, gradients = ids.copy(), _copied(gradients)
        self._keep(out, order, token, ids, gradients)

    @noted
    def keep_bags(self, out: Any, order: Any, token: Any, *batch: Any) -> None:
        """Keeps gradients (..., dim) of weighted sums of the rows ids (..., length)."""
        self._keep(out, order, token, *bags.gradient_of_rows(self._table, *batch))

    @noted
    def keep_whole(self, out: Any, order: Any, token: Any, gradient: Any) -> None:
        """Keeps a gradient (rows, dim) of all rows."""
        self._keep(out, order, token, *rows_in(gradient))

    def _keep(self, out: Any, order: Any, token: Any, ids: Any, gradients: Any) -> None:
        self._check(token)
        out[...] = 0
        out[self.passes.keep(int(order), *but_for(self.frozen_row, ids, gradients))] = WHOLE

    def step(
        self,
        out: Any,
        rule: Rule,
        clipvalue: float | None,
        token: Any,
        weights: Any,
        waiting: Any,
        iteration: Any,
        rate: Any,
        now: Any,
        good: Any,
    ) -> None:
        """Makes a step, unless there is an error to be raised; the next token."""
        if not good:  # no step will take this batch's gradients
            self.passes.forget({*self._awaited().tolist(), *np.flatnonzero(waiting).tolist()})
        elif now and not self.errors:
            try:
                self._check(token)
                self._make_step(rule, clipvalue, weights, float(rate), int(iteration))
            except Exception as error:
                self.errors.append(error)
        out[...] = self.token()

    def _make_step(
        self, rule: Rule, clipvalue: float | None, weights: Any, rate: float, iteration: int
    ) -> None:
        if clipvalue is None:
            ids, gradients = self.passes.weighed(weights)
        else:
            ids, gradients = self.passes.summed(self._table, weights)
            gradients = np.clip(gradients, -clipvalue, clipvalue)
        if rule != self._table.rule:
            self._table.set_hyperparameters(rule)
        gradients = gradients.reshape(len(ids), self._table.dim)
        step_but_for(self.frozen_row, self._table, ids, gradients, rate, iteration)
        self.passes.forget(self._awaited())  # and with them those that nobody applied
        self._advance()

    def _awaited(self) -> NDArray[np.int64]:
        """The places of gradients that optimizers other than this step's have summed up so far."""
        keeper = self.keeper and self.keeper()
        sums = [own.token() for who, own in self.accumulators.items() if who is not keeper]
        return np.flatnonzero(np.any(sums, axis=0)) if sums else np.empty(0, np.int64)

    def _advance(self) -> None:
        self._version = (self._version + 1) % _COUNTED

    def _check(self, token: Any) -> None:
        versions = np.unique(token[..., 0])
        if versions.tolist() != [self._version]:
            raise RuntimeError(
                f"{self.path}: the state given is that of step {versions} and the table is at "
                f"{self._version}; a table has one state, the present one"
            )

    def lie_over_new_memory(self) -> None:
        """Takes up the shape of the table, which has been reordered; its gradients are dropped."""
        self._shape = self._table.shape
        for slots in self.slots.values():
            for slot in slots.values():
                slot.lie_over(self._table)
        self.passes.start_anew()
        for accumulator in self.accumulators.values():
            accumulator.start_anew()
        self._advance()

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("passes", "errors", "_version", "_warned", "_calls")
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in dropped}


def _copied(gradients: Any) -> NDArray[np.float32]:
    """A copy (n, dim) in memory that is used again and again."""
    own = _native.empty(*gradients.shape)
    own[:] = gradients
    return own
