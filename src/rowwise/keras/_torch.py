"""Keras's torch backend: the table is a parameter's memory, and a gradient is a sparse tensor."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import torch
from keras.optimizers.schedules import LearningRateSchedule
from keras.src.backend import in_stateless_scope
from keras.src.backend.torch.core import get_device, to_torch_dtype
from keras.src.backend.torch.random import torch_seed_generator
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

from rowwise._binding import DenseFallback
from rowwise._untrained import Untrained
from rowwise.keras import _scopes
from rowwise.keras._dynamic_variable import NO_INDEX, DynamicVariableBase
from rowwise.keras._gradients import RowAccumulator, SparseGradient, coalesce
from rowwise.keras._ids import explain_float_ids
from rowwise.keras._initial_values import Draw, Sampler
from rowwise.keras._optimizer import (
    SparseGradientOptimizer,
    TableOptimizer,
    ensure_bound,
    rule_of,
)
from rowwise.keras._scopes import cast_like_variable, is_symbolic_call, uncast_value
from rowwise.keras._variable import WITHOUT_AN_ARRAY, TableVariableBase, slot_shape
from rowwise.store import HostStore, RowGradient
from rowwise.table import Table
from rowwise.torch._device import DeviceStore, is_device, why_unusable
from rowwise.torch._disk import DiskWeight
from rowwise.torch._gradient import as_row_gradient
from rowwise.torch._lookup import check_range, is_tracing, rows_and_gradients, rows_of, whole_ids
from rowwise.torch._lookup import lookup as lookup_rows
from rowwise.torch._lookup import with_untrained_filled as filled_rows
from rowwise.torch._parameter import TableParameter
from rowwise.torch._pooled import pool as pool_rows

supports_jit = False  # torch.compile would have to break the graph at every lookup
export_scope = _scopes.export_scope


# ---------------------------------------------------------------------- initial values


def sampler(draw: Draw, dtype: str) -> Sampler:
    """Return what draws the numbers of `keras.random` block by block, on the CPU.

    PyTorch's generator is sequential: the blocks of an array must be drawn in order.
    """
    a, b = draw.a, draw.b
    generator, kind = torch_seed_generator(draw.seed), to_torch_dtype(dtype)

    def sample(first: int, shape: tuple[int, int]) -> Any:
        values = torch.empty(shape, dtype=kind)
        if draw.distribution == "uniform":
            values.uniform_(generator=generator).mul_(b - a).add_(a)
        elif draw.distribution == "normal":
            values.normal_(a, b, generator=generator)
        else:  # the first of four that is within two deviations, or the first
            four = torch.empty((*shape, 4), dtype=kind).normal_(generator=generator)
            chosen = ((four > -2) & (four < 2)).max(-1, keepdim=True)[1]
            values = four.gather(-1, chosen).squeeze(-1).mul_(b).add_(a)
        return values.float().numpy()

    return sample


# ---------------------------------------------------------------------- variables


def _keras_device() -> torch.device:
    """Return where Keras makes variables now, with its number."""
    return torch.empty(0, device=get_device()).device


def _on_host(values: Any) -> Any:
    """Return a tensor of any device as a NumPy array; an array stays as it is."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


class _Value(TableParameter):
    """The value of a table's variable; its gradient answers torch's functions as a dense one."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if func != torch.Tensor.grad.__get__ or type(result) is not torch.Tensor:
            return result
        if result.is_sparse and not result.requires_grad:
            as_row_gradient(result, args[0])
        return result


class _DiskValue(DiskWeight):
    """The value of a variable whose table lies on a disk."""

    instead = WITHOUT_AN_ARRAY
    layer = "layer"
    training = ""


class TableVariable(TableVariableBase, keras.Variable):
    """The embeddings: a trainable (rows, dim) variable on a `rowwise.Table`.

    To Keras it is a variable like any other. The table lies where Keras's variables do, on a GPU
    too; one on a disk, or with an index in front, stays with the host.
    """

    stays_on_host = False
    _device = torch.device("cpu")  # where Keras made it

    @classmethod
    def why_dense(cls, dtype: str) -> str | None:
        """Return why the kernels of a GPU do not serve where Keras makes variables, or None."""
        place = _keras_device()
        if not is_device(place) or cls.stays_on_host:
            return None
        return why_unusable(place) if dtype == "float32" else "tables of 16 bits lie on the CPU"

    def check_supported(self, optimizer: Any) -> None:
        """Refuse an optimizer whose kernels fail on the table's GPU."""
        store = self.table.store
        if isinstance(store, DeviceStore):
            reason = why_unusable(store.tensor_device, rule_of(optimizer, self))
            if reason is not None:
                raise DenseFallback(reason)

    def _initialize(self, value: Any) -> None:
        if isinstance(value, Table):
            self.table = value
        else:
            self.table = self._table_of(keras.ops.convert_to_numpy(value))
        self._device = _keras_device()
        self._move_to_device()
        if self.on_disk:
            self._value = _DiskValue.over(self.table, requires_grad=self.trainable)
        else:
            self._value = _Value(self.table, requires_grad=self.trainable)
        self.forget_optimizers()

    def _move_to_device(self) -> None:
        """Move a table of the host's to the GPU on which the variable was made."""
        store = self.table.store
        if isinstance(store, HostStore) and not self.stays_on_host and is_device(self._device):
            self.table.store = DeviceStore.from_state(store.state(), self._device)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        host = self.table.store
        self._move_to_device()
        if self.table.store is not host:
            self._value.rebind(self.table)

    def _direct_assign(self, value: Any) -> None:
        if self.on_disk:
            self.table.store.write(value.detach().cpu().numpy())
        else:
            super()._direct_assign(value)

    def sampler(self, draw: Draw) -> Sampler | None:
        """Return what draws Keras's numbers block by block; None on a device."""
        return sampler(draw, self._dtype) if get_device() == "cpu" else None

    def step_table(self, table: Table, ids: Any, gradients: Any, rate: float, number: int) -> None:
        """Make step `number` of the table's rule with gradients (n, dim) of rows ids (n,).

        On a device ids may be None: the gradients are those of all rows, and zeros none.
        """
        store = table.store
        if isinstance(store, DeviceStore):
            gradient: Any = (
                store.dense_gradient(gradients) if ids is None else RowGradient(ids, gradients)
            )
            table.apply(gradient, rate, iteration=number, frozen_row=self.frozen_row)
        else:
            super().step_table(table, ids, _on_host(gradients), rate, number)

    def slot_in_memory(self, slot: str, name: str) -> SlotVariable:
        """Return a variable `name` over a slot of the table."""
        return SlotVariable(self.table, slot, name)

    def make_accumulator(self, name: str) -> AccumulatorVariable:
        """Return a variable `name` of sums of the table's gradients."""
        return AccumulatorVariable(self, name)

    def rebind_table(self) -> None:
        """Follow the table to its new memory and number of rows, and so do slots and sums."""
        self._value.grad = None
        self._move_to_device()
        self._value.rebind(self.table)
        self._shape = self.table.shape
        for slots in self.slots.values():
            for slot in slots.values():
                slot.rebind(self.table)
        for accumulator in self.accumulators.values():
            accumulator.reset(*self.table.shape)


class DynamicVariable(DynamicVariableBase, TableVariable):
    """Embeddings with an index in front."""

    stays_on_host = True

    def put_index(self, *args: Any, **kwargs: Any) -> None:
        """Put an index in front of the table."""
        super().put_index(*args, **kwargs)
        _dynamic_variables[self.table] = self


_dynamic_variables: weakref.WeakValueDictionary[Table, DynamicVariable] = (
    weakref.WeakValueDictionary()
)


class SlotVariable(keras.Variable):
    """One slot of a table, as the optimizer's variable: (rows, dim or 1) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self.table, self.slot = table, slot
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self.rebind(self.table)

    def rebind(self, table: Table) -> None:
        """Take the slot's memory of `table`."""
        self.table = table
        self._value = TableParameter(table, self.slot, requires_grad=False)
        self._shape = slot_shape(table)

    def detach(self) -> None:
        """Keep the present values when the table gets new slots: they have their own memory."""


class AccumulatorVariable(keras.Variable):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        self.sums = RowAccumulator(*variable.table.shape, variable.scratch)
        # What Keras adds to gradients in which the sums are already.
        self.zero = keras.Variable(0.0, trainable=False, name="zero")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self._value = torch.nn.Parameter(torch.from_numpy(self.sums.sums), requires_grad=False)

    def reset(self, rows: int, dim: int) -> None:
        """Start sums of zero for another number of rows."""
        self.sums.reset(rows, dim)
        self._shape = (rows, dim)
        self._initialize(None)

    def assign(self, value: Any) -> Any:
        """Set the sums to `value`, with whichever rows are not zero."""
        result = super().assign(value)
        self.sums.rescan()
        return result

    def clear(self) -> None:
        """Make all sums zero again."""
        if not in_stateless_scope():
            self.sums.pop()


# ---------------------------------------------------------------------- lookups


def to_ids(inputs: Any) -> Any:
    """Return what a layer was called with as ids (...,) int64.

    Raises:
        TypeError, ValueError: see `rowwise._ids.as_ids`.
    """
    ids = keras.ops.convert_to_tensor(inputs)
    if is_symbolic_call():
        return keras.ops.zeros(ids.shape, dtype="int64")
    if ids.dtype is torch.int64:
        return ids.detach()
    try:
        return whole_ids(ids)
    except ValueError as error:
        raise explain_float_ids(error) from None


def lookup(variable: Any, ids: Any) -> Any:
    """Return rows ids (...,) of a variable (V, ...), in the dtype in which Keras would read it.

    Differentiable; the gradient of a table's rows is sparse where its optimizer takes that.

    Raises:
        IndexError: an id outside 0..V-1.
    """
    value = uncast_value(variable)
    frozen = getattr(variable, "frozen_row", None)
    # In a stateless call the values are the caller's.
    if isinstance(variable, TableVariable) and value is variable._value:
        by_row = variable.binding.mode == "sparse" or variable.on_disk
        rows = lookup_rows(value, ids, by_row, frozen)
    else:
        check_range(ids, value.shape[0])
        rows = keras.ops.take(value, ids, axis=0)
        if frozen is not None:
            rows = torch.where((ids == frozen)[..., None], rows.detach(), rows)
    return cast_like_variable(variable, rows)


@torch.compiler.disable
def find_rows(variable: DynamicVariable, ids: Any, observe: bool) -> Any:
    """Return the rows (...,) of ids as a layer is given them; count them, if asked to.

    Raises:
        TypeError, ValueError: no ids.
        NotImplementedError: the model is traced for a place where there is no Python.
    """
    if is_symbolic_call():
        return ids[..., 0] if variable.encoded else ids
    if is_tracing():
        raise NotImplementedError(NO_INDEX)
    return torch.from_numpy(variable.rows_of(ids.cpu().numpy(), observe))


def pool(variable: TableVariable, ids: Any, weights: Any, learned: bool) -> Any:
    """Return weighted sums (..., D) of the rows ids (..., length); None: a caller's values.

    The weights, None or of the shape of ids, may be `learned`; their gradient is made if asked for.
    """
    value = uncast_value(variable)
    if value is not variable._value:
        return None
    by_row = variable.binding.mode == "sparse" or variable.on_disk
    return pool_rows(value, ids, None, weights, by_row)


def fill_untrained(variable: TableVariable, ids: Any, vectors: Any, untrained: Untrained) -> Any:
    """Return vectors (..., D) of rows ids (...,), those of untrained rows replaced."""
    return filled_rows(variable.table, ids, vectors, untrained)


def random_state() -> dict[str, Any]:
    """Return the state of PyTorch's random numbers."""
    return {"torch": torch.get_rng_state().numpy()}


def set_random_state(arrays: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(torch.from_numpy(arrays["torch"]))


# ---------------------------------------------------------------------- optimizers


# Numbers of variables on a GPU, and the version of the tensor that had them.
_numbers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def read_number(variable: Any) -> float:
    """Return the number that a variable holds; waits where somebody has changed it since."""
    tensor = uncast_value(variable)
    if not is_device(tensor.device) or tensor.is_inference():  # which has no version
        return tensor.item()  # type: ignore[no-any-return]
    version, number = _numbers.get(tensor, (None, 0.0))
    if version != tensor._version:
        number = tensor.item()
        _numbers[tensor] = tensor._version, number
    return number  # type: ignore[no-any-return]


def next_iteration(optimizer: Any) -> int:
    """Return the number of the step about to be made, counted from 1."""
    return (
        int(read_number(optimizer._iterations)) // (optimizer.gradient_accumulation_steps or 1) + 1
    )


class OptimizerMixin(SparseGradientOptimizer):
    """Sparse steps of Keras's optimizers on torch."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Make a step; on a GPU its count is then known without reading it again."""
        count = uncast_value(self._iterations)
        if in_stateless_scope() or count.is_inference() or not is_device(count.device):
            super().apply(grads, trainable_variables)  # type: ignore[misc]
            return
        before = count._version
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        known, number = _numbers.get(count, (None, 0))
        if known == before and count._version == before + 1:
            _numbers[count] = before + 1, number + 1

    def read_gradient(self, variable: Any, gradient: torch.Tensor) -> Any:
        """Return a table's gradient for this step; None while it is summed up with others'."""
        if in_stateless_scope():
            return gradient.to_dense() if gradient.is_sparse else gradient
        store, steps = variable.table.store, self.gradient_accumulation_steps
        on_device, needs_sums = isinstance(store, DeviceStore), bool(steps) or self._clips()
        as_it_is = on_device and not gradient.is_sparse and not needs_sums
        if as_it_is and variable.frozen_row is None and ensure_bound(self, variable):
            return SparseGradient(None, gradient.detach())
        ids, gradients = (rows_of if on_device else rows_and_gradients)(gradient)
        if not ensure_bound(self, variable):
            variable.table.store.record_external_step(ids)
            return gradient.to_dense() if gradient.is_sparse else gradient
        variable.check_batch(ids)
        if needs_sums:
            ids, gradients = coalesce(variable.table, ids, gradients)
        if steps:
            sums = variable.accumulators[self].sums
            sums.add(_on_host(ids), _on_host(gradients))
            if (int(read_number(self._iterations)) + 1) % steps:
                return None
            ids, gradients = sums.pop()
        return SparseGradient(ids, torch.as_tensor(gradients, device=gradient.device))

    def step_table(self, variable: Any, gradient: SparseGradient, learning_rate: Any) -> Any:
        """Make a table's sparse step; return None, or the dense gradient if Keras has to step."""
        ids, values, number = gradient.ids, gradient.values, next_iteration(self)
        rate = self._rate_of_tables(learning_rate)
        try:
            variable.step_table(variable.table, ids, values, rate, number)
        except ValueError as cause:  # of its learning rate, or of its number
            variable.fall_back_to_dense(DenseFallback(f"{cause}"))
        else:
            return None
        row = variable.frozen_row
        before = None if row is None else variable.value[row].clone()
        self._apply_weight_decay([variable])
        if row is not None:
            variable.value[row] = before
        if ids is None:
            return values
        ids = torch.as_tensor(ids, device=values.device)
        return values.new_zeros(tuple(variable.shape)).index_add_(0, ids, values)

    def _rate_of_tables(self, learning_rate: Any) -> float:
        """Return the learning rate of a step; waits for that of a schedule that is not Keras's."""
        if isinstance(learning_rate, keras.Variable):
            return read_number(learning_rate)
        schedule: Any = self._learning_rate
        is_keras_s = isinstance(schedule, LearningRateSchedule) and (
            type(schedule).__module__.startswith("keras.")
        )
        if is_keras_s and is_device(_keras_device()):
            with keras.device("cpu"):  # for the numbers of a table on the CPU
                learning_rate = schedule(int(read_number(self._iterations)))
        return float(keras.ops.convert_to_numpy(learning_rate))

    def step_others(self, grads: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Make the step of the variables that are no tables; there may be none."""
        if grads:
            super().step_others(grads, variables, learning_rate)
        elif isinstance(self, keras.optimizers.Nadam):  # as its own step would have done
            momentum = self.beta_1 * (1.0 - 0.5 * keras.ops.power(0.96, next_iteration(self)))
            self._u_product.assign(self._u_product * momentum)


class LossScaleMixin(TableOptimizer):
    """Loss scaling of sparse gradients on torch."""

    def check_finite(self, grads: Any) -> Any:
        """Return whether every number of every gradient is finite."""
        values = [rows_of(g)[1] if g is not None and g.is_sparse else g for g in grads]
        return super().check_finite(values)  # type: ignore[misc]


def _make_gradients_dense(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Give an optimizer of torch's own dense gradients, as it expects them, before its step.

    A model that Keras has compiled makes its tables' gradients sparse, for Keras's optimizer.
    """
    if isinstance(optimizer, torch.optim.SparseAdam):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if type(parameter) is _Value and parameter.grad is not None:
                variable = _dynamic_variables.get(parameter.table)
                if variable is not None:
                    variable.refuse_dense(f"{type(optimizer).__name__} of torch's")
                parameter.grad = parameter.grad.to_dense()


register_optimizer_step_pre_hook(_make_gradients_dense)
