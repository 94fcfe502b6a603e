"""From ids to rows: which id has one, which gets one, and which loses it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._checks import positive
from rowwise.dynamic._batches import (
    IdKind,
    Integers,
    Packed,
    count,
    pack,
    pack_strings,
    unpack,
)

Evict = Literal["lru", "lfu"]


@dataclass(frozen=True)
class Changes:
    """Changes that `IdIndex.observe` made.

    Attributes:
        rows: (...,) int64, the row of each id of the batch.
        admitted_rows: (a,) rows given to ids.
        admitted_keys: (a,) int64, the ids they were given to; of strings, their hashes.
        evicted_rows: (e,) rows taken from ids; some may be among `admitted_rows`.
        evicted: (e,) the ids they were taken from, those first that had to go first.
        refused: how often an id was due a row and none could be taken from another, because every
            row's id was seen within the last `in_flight` steps. Such an id asks again when it is
            next seen.
    """

    rows: Integers
    admitted_rows: Integers
    admitted_keys: Integers
    evicted_rows: Integers
    evicted: NDArray[Any]
    refused: int


class IdIndex:
    """An index from ids to the rows 0..capacity-1 of a table, within bounded memory.

    An id gets a row when it has been seen `admit_after` times. When there is no row left, a share
    of all rows is taken from the ids that were seen longest ago, or least often. An id without a
    row is told one of the `unknown_rows` that follow, capacity..capacity+unknown_rows-1, which it
    shares with others.

    All of it depends on the order of the batches alone, so that it is the same on every run: of
    ids that are equally due to go, the smaller goes first.

    Args:
        capacity: number of rows for ids.
        ids: "integers" (of 64 bits; any value; unsigned ones are taken as the signed ones of the
            same bits) or "strings".
        admit_after: sightings after which an id gets a row, at most 255. Sightings are counted
            exactly for as many ids as there are rows; when more are waiting, by a count-min sketch
            of 16 to 32 bytes a row that forgets slowly, and may admit an id a little early.
        evict: whose rows are taken first: "lru", of ids not seen for longest, or "lfu", of ids seen
            least often since their admission.
        ttl: steps without a sighting after which a row is taken at the latest a 16th of that time
            later; never for that, unless given.
        unknown_rows: see above; an id's is chosen by its hash.
        evict_share: share of the capacity that is taken at once.
        in_flight: steps for which no row is taken from an id that was seen. Until then its gradient
            may be on the way. 2 is enough where one batch is prepared while another trains.

    Raises:
        TypeError, ValueError: an argument out of its bounds.

    Example:
        >>> index = IdIndex(capacity=2, admit_after=2)
        >>> index.observe([7_000_000_000, -1, 7_000_000_000], step=0).rows.tolist()
        [0, 2, 0]
        >>> index.has_row([-1, 7_000_000_000]).tolist()
        [False, True]
    """

    def __init__(
        self,
        capacity: int,
        *,
        ids: IdKind = "integers",
        admit_after: int = 1,
        evict: Evict = "lru",
        ttl: int | None = None,
        unknown_rows: int = 1,
        evict_share: float = 0.05,
        in_flight: int = 2,
    ) -> None:
        if ids not in get_args(IdKind):
            raise ValueError(f"ids={ids!r} is not 'integers' or 'strings'")
        if evict not in get_args(Evict):
            raise ValueError(f"evict={evict!r} is not 'lru' or 'lfu'; ttl= evicts by age")
        if positive("admit_after", admit_after) > 255:
            raise ValueError(f"admit_after={admit_after} is above the limit of 255")
        if not 0 < evict_share <= 1:
            raise ValueError(f"evict_share={evict_share} must be above 0 and at most 1")
        self.capacity = positive("capacity", capacity)
        self.unknown_rows = positive("unknown_rows", unknown_rows)
        if self.rows >= 2**32:
            raise ValueError(f"{self.rows} rows are above the limit of {2**32 - 1}")
        self.kind: IdKind = ids
        self.admit_after, self.evict = int(admit_after), evict
        self.ttl = None if ttl is None else positive("ttl", ttl)
        self.evict_share, self.in_flight = float(evict_share), positive("in_flight", in_flight)
        self._native = _native.IdIndex(
            capacity=self.capacity,
            unknown_rows=self.unknown_rows,
            admit_after=self.admit_after,
            by_count=evict == "lfu",
            ttl=self.ttl or 0,
            evict_at_once=max(1, int(self.evict_share * self.capacity)),
            in_flight=self.in_flight,
            strings=ids == "strings",
        )
        self._evictions = 0
        self._evicted: NDArray[Any] = unpack(self._packed([]))  # the last of them, oldest first

    # ------------------------------------------------------------------ reading

    def find(self, ids: Any) -> Integers:
        """Return the rows (...,) of ids (...,), unknown rows for those without one of their own.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids.
        """
        packed, shape = pack(ids, self.kind)
        return self.find_packed(packed).reshape(shape)

    def find_packed(self, packed: Packed) -> Integers:
        """Return the rows (n,) of packed ids; see `find`."""
        rows = np.empty(count(packed), np.int64)
        self._native.find(packed, rows)
        return rows

    def has_row(self, ids: Any) -> NDArray[np.bool_]:
        """Return whether ids (...,) have a row of their own."""
        return self.find(ids) < self.capacity

    def ids(self) -> NDArray[Any]:
        """Return the ids that have a row, in the order of their rows."""
        state = self._native.state()
        return unpack(state["ids"])[state["seen"] > 0]

    def __len__(self) -> int:
        return len(self._native)

    @property
    def rows(self) -> int:
        """Number of rows, those for unknown ids included."""
        return self.capacity + self.unknown_rows

    @property
    def nbytes(self) -> int:
        """Bytes of the index, counts included."""
        return self._native.nbytes

    # ------------------------------------------------------------------ training

    def observe(self, ids: Any, step: int, made: list[Any] | None = None) -> Changes:
        """Count a batch that is about to be trained on; evict and admit; return its rows.

        Args:
            ids: (...,) of the index's kind. Each position is a sighting.
            step: number of steps made so far; it must not descend.
            made: a list to which what changed is appended, even where Ctrl-C ends this call: a
                tuple that begins with `Changes.admitted_rows` and `admitted_keys`.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids. Nothing has changed then.
        """
        packed, shape = pack(ids, self.kind)
        if isinstance(packed, np.ndarray):
            packed = packed.copy()  # another thread may change its own
        changes = self.observe_packed(packed, step, made)
        return replace(changes, rows=changes.rows.reshape(shape))

    def observe_packed(self, packed: Packed, step: int, made: list[Any] | None = None) -> Changes:
        """Count a batch of packed ids, which nobody else may change; see `observe`."""
        rows = np.empty(count(packed), np.int64)
        made = [] if made is None else made
        self._native.observe(packed, step, rows, made)
        admitted, keys, evicted_rows, left, refused = made[-1]
        evicted = unpack(left)
        if len(evicted):
            self._evictions += len(evicted)
            self._evicted = np.concatenate([self._evicted, evicted])[-self.capacity :]
        return Changes(rows, admitted, keys, evicted_rows, evicted, refused)

    @property
    def evictions(self) -> int:
        """Number of evictions so far: a mark in time for `evicted_since`."""
        return self._evictions

    def evicted_since(self, mark: int) -> NDArray[Any]:
        """Return the ids that had a row when `evictions` was `mark` or later, and have none now.

        Raises:
            LookupError: more ids went since then than the index remembers, `capacity`.
            ValueError: the mark lies in the future.
        """
        gone = self._evictions - mark
        if gone < 0:
            raise ValueError(f"mark={mark} is above the {self._evictions} evictions so far")
        if gone > len(self._evicted):
            raise LookupError(
                f"{gone} ids were evicted since mark {mark}, and the last {len(self._evicted)} are "
                "remembered; compare with ids() instead"
            )
        since = self._evicted[len(self._evicted) - gone :]
        last: NDArray[Any] = unpack(self._packed(list(dict.fromkeys(since.tolist()))))
        return last[~self.has_row(last)]

    # ------------------------------------------------------------------ files and copies

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an index like this one."""
        return {
            "capacity": self.capacity,
            "ids": self.kind,
            "admit_after": self.admit_after,
            "evict": self.evict,
            "ttl": self.ttl,
            "unknown_rows": self.unknown_rows,
            "evict_share": self.evict_share,
            "in_flight": self.in_flight,
        }

    def check_fits(self, config: dict[str, Any]) -> None:
        """Refuse the options of an index whose rows or ids are not like those of this one.

        Args:
            config: what `config` of the other index returned.

        Raises:
            KeyError: an option is missing.
            ValueError: another capacity, kind of ids or number of unknown rows.
        """
        for name in ("capacity", "ids", "unknown_rows"):
            own = self.config()[name]
            if config[name] != own:
                raise ValueError(
                    f"the saved ids are of {name}={config[name]!r}, the table's of {own!r}; make "
                    "the table with the options of the saved one"
                )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that the index holds, as arrays: copies, not the index's own."""
        state = self._native.state()
        numbers = [state.pop("since_halving"), state.pop("swept"), self._evictions]
        lists = {"ids": state.pop("ids"), "evicted": self._packed(self._evicted.tolist())}
        for name, packed in lists.items():
            if isinstance(packed, tuple):
                state[name], state[f"{name}.offsets"] = packed
            else:
                state[name] = packed
        return {**state, "numbers": np.array(numbers, np.int64)}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, NDArray[Any]]) -> Self:
        """Make the index of which `config` and `state` returned these.

        Raises:
            KeyError, TypeError, ValueError: parts that do not fit each other.
        """
        _check_state(state)
        if config["capacity"] != len(state["seen"]):  # before memory is asked for
            raise ValueError(f"a capacity of {config['capacity']} with {len(state['seen'])} rows")
        index = cls(**config)
        since_halving, swept, evictions = state["numbers"].tolist()
        index._native.restore(
            index._packed_of(state, "ids"),
            **{name: state[name] for name in _NATIVE},
            since_halving=since_halving,
            swept=swept,
        )
        index._evicted = unpack(index._packed_of(state, "evicted"))
        index._evictions = evictions
        if not len(index._evicted) <= evictions:
            raise ValueError(f"{len(index._evicted)} evicted ids of {evictions}")
        return index

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return self.config(), self.state()

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, NDArray[Any]]]) -> None:
        self.__dict__.update(self.from_state(*state).__dict__)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"IdIndex({given}, with {len(self)} ids)"

    def _packed(self, ids: list[Any]) -> Packed:
        return pack_strings(ids) if self.kind == "strings" else np.array(ids, np.int64)

    def _packed_of(self, state: dict[str, NDArray[Any]], name: str) -> Packed:
        if self.kind == "strings":
            return state[name], state[f"{name}.offsets"]
        return state[name]


_NATIVE = ("seen", "counts", "candidates", "candidate_counts", "sketch")
_DTYPES = {"counts": "u4", "candidate_counts": "u4", "sketch": "u1"}  # the others are int64


def _check_state(state: dict[str, NDArray[Any]]) -> None:
    strings = "ids.offsets" in state
    for name, array in state.items():
        expected = "u1" if strings and name in ("ids", "evicted") else _DTYPES.get(name, "i8")
        if array.dtype != expected or array.ndim != 1:
            raise ValueError(f"{name!r} of the ids is {array.dtype} of shape {array.shape}")
