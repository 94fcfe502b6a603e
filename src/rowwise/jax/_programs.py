"""A table in a program: lookups, the gradient's way back, and steps.

To a program a token stands for the table: a float32 vector, of which the first number is the
version of the store. A lookup takes the token and a step gives the next one, so that their order is
one of data. The gradient of a token says by how much each backward pass counts: see
native/programs.hpp.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.jax._deferred_errors import DeferredErrors
from rowwise.jax._host_callback import call, call_table, calls_natively
from rowwise.jax._push_rows import push_rows
from rowwise.jax._step_formula import step_formula
from rowwise.rules import Rule
from rowwise.store import in_memory
from rowwise.table import Table

Floats = NDArray[np.float32]

CAPACITY: int = _native.PROGRAM_CAPACITY  # gradients that can wait at once
NO_RULE = "the table has no rule; give one: rowwise.jax.optimizer(dense, rowwise.jax.adam(0.001))"
_orders = itertools.count()


def next_order() -> int:
    """Return a number for a lookup, one more for each that is traced."""
    return next(_orders) % 2**31


class TableInPrograms(DeferredErrors):
    """Mixed into what has a table that programs call.

    Attributes:
        token_size: length of a token.
    """

    _table: Table
    token_size: int

    def serve_programs(self, path: str, frozen_row: int | None = None) -> None:
        """Let new programs call the table, and none that were made before."""
        self.forget_programs(path)
        in_memory(self._table.store).serve(self.program)
        self.program.freeze_row(-1 if frozen_row is None else frozen_row)
        self._rules: list[Rule] = []  # by the number that programs know them by
        self.token_size = CAPACITY + 2  # the version, a place for each gradient, their checksum

    def restore_rule(self) -> None:
        """Give the store the rule that a program has set."""
        changed = self.program.pop_changed_rule()
        if changed >= 0:
            in_memory(self._table.store).rule = self._rules[changed]

    def token(self) -> Any:
        """Return (size,) the version, then zeros: the shape of a gradient."""
        token = np.zeros(self.token_size, np.float32)
        token[0] = self.program.version
        return token

    def number_of(self, rule: Rule) -> int:
        """Return the number by which programs know the table's present rule."""
        if rule not in self._rules:
            self.program.add_rule(rule.native(), **rule.clock(), **step_formula(rule))
            self._rules.append(rule)
        number = self._rules.index(rule)
        self.program.use_rule(number)
        return number

    def check_step_params(self, rate: float, iteration: int) -> None:
        """Refuse a step that the table's rule does not make.

        Raises:
            ValueError: with the number that is out of bounds.
        """
        self._table._step_params(rate, iteration)

    # ------------------------------------------------------ what a program asks for

    def looked_up(self, token: Any, ids: Any) -> Any:
        """Return vectors (..., dim); the gradient of the token says which pass they are."""

        @jax.custom_vjp
        def look(token: Any, ids: Any) -> Any:
            shape = (*ids.shape, self._table.dim)
            return call_table(self, "lookup", shape, np.float32, token, ids)

        order = next_order()

        def backward(batch: Any, gradients: Any) -> Any:
            token, ids = batch
            return self.pushed("push_rows", order, token, ids, gradients), None

        look.defvjp(lambda *batch: (look(*batch), batch), backward)
        return look(token, ids)

    def pooled(self, token: Any, ids: Any, *weights: Any) -> Any:
        """Return sums (..., dim) of rows ids (..., length), with weights of their shape or none."""

        @jax.custom_vjp
        def look(token: Any, ids: Any, *weights: Any) -> Any:
            shape = (*ids.shape[:-1], self._table.dim)
            return call_table(self, "pool", shape, np.float32, token, ids, *weights)

        order = next_order()

        def backward(batch: Any, gradients: Any) -> Any:
            token, ids, *weights = batch
            back = (self, "gradient_of_weights", ids.shape, np.float32, ids, gradients)
            of_weights = [call_table(*back) for _ in weights]
            pushed = self.pushed("push_bags", order, token, ids, gradients, *weights)
            return pushed, None, *of_weights

        look.defvjp(lambda *batch: (look(*batch), batch), backward)
        return look(token, ids, *weights)

    def pushed(self, method: str, order: int, token: Any, *batch: Any) -> Any:
        """Return the gradient of the token, which counts the pass that `method` pushes."""
        # The order is an argument: where nothing is compiled, each pass has one of its own.
        batch = (jnp.int32(order), token, *batch)
        native = self.is_native and calls_natively()
        if method == "push_rows" and native and not self.has_effects:
            return push_rows(self.program.key, self.token_size, *batch)
        return call_table(self, method, (self.token_size,), np.float32, *batch, changes=True)

    def norm(self, weights: Any) -> Any:
        """Return the norm () of the gradients that wait, with these weights."""
        return call_table(self, "norm", (), np.float32, weights)

    def own_rate(self, token: Any) -> Any:
        """Return the learning rate () that the table has when the program runs.

        The next step without a rule is by the table's rule of then.
        """
        return call(self.callback("read_own_rule"), (), np.float32, token)

    def read_own_rule(self, out: Any, token: Any) -> None:
        """Write the table's learning rate, and let programs know its rule."""
        self.restore_rule()
        rule = self._table.rule
        if rule is None:
            raise ValueError(NO_RULE)
        self.number_of(rule)
        out[...] = self._table.learning_rate

    def stepped(
        self,
        rule: Rule | None,
        clipvalue: float | None,
        token: Any,
        weights: Any,
        *numbers: Any,
        after: tuple[Any, ...] = (),
    ) -> Any:
        """Return the token after a step: numbers are (iteration, rate, whether now).

        Without a rule the step is by the table's own, and its rate must come of `own_rate`. The
        step is made when the arrays `after` are there.
        """
        kinds = ("int32", "float32", "bool")
        whole = (jnp.asarray(n, kind) for n, kind in zip(numbers, kinds, strict=True))
        batch = (token, weights, *whole, *after)
        made_with = {
            "rule": -1 if rule is None else self.number_of(rule),
            "clip": -1.0 if clipvalue is None else float(clipvalue),
        }
        return call_table(self, "step", token.shape, np.float32, *batch, changes=True, **made_with)

    def discarded(self, token: Any, waiting: Any) -> Any:
        """Return the token after no step; gradients with a weight in `waiting` wait on."""
        return call_table(self, "discard", token.shape, np.float32, token, waiting, changes=True)
