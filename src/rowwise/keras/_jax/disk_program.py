"""A table on a disk as JAX's programs call it: by way of Python, on the programs' own arrays.

The calls, what they write and how gradients wait for their step are those of native/programs.hpp,
and so are the bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._untrained import Untrained, fill_untrained
from rowwise.jax._host_callback import call_from_python
from rowwise.keras._gradients import exclude_row
from rowwise.keras._ids import validate_ids_in_range
from rowwise.rules import Rule
from rowwise.store import Bags, RowGradient
from rowwise.store._locks import new_lock
from rowwise.table import Table

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

UNTRAINED: tuple[Untrained, ...] = ("zeros", "mean", "error")  # as native/programs.hpp counts them
_VERSIONS = 1 << 24  # a float32 counts no further
_WHOLE = np.float32(_native.PROGRAM_WHOLE)
_LARGEST = _native.PROGRAM_WHOLE * 2.0**30  # of a weight


class _Pass(NamedTuple):
    """The gradients of a backward pass, by distinct ids; the lowest order is summed first."""

    order: tuple[int, int]
    ids: Ids
    values: Floats
    share: np.float32  # of the checksum


class DiskProgram:
    """Answer the calls of programs to a table on a disk, as `_native.Program` does in memory.

    Attributes:
        errors: of calls, until whoever runs the programs raises them.
    """

    def __init__(self, flags: _native.Program, path: str, table: Table) -> None:
        self._flags = flags  # by whose key programs ask whether a call has failed
        self._path, self._table = path, table
        self.errors: list[Exception] = []
        self._rules: list[Rule] = []
        self._frozen_row: int | None = None
        self._lock = new_lock()  # of what follows: a program calls from several threads
        self._passes: dict[int, _Pass] = {}  # by place
        self._held: list[int] = []
        self._pushed = 0

    # ------------------------------------------------------------------ by the variable

    @property
    def key(self) -> int:
        """The key by which programs ask for failures."""
        return self._flags.key

    @property
    def lasting_key(self) -> int:
        """The key for programs whose errors nobody pops."""
        return self._flags.lasting_key

    @property
    def version(self) -> int:
        """The table's version, in the whole numbers of a float32."""
        return self._table.store.version % _VERSIONS

    @property
    def failed(self) -> bool:
        """Whether a call has failed, or `fail` was called."""
        return self._flags.failed

    def fail(self) -> None:
        """Let calls write zeros, as after a failure."""
        self._flags.fail()

    def pop_failures(self) -> list[Any]:
        """Let calls work again. Return no failures: they are in `errors`."""
        return self._flags.pop_failures()

    def pop_changed_rule(self) -> int:
        """Return -1: a step gives its rule to the table itself."""
        return -1

    def freeze_row(self, row: int) -> None:
        """Let steps leave a row as it is; -1: none."""
        self._frozen_row = None if row < 0 else row

    def number_of(self, rule: Rule) -> int:
        """Return the number by which programs know a rule."""
        if rule not in self._rules:
            self._rules.append(rule)
        return self._rules.index(rule)

    def push(self, order: int, ids: Ids, gradients: Floats) -> tuple[int, np.float32]:
        """Keep gradients (n, dim) of distinct rows ids (n,); return their place and checksum.

        Raises:
            RuntimeError: too many wait.
        """
        ids, gradients = exclude_row(self._frozen_row, ids, gradients)
        capacity = _native.PROGRAM_CAPACITY
        with self._lock:
            if len(self._passes) == capacity:
                raise RuntimeError(
                    f"{self._path}: the gradients of {capacity} lookups wait for a step; apply "
                    "them first, or look rows up without taking gradients"
                )
            while 1 + self._pushed % capacity in self._passes:
                self._pushed += 1
            place = 1 + self._pushed % capacity
            self._pushed += 1
            share = _share_of(self.key, self._pushed)
            self._passes[place] = _Pass((order, self._pushed), ids, gradients, share)
        return place, _WHOLE * share

    def summed(self, weights: Floats, dim: int) -> tuple[Ids, Floats]:
        """Return the gradients that wait, weighted by (size,): distinct ids (m,), sums (m, dim)."""
        return self._weighted(weights, distinct=True)

    def hold(self, places: list[int]) -> None:
        """Leave the gradients at these places waiting, after a step too."""
        self._held = places

    def clear(self) -> None:
        """Drop all gradients that wait."""
        with self._lock:
            self._passes.clear()

    # ------------------------------------------------------------------ by programs

    def call(
        self, method: str, out: Any, *arrays: Any, raises: bool = False, **made_with: Any
    ) -> None:
        """Call a method below; once a call has failed, tokens stay and all else is zeros.

        With `raises` an error ends the program instead.
        """
        if raises:
            getattr(self, method)(out, *arrays, **made_with)
            return
        try:
            if not self.failed or method in ("step", "discard"):
                getattr(self, method)(out, *arrays, **made_with)
        except Exception as error:
            self.errors.append(error)
            self.fail()
        if not self.failed:
            return
        if method == "step":
            self._write_token(out)
        elif method != "discard":
            out[...] = 0

    def no_errors(self, out: Any, *arrays: Any, keys: tuple[int, ...]) -> None:
        """Write whether no program of `keys` has failed; the arrays only come first."""
        call_from_python(self._flags, "no_errors", [("keys", list(keys))], out, arrays)

    def validate(self, out: Any, ids: Any) -> None:
        """Write ids (...,) int32, all of them rows."""
        out[...] = self._row_ids(ids)

    def lookup(self, out: Floats, token: Floats, ids: Any) -> None:
        """Write vectors (..., dim) of rows ids (...,)."""
        self._check_version(token)
        self.lookup_now(out, ids)

    def lookup_now(self, out: Floats, ids: Any) -> None:
        """Write vectors (..., dim) of rows ids (...,), for whoever has no token."""
        self._table.store.gather(_repeated(self._row_ids(ids), out.shape[:-1]), out)

    def fill_untrained(self, out: Any, ids: Any, vectors: Any, *, untrained: int) -> None:
        """Write vectors (..., dim) of rows ids (...,), those of untrained rows replaced."""
        out[...] = vectors
        ids = _repeated(self._row_ids(ids), out.shape[:-1])
        fill_untrained(self._table.store, ids, out, UNTRAINED[untrained])

    def pool(self, out: Floats, token: Floats, ids: Any, weights: Any = None) -> None:
        """Write weighted sums (..., dim) of rows ids (..., length)."""
        self._check_version(token)
        shape = (*out.shape[:-1], ids.shape[-1])
        bags = self._bags(ids, weights, shape)
        self._table.store.gather_bags(bags, out.reshape(-1, out.shape[-1]))

    def gradient_of_weights(self, out: Floats, ids: Any, gradients: Any) -> None:
        """Write the gradients (..., length) of weights, from those (..., dim) of the bags."""
        bags = self._bags(ids, None, out.shape)
        of_bags = _repeated(_floats(gradients), (*out.shape[:-1], self._table.dim))
        values = self._table.store.bag_weight_gradient(bags, of_bags.reshape(-1, self._table.dim))
        out[...] = values.reshape(out.shape)

    def push_rows(self, out: Floats, order: Any, token: Floats, ids: Any, gradients: Any) -> None:
        """Write the gradient of the token, which counts the gradients (..., dim) of rows ids."""
        self._check_version(token)
        rows = self._row_ids(ids).reshape(-1)
        self._push_sums(out, order, RowGradient(rows, self._by_row(gradients)))

    def push_bags(
        self, out: Floats, order: Any, token: Floats, ids: Any, gradients: Any, weights: Any = None
    ) -> None:
        """Write the gradient of the token, which counts the gradients (..., dim) of bags."""
        self._check_version(token)
        bags = self._bags(ids, weights, ids.shape)
        gradient = self._table.store.bag_gradient(bags, self._by_row(gradients))
        self._push_sums(out, order, gradient)

    def norm(self, out: Floats, weights: Floats) -> None:
        """Write the norm () of the gradients that wait, with these weights."""
        _, values = self._weighted(weights, distinct=True)
        squares = np.square(values.reshape(-1), dtype=np.float64)
        out[...] = np.sqrt(np.cumsum(squares)[-1]) if squares.size else 0  # added up in order

    def finite(self, out: Floats, weights: Floats) -> None:
        """Write 1 (), or NaN if a gradient that waits is not finite."""
        _, values = self._weighted(weights, distinct=True)
        out[...] = 1 if np.isfinite(values).all() else np.nan

    def step(
        self,
        out: Floats,
        token: Floats,
        weights: Floats,
        iteration: Any,
        rate: Any,
        now: Any,
        *,
        rule: int,
        clip: float,
    ) -> None:
        """Write the token after a step, if it is to be made now."""
        if now and not self.failed:
            self._check_version(token)
            ids, values = self._weighted(weights, distinct=clip >= 0)
            if clip >= 0:
                values = np.clip(values, -np.float32(clip), np.float32(clip))  # a NaN stays
            if self._rules[rule] != self._table.rule:
                self._table.set_hyperparameters(self._rules[rule])
            self._table.apply(
                RowGradient(ids, values),
                float(rate),
                iteration=int(iteration),
                frozen_row=self._frozen_row,
            )
            self._clear_but(np.zeros(0))  # and with them those that nobody applied
        self._write_token(out)

    def discard(self, out: Floats, token: Floats, waiting: Any) -> None:
        """Write the token; gradients with a weight in `waiting` wait on."""
        out[...] = token
        self._clear_but(waiting)

    # ------------------------------------------------------------------ inner parts

    def _write_token(self, out: Floats) -> None:
        out[...] = 0
        out[0] = self.version

    def _check_version(self, token: Floats) -> None:
        versions = token[..., 0]
        if token.dtype != np.float32 or token[..., 1:].any():
            raise RuntimeError(
                f"{self._path}: the train_step of this model has changed the state of this table, "
                "which is a token on JAX; optimizer.stateless_apply alone steps it. Look rows up "
                "in what it gave, or use keras.layers.Embedding"
            )
        if (versions != self.version).any():
            raise RuntimeError(
                f"{self._path}: the state given is that of version {int(versions.flat[0])} and the "
                f"table is at {self.version}; a table has one state, the present one"
            )

    def _row_ids(self, ids: Any) -> Ids:
        return validate_ids_in_range(ids, self._table.rows)

    def _by_row(self, gradients: Any) -> Floats:
        return _floats(gradients).reshape(-1, self._table.dim)

    def _bags(self, ids: Any, weights: Any, shape: tuple[int, ...]) -> Bags:
        of_each = None if weights is None else _repeated(_floats(weights), shape).reshape(-1)
        return Bags.of_last_axis(_repeated(self._row_ids(ids), shape), of_each)

    def _push_sums(self, out: Floats, order: Any, gradient: Any) -> None:
        store: Any = self._table.store
        summed = store.coalesce(gradient)
        with self._lock:
            waiting = [one.ids for one in self._passes.values()]
        store.check_batch(np.concatenate([summed.ids, *waiting]))  # before any variable moves
        finite = np.isfinite(summed.values).all()
        place, checksum = self.push(int(order), summed.ids, summed.values)
        out[...] = 0
        out[place], out[-1] = _WHOLE, checksum if finite else np.nan

    def _weighted(self, weights: Floats, *, distinct: bool) -> tuple[Ids, Floats]:
        """Return the gradients that wait, each weighted, in order: ids (n,), values (n, dim).

        Raises:
            RuntimeError: there are weights of gradients that do not wait any more, or weights that
                are no weighted sum of what passes gave.
        """
        with self._lock:
            places = [1 + int(i) for i in np.flatnonzero(weights[1:-1])]  # a NaN is not zero
            missing = sum(place not in self._passes for place in places)
            if missing:
                raise RuntimeError(
                    f"{self._path}: {missing} of the gradients to be applied were computed before "
                    "the table's last step; a table keeps gradients for one step. (Or the "
                    "train_step has added something to the gradient of this table, which is a "
                    "token on JAX)"
                )
            used = sorted((self._passes[place].order, place) for place in places)
            passes = [(self._passes[place], float(weights[place])) for _, place in used]
        self._check_weights(weights, passes)
        parts = [(one.ids, _scaled(one.values, weight / float(_WHOLE))) for one, weight in passes]
        if len(parts) == 1:
            return parts[0]
        none = np.empty((0, self._table.dim), np.float32)
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in parts)])
        values = np.concatenate([none, *(values for _, values in parts)])
        if not distinct or not ids.size:
            return ids, values
        summed = self._table.store.coalesce(RowGradient(ids, values))
        return summed.ids, summed.values

    def _check_weights(self, weights: Floats, passes: list[tuple[_Pass, float]]) -> None:
        expected = sum(weight * float(one.share) for one, weight in passes)
        size, given = sum(abs(weight) for _, weight in passes), float(weights[-1])
        lost = math.isnan(given) or math.isnan(expected)
        linear = lost or abs(given - expected) <= size * 2.0**-14
        too_large = any(abs(weight) > _LARGEST for _, weight in passes)
        if weights[0] != 0 or too_large or not linear:
            raise RuntimeError(
                f"{self._path}: the train_step of this model has changed the gradient of this "
                "table, which is a token on JAX, and not by a factor of 2^-30 to 2^30 or a sum "
                "alone. Clip with the optimizer's clipnorm, clipvalue or global_clipnorm, and let "
                "its weight_decay decay; or use keras.layers.Embedding"
            )

    def _clear_but(self, weights: Any) -> None:
        """Drop gradients but for those held and those with a weight."""
        with self._lock:
            kept = {*self._held, *np.flatnonzero(weights).tolist()}
            self._passes = {place: one for place, one in self._passes.items() if place in kept}


def _share_of(key: int, pushed: int) -> np.float32:
    """Return the share of the checksum that pass `pushed` of program `key` has, in [1/2, 1)."""
    mixed = (pushed * 0x9E3779B97F4A7C15 + key * 0xBF58476D1CE4E5B9) % 2**64
    return np.float32(0.5 + (mixed >> 41) * 2.0**-24)


def _floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, np.float32)


def _repeated(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values of this shape: `jax.vmap` leaves out what is the same for a whole batch."""
    return values if values.shape == shape else np.ascontiguousarray(np.broadcast_to(values, shape))


def _scaled(values: Floats, factor: float) -> Floats:
    # In float64: float32 may not have the factor.
    return values if factor == 1 else (values.astype(np.float64) * factor).astype(np.float32)
