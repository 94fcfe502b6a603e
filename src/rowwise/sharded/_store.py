"""Rows on several ranks: each holds a block of them in its own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise import _init, _native
from rowwise._ids import check_range
from rowwise._init import Init
from rowwise.errors import ExchangeError
from rowwise.rules import Rule, StepParams
from rowwise.sharded import _batch, _passes
from rowwise.sharded._ahead import Ahead, split_counts, store_after
from rowwise.sharded._buckets import Layout
from rowwise.sharded._call import Call, agree, agree_on_arguments
from rowwise.sharded._exchange import (
    Exchange,
    all_reduce,
    all_to_all,
    own_part,
    start_in_place,
)
from rowwise.sharded._norm import Sums, sum_of_squares
from rowwise.sharded._passes import Given, OwnGradient, Pass
from rowwise.store import BagGradient, Bags, Folder, HostStore, RowGradient, TableState
from rowwise.store._gradient import Floats, Ids

SumsOf = Literal["batch", "parts"]
T = TypeVar("T")

_MOST_LOOKED_UP = 1 << 24  # rows remembered between two steps, before duplicates are dropped


@dataclass(frozen=True)
class _Asked:
    """The rows that this rank asks the others for, and those that they ask it for.

    Attributes:
        wanted: the distinct rows of this rank's batch.
        rows: (n,) rows here that the ranks ask for, rank by rank.
        counts: (ranks,) how many of them each rank asks for.
    """

    wanted: _batch.Request
    rows: Ids
    counts: list[int]


class ShardedStore:
    """Rows, slots and row states over the ranks of a group; see `RowStore` for the methods.

    All methods that read or step rows are collective: every rank calls them, in the same order,
    with a batch of its own that may be empty. A bad id on one rank is an error on all of them.

    Args:
        rows, dim: shape of the whole table.
        rule: the update rule, or None.
        exchange: the group of ranks.
        init, seed: what the rows start with, see `rowwise.Table`; an array is the whole table's.
        scratch: the folder on whose disk this rank's arrays lie; None for memory.
        sums, parts: see `rowwise.sharded.ShardedTable`.

    Attributes:
        local: the store of this rank's rows.
        layout: which rows those are.

    Raises:
        RankMismatchError: ranks give other arguments.
        ValueError: fewer rows than ranks; parts that the ranks do not divide.
    """

    device, dtype = "cpu", "float32"

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | None = None,
        *,
        exchange: Exchange,
        init: Init = "zeros",
        seed: int | None = None,
        scratch: Folder | None = None,
        sums: SumsOf = "batch",
        parts: int = 64,
    ) -> None:
        arguments: dict[str, object] = {
            **{"rows": rows, "dim": dim, "rule": rule and rule.config(), "sums": sums},
            **{"parts": parts, "init": init if isinstance(init, str) else "values", "seed": seed},
        }

        def make() -> HostStore:
            if sums not in ("batch", "parts"):
                raise ValueError(f"sums={sums!r} is not 'batch' or 'parts'")
            if sums == "parts" and (parts < 1 or parts % exchange.ranks):
                raise ValueError(f"parts={parts} is no multiple of the {exchange.ranks} ranks")
            ids = Layout(rows, exchange.ranks).ids(exchange.rank)
            local = HostStore(len(ids), dim, rule, scratch=scratch)
            _fill(local.memory(), (rows, dim), init, seed, ids)
            return local

        self._begin(exchange, sums, parts)
        self.local = self._made(make, arguments)
        self.layout = Layout(rows, exchange.ranks)

    @classmethod
    def from_local(
        cls,
        make: Callable[[], HostStore],
        rows: int,
        *,
        exchange: Exchange,
        sums: SumsOf = "batch",
        parts: int = 64,
    ) -> ShardedStore:
        """Make the store of which each rank has its rows already.

        Args:
            make: return the store of this rank's rows.
            rows, exchange, sums, parts: see `ShardedStore`.
        """
        store = cls.__new__(cls)
        store._begin(exchange, sums, parts)
        store.local = store._made(make, {"rows": rows, "sums": sums, "parts": parts})
        store.layout = Layout(rows, exchange.ranks)
        return store

    def _begin(self, exchange: Exchange, sums: SumsOf, parts: int) -> None:
        self.exchange, self.sums, self.parts = exchange, sums, parts
        self.number = exchange.next_table()
        self._lost: str | None = None
        self._ahead: Ahead | None = None
        self._looked: list[Ids] = []

    def _made(self, make: Callable[[], HostStore], arguments: dict[str, object]) -> HostStore:
        local, error = attempt(make)
        with self.collective("making the table"):
            agree(self.exchange, _making(self.number), self._no_counts(), error)
            agree_on_arguments(self.exchange, f"table {self.number}", arguments)
        assert local is not None
        return local

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim) of the whole table."""
        return self.layout.rows, self.local.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's rows, slots and bookkeeping."""
        return self.local.nbytes

    @property
    def version(self) -> int:
        """A number that rises at every write."""
        return self.local.version

    @property
    def rule(self) -> Rule | None:
        """The update rule."""
        return self.local.rule

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.local.steps

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self.local.slot_names

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Ids, out: Floats) -> None:
        """Read rows ids (...,) into out (..., dim).

        Raises:
            IndexError: an id outside the table, on any rank.
        """
        vectors, wanted = self.fetch(ids)
        flat = out.reshape(-1, self.shape[1])
        if len(flat):
            np.take(vectors, wanted.inverse, axis=0, out=flat, mode="clip")

    def fetch(self, ids: Ids, error: Exception | None = None) -> tuple[Floats, _batch.Request]:
        """Return the vectors (m, dim) of the distinct rows of ids (...,), and these rows.

        Args:
            ids: the batch.
            error: what the caller refuses the batch with; every rank raises it.

        Raises:
            IndexError: an id outside the table, on any rank.
        """
        ahead = self._ahead
        if ahead is None or self.steps == ahead.wanted_at:
            return self._fetch(ids, self._vectors, 0, error)
        self._ahead = None
        with self.collective("a lookup"):
            early = ahead.vectors.wait()
            usable = (
                ahead.valid
                and error is None
                and self.local.version == ahead.version
                and np.array_equal(ids.reshape(-1), ahead.ids)
            )
            counts = self._no_counts()
            counts[:, 0] = usable
            call = replace(self._call("lookup"), form=2)
            if not agree(self.exchange, call, counts)[:, 0].all():
                return self._fetch(ids, self._vectors, 0, error)
            self._remember(ahead.asked)
            found = self._gathered(ahead.asked[ahead.asked_late])
            mine = split_counts(ahead.late, ahead.wanted.counts.tolist())
            late = all_to_all(self.exchange, found, ahead.counts_late, mine)
        vectors = np.empty((len(ahead.late), self.shape[1]), np.float32)
        vectors[~ahead.late], vectors[ahead.late] = early, late
        return vectors, ahead.wanted

    def prefetch(self, ids: Ids) -> None:
        """Do nothing: other ranks' rows are asked for with the step that comes first."""

    def synchronize(self) -> None:
        """Do nothing: a call raises its bad ids itself."""

    def prefetch_after(
        self, ids: Ids, step: StepParams, *, iteration: int = 0, error: Exception | None = None
    ) -> None:
        """Ask for the vectors of the batch that is looked up after the next step.

        Rows that the step does not touch, because no rank has looked them up since the last one,
        are sent now; the others when `fetch` is called with the same ids. If the step is another
        one than was said, or touches other rows, everything is sent then.

        Args:
            ids: (...,) of the next batch.
            step: the step that comes first, the same on every rank.
            iteration: its number; ranks must agree on it.
            error: what the caller refuses the call with; every rank raises it.

        Raises:
            IndexError: an id outside the table, on any rank.
        """
        call = self._call("prefetch")
        call = replace(call, learning_rate=step.learning_rate, iteration=iteration)
        with self.collective("a prefetch"):
            asked = self._ask(ids, call, error)
            after = store_after(self.local, step)
            if after is None:
                return
            asked_late = np.isin(asked.rows, self._rows_of_step())
            late = self._answer(asked, asked_late)
            own = asked.wanted.counts.tolist()
            counts_late, mine = split_counts(asked_late, asked.counts), split_counts(late, own)
            early = asked.rows[~asked_late]
            vectors = _native.empty(len(early), self.shape[1])
            after.gather(early, vectors)
            pending = self.exchange.start(
                vectors,
                [n - m for n, m in zip(asked.counts, counts_late, strict=True)],
                [n - m for n, m in zip(own, mine, strict=True)],
            )
        self._ahead = Ahead(
            ids=ids.reshape(-1).copy(),
            wanted=asked.wanted,
            wanted_at=self.steps,
            late=late,
            vectors=pending,
            asked=asked.rows,
            asked_late=asked_late,
            counts_late=counts_late,
            step=step,
            version=self.local.version + 1,
        )

    def _rows_of_step(self) -> Ids:
        """Return the rows here that were looked up since the last step, at least."""
        return np.concatenate([np.empty(0, np.int64), *self._looked])

    def _remember(self, rows: Ids) -> None:
        """Record rows here that were looked up: the next step may touch them."""
        self._looked.append(rows)
        if sum(map(len, self._looked)) > _MOST_LOOKED_UP:  # an evaluation: it touches none
            self._looked = [np.unique(self._rows_of_step())]

    def _gathered(self, rows: Ids) -> Floats:
        vectors = _native.empty(len(rows), self.shape[1])
        self.local.gather(rows, vectors)
        return vectors

    def _vectors(self, asked: _Asked) -> Floats:
        """Send the vectors that the others ask for, and read this rank's own meanwhile."""
        rows, counts, wanted = asked.rows, asked.counts, asked.wanted.counts.tolist()
        self._remember(rows)
        own = own_part(counts, self.exchange.rank)
        found = _native.empty(len(rows), self.shape[1])
        for others in (slice(0, own.start), slice(own.stop, None)):
            self.local.gather(rows[others], found[others])
        vectors = _native.empty(sum(wanted), self.shape[1])
        start_in_place(
            self.exchange,
            found,
            counts,
            wanted,
            vectors,
            lambda part: self.local.gather(rows[own], part),
        ).wait()
        return vectors

    def _fetch(
        self,
        ids: Ids,
        read: Callable[[_Asked], NDArray[Any]],
        form: int,
        error: Exception | None = None,
    ) -> tuple[NDArray[Any], _batch.Request]:
        """Return the ranks' answers for the distinct rows of ids, and these rows."""
        with self.collective("a lookup"):
            asked = self._ask(ids, replace(self._call("lookup"), form=form), error)
            return read(asked), asked.wanted

    def _ask(self, ids: Ids, call: Call, error: Exception | None) -> _Asked:
        """Tell every rank which of its rows this rank's ids (...,) are."""
        wanted = None
        if error is None:
            wanted, error = attempt(lambda: self._request(ids))
        if wanted is None:
            wanted = _batch.request(np.empty(0, np.int64), self.layout)
        counts = self._no_counts()
        counts[:, 0] = wanted.counts
        came = agree(self.exchange, call, counts, error)[:, 0].tolist()
        rows = all_to_all(self.exchange, wanted.rows, wanted.counts.tolist(), came)
        return _Asked(wanted, rows.astype(np.int64), came)

    def _answer(self, asked: _Asked, found: NDArray[Any]) -> NDArray[Any]:
        """Send what was found of the rows asked for, and return what came of the rows wanted."""
        return all_to_all(self.exchange, found, asked.counts, asked.wanted.counts.tolist())

    def _request(self, ids: Ids) -> _batch.Request:
        check_range(ids, self.layout.rows)
        return _batch.request(ids.reshape(-1), self.layout)

    def occurrences(self, ids: Ids, error: Exception | None = None) -> Ids:
        """Return how often each of ids (...,) is in the batches of all ranks, (n,).

        Args:
            ids, error: see `fetch`.

        Raises:
            IndexError: an id outside the table, on any rank.
        """
        with self.collective("a count of ids"):
            asked = self._ask(ids, self._call("count"), error)
            wanted = asked.wanted
            own = np.bincount(wanted.inverse, minlength=len(wanted.rows))
            came = all_to_all(self.exchange, own, wanted.counts.tolist(), asked.counts)
            _, place = np.unique(asked.rows, return_inverse=True)
            totals = np.bincount(place, came).astype(np.int64)[place]
            return self._answer(asked, totals)[wanted.inverse]

    def change_rows(
        self,
        ids: Ids,
        change: Callable[[HostStore, Ids], None],
        error: Exception | None = None,
    ) -> None:
        """Call a function once with the rows here that any rank's ids name.

        Args:
            ids, error: see `fetch`.
            change: gets the store of this rank's rows, and rows of it (n,), which may repeat.

        Raises:
            IndexError: an id outside the table, on any rank. Nothing has changed then.
        """
        with self.collective("a change of rows"):
            change(self.local, self._ask(ids, self._call("change"), error).rows)

    def gather_bags(self, bags: Bags, out: Floats) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty."""
        store, here = self.fetch_bags(bags)
        store.gather_bags(here, out)

    def gather_bags_max(self, bags: Bags, out: Floats, argmax: Ids) -> None:
        """Read the largest of each bag's values, and the first position that has it."""
        store, here = self.fetch_bags(bags)
        store.gather_bags_max(here, out, argmax)

    def fetch_bags(self, bags: Bags, error: Exception | None = None) -> tuple[HostStore, Bags]:
        """Return a store of the batch's distinct rows, and the bags by their ids there."""
        vectors, wanted = self.fetch(bags.ids, error)
        if not len(vectors):
            vectors = np.zeros((1, self.shape[1]), np.float32)
        return _batch.store_of(vectors), replace(bags, ids=wanted.inverse)

    def read_slot(self, name: str) -> Floats:
        """Return the present values of a slot, (rows, dim), a fresh array, on every rank.

        Raises:
            KeyError: the rule has no such slot.
        """
        values = self.local.read_slot(name)
        return self._gather_all("slot", values, self.slot_names.index(name))

    def read_all(self) -> Floats:
        """Return the present values of all rows, (rows, dim), on every rank."""
        vectors = np.empty(self.local.shape, np.float32)
        self.local.gather(np.arange(len(vectors)), vectors)
        return self._gather_all("to_numpy", vectors)

    def _gather_all(self, kind: str, mine: NDArray[Any], form: int = 0) -> NDArray[Any]:
        """Return an array (rows, ...) in order of ids, of which each rank has its rows.

        Args:
            kind, form: what the array is, see `Call`; the same on every rank.
            mine: the rows of this rank.
        """
        ranks = range(self.exchange.ranks)
        sizes = [len(range(*self.layout.span(rank))) for rank in ranks]
        with self.collective("reading all rows"):
            agree(self.exchange, replace(self._call(kind), form=form), self._no_counts())
            copies = np.concatenate([mine] * len(ranks))
            whole = all_to_all(self.exchange, copies, [len(mine)] * len(ranks), sizes)
        return whole[self.layout.positions(np.arange(self.layout.rows))]

    # ------------------------------------------------------------------ gradients

    def bag_gradient(self, bags: Bags, values: Floats) -> BagGradient:
        """Return the gradient of bags whose own gradients are values (bags, dim)."""
        return BagGradient(bags, values)

    def bag_max_gradient(self, bags: Bags, argmax: Ids, values: Floats) -> RowGradient:
        """Return the gradient of `gather_bags_max`: one entry for each id of the batch."""
        count = bags.ids.size
        spread = np.zeros((count, self.shape[1]), np.float32)
        bag, column = np.nonzero(argmax >= 0)
        spread[argmax[bag, column], column] = values[bag, column]
        return RowGradient(bags.ids.reshape(-1), spread)

    def bag_weight_gradient(self, bags: Bags, values: Floats) -> Floats:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""
        store, here = self.fetch_bags(bags)
        return store.bag_weight_gradient(here, values)

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return this rank's distinct ids, ascending, with the sums of their gradients."""
        return _batch.coalesced(self.row_gradient(gradient))

    def exchange_gradient(
        self,
        passes: Sequence[Pass],
        error: Exception | None = None,
    ) -> OwnGradient | None:
        """Send gradients to the ranks that hold their rows, without making a step.

        Args:
            passes: the gradients of each backward pass since the last step. A rank that had none
                may give none where others give some.
            error: what the caller refuses the gradients with; every rank raises it.

        Returns:
            the gradient of this rank's rows, for `apply`; None if no rank had any pass.

        Raises:
            RankMismatchError: ranks have had other numbers of passes.
        """
        return self._exchange(passes, self._call("gradient"), error)

    def squares(self, gradient: OwnGradient) -> Sums:
        """Return the exact sum of squares of the whole table's gradient, on every rank."""
        own = sum_of_squares(self.local.coalesce(gradient.gradient).values)
        with self.collective("the norm of a gradient"):
            return all_reduce(self.exchange, own)

    def _exchange(
        self,
        passes: Sequence[Pass],
        call: Call,
        error: Exception | None,
    ) -> OwnGradient | None:
        parcels: list[_batch.Parcel] | None = None
        if error is None:
            parcels, error = attempt(lambda: [self.parcel(part) for part in passes])
        parcels = parcels or []
        with self.collective(f"step {self.steps + 1}"):
            came = agree(self.exchange, call, self._counts(parcels), error)
            if not (came[:, 2] == came[0, 2]).all():
                parcels = [
                    _batch.row_parcel(self._request(part.ids), part.values)
                    for part in _passes.row_gradients(
                        parcels, came[:, 2], self.layout, self.shape[1]
                    )
                ]
                came = agree(self.exchange, call, self._counts(parcels))
            received = []
            for number, parcel in enumerate(parcels):
                if number:
                    came = agree(self.exchange, call, self._counts(parcels[number:]))
                received.append(_passes.receive(self.exchange, parcel, came[:, :2]))
            return _passes.join(self.local, received) if received else None

    def parcel(
        self, gradient: Pass, factor: float = 1.0, wanted: _batch.Request | None = None
    ) -> _batch.Parcel:
        """Put the gradient of a backward pass in order for the ranks that hold its rows.

        `apply` does it otherwise; done in the backward pass, its memory is not needed until then.

        Args:
            gradient: of this rank's batch.
            factor: which its values are multiplied with.
            wanted: the rows of its ids, which `fetch` returned; else they are sorted again.

        Raises:
            IndexError: an id outside the table.
        """
        if isinstance(gradient, _batch.Parcel):
            return gradient
        if isinstance(gradient, BagGradient):
            check_range(gradient.plan.ids, self.layout.rows)
            if self.sums == "batch":
                return _batch.bag_parcel(gradient.plan, gradient.values, self.layout, factor)
            gradient = self.row_gradient(gradient)
        if wanted is None:
            wanted = self._request(gradient.ids)
        if self.sums == "batch":
            return _batch.row_parcel(wanted, gradient.values, factor)
        parts = self.parts // self.exchange.ranks
        return _batch.summed_parcel(wanted, gradient.values, parts, factor)

    def row_gradient(self, gradient: Pass) -> RowGradient:
        """Return this rank's gradient of a backward pass, id by id."""
        return _passes.row_gradient(gradient, self.layout)

    def _counts(self, parcels: Sequence[_batch.Parcel]) -> Ids:
        return _passes.counts(parcels, self.exchange.ranks)

    # ------------------------------------------------------------------ writing

    def apply(
        self,
        gradient: Given,
        step: StepParams,
        frozen_row: int | None = None,
        *,
        iteration: int = 0,
        factor: float = 1.0,
        error: Exception | None = None,
    ) -> None:
        """Make one step of the rule over all rows, with the gradients of all ranks.

        Args:
            gradient: this rank's; those of several passes; or what `exchange_gradient` returned.
            step, frozen_row: see `RowStore.apply`; the same on every rank.
            iteration: the step's number; ranks must agree on it.
            factor: what the caller has multiplied the gradient with; ranks must agree on it.
            error: what the caller refuses the step with; every rank raises it.

        Raises:
            RankMismatchError: ranks are at another step, or have another rate, rule or factor.
                Nothing has changed then.
            IndexError: an id outside the table, on any rank. Nothing has changed then.
            ExchangeError: a rank is gone. The others may have made the step or not.
        """
        call = replace(
            self._call("update"),
            learning_rate=step.learning_rate,
            iteration=iteration,
            factor=factor,
        )
        if isinstance(gradient, OwnGradient):
            with self.collective(f"step {self.steps + 1}"):
                agree(self.exchange, replace(call, form=-1), self._no_counts(), error)
        else:
            own = self._exchange(
                gradient if isinstance(gradient, list) else [gradient], call, error
            )
            if own is None:
                return
            gradient = own
        self.local.apply(gradient.gradient, step, self._row_here(frozen_row))
        self._looked.clear()
        if self._ahead is not None:
            self._ahead.after_step(step, gradient.rows)
            self._ahead.valid &= frozen_row is None

    def _row_here(self, row: int | None) -> int | None:
        if row is None:
            return None
        position = int(self.layout.positions(np.array([row]))[0])
        first, end = self.layout.span(self.exchange.rank)
        return position - first if first <= position < end else None

    def renew(self, ids: Ids, starts: Floats) -> None:
        """Start rows ids (n,) anew with starts (n, dim), which every rank gives in full."""
        which, rows = self._here(ids)
        self.local.renew(rows, np.ascontiguousarray(starts[which]))

    def materialize(self, ids: Ids | None = None) -> None:
        """Bring this rank's rows up to date in place; nothing is exchanged."""
        self.local.materialize(None if ids is None else self._here(ids)[1])

    def write(self, values: Any, ids: Ids | None = None) -> None:
        """Set rows to values (n, dim), which every rank gives in full; nothing is exchanged."""
        dim = self.shape[1]
        self._write(lambda part, rows: self.local.write(part, rows), values, ids, dim)

    def write_slot(self, name: str, values: Any, ids: Ids | None = None) -> None:
        """Set a slot of rows to values (n, dim) or (n, 1), which every rank gives in full."""
        dim = self.rule.slot_dim(self.shape[1]) if self.rule else 0
        self._write(lambda part, rows: self.local.write_slot(name, part, rows), values, ids, dim)

    def _write(
        self, write: Callable[[Any, Ids], None], values: Any, ids: Ids | None, dim: int
    ) -> None:
        ids = np.arange(self.layout.rows) if ids is None else ids
        which, rows = self._here(ids)
        write(np.broadcast_to(values, (ids.size, dim))[which], rows)

    def _here(self, ids: Ids) -> tuple[Ids, Ids]:
        """Return which of ids (n,) are on this rank, and their rows."""
        check_range(ids, self.layout.rows)
        positions = self.layout.positions(ids.reshape(-1))
        first, end = self.layout.span(self.exchange.rank)
        which = np.flatnonzero((positions >= first) & (positions < end))
        return which, positions[which] - first

    def set_rule(self, rule: Rule | None, *, keep_state: bool = False) -> None:
        """Step by another rule; the next step checks that every rank has the same."""
        self.local.set_rule(rule, keep_state=keep_state)

    def remap(self, source_rows: Ids, init: Init, seed: int | None) -> None:
        """Refuse: rows would move between ranks.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a sharded table cannot grow or move rows; save it, change it with "
            "rowwise.Table.load(path).remap(...), save that, and load it sharded"
        )

    def check_room(self, rows: int) -> None:
        """Refuse, as `remap` does."""
        self.remap(np.empty(0, np.int64), "zeros", None)

    # ------------------------------------------------------------------ bookkeeping

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row, on every rank."""
        return self._gather_all("update_counts", self.local.update_counts)

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, on every rank."""
        return self._gather_all("last_update", self.local.last_update)

    def is_trained(self, ids: Ids | None = None) -> NDArray[np.bool_]:
        """Return whether rows were updated or marked as trained."""
        if ids is None:
            return self._gather_all("is_trained", self.local.is_trained())

        def read(asked: _Asked) -> NDArray[Any]:
            return self._answer(asked, self.local.is_trained(asked.rows))

        trained, wanted = self._fetch(ids, read, 1)
        return trained[wanted.inverse].reshape(ids.shape)

    def mark_trained(self, ids: Ids | None = None) -> None:
        """Record that rows hold values worth reading; every rank gives the same ids."""
        self.local.mark_trained(None if ids is None else self._here(ids)[1])

    def state(self) -> TableState:
        """Return all that this rank holds; its own arrays, not copies."""
        return self.local.state()

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which writers of this rank wait."""
        return self.local.frozen()

    # ------------------------------------------------------------------ inner parts

    def agree(self, kind: str, error: Exception | None = None) -> None:
        """Wait for all ranks; raise an error that one of them gives, on all of them."""
        with self.collective(f"a {kind}"):
            agree(self.exchange, self._call(kind), self._no_counts(), error)

    def agree_on(self, arguments: dict[str, object], error: Exception | None = None) -> None:
        """Refuse arguments of a module on this table that differ between ranks.

        Raises:
            RankMismatchError: they differ; on every rank.
            Exception: an error that a rank gives; on every rank.
        """
        with self.collective("making a module"):
            module = f"the module of table {self.number}"
            agree_on_arguments(self.exchange, module, arguments, error)

    def _call(self, kind: str) -> Call:
        return Call(kind, self.number, self.steps, repr(self.rule))

    def _no_counts(self) -> Ids:
        return np.zeros((self.exchange.ranks, 3), np.int64)

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        """Say where a lost rank was noticed, and refuse all that follows."""
        if self._lost is not None:
            raise ExchangeError(self._lost)
        try:
            yield
        except ExchangeError as error:
            if self._lost is None:
                self._lost = (
                    f"rank {self.exchange.rank} of {self.exchange.ranks} lost another rank during "
                    f"{what} of table {self.number}: {error}; ranks may be at different steps, so "
                    "end the processes and start again from the last checkpoint"
                )
            raise ExchangeError(self._lost) from error


def refuse_table(exchange: Exchange, error: Exception) -> NoReturn:
    """Raise an error on every rank, in place of making a table, which the others may be about to.

    Raises:
        Exception: the first that a rank gives.
    """
    agree(exchange, _making(exchange.next_table()), np.zeros((exchange.ranks, 3), np.int64), error)
    raise error


def _making(number: int) -> Call:
    return Call("make", number, 0, "")


def _fill(memory: Floats, shape: tuple[int, int], init: Init, seed: int | None, ids: Ids) -> None:
    """Give the rows ids (n,) of a table what they start with in one process."""
    if isinstance(init, str):
        _init.fill_rows(memory, init, seed, ids)
        return
    memory[:] = _init.given_values(init, shape)[ids]


def attempt(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what a call returns, or the error that it raises."""
    try:
        return make(), None
    except Exception as error:
        return None, error
