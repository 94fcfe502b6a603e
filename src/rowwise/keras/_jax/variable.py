"""Keras variables on a table, on JAX: its weights, the slots of its optimizer, sums of gradients.

To whoever reads one it is the whole array (rows, dim), as it is now. In a trainer's state it is a
token, a vector; whoever reads it there gets the whole array as well, by a call of the host.
"""

from __future__ import annotations

import warnings
import weakref
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend import in_stateless_scope
from keras.src.backend.common.stateless_scope import get_stateless_scope
from numpy.typing import NDArray

from rowwise import _native
from rowwise._binding import DenseFallback
from rowwise.jax._deferred_errors import defers_errors
from rowwise.jax._host_callback import HostCallback, call, call_table
from rowwise.jax._programs import CAPACITY, TableInPrograms, next_order
from rowwise.keras._dynamic_variable import DynamicVariableBase
from rowwise.keras._gradients import nonzero_rows
from rowwise.keras._ids import validate_ids_in_range
from rowwise.keras._initial_values import Draw, Sampler
from rowwise.keras._jax.disk_program import DiskProgram
from rowwise.keras._jax.initial_values import sampler
from rowwise.keras._variable import TableVariableBase, slot_shape
from rowwise.rules import Rule
from rowwise.store import in_memory
from rowwise.table import Table

Floats = NDArray[np.float32]

_DISTRIBUTED = "a keras.distribution is set, and a table lies on one host"
# Whether a variable read in a program gives its token: to an optimizer that hands all it has round.
keep_tokens: ContextVar[bool] = ContextVar("keep_tokens", default=False)
# Of the variables that a trainer is reading for its state: those of which it gets the token.
read_as_tokens: ContextVar[frozenset[int]] = ContextVar("read_as_tokens", default=frozenset())


# Of tables: the token that the trainer's last program will give.
_in_flight: weakref.WeakKeyDictionary[Table, Any] = weakref.WeakKeyDictionary()


def await_steps(table: Table) -> None:
    """Wait for the steps that were asked for."""
    jax.effects_barrier()  # where Python is called
    token = _in_flight.pop(table, None)
    if token is not None and not token.is_deleted():
        jax.block_until_ready(token)


def is_token(value: Any) -> bool:
    """Return whether a value in a state stands for a whole array."""
    return getattr(value, "ndim", None) == 1


def map_tokens(
    original: Any, scope: Any, state_mapping: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Make a stateless scope that maps variables to tokens, too. Wraps Keras's constructor.

    Keras checks that values have their variables' shapes; tokens have not.
    """
    tokens, others = {}, []
    for variable, value in state_mapping or ():
        value = value.given if isinstance(value, TableBacked) and value.holds_token else value
        if isinstance(variable, TableBacked) and is_token(value):
            tokens[id(variable)] = value
        else:
            others.append((variable, value))
    original(scope, others, *args, **kwargs)
    scope.state_mapping.update(tokens)


class TableBacked(keras.Variable):
    """A variable (rows, dim) whose numbers lie with a table."""

    _restored: Any = None  # the token that a program has given

    def read_array(self) -> Floats:
        """Return the present values (rows, dim)."""
        raise NotImplementedError

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim)."""
        raise NotImplementedError

    def await_steps(self) -> None:
        """Wait for the steps that were asked for."""
        raise NotImplementedError

    def token(self) -> Floats:
        """Return what stands for the present values."""
        return np.zeros(1, np.float32)

    def restore_token(self, token: Any) -> None:
        """Take back what `token` returned, or what became of it in a program."""
        self._restored = token if isinstance(token, jax.Array) else None

    def _present_token(self) -> Any:
        """Return `token` as an array of JAX's: that which a program has given, if it is the same.

        A step is too short to make arrays for it.
        """
        restored, self._restored = self._restored, None  # the next program will use it up
        if restored is None or isinstance(restored, jax.core.Tracer) or restored.is_deleted():
            return jnp.asarray(self.token())
        return restored if self._is_present(restored) else jnp.asarray(self.token())

    def _is_present(self, restored: Any) -> bool:
        """Return whether a token from a program is what `token` would return."""
        return True

    @property
    def ready(self) -> bool:
        """Whether there is a table: not while Keras learns a model's shapes."""
        return self._shape is not None and len(self._shape) == 2 and self._initializer is None

    @property
    def given(self) -> Any:
        """The value in a caller's state for this variable; None if there is none."""
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
                return self._present_token()
            self.await_steps()
            given = jnp.asarray(self.read_array(), self._dtype)
        elif is_token(given) and not keep_tokens.get():
            given = self._array_in_a_program(given)
        return self._maybe_autocast(given)

    def _array_in_a_program(self, token: Any) -> Any:
        return call(HostCallback(self, "copy_array"), self._shape, np.float32, token)

    def copy_array(self, out: Any, token: Any) -> None:
        """Answer a program that asks for the whole array."""
        out[...] = self.read_array()

    def assign(self, value: Any) -> Any:
        """Set the whole array, or take back a token that comes from a program."""
        if not is_token(value):
            return super().assign(value)
        if in_stateless_scope():
            get_stateless_scope().add_update((self, value))
        else:
            self.restore_token(jax.block_until_ready(value))  # so are the steps that led to it
        return value

    def _direct_assign(self, value: Any) -> None:
        self.await_steps()
        self.write_array(np.asarray(value))


class TableVariable(TableVariableBase, TableInPrograms, TableBacked):
    """The embeddings: a trainable (rows, dim) variable on a `rowwise.Table`."""

    in_state_as_array = False  # whether a trainer's state holds the whole array
    _frozen_row: int | None = None

    @classmethod
    def why_dense(cls, dtype: str) -> str | None:
        """Return why the layer's variable is Keras's, which lies on several devices, or None."""
        return None if keras.distribution.distribution() is None else _DISTRIBUTED

    def _initialize(self, value: Any) -> None:
        if isinstance(value, Table):
            self._table = value
        else:
            self._table = self._table_of(np.asarray(value))
        self._shape, self._value = self._table.shape, None
        self.forget_optimizers()

    @property
    def table(self) -> Table:  # type: ignore[override]
        """The table, all steps made that were asked for."""
        self.await_steps()
        self.restore_rule()
        return self._table

    def await_steps(self) -> None:
        """Wait for the steps that were asked for."""
        await_steps(self._table)

    def _is_present(self, restored: Any) -> bool:
        """Return whether a token from a program is what `token` would return."""
        return np.array_equal(np.asarray(restored), self.token())

    def check_returned(self, token: Any) -> None:
        """Refuse what a training step gave back, where it is not the token of the last step.

        Raises:
            RuntimeError: with what may have happened.
        """
        if not self._is_present(token):
            raise RuntimeError(
                f"{self.path}: the train_step of this model did not return the state that "
                "optimizer.stateless_apply gave for this table (or a callback has written to the "
                "table since then). To leave out a step, leave out the call: jax.lax.cond(good, "
                "step, keep). A table's step cannot be taken back, scaled or mixed afterwards; "
                "keras.layers.Embedding's can"
            )

    def note_step(self, token: Any) -> None:
        """Record the token that a program, which may still run, will give."""
        _in_flight[self._table] = token

    def prefetch(self, ids: Any) -> None:
        """Begin to read rows ids (...,) from the disk, while the steps asked for are made."""
        self._table.prefetch(ids)

    def sampler(self, draw: Draw) -> Sampler | None:
        """Return what draws Keras's numbers block by block; None: JAX is set to draw others."""
        return sampler(draw, self._dtype)

    def slot_in_memory(self, slot: str, name: str) -> SlotVariable:
        """Return a variable `name` over a slot of the table."""
        return SlotVariable(self.table, slot, name)

    def make_accumulator(self, name: str) -> AccumulatorVariable:
        """Return a variable `name` of sums of the table's gradients."""
        return AccumulatorVariable(self, name)

    @property
    def is_native(self) -> bool:  # type: ignore[override]
        """Whether programs call the table without Python."""
        return not self.on_disk

    def serve_programs(self, path: str, frozen_row: int | None = None) -> None:
        """Let new programs call the table, and none that were made before."""
        if not self.on_disk:
            super().serve_programs(path, frozen_row)
            return
        self.forget_programs(path)
        self.program = DiskProgram(self.program, path, self._table)
        self.frozen_row = frozen_row
        self.token_size = CAPACITY + 2

    def call(self, out: Any, method: str, *attributes_and_arrays: Any) -> None:
        """Answer a program that calls the table by way of Python."""
        if not self.on_disk:
            super().call(out, method, *attributes_and_arrays)
            return
        made_with: dict[str, Any] = dict(a for a in attributes_and_arrays if isinstance(a, tuple))
        arrays = attributes_and_arrays[len(made_with) :]
        self.program.call(method, out, *arrays, **made_with)

    def pop_errors(self) -> list[Exception]:
        """Return the errors that programs have met, and forget them."""
        errors = super().pop_errors()
        if self.on_disk:
            errors += self.program.errors
            self.program.errors = []
        return errors

    def number_of(self, rule: Rule) -> int:
        """Return the number by which programs know the table's present rule."""
        return self.program.number_of(rule) if self.on_disk else super().number_of(rule)

    def forget_optimizers(self) -> None:
        """Start without an optimizer."""
        super().forget_optimizers()
        self.serve_programs(self._path, self._frozen_row)
        self._warned_of_loop = False

    @property
    def frozen_row(self) -> int | None:  # type: ignore[override]
        """A row that training leaves as it is, or None."""
        return self._frozen_row

    @frozen_row.setter
    def frozen_row(self, row: int | None) -> None:
        self._frozen_row = row
        self.program.freeze_row(-1 if row is None else row)

    def check_supported(self, optimizer: Any) -> None:
        """Refuse an optimizer that JAX cannot follow by sparse steps.

        Raises:
            DenseFallback: with the cause.
        """
        if keras.distribution.distribution() is not None:
            raise DenseFallback(_DISTRIBUTED)
        several = optimizer.gradient_accumulation_steps
        if several and several > CAPACITY // 4:
            raise DenseFallback(
                f"gradient_accumulation_steps={several} is above {CAPACITY // 4}, the gradients "
                "that can wait on JAX"
            )

    def warn_of_dense_loop(self) -> None:
        """Warn, once, that a caller's own loop steps the whole array."""
        if not self._warned_of_loop:
            self._warned_of_loop = True
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

    def fall_back_to_dense(self, reason: DenseFallback) -> None:
        """Leave the steps to Keras from now on, over all rows."""
        self.check_may_be_dense(reason)
        mine = [*self.accumulators.values()]
        mine += [slot for slots in self.slots.values() for slot in slots.values()]
        for variable in mine:
            variable.detach()
        super().fall_back_to_dense(reason)

    def read_array(self) -> Floats:
        """Return the present rows (rows, dim)."""
        self.check_in_memory("a read of the whole array")
        return self._table.to_numpy()

    def write_array(self, values: Floats) -> None:
        """Set rows (rows, dim)."""
        if self.in_state_as_array:  # Keras has made steps; nobody knows how many on which row
            in_memory(self._table.store).record_external_step(
                np.flatnonzero((self.read_array() != values).any(axis=1))
            )
            self.in_state_as_array = False
        self._table.store.write(values)

    def _array_in_a_program(self, token: Any) -> Any:
        """Return the whole array, differentiable: the gradient is one of all rows."""
        self.check_in_memory("a read of the whole array")

        @jax.custom_vjp
        def read(token: Any) -> Any:
            return call_table(self, "lookup_all", self._shape, np.float32, token)

        order = next_order()
        read.defvjp(
            lambda token: (read(token), token),
            lambda token, gradient: (self.pushed("push_dense", order, token, gradient),),
        )
        return read(token).astype(self._dtype)

    def prepare_steps(self) -> None:
        """Tell native code what it may find in the steps to come: rule, gradients to be kept."""
        if self._table.rule is not None and self.binding.mode == "sparse":
            self.number_of(self._table.rule)
        owner = self.binding.owner
        sums = [own.token() for who, own in self.accumulators.items() if who is not owner]
        self.program.hold(np.flatnonzero(np.any(sums, axis=0)).tolist() if sums else [])

    def check_ids(self, ids: Any) -> Any:
        """Return ids (...,) as int64, all of them rows; errors say what a model does to ids."""
        return validate_ids_in_range(ids, self.shape[0])

    def rebind_table(self) -> None:
        """Follow the table to its new number of rows, and so do slots and sums."""
        self._shape = self._table.shape
        for slots in self.slots.values():
            for slot in slots.values():
                slot.rebind(self._table)
        self.program.clear()
        self.token_size += 1  # JAX makes programs again where a size changes
        for accumulator in self.accumulators.values():
            accumulator.reset()
        if self.on_disk:  # the program asks the table for its store
            return
        store, before = in_memory(self._table.store), self.program.version
        store.serve(self.program)
        if store.version <= before:  # a table from elsewhere has counted for itself
            store.version = before + 1

    def __getstate__(self) -> dict[str, Any]:
        dropped = (
            *("program", "_errors", "_callbacks", "_rules", "token_size"),
            *("_restored", "_warned_of_loop"),
        )
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in dropped}


class DynamicVariable(DynamicVariableBase, TableVariable):
    """Embeddings with an index in front."""

    def find_rows_now(self, out: Any, observe: bool, ids: Any) -> None:
        """Write rows (...,) for whoever has no token, and gets the error."""
        out[...] = self.rows_of(ids, observe)

    @defers_errors
    def find_rows(self, out: Any, observe: bool, token: Any, _: Any, ids: Any) -> None:
        """Write rows (...,); rows that start anew belong to the version of the token."""
        store = in_memory(self._table.store)
        version = store.version
        if token.reshape(-1)[0] != self.program.version:
            raise RuntimeError(f"{self.path}: the state given is not the table's present one")
        try:
            self.find_rows_now(out, observe, ids)
        finally:
            store.version = version


class _BesideWeights(TableBacked):
    """A variable whose numbers lie with the table while its steps are sparse."""

    def __init__(self, name: str) -> None:
        self._numbers: Floats | None = None  # once Keras makes the steps
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self._ndim = 2

    def _initialize(self, value: Any) -> None:
        self._value = value  # for Keras to read a shape off

    def rebind(self, table: Table) -> None:
        """Take the variable's part of `table`."""
        self.table, self._shape, self._value = table, table.shape, None
        self._numbers = None

    def await_steps(self) -> None:
        """Wait for the steps that were asked for."""
        await_steps(self.table)

    def detach(self) -> None:
        """Keep the present values apart from the table, for Keras's own steps."""
        if self._numbers is None:
            self._numbers = self.read_array()

    def read_array(self) -> Floats:
        """Return the present values (rows, dim)."""
        return self._read_table() if self._numbers is None else self._numbers

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim)."""
        if self._numbers is None:
            self._write_table(values)
        else:
            self._numbers = values.copy()

    def _read_table(self) -> Floats:
        raise NotImplementedError

    def _write_table(self, values: Floats) -> None:
        raise NotImplementedError


class SlotVariable(_BesideWeights):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self._slot = slot
        super().__init__(name)
        self.rebind(table)

    def rebind(self, table: Table) -> None:
        """Take the slot of `table`."""
        super().rebind(table)
        self._shape = slot_shape(table)

    def _read_table(self) -> Floats:
        return self.table.slot(self._slot)

    def _write_table(self, values: Floats) -> None:
        self.table.store.write_slot(self._slot, values)


class AccumulatorVariable(_BesideWeights):
    """Sums of gradients over several batches: as its token, by how much each pass counts."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        super().__init__(name)
        self._of = weakref.ref(variable)
        self.rebind(variable._table)
        self.reset()

    @property
    def _variable(self) -> TableVariable:
        variable = self._of()
        assert variable is not None, "the optimizer keeps its variables"
        return variable

    def reset(self) -> None:
        """Start sums of zero."""
        self._shape = self.table.shape
        self._weights = np.zeros(self._variable.token_size, np.float32)

    def token(self) -> Floats:
        """Return (size,) how much each pass counts."""
        return self._weights

    def restore_token(self, token: Any) -> None:
        """Take back how much each pass counts."""
        self._weights = np.array(token)
        self._variable.prepare_steps()

    def _read_table(self) -> Floats:
        sums = np.zeros(self._shape, np.float32)
        ids, gradients = self._variable.program.summed(self._weights, self.table.dim)
        sums[ids] = gradients
        return sums

    def _write_table(self, values: Floats) -> None:
        self.reset()
        place, checksum = self._variable.program.push(-1, *nonzero_rows(values))
        self._weights[place], self._weights[-1] = _native.PROGRAM_WHOLE, checksum
