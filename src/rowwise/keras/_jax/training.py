"""Keras's JAX trainer around tables: its state holds their tokens, and errors are raised.

Once a program has met an error, no variable is stepped any more; the trainer raises the error, and
nothing has changed. Every function here wraps the method of Keras's that `_patches.py` names.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from keras.src.backend.jax.trainer import JAXTrainer

from rowwise._binding import DenseFallback
from rowwise.jax._deferred_errors import DeferredErrors
from rowwise.keras._ids import id_layers_in
from rowwise.keras._jax.deferred_errors import (
    Rows,
    forget_errors,
    has_errors,
    no_errors,
    raise_errors,
    running,
    watching,
)
from rowwise.keras._jax.interrupts import Interrupts, interrupts_held
from rowwise.keras._jax.lookup import check_bits
from rowwise.keras._jax.optimizer import LossScaleMixin, OptimizerMixin
from rowwise.keras._jax.variable import TableVariable, is_token, read_as_tokens
from rowwise.keras._optimizer import (
    check_step,
    ensure_bound,
    inner_optimizers,
    mix_in,
    next_iteration,
)
from rowwise.keras._variable import tables_of


def _watched(model: Any) -> list[DeferredErrors]:
    """Return whatever of a model's has rows, trained or not, in tables or not."""
    variables = [v for layer in id_layers_in(model) for v in layer.variables]
    rows = [Rows.of(v) for v in variables if not isinstance(v, TableVariable)]
    return [*tables_of(model), *rows]


# ---------------------------------------------------------------------- the trainer's state


def _steps_sparsely(optimizer: Any, variable: TableVariable) -> bool:
    """Return whether the table makes this optimizer's steps; bind it if it is another's."""
    owner = next((one for one in inner_optimizers(optimizer) if one in variable.slots), None)
    if owner is None or not ensure_bound(owner, variable):
        return False
    rule = variable._table.rule
    try:
        check_step(rule, float(owner.learning_rate), next_iteration(owner))  # type: ignore[arg-type]
        _check_all_is_state(optimizer, owner)
    except DenseFallback as reason:
        variable.fall_back_to_dense(reason)
    return variable.binding.mode == "sparse"


def _check_all_is_state(optimizer: Any, owner: Any) -> None:
    """Refuse an optimizer that Keras makes to forget something from step to step.

    Raises:
        DenseFallback: Nadam's product of momentums is lost where another optimizer is around it.
    """
    product = getattr(owner, "_u_product", None)
    if product is not None and not any(v is product for v in optimizer.variables):
        raise DenseFallback(f"{optimizer.name} does not keep Nadam's momentum product")


def get_state(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the trainer's state, with tokens for tables and for what lies with them."""
    by_token: set[int] = set()
    for variable in tables_of(model):
        if kwargs.get("optimizer_variables"):
            by_keras = variable.trainable and not _steps_sparsely(model.optimizer, variable)
            variable.prepare_steps()
            variable.in_state_as_array = by_keras
            if by_keras:
                continue
            for beside in (*variable.slots.values(), variable.accumulators):
                by_token.update(map(id, beside.values() if variable.trainable else ()))
        by_token.add(id(variable))
    tokens = read_as_tokens.set(frozenset(by_token))
    try:
        return original(model, *args, **kwargs)
    finally:
        read_as_tokens.reset(tokens)


_sync_state = JAXTrainer.jax_state_sync


def sync_state(original: Any, model: Any) -> None:
    """Write the trainer's state to the variables, and raise errors before anyone trusts them.

    It happens at an epoch's end, and wherever a callback asks.
    """
    inner = running.get()
    watched = inner or _watched(model)
    if not watched:
        return original(model)
    with interrupts_held():  # part would else be the state of before
        state = jax.block_until_ready(getattr(model, "_jax_state", None)) or {}
        synced = model._jax_state_synced
        original(model)
    if inner is not None and sys.exc_info()[0] is None:  # nothing else is being raised
        raise_errors(watched)
        if not synced and "optimizer_variables" in state:
            _check_returned(model.trainable_variables, state["trainable_variables"])
    return None


def _check_returned(variables: list[Any], values: list[Any]) -> None:
    """Refuse a training step that gave back another state than its tables have."""
    for variable, value in zip(variables, values, strict=False):
        if isinstance(variable, TableVariable) and is_token(value):
            variable.check_returned(value)


def _restore_state(model: Any, state: Any) -> None:
    """Give the model's variables back a state that no program has used up."""
    arrays = jax.tree.leaves(state)
    if not model._jax_state_synced and not any(array.is_deleted() for array in arrays):
        _hold_state(model, state)
        _sync_state(model)


def _hold_state(model: Any, state: Any) -> None:
    """Have the model hold a state, as Keras's loops do once a program has returned it."""
    names = {
        4: ("trainable", "non_trainable", "optimizer", "metrics"),
        3: ("trainable", "non_trainable", "metrics"),
        2: ("trainable", "non_trainable"),
    }[len(state)]
    # Not by Keras's __setattr__, which an interrupt may end.
    model.__dict__["_jax_state"] = {
        f"{name}_variables": part for name, part in zip(names, state, strict=True)
    }


# ---------------------------------------------------------------------- compiled functions


def make_function(original: Any, model: Any, force: bool = False) -> None:
    """Make a train, test or predict function, which raises errors between its programs."""
    name = original.__name__.removeprefix("make_")
    before = getattr(model, name)
    original(model, force)
    made: Callable[..., Any] = getattr(model, name)
    watched = _watched(model)
    if made is before or not watched:
        return

    trained = list(model.trainable_variables) if name == "train_function" else []

    def function(state: Any, batches: Any) -> Any:
        result: Any = None
        try:
            if has_errors(watched):
                jax.block_until_ready(state)  # no program runs that would find no error any more
                raise_errors(watched)
            several = list(itertools.islice(batches, model.steps_per_execution))
            for batch in several:
                _check_integers(_inputs_of(batch))
            with interrupts_held():
                result = made(state, iter(several))
                if len(result[1]) == len(state):  # or it is not what Keras expects
                    _hold_state(model, result[1])
            _note_steps(trained, result)
            return result
        except BaseException:
            _restore_state(model, state if result is None else result[1])
            raise

    setattr(model, name, function)


def _note_steps(trained: list[Any], result: Any) -> None:
    """Let tables know of the program that gave `result`, which may still run."""
    _, state = result
    if isinstance(state, tuple) and len(state) == 4:
        for variable, value in zip(trained, state[0], strict=False):
            if isinstance(variable, TableVariable) and is_token(value):
                variable.note_step(value)


def make_train_function(original: Any, model: Any, force: bool = False) -> None:
    """Make a train function that leaves all as it was once there is an error."""
    if model.train_function is not None and not force:
        return original(model, force)
    if id_layers_in(model) and model.optimizer is not None:
        mix_in(model.optimizer, OptimizerMixin, LossScaleMixin)
    own = model.__dict__.get("train_step")  # where it is not the class's
    model.__dict__["train_step"] = _unless_errors(model, model.train_step)
    try:
        make_function(original, model, force)
    finally:
        del model.__dict__["train_step"]
        if own is not None:
            model.__dict__["train_step"] = own
    return None


def _unless_errors(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the training step, which keeps the old state once there is an error."""

    def train_step(state: Any, data: Any) -> Any:
        watched = _watched(model)
        if not watched:
            return step(state, data)
        before = watching.set(watched)
        try:
            logs, new = step(state, data)
        finally:
            watching.reset(before)
        return logs, _chosen_state(state, new, logs, watched)

    return train_step


def _chosen_state(old: Any, new: Any, logs: Any, watched: list[DeferredErrors]) -> Any:
    """Return the new state; of what no optimizer steps, the old one if there is an error."""
    if not isinstance(new, tuple) or len(new) != 4:  # somebody's own training step and state
        return new
    _, statistics, _, metrics = new
    good = no_errors(watched, [*jax.tree.leaves(logs), *statistics, *metrics])

    def chosen(news: Any, olds: Any) -> Any:
        return [jnp.where(good, n, o) for n, o in zip(news, olds, strict=True)]

    return new[0], chosen(statistics, old[1]), new[2], chosen(metrics, old[3])


# ---------------------------------------------------------------------- calls


def run(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Run fit, evaluate or predict, and raise the errors of its programs."""
    return _run(original, model, _watched(model) if model.built else [], *args, **kwargs)


def _run(original: Any, model: Any, watched: Any, *args: Any, **kwargs: Any) -> Any:
    outermost, before = running.get() is None, running.set(watched)
    guarded = outermost and (watched or not model.built)
    try:
        with Interrupts() if guarded else nullcontext():
            result = original(model, *args, **kwargs)
    except BaseException:
        if outermost:  # the programs' errors were of this call
            forget_errors(watched or _watched(model))
        raise
    finally:
        running.reset(before)
    watched = watched or _watched(model)
    if watched:
        jax.effects_barrier()
        raise_errors(watched)
    return result


def run_on_batch(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Run on a batch, and raise the errors of its programs."""
    watched = _watched(model) if model.built else []
    if watched:
        _check_integers(args[0] if args else kwargs.get("x"))
    return _run(original, model, watched, *args, **kwargs)


def call_layer(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer, which may hold others; refuse integers that JAX would take for others."""
    if args and isinstance(args[0], np.ndarray | list | tuple | dict) and id_layers_in(layer):
        _check_integers(args[0])
    return original(layer, *args, **kwargs)


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _check_integers(values: Any) -> None:
    """Raise IndexError for integers, among arrays of NumPy's, that JAX would take for others."""
    for part in jax.tree.leaves(values):
        if getattr(part, "dtype", None) in (np.int64, np.uint64, np.uint32):
            check_bits(np.asarray(part))
