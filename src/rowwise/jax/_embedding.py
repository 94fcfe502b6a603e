"""A table for programs of JAX: lookups by a token that lives among the parameters."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rowwise import _native
from rowwise._checks import positive
from rowwise._ids import as_ids, check_range
from rowwise._init import Init
from rowwise.jax._programs import CAPACITY, NO_RULE, TableInPrograms
from rowwise.rules import Rule
from rowwise.store import in_memory
from rowwise.table import Table


@dataclass(frozen=True)
class Token:
    """Stand for a table among the parameters of a model.

    A pytree with one leaf, which JAX differentiates, and `rowwise.jax.optimizer` steps.

    Attributes:
        version: (size,) float32: the version of the table, zeros, a checksum. Of a gradient: by how
            much each backward pass counts.
        embedding: the table's `Embedding`, no leaf.
    """

    version: jax.Array
    embedding: Embedding

    def __repr__(self) -> str:
        return f"Token of {self.embedding!r}"


class Embedding(TableInPrograms):
    """Rows of vectors on the host that programs of JAX look up and train, lazy and exact.

    The rows lie in a `rowwise.Table`, outside of JAX's arrays. A `Token` stands for them in the
    parameters. A step of `rowwise.jax.optimizer` changes the rows of its batch in place and gives
    the next token; tokens of before are errors from then on.

    An `Embedding` is static for `jax.jit`: close over it, or let a module hold it.

    Args:
        num_embeddings: number of rows, V; ids are 0..V-1.
        features: length of a row's vector, D.
        init, seed: what the rows start with, see `rowwise.Table`.
        table: a `rowwise.Table` to take instead of a new one; its weights may have 16 bits.
        frozen_row: a row that training leaves as it is, for padding.
        pending: how many lookups' gradients wait for a step at once; of more, the oldest are
            dropped, and an error if a step is to apply them. Accumulating over n batches, or a
            `jax.vmap` of gradients over n examples, needs n for each lookup.

    Raises:
        ValueError: see `rowwise.Table`; frozen_row or pending outside its bounds; a table that
            another `Embedding` has.
        TypeError: neither a table nor a shape, or both.

    Example:
        >>> embedding = Embedding(5, 2, init="zeros")
        >>> params = {"rows": embedding.token()}
        >>> embedding(params["rows"], jnp.array([[4, 1, 4]])).shape
        (1, 3, 2)
    """

    def __init__(
        self,
        num_embeddings: int | None = None,
        features: int | None = None,
        *,
        init: Init = "uniform",
        seed: int | None = None,
        table: Table | None = None,
        frozen_row: int | None = None,
        pending: int = 128,
    ) -> None:
        if (num_embeddings is None) == (table is None) or (features is None) == (table is None):
            raise TypeError("give num_embeddings and features, or table=")
        if table is None:
            assert num_embeddings is not None
            assert features is not None
            table = Table(num_embeddings, features, init=init, seed=seed)
        if positive("pending", pending) > CAPACITY:
            raise ValueError(f"pending={pending} is above the limit of {CAPACITY}")
        if frozen_row is not None and not 0 <= frozen_row < table.rows:
            raise ValueError(f"frozen_row={frozen_row} is outside 0..{table.rows - 1}")
        if in_memory(table.store).program is not None:
            raise ValueError("the table is another embedding's; use that one")
        self._begin(table, frozen_row, pending)
        # No token of another run, or of another table, is taken for one of this table's.
        in_memory(table.store).version += int.from_bytes(os.urandom(3)) >> 4

    has_effects = True  # nobody but JAX knows which programs are running

    def _begin(self, table: Table, frozen_row: int | None, pending: int) -> None:
        self._table, self._frozen_row, self._pending = table, frozen_row, pending
        self.serve_programs(f"rowwise.jax.Embedding{table.shape}", frozen_row)
        self.program.be_strict(pending)
        self.token_size = pending + 2  # the version, a place for each gradient, their checksum

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(V, D)."""
        return self._table.shape

    @property
    def table(self) -> Table:
        """The table, all steps made that were asked for."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # whoever runs the program gets it
            jax.effects_barrier()
        self.restore_rule()
        return self._table

    def token(self) -> Token:  # type: ignore[override]
        """Return the token of the table as it is now."""
        store = in_memory(self.table.store)
        if store.program is not self.program:  # it is another than before
            store.version += self.program.version + 1
            store.serve(self.program)
        version = super().token()
        version[-1] = version[0] % _native.PROGRAM_TURNS
        return Token(jnp.asarray(version), self)

    def load(self, path: str | os.PathLike[str]) -> Token:
        """Go on with the table of a file that `Table.save` wrote; return its token.

        Raises:
            OSError, ValueError: see `rowwise.Table.load`; vectors of another length, or no
                frozen_row. Nothing has changed.
        """
        table = Table.load(path)
        if table.dim != self.shape[1]:
            raise ValueError(f"{path} has vectors of {table.dim} numbers, not {self.shape[1]}")
        if self._frozen_row is not None and self._frozen_row >= table.rows:
            raise ValueError(
                f"{path} has {table.rows} rows (0..{table.rows - 1}), and frozen_row="
                f"{self._frozen_row} is none of them; load it into an Embedding with another "
                "frozen_row"
            )
        assert self.table  # no step is being made
        self._table = table
        return self.token()

    def use_rule(self, rule: Rule | None) -> Rule:
        """Let programs step the table by a rule, None for its own; return it.

        Raises:
            ValueError: the table has none; or it has made steps by one with other slots.
        """
        table = self.table
        if rule is None:
            if table.rule is None:
                raise ValueError(NO_RULE)
            return table.rule
        before, store = table.rule, in_memory(table.store)
        if before is not None and replace(before, learning_rate=rule.learning_rate) == rule:
            return before  # each step has a rate of its own
        version = store.version
        if before is None or not table.steps:
            table.rule = rule
        elif before.slot_names == rule.slot_names:
            table.set_hyperparameters(rule)
        else:
            raise ValueError(
                f"the table has made {table.steps} steps by {before!r}, whose slots are of no use "
                f"to {rule!r}; embedding.table.rule = ... starts another rule, with new slots"
            )
        store.version = version  # no value has changed: tokens are as good as before
        return rule

    # ------------------------------------------------------------------ reading

    def __call__(self, token: Token, ids: Any) -> jax.Array:
        """Look up rows; differentiable with respect to the token.

        Args:
            token: of this table.
            ids: (...,) integers.

        Returns:
            vectors (..., D) float32.

        Raises:
            IndexError: an id that is no row. In a jitted program JAX raises its own error, with
                the same text.
            TypeError: ids that are no integers; another table's token, or one that is not float32.
        """
        version = self._version_of(token)
        return self.looked_up(version, self._ids(ids))

    def pool(
        self,
        token: Token,
        ids: Any,
        weights: Any = None,
        *,
        combiner: Literal["mean", "sum"] = "mean",
    ) -> jax.Array:
        """Reduce bags of rows to one vector each, at no more memory than the result.

        Args:
            token: of this table.
            ids: (..., length) integers, the last axis a bag.
            weights: (..., length) a number for each id, 1 unless given; differentiable.
            combiner: "mean" (divided by the sum of the weights; 0 where that is 0) or "sum".

        Returns:
            vectors (..., D) float32.

        Raises:
            IndexError, TypeError: as for a lookup; a name for weights.
            ValueError: another combiner; weights of another shape than the ids.
        """
        version, ids = self._version_of(token), self._ids(ids)
        if combiner not in ("mean", "sum"):
            raise ValueError(f"combiner={combiner!r} is neither 'mean' nor 'sum'")
        if not ids.ndim:
            raise ValueError("ids must have an axis, whose rows make a bag")
        if weights is None:
            sums = self.pooled(version, ids)
            return sums / max(1, ids.shape[-1]) if combiner == "mean" else sums
        if isinstance(weights, str):
            raise TypeError(f"weights must be numbers, not {weights!r}; combiner= takes a name")
        weights = jnp.asarray(weights, jnp.float32)
        if weights.shape != ids.shape:
            raise ValueError(f"weights of shape {weights.shape} for ids of shape {ids.shape}")
        sums = self.pooled(version, ids, weights)
        if combiner == "sum":
            return sums
        total = weights.sum(-1, keepdims=True)
        return jnp.where(total == 0, 0, sums / jnp.where(total == 0, 1, total))

    def _version_of(self, token: Token) -> jax.Array:
        if not isinstance(token, Token) or token.embedding is not self:
            raise TypeError(
                f"the token of this embedding is needed, not {token!r}; embedding.token() gives it"
            )
        check_token(token)
        return token.version

    def _ids(self, ids: Any) -> jax.Array:
        if isinstance(ids, jax.core.Tracer):
            if not jnp.issubdtype(ids.dtype, jnp.integer):
                raise TypeError(f"ids must be integers, not an array of dtype {ids.dtype}")
            return ids
        whole = as_ids(np.asarray(ids))
        check_range(whole, self.shape[0])
        return jnp.asarray(whole.astype(np.uint32))  # a table has fewer than 2^32 rows

    # ------------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        table = self.table
        return {
            "table": table,
            "version": in_memory(table.store).version,
            "frozen_row": self._frozen_row,
            "pending": self._pending,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["table"], state["frozen_row"], state["pending"])
        in_memory(self._table.store).version = state["version"]

    def __repr__(self) -> str:
        return f"Embedding({self._table!r})"


def check_token(token: Token) -> None:
    """Refuse a token, or its gradient, that is not the vector that `Embedding.token` made.

    Raises:
        TypeError: another dtype.
        ValueError: another shape.
    """
    version, size = token.version, token.embedding.token_size
    if isinstance(version, jax.Array | np.ndarray) and version.dtype != jnp.float32:
        raise TypeError(
            f"a token must stay float32, and is {version.dtype}; leave it out where the parameters "
            "or their gradients are cast, and cast the vectors that come of a lookup"
        )
    if np.shape(version) != (size,):
        raise ValueError(
            f"the token of {token.embedding!r} has shape {np.shape(version)}, not {(size,)}; it "
            "cannot be stacked or split"
        )
    several = isinstance(version, jax.Array) and not isinstance(version, jax.core.Tracer)
    if several and len(version.devices()) > 1:
        raise ValueError(
            f"the token of {token.embedding!r} is on {len(version.devices())} devices; a table is "
            "looked up and stepped by programs on one device"
        )


jax.tree_util.register_dataclass(Token, data_fields=["version"], meta_fields=["embedding"])
