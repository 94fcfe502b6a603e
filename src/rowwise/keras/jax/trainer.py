"""Where Keras's JAX trainer meets tables: its state holds their tokens, and errors are raised.

Once a program has noted an error, no variable makes a step any more; the trainer raises it, and
nothing has changed.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend.jax.trainer import JAXTrainer

from rowwise.keras.around import around
from rowwise.keras.inputs import layers_of_ids
from rowwise.keras.jax.lookup import check_bits
from rowwise.keras.jax.noting import Noting, Rows, Watch, running, watching
from rowwise.keras.jax.on_table import OnTable, read_as_tokens
from rowwise.keras.jax.variable import TableVariable
from rowwise.keras.keeping import by_rows, go_dense, steppers, tables_of
from rowwise.keras.optimizers import NoRule, check_step, iteration


def _noting_in(model: Any) -> list[Noting]:
    """Whatever of a model's has rows, trained or not, in tables or not."""
    variables = [v for layer in layers_of_ids(model) for v in layer.variables]
    rows = [Rows.of(v) for v in variables if not isinstance(v, TableVariable)]
    return [*tables_of(model), *rows]


def _follows(optimizer: Any, variable: TableVariable) -> bool:
    """Whether the table makes this optimizer's steps; takes up its rule if it had another's."""
    keeper = next((one for one in steppers(optimizer) if one in variable.slots), None)
    if keeper is None or not by_rows(keeper, variable):
        return False
    try:
        check_step(keeper, variable, float(keeper.learning_rate), iteration(keeper))
        _check_all_is_state(optimizer, keeper)
    except NoRule as cause:
        go_dense(variable, cause)
    return variable.lazy


def _check_all_is_state(optimizer: Any, keeper: Any) -> None:
    """Refuses an optimizer that Keras makes to forget something from step to step.

    Raises:
        NoRule: Nadam's product of momentums is lost where another optimizer is around it.
    """
    product = getattr(keeper, "_u_product", None)
    if product is not None and not any(v is product for v in optimizer.variables):
        raise NoRule(f"{optimizer.name} does not keep Nadam's momentum product")


@around(JAXTrainer, "_get_jax_state")
def _state(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    tables = tables_of(self)
    slots: list[OnTable] = []
    if kwargs.get("optimizer_variables"):
        for variable in tables:
            by_keras = variable.trainable and not _follows(self.optimizer, variable)
            variable.in_state_as_array = by_keras
        followed = [v for v in tables if v.trainable and not v.in_state_as_array]
        theirs = [own for v in followed for own in (*v.slots.values(), v.accumulators)]
        known = {id(slot) for own in theirs for slot in own.values()}
        slots = [v for v in self.optimizer.variables if id(v) in known]
        tables = [v for v in tables if not v.in_state_as_array]
    tokens = read_as_tokens.set(frozenset(map(id, (*tables, *slots))))
    try:
        return original(self, *args, **kwargs)
    finally:
        read_as_tokens.reset(tokens)


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _check_integers(values: Any) -> None:
    """Raises IndexError for integers, among arrays of NumPy's, that JAX would take for others."""
    for part in jax.tree.leaves(values):
        if getattr(part, "dtype", None) in (np.int64, np.uint64, np.uint32):
            check_bits(np.asarray(part))


@around(keras.Layer, "__call__")
def _call_layer(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    if args and isinstance(args[0], np.ndarray | list | tuple | dict) and layers_of_ids(self):
        _check_integers(args[0])
    return original(self, *args, **kwargs)


@around(JAXTrainer, "make_train_function")
def _make_train_function(original: Any, self: Any, force: bool = False) -> None:
    own = self.__dict__.get("train_step")  # where it is not the class's
    self.__dict__["train_step"] = _unless_spoilt(self, self.train_step)
    try:
        original(self, force)
    finally:
        del self.__dict__["train_step"]
        if own is not None:
            self.__dict__["train_step"] = own


def _unless_spoilt(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """The training step, which leaves all as it was once an error is noted."""
    watch: Watch | None = None

    def train_step(state: Any, data: Any) -> Any:
        nonlocal watch
        noting = _noting_in(model)
        if not noting:
            return step(state, data)
        watch = watch or Watch(noting)
        before = watching.set(watch)
        try:
            logs, new = step(state, data)
        finally:
            watching.reset(before)
        return logs, _kept(state, new, logs, watch)

    return train_step


def _kept(old: Any, new: Any, logs: Any, watch: Watch) -> Any:
    """The new state, of which what no optimizer steps is the old one if there is an error."""
    if not isinstance(new, tuple) or len(new) != 4:  # somebody's own training step and state
        return new
    _, statistics, _, metrics = new
    good = watch.unspoilt([*jax.tree.leaves(logs), *statistics, *metrics])

    def kept(news: Any, olds: Any) -> Any:
        return [jnp.where(good, n, o) for n, o in zip(news, olds, strict=True)]

    return new[0], kept(statistics, old[1]), new[2], kept(metrics, old[3])


_sync_alone = JAXTrainer.jax_state_sync


@around(JAXTrainer, "jax_state_sync")
def _sync(original: Any, self: Any) -> None:
    """At an epoch's end, and wherever a callback asks: before anybody takes it for a good one."""
    jax.block_until_ready(getattr(self, "_jax_state", None))
    original(self)
    if running.get() and sys.exc_info()[0] is None:  # nothing else is being raised
        raise_errors(_noting_in(self))


def _guarded(original: Any, self: Any, force: bool = False) -> None:
    name = original.__name__.removeprefix("make_")
    before = getattr(self, name)
    original(self, force)
    made: Callable[..., Any] = getattr(self, name)
    noting = _noting_in(self)
    if made is before or not noting:
        return

    def function(state: Any, batches: Any) -> Any:
        try:
            if any(own.errors for own in noting):
                jax.block_until_ready(state)  # no program runs that would find no error any more
            raise_errors(noting)
            several = list(itertools.islice(batches, self.steps_per_execution))
            for batch in several:
                _check_integers(_inputs_of(batch))
            return made(state, iter(several))
        except BaseException:
            _keep_state(self, state)
            raise

    setattr(self, name, function)


def _keep_state(model: Any, state: Any) -> None:
    """Gives the model's variables back a state that no program has used up."""
    arrays = jax.tree.leaves(state)
    if not model._jax_state_synced and not any(array.is_deleted() for array in arrays):
        names = {
            4: ("trainable", "non_trainable", "optimizer", "metrics"),
            3: ("trainable", "non_trainable", "metrics"),
            2: ("trainable", "non_trainable"),
        }[len(state)]
        model._jax_state = {f"{n}_variables": part for n, part in zip(names, state, strict=True)}
        _sync_alone(model)


def raise_errors(noting: list[Noting]) -> None:
    """Raises what a program has noted, once."""
    errors = []
    for own in noting:
        errors += own.errors
        own.errors.clear()
    if errors:
        raise errors[0]


def _finished(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    if self.built and _noting_in(self) and original.__name__.endswith("_on_batch"):
        _check_integers(args[0] if args else kwargs.get("x"))
    outermost, before = not running.get(), running.set(True)
    try:
        result = original(self, *args, **kwargs)
    except BaseException:
        if outermost:  # what programs noted was of this call
            for own in _noting_in(self):
                own.errors.clear()
        raise
    finally:
        running.reset(before)
    if noting := _noting_in(self):
        jax.effects_barrier()
        raise_errors(noting)
    return result


for _method in ("train", "test", "predict"):
    around(JAXTrainer, f"make_{_method}_function")(_guarded)
    around(JAXTrainer, f"{_method}_on_batch")(_finished)
for _method in ("fit", "evaluate", "predict"):
    around(JAXTrainer, _method)(_finished)
