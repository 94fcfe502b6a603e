"""`ShardedTable`: a table of which each rank holds some rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, Self

import numpy as np

from rowwise import _pooling, _untrained, rules
from rowwise._checks import check_finite as refuse_nonfinite
from rowwise._checks import check_learning_rate, positive
from rowwise._ids import as_ids
from rowwise._init import Init
from rowwise._untrained import Untrained
from rowwise.rules import Rule
from rowwise.sharded import _file
from rowwise.sharded._exchange import Exchange
from rowwise.sharded._passes import Given
from rowwise.sharded._store import ShardedStore, attempt, refuse_table
from rowwise.store import Folder, RowGradient, TableState
from rowwise.table import Floats, Table


class ShardedTable(Table):
    """A `Table` whose rows are spread over the ranks of a group, with the numbers of one process.

    Every rank gives a batch of its own; vectors and gradients travel to it and to the ranks that
    hold the rows. The result has the bits of one process that is given the batches of all ranks,
    one after the other, in order of ranks.

    All methods are collective but properties: every rank calls them, in the same order, and gives
    an empty batch where it has no data. Whatever one rank refuses (a bad id, gradients of another
    shape) raises on all of them, and nothing changes on any.

    Args:
        rows, dim, rule, init, seed, scratch: see `Table`; the same on every rank.
        exchange: the group of ranks.
        sums: "batch" sends every gradient to the rank that holds its row, which sums them in the
            order of the batch. "parts" sums the gradients of an id within each part of the batch
            first, and sends the sums: less traffic where ids repeat. The bits are then not those
            of one process; they are the same for every number of ranks that divides `parts`, if
            all ranks have batches of the same size, a multiple of `parts` in all.
        parts: in how many parts "parts" cuts the batch of all ranks.

    Raises:
        RankMismatchError: ranks give other arguments.
        ValueError: see `Table`; fewer rows than ranks; parts that the ranks do not divide.

    Example:
        >>> from rowwise.sharded import ThreadExchange
        >>> [alone] = ThreadExchange.group(1)
        >>> table = ShardedTable(5, 2, "sgd", init="zeros", exchange=alone)
        >>> table.update([1, 3, 1], np.ones((3, 2)), learning_rate=0.5)
        >>> table.lookup([1]).tolist()
        [[-1.0, -1.0]]
    """

    store: ShardedStore  # type: ignore[assignment]

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | str | None = None,
        *,
        exchange: Exchange,
        init: Init = "uniform",
        seed: int | None = None,
        scratch: Folder | None = None,
        sums: Literal["batch", "parts"] = "batch",
        parts: int = 64,
    ) -> None:
        checked, error = attempt(
            lambda: (positive("rows", rows), positive("dim", dim), rules.get(rule))
        )
        if error is not None:
            refuse_table(exchange, error)
        assert checked is not None
        rows, dim, chosen = checked
        self.store = ShardedStore(
            rows,
            dim,
            chosen,
            exchange=exchange,
            init=init,
            seed=seed,
            scratch=scratch,
            sums=sums,
            parts=parts,
        )
        self._learning_rate = chosen.learning_rate if chosen else 0.0
        self._vocabulary = None
        if not isinstance(init, str) and not callable(init):
            self.store.mark_trained()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoReturn:
        """Refuse; give `init=` an array instead."""
        raise NotImplementedError(
            "a sharded table takes vectors as init=array; or save a rowwise.Table and load that"
        )

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Any, *, untrained: Untrained = "as-is") -> Floats:
        """Return the present vectors of rows; see `Table.lookup`."""
        batch, error = attempt(lambda: self._checked(ids, untrained))
        if batch is None:
            batch = np.empty(0, np.int64)
        found, wanted = self.store.fetch(batch, error)
        vectors = found[wanted.inverse].reshape(*batch.shape, self.dim)
        mask, default = self.untrained_mask_and_default(batch, untrained)
        if default is not None:
            vectors[mask] = default
        return vectors

    def _checked(self, ids: Any, untrained: Untrained) -> Any:
        _untrained.check_untrained(untrained)
        return as_ids(ids)

    def untrained_mask_and_default(
        self, ids: Any, untrained: Untrained
    ) -> tuple[Any, Floats | None]:
        """Return which of ids (...,) have untrained rows, and the vector to give instead, or None.

        Raises:
            UntrainedError: such a row on any rank, and untrained="error".
            ValueError: untrained="mean", and no row is trained.
        """
        if untrained == "as-is":
            return np.zeros(ids.shape, bool), None
        mask = ~self.store.is_trained(ids)
        if untrained == "mean":
            return mask, _untrained.mean_of_trained(self.store)
        if untrained == "error":
            _, error = attempt(lambda: _untrained.refuse_untrained(ids, mask))
            self.store.agree("lookup", error)
        return mask, np.zeros(self.dim, np.float32)

    def pool(
        self, ids: Any, offsets: Any = None, weights: Any = None, combiner: str = "mean"
    ) -> Floats:
        """Reduce bags of rows to one vector each; see `Table.pool`."""
        checked, error = attempt(lambda: _pooling.checked_bags(ids, offsets, weights, combiner))
        if checked is None:
            self.store.fetch(np.empty(0, np.int64), error)
            raise AssertionError("a refused batch raises")
        shape, bags = checked
        store, here = self.store.fetch_bags(bags)
        pooled = np.empty((*shape, self.dim), np.float32)
        if combiner == "max":
            store.gather_bags_max(here, pooled, np.empty(pooled.shape, np.int64))
        else:
            store.gather_bags(here, pooled)
        return pooled

    @contextmanager
    def prefetch(  # type: ignore[override]  # a step belongs to it, and so it ends
        self, ids: Any, learning_rate: float | None = None, *, iteration: int | None = None
    ) -> Iterator[None]:
        """Bring the vectors of the next batch while the step inside of `with` is computed.

        Rows that the step does not touch travel meanwhile, the others after it. The values are
        those that a lookup after the step gives, to the bit: an early row is read as the step
        leaves it, which depends on its learning rate alone. If the step is not the one that was
        said, the next lookup asks for everything again.

        Args:
            ids: (...,) of the next lookup, after the step.
            learning_rate, iteration: of the step, see `update`.

        Example:
            >>> from rowwise.sharded import ThreadExchange
            >>> [alone] = ThreadExchange.group(1)
            >>> table = ShardedTable(5, 2, "adam", exchange=alone)
            >>> vectors = table.lookup([1, 2])
            >>> with table.prefetch([2, 3]):
            ...     table.update([1, 2], np.ones((2, 2)))
            >>> vectors = table.lookup([2, 3])
        """
        batch, error = attempt(lambda: as_ids(ids))
        params = None
        if error is None:
            params, error = attempt(lambda: self._step_params(learning_rate, iteration))
        if batch is None or params is None:
            batch, params = np.empty(0, np.int64), rules.SGD().step_params(0.0, 1)
        step = self.steps + 1 if iteration is None or error is not None else int(iteration)
        self.store.prefetch_after(batch, params, iteration=step, error=error)
        yield

    def to_numpy(self) -> Floats:
        """Return the present values of all rows, (rows, dim), on every rank."""
        return self.store.read_all()

    # ------------------------------------------------------------------ updating

    def update(
        self,
        ids: Any,
        gradients: Any,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Make one step with the gradients of all ranks, summed; see `Table.update`.

        Raises:
            RankMismatchError: ranks have another learning rate, iteration, step or rule.
        """
        gradient, error = attempt(lambda: self._row_gradient(ids, gradients, check_finite))
        self._apply(gradient, learning_rate, iteration, None, error)

    def apply(
        self,
        gradient: Given,  # type: ignore[override]
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        frozen_row: int | None = None,
        factor: float = 1.0,
    ) -> None:
        """Make one step with the gradients of all ranks; see `Table.apply`.

        Args:
            gradient: this rank's; or a list, of several backward passes, which are summed pass by
                pass; or, sent already, what `store.exchange_gradient` returned.
            learning_rate, iteration, frozen_row: the same on every rank.
            factor: what the caller has multiplied the gradient with, the same on every rank.
        """
        self._apply(gradient, learning_rate, iteration, frozen_row, None, factor)

    def _row_gradient(self, ids: Any, gradients: Any, check_finite: bool) -> RowGradient:
        ids = as_ids(ids)
        gradients = np.ascontiguousarray(gradients, dtype=np.float32)
        self._check_gradients(ids, gradients)
        if check_finite:
            refuse_nonfinite(gradients)
        return RowGradient(ids, gradients)

    def _apply(
        self,
        gradient: Given | None,
        learning_rate: float | None,
        iteration: int | None,
        frozen_row: int | None,
        error: Exception | None,
        factor: float = 1.0,
    ) -> None:
        params = None
        if error is None:
            params, error = attempt(lambda: self._step_params(learning_rate, iteration))
        if gradient is None:
            gradient = []
        step = self.steps + 1 if iteration is None or error is not None else int(iteration)
        if params is None:  # never used: every rank raises
            params = rules.SGD().step_params(0.0, 1)
        self.store.apply(gradient, params, frozen_row, iteration=step, factor=factor, error=error)

    # ------------------------------------------------------------------ files and copies

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to one file, all ranks at once, each a share of its bytes.

        The file is the one that `Table.save` of one process writes, byte for byte. It opens with
        `Table.load`, and with `ShardedTable.load` on any number of ranks. Every rank must see the
        folder. See `Table.save` for what is promised.

        Args:
            path: of the file. Rank 0's counts, if ranks give others.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
            ExchangeError: a rank is gone; a file that was there stays.
        """
        _file.save(self.store, self.state(), path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | os.PathLike[str],
        *,
        exchange: Exchange,
        scratch: Folder | None = None,
        sums: Literal["batch", "parts"] = "batch",
        parts: int = 64,
    ) -> Self:
        """Read a table's file, written by any number of ranks or by `Table.save`.

        Args:
            path: of the file, which every rank must see.
            exchange, scratch, sums, parts: see `ShardedTable`.

        Raises:
            FileNotFoundError, DamagedFileError: see `Table.load`; on every rank.
        """
        store, state, _ = _file.load(
            path, exchange=exchange, scratch=scratch, sums=sums, parts=parts
        )
        return cls.of(store, state)

    @classmethod
    def of(cls, store: ShardedStore, state: TableState) -> Self:
        """Make the table of which a file's `store` and `state` are."""
        table = cls.__new__(cls)
        table.store = store
        table._learning_rate = check_learning_rate(state.learning_rate)
        table._vocabulary = state.vocabulary
        return table

    def __getstate__(self) -> NoReturn:
        raise TypeError("a sharded table cannot be copied or pickled; save it to a file")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__getstate__()

    def __repr__(self) -> str:
        exchange = self.store.exchange
        return (
            f"ShardedTable(rows={self.rows}, dim={self.dim}, rule={self.rule!r}, "
            f"steps={self.steps}, rank {exchange.rank} of {exchange.ranks})"
        )
