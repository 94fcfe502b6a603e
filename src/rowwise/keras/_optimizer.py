"""Keras's optimizers and tables: which rule a table follows, and the methods of a sparse step.

An optimizer whose `build` meets a table becomes an instance of its own class with a mixin before
it (`mix_in`). Other optimizers run Keras's own code, untouched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import keras
from keras import ops
from keras.src import api_export
from keras.src.backend import in_stateless_scope
from keras.src.saving import object_registration

from rowwise import rules
from rowwise._binding import DenseFallback
from rowwise._checks import check_learning_rate
from rowwise.keras._gradients import SparseGradient
from rowwise.keras._scopes import uncast_value
from rowwise.keras._variable import TableVariableBase, variable_of
from rowwise.rules import Rule

# ---------------------------------------------------------------------- the rule of an optimizer

# The arguments of a Keras optimizer that its rule takes, by the names both have.
RULE_ARGUMENTS = {
    "SGD": ("momentum", "nesterov"),
    "RMSprop": ("rho", "momentum", "epsilon", "centered"),
    "Adagrad": ("initial_accumulator_value", "epsilon"),
    "RowwiseAdagrad": ("initial_accumulator_value", "epsilon"),
    "Adadelta": ("rho", "epsilon"),
    "Adam": ("beta_1", "beta_2", "epsilon", "amsgrad"),
    "AdamW": ("beta_1", "beta_2", "epsilon", "amsgrad"),
    "Adamax": ("beta_1", "beta_2", "epsilon"),
    "Nadam": ("beta_1", "beta_2", "epsilon"),
    "Lion": ("beta_1", "beta_2"),
    "Ftrl": (
        "learning_rate_power",
        "initial_accumulator_value",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "beta",
    ),
}

# Options that need the whole table at every step.
_DENSE_OPTIONS = ("use_ema", "l2_shrinkage_regularization_strength")

_read_options = {
    name: attrgetter(
        "use_ema",
        "weight_decay",
        *arguments,
        *(_DENSE_OPTIONS[1:] if name == "Ftrl" else ()),
    )
    for name, arguments in RULE_ARGUMENTS.items()
}


def rule_of(optimizer: Any, variable: Any) -> Rule:
    """Return the rule by which `optimizer` updates the table behind `variable`.

    Raises:
        DenseFallback: Keras has to make the steps itself.
    """
    name = type(optimizer).__name__
    # A user's subclass may override the step: only classes of Keras and of rowwise have a rule.
    known = type(optimizer).__module__.startswith(("keras.", "rowwise."))
    if name not in RULE_ARGUMENTS or not known:
        raise DenseFallback(f"the optimizer {name} has no exact lazy update")
    for option in _DENSE_OPTIONS:
        if getattr(optimizer, option, None):
            raise DenseFallback(
                f"{name}({option}={getattr(optimizer, option)!r}) needs every row at every step"
            )
    if variable.constraint is not None:
        raise DenseFallback("embeddings_constraint applies to every row at every step")
    decays = optimizer.weight_decay and optimizer._use_weight_decay(variable)
    try:
        rule: Rule = getattr(rules, name)(
            # The step's own rate comes with the step: it may follow a schedule.
            learning_rate=0.0,
            weight_decay=float(optimizer.weight_decay) if decays else None,
            **{argument: getattr(optimizer, argument) for argument in RULE_ARGUMENTS[name]},
        )
    except (TypeError, ValueError) as error:
        raise DenseFallback(f"{name}: {error}") from error
    if isinstance(rule, rules.Nadam) and hasattr(optimizer, "_u_product"):
        _check_momentum_product(optimizer, variable, rule)
    return rule


def check_step(rule: Rule, rate: float, number: int) -> None:
    """Refuse a step that the rule cannot make lazily.

    Raises:
        DenseFallback: because of its learning rate, or of its number.
    """
    try:
        rule.step_scales(check_learning_rate(rate), number)
    except ValueError as cause:
        raise DenseFallback(f"{cause}") from cause


def _check_momentum_product(optimizer: Any, variable: Any, rule: rules.Nadam) -> None:
    """Refuse a product of momentums that is not the one of the count of iterations."""
    if variable.rounding is not None:  # Keras keeps the product in 16 bits, the rule does not
        return
    product = variable.read_scalar(lambda: optimizer._u_product)
    iterations = variable.read_scalar(lambda: optimizer.iterations)
    if product is None or iterations is None:  # a program is still making them
        return
    expected = rule.momentum_product(int(iterations))
    if not math.isclose(product, expected, rel_tol=1e-3, abs_tol=1e-6):
        raise DenseFallback(
            f"its momentum product is {product:g}, where its iterations make {expected:g}"
        )


def next_iteration(optimizer: Any) -> int:
    """Return the number of the step about to be made, counted from 1."""
    return int(optimizer.iterations) + 1


# ---------------------------------------------------------------------- binding


def is_wrapper(optimizer: Any) -> bool:
    """Return whether the optimizer only hands gradients on to others."""
    return hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")


def inner_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers that make an optimizer's steps: itself, unless it is a wrapper."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return inner_optimizers(inner)
    several = getattr(optimizer, "optimizers", None)
    return [optimizer] if several is None else [s for one in several for s in inner_optimizers(one)]


def ensure_bound(optimizer: Any, variable: TableVariableBase) -> bool:
    """Bind the table to the optimizer, if it is another's; return whether its steps are sparse."""
    binding = variable.binding
    if binding.owner is not optimizer:
        _bind(optimizer, variable)
    elif binding.mode == "sparse":
        _follow_options(optimizer, variable)
    return binding.mode == "sparse"


def _bind(optimizer: Any, variable: TableVariableBase) -> None:
    """Give the table the optimizer's rule, with the slots it had here before, or new ones.

    Raises:
        ValueError: it had slots on a disk before, which are gone; or the table takes no dense
            steps, and the optimizer needs them. Nothing has changed then.
    """
    slots = variable.slots.get(optimizer, {})
    if slots and variable.on_disk:
        raise ValueError(
            f"{variable.path}: the slots of the optimizer {optimizer.name!r} lay on the disk, and "
            "went when the rows got another's; compile the model with a new optimizer"
        )
    values = {name: slot.numpy() for name, slot in slots.items()}
    try:
        variable.check_supported(optimizer)
        rule = rule_of(optimizer, variable)
        if optimizer.built and set(rule.slot_names) != set(slots):
            raise DenseFallback("its slots were made for dense steps")
    except DenseFallback as reason:
        variable.fall_back_to_dense(reason)
        variable.binding.attach(optimizer, "dense")
        variable.slots[optimizer] = slots
        return
    variable.detach_slots(optimizer)
    variable.slots[optimizer] = slots
    if variable.regularizer is not None:  # a sparse step like any other, but of all rows
        cause = "embeddings_regularizer gives every row a gradient"
        variable.binding.warn(cause, rows=variable.shape[0], name=variable.path, stacklevel=3)
    table = variable.table
    table.rule = rule
    variable.binding.attach(optimizer, "sparse")
    variable.options = None
    for name, array in values.items():
        table.store.write_slot(name, array)
        slots[name].rebind(table)


def _follow_options(optimizer: Any, variable: TableVariableBase) -> None:
    """Take over hyperparameters that somebody has changed since the last step."""
    options = _read_options[type(optimizer).__name__](optimizer)
    unchanged = options == variable.options and variable.constraint is None
    if unchanged and not hasattr(optimizer, "_u_product"):
        return
    try:
        rule = rule_of(optimizer, variable)
        if rule.slot_names != variable.table.slot_names:
            raise DenseFallback(f"the optimizer became {rule} in mid-training")
    except DenseFallback as reason:
        variable.fall_back_to_dense(reason)
        return
    if rule != variable.table.rule:
        variable.table.set_hyperparameters(rule)
    variable.options = options


def is_sparse_step(variable: Any) -> bool:
    """Return whether the table makes the step that is being made, of no caller's state."""
    return (
        isinstance(variable, TableVariableBase)
        and variable.binding.mode == "sparse"
        and not in_stateless_scope()
    )


# ---------------------------------------------------------------------- mixing in


def mix_in(optimizer: Any, mixin: type, wrapper_mixin: type) -> None:
    """Put a mixin before the class of an optimizer; `wrapper_mixin` if it scales losses.

    For Keras, and in files, the class keeps its name.
    """
    own = type(optimizer)
    if not issubclass(own, TableOptimizer):
        scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        mixed = _mixed(wrapper_mixin if scales_loss else mixin, own)
        object.__setattr__(optimizer, "__class__", mixed)


_mixed_classes: dict[tuple[type, type], type] = {}


def _mixed(mixin: type, own: type) -> type:
    if (mixin, own) in _mixed_classes:
        return _mixed_classes[mixin, own]
    names = ("__module__", "__qualname__", "__doc__")
    mixed = type(own.__name__, (mixin, own), {name: getattr(own, name) for name in names})
    for registry in (api_export.REGISTERED_OBJS_TO_NAMES, object_registration.GLOBAL_CUSTOM_NAMES):
        if own in registry:
            registry[mixed] = registry[own]
    return _mixed_classes.setdefault((mixin, own), mixed)


class _KerasOptimizer:
    """The methods of a Keras optimizer that mixins call, for the type checker."""

    name: str
    built: bool
    gradient_accumulation_steps: int | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    iterations: Any
    learning_rate: Any
    _learning_rate: Any
    weight_decay: float | None
    _iterations: Any
    _accumulated_gradients: list[Any]
    _trainable_variables: list[Any]


class TableOptimizer(_KerasOptimizer):
    """Methods of an optimizer that steps tables, on every backend."""

    def __reduce__(self) -> Any:
        # Keras's method of the class that unpickles. Pickle finds classes by name, and this one has
        # the name of Keras's own.
        reduced: Any = super().__reduce__()
        unpickle, arguments = reduced
        own: Any = type(self).__bases__[1]
        return getattr(own, unpickle.__name__), arguments

    def add_variable_from_reference(
        self, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> Any:
        """Add a variable; a table's slots and sums of gradients lie with the table."""
        variable: Any = variable_of(reference_variable)
        sparse = (
            isinstance(variable, TableVariableBase)
            and not is_wrapper(self)
            and ensure_bound(self, variable)
        )
        if not sparse or name not in (*variable.table.slot_names, "gradient_accumulator"):
            add = super().add_variable_from_reference  # type: ignore[misc]
            return add(variable, name=name, initializer=initializer)
        full_name = f"{variable.path.replace('/', '_')}_{name}"
        with keras.name_scope(self.name, caller=self):
            if name == "gradient_accumulator":
                own = variable.accumulators[self] = variable.make_accumulator(full_name)
            else:
                own = variable.slots[self][name] = variable.make_slot(name, full_name)
        self._track_variable(own)  # type: ignore[attr-defined]
        return own

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        frozen = read_frozen_rows(self._trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]
        restore_frozen_rows(frozen)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Set the final values of variables, as `use_ema` asks for."""
        frozen = read_frozen_rows(var_list)
        super().finalize_variable_values(var_list)  # type: ignore[misc]
        restore_frozen_rows(frozen)


class SparseGradientOptimizer(TableOptimizer):
    """Methods of an optimizer that gets a table's gradient as ids and values: torch, TensorFlow."""

    def read_gradient(self, variable: Any, gradient: Any) -> Any:
        """Return a table's gradient for this step: sparse, dense, or None if it is to wait."""
        raise NotImplementedError

    def step_table(self, variable: Any, gradient: SparseGradient, learning_rate: Any) -> Any:
        """Make a table's sparse step; return None, or the dense gradient if Keras has to step."""
        raise NotImplementedError

    # The first method of a step that is given the gradients.
    def _overwrite_variables_directly_with_gradients(self, grads: Any, vars: Any) -> Any:
        gradients, variables = [], []
        for gradient, variable in zip(grads, map(variable_of, vars), strict=True):
            if isinstance(variable, TableVariableBase):
                gradient = self.read_gradient(variable, gradient)
            if gradient is not None:
                gradients.append(gradient)
                variables.append(variable)
        if self.gradient_accumulation_steps:
            self._install_zero_accumulators()
        overwrite = super()._overwrite_variables_directly_with_gradients  # type: ignore[misc]
        return overwrite(gradients, variables)

    def _install_zero_accumulators(self) -> None:
        """Let Keras add zero to gradients in which a table's sums are already."""
        for index, variable in enumerate(self._trainable_variables):
            if isinstance(variable, TableVariableBase) and self in variable.accumulators:
                sums = variable.accumulators[self]
                own = is_sparse_step(variable) and variable.binding.owner is self
                self._accumulated_gradients[index] = sums.zero if own else sums

    def _clips(self) -> bool:
        return bool(self.clipnorm or self.global_clipnorm or self.clipvalue)

    def _clip_gradients(self, grads: Any) -> Any:
        if not self._clips():
            return grads
        plain = [g.values if isinstance(g, SparseGradient) else g for g in grads]
        clipped = super()._clip_gradients(plain)  # type: ignore[misc]
        return [
            g.with_values(c) if isinstance(g, SparseGradient) else c
            for g, c in zip(grads, clipped, strict=True)
        ]

    def _apply_weight_decay(self, variables: Any) -> None:
        if self.weight_decay is None:
            return
        rest = [v for v in variables if not is_sparse_step(v)]  # the rules of the others decay
        if rest:
            super()._apply_weight_decay(rest)  # type: ignore[misc]

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        gradients, variables = [], []
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if isinstance(gradient, SparseGradient):
                gradient = self.step_table(variable, gradient, learning_rate)
            if gradient is not None:
                gradients.append(gradient)
                variables.append(variable)
        self.step_others(gradients, variables, learning_rate)

    def step_others(self, grads: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Make the step of the variables that are no tables; there may be none."""
        super()._backend_update_step(grads, variables, learning_rate)  # type: ignore[misc]

    def _backend_increment_gradient_accumulators(self, grads: Any, acc_grads: Any) -> None:
        pairs = zip(grads, acc_grads, strict=True)
        rest = [(g, sums) for g, sums in pairs if not isinstance(g, SparseGradient)]
        increment = super()._backend_increment_gradient_accumulators  # type: ignore[misc]
        increment([g for g, _ in rest], [sums for _, sums in rest])

    def _backend_reset_gradient_accumulators(self) -> None:
        super()._backend_reset_gradient_accumulators()  # type: ignore[misc]
        for variable in self._trainable_variables:
            if isinstance(variable, TableVariableBase) and self in variable.accumulators:
                variable.accumulators[self].clear()


# ---------------------------------------------------------------------- frozen rows


class FrozenRowConstraint(keras.constraints.Constraint):
    """A constraint on every row of a variable but one."""

    def __init__(self, constraint: Any, row: int) -> None:
        self.constraint, self.row = constraint, row

    def __call__(self, value: Any) -> Any:
        """Return the constrained value, the row as it was."""
        value = ops.convert_to_tensor(value)
        return ops.scatter_update(self.constraint(value), [[self.row]], value[self.row][None])


def freeze_row(variable: Any, row: int) -> None:
    """Let training leave row `row` of a variable (V, D) as it is, from now on.

    Its gradients are dropped where they arise (`lookup`), and sparse steps keep it. A dense step
    may still move it, by decay, by a regularizer, by averaging: then it is put back.
    """
    variable.frozen_row = row
    if variable.constraint is not None:
        variable.constraint = FrozenRowConstraint(variable.constraint, row)


def read_frozen_rows(variables: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return the variables with a frozen row that Keras may step, each with that row (D,)."""
    rows = []
    for v in variables:
        # A table that a token stands for is stepped on the host.
        if (
            getattr(v, "frozen_row", None) is not None
            and not getattr(v, "holds_token", False)
            and not is_sparse_step(v)
        ):
            rows.append((v, ops.stop_gradient(ops.copy(uncast_value(v)[v.frozen_row]))))
    return rows


def restore_frozen_rows(rows: list[tuple[Any, Any]]) -> None:
    """Put rows back that `read_frozen_rows` returned."""
    for variable, row in rows:
        value = ops.stop_gradient(uncast_value(variable))
        variable.assign(ops.scatter_update(value, [[variable.frozen_row]], row[None]))
