"""The table file, written and read by all ranks at once.

The file has its rows in order of ids. Each rank writes, or reads, one run of ids: rows travel
between the ranks that hold them and those that write them, some megabytes at a time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise._checks import check_learning_rate
from rowwise.errors import DamagedFileError
from rowwise.files._atomic import open_for_writing, replacing
from rowwise.files._container import NO_SUM, Container, in_file_order, make_header, write_all
from rowwise.sharded._buckets import Layout
from rowwise.sharded._call import Call, agree, agree_on_arguments
from rowwise.sharded._exchange import Exchange, all_gather, all_gather_bytes, all_to_all
from rowwise.sharded._store import ShardedStore, attempt
from rowwise.store import Folder, HostStore, TableState
from rowwise.store._memory import check_fits, matrix, row_states
from rowwise.store._table_file import blaming, check_layout, complete, describe, other_arrays
from rowwise.store._table_file import row_arrays as row_arrays_of

_AT_ONCE = 1 << 22  # bytes of an array that a rank handles at a time
_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits reversed

Ids = NDArray[np.int64]
T = TypeVar("T")


class Spec(NamedTuple):
    """An array that is in no one's memory as a whole, or in that of rank 0 alone."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))


# ---------------------------------------------------------------------- writing


def save(
    store: ShardedStore,
    state: TableState,
    path: str | os.PathLike[str],
    *,
    arrays: Mapping[str, Any] | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the table of which `state` is this rank's part; see `ShardedTable.save`.

    Args:
        store, state, path: what is written, and where.
        arrays: that go into the same file; on ranks other than 0 a `Spec` of each will do.
        about: strings that go with them, the same on every rank.
    """
    first = store.exchange.rank == 0
    with store.collective("a save"), ExitStack() as stack:
        name, error = attempt(lambda: stack.enter_context(replacing(path)) if first else "")
        store.agree("save", error)
        temporary = all_gather_bytes(store.exchange, (name or "").encode())[0].decode()
        _write(store, state, temporary, arrays or {}, about or {})
        _, error = attempt(stack.close)  # flushes and renames
    store.agree("save", error)


def _write(
    store: ShardedStore,
    state: TableState,
    temporary: str,
    arrays: Mapping[str, Any],
    about: Mapping[str, str],
) -> None:
    own, others = row_arrays_of(state), {**other_arrays(state), **arrays}
    specs: dict[str, Any] = {
        name: Spec(array.dtype, (store.layout.rows, *array.shape[1:]))
        for name, array in own.items()
    }
    specs = in_file_order({**specs, **others})
    about, sums = {**describe(state), **about}, dict.fromkeys(specs, NO_SUM)
    begins = _begins(specs, len(make_header(specs, about, sums)))
    file, error = attempt(lambda: open_for_writing(temporary))
    store.agree("save", error)
    assert file is not None
    try:
        for name in own:
            sums[name], failed = _write_rows(store, own[name], file, begins[name])
            error = error or failed
        if store.exchange.rank == 0:
            small = {name: array.tobytes() for name, array in others.items()}
            sums.update({name: f"{zlib.crc32(data):08x}" for name, data in small.items()})
            header = make_header(specs, about, sums)
            pieces = [(0, header), *((begins[name], small[name]) for name in small)]
            error = error or _tried_to_write(file, pieces)
        _, failed = attempt(lambda: os.fsync(file))
    finally:
        os.close(file)
    store.agree("save", error or failed)


def _write_rows(
    store: ShardedStore, own: NDArray[Any], file: int, begin: int
) -> tuple[str, Exception | None]:
    """Write an array of which each rank has its rows; return its checksum."""
    runs = _Runs(store.layout, store.exchange)
    row_bytes = own[:1].nbytes
    checksum = 0
    error: Exception | None = None
    for ids, mine in runs.pieces(row_bytes):
        counts = [len(rows) for rows in mine]
        owner = runs.owners(ids)
        came = np.bincount(owner, minlength=runs.ranks).tolist()
        received = all_to_all(store.exchange, own[np.concatenate(mine)], counts, came)
        piece = np.empty_like(received)
        piece[np.argsort(owner, kind="stable")] = received
        data = piece.tobytes()
        checksum = zlib.crc32(data, checksum)
        if error is None:
            error = _tried_to_write(file, [(begin + ids.start * row_bytes, data)])
    return f"{_combined(store.exchange, store.layout, checksum, row_bytes):08x}", error


def _begins(specs: dict[str, Any], at: int) -> dict[str, int]:
    begins = {}
    for name, spec in specs.items():
        begins[name] = at
        at += spec.nbytes
    return begins


def _tried_to_write(file: int, pieces: list[tuple[int, bytes]]) -> Exception | None:
    """Write pieces of data to their places; return the error that this met."""
    try:
        for at, data in pieces:
            os.lseek(file, at, os.SEEK_SET)
            write_all(file, data)
    except OSError as error:
        return error
    return None


# ---------------------------------------------------------------------- reading


def load(
    path: str | os.PathLike[str],
    *,
    exchange: Exchange,
    scratch: Folder | None,
    also: Callable[[Container], T] | None = None,
    **options: Any,
) -> tuple[ShardedStore, TableState, T | None]:
    """Read a table's file; see `ShardedTable.load`.

    Args:
        path, exchange, scratch, options: see there.
        also: reads what else is in the file.

    Returns:
        the store, the state of this rank's part of it, and what `also` returned.
    """
    with ExitStack() as stack:

        def begin() -> tuple[Container, int, int, dict[str, NDArray[Any]]]:
            file = stack.enter_context(Container(path))
            with blaming(file):
                rows, dim, rule, slots = check_layout(file)
                if file.entries["weights"].dtype != np.float32:
                    raise file.damaged(
                        "its weights have 16 bits; tables over processes are float32"
                    )
            here = len(range(*Layout(rows, exchange.ranks).span(exchange.rank)))
            if scratch is None:
                check_fits(here, dim, rule)
            dims = {"weights": dim, **{name: rule.slot_dim(dim) for name in slots if rule}}
            big: dict[str, NDArray[Any]] = {n: matrix(here, dims[n], scratch) for n in dims}
            big["states"] = row_states(here, scratch).view(np.uint32).reshape(here, 4)
            return file, rows, dim, big

        begun, error = attempt(begin)
        call, nothing = Call("load", 0, 0, ""), np.zeros((exchange.ranks, 3), np.int64)
        agree(exchange, call, nothing, error)
        assert begun is not None
        file, rows, dim, big = begun
        header = {"rows": rows, "dim": dim, "checksums": _checksums(file)}
        agree_on_arguments(exchange, os.fspath(path), header)
        layout = Layout(rows, exchange.ranks)
        for name, array in big.items():
            failed = _read_rows(file, name, array, layout, exchange)
            error = error or failed
        state = more = None
        if error is None and also is not None:
            more, error = attempt(lambda: _read_more(file, also))
        if error is None:
            state, error = attempt(lambda: _complete(file, big, scratch))
        agree(exchange, call, nothing, error)
        assert state is not None
        loaded = state
    store = ShardedStore.from_local(
        lambda: HostStore.from_state(loaded), rows, exchange=exchange, **options
    )
    return store, loaded, more


def _read_more(file: Container, also: Callable[[Container], T]) -> T:
    with blaming(file):
        return also(file)


def _checksums(file: Container) -> dict[str, int]:
    return {name: entry.checksum for name, entry in file.entries.items()}


def _complete(file: Container, big: dict[str, NDArray[Any]], scratch: Folder | None) -> TableState:
    with blaming(file):
        state = complete(file, big, scratch, check_last_steps=True)
        check_learning_rate(state.learning_rate)
        return state


def _read_rows(
    file: Container, name: str, own: NDArray[Any], layout: Layout, exchange: Exchange
) -> Exception | None:
    """Read an array of which each rank wants its rows."""
    runs = _Runs(layout, exchange)
    row_bytes = own[:1].nbytes
    checksum = 0
    error: Exception | None = None
    for ids, mine in runs.pieces(row_bytes):
        piece = np.zeros((len(ids), *own.shape[1:]), own.dtype)
        try:
            file.read_rows(name, ids.start, piece)
        except (OSError, DamagedFileError) as failed:
            error = error or failed
        checksum = zlib.crc32(piece.tobytes(), checksum)
        owner = runs.owners(ids)
        sent = np.bincount(owner, minlength=runs.ranks).tolist()
        ordered = piece[np.argsort(owner, kind="stable")]
        received = all_to_all(exchange, ordered, sent, [len(rows) for rows in mine])
        own[np.concatenate(mine)] = received
    found = _combined(exchange, layout, checksum, row_bytes)
    _, wrong = attempt(lambda: file.check(name, found))
    return error or wrong


# ---------------------------------------------------------------------- runs of ids


class _Runs:
    """A run of ids for each rank, which it writes or reads, cut into pieces."""

    def __init__(self, layout: Layout, exchange: Exchange) -> None:
        self.layout, self.ranks, self.rank = layout, exchange.ranks, exchange.rank
        ids = layout.ids(exchange.rank)
        self._order = np.argsort(ids)
        self._ids = ids[self._order]

    def pieces(self, row_bytes: int) -> Iterator[tuple[range, list[Ids]]]:
        """Yield ids that this rank handles, and for each rank, which of ours are in its ids."""
        step = max(1, _AT_ONCE // row_bytes)
        runs = [_run(self.layout, self.ranks, rank) for rank in range(self.ranks)]
        for start in range(0, max(map(len, runs)), step):
            parts = [run[start : start + step] for run in runs]
            mine = [
                self._order[slice(*np.searchsorted(self._ids, (part.start, part.stop)))]
                for part in parts
            ]
            yield parts[self.rank], mine

    def owners(self, ids: range) -> Ids:
        """Return the rank (n,) that holds each of ids."""
        return self.layout.positions(np.arange(ids.start, ids.stop)) // self.layout.block


def _run(layout: Layout, ranks: int, rank: int) -> range:
    return range(layout.rows * rank // ranks, layout.rows * (rank + 1) // ranks)


def _combined(exchange: Exchange, layout: Layout, checksum: int, row_bytes: int) -> int:
    """Return the CRC-32 of all ranks' runs, one after the other."""
    whole = 0
    for rank, part in enumerate(all_gather(exchange, np.array([checksum]))[:, 0].tolist()):
        length = len(_run(layout, exchange.ranks, rank)) * row_bytes
        whole = crc32_of_both(whole, part, length)
    return whole


def crc32_of_both(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two runs of bytes, from theirs and the length of the second.

    A CRC is a remainder of polynomials over GF(2). `length` bytes more multiply the first one by
    x^(8 length), modulo CRC-32's polynomial.

    Example:
        >>> crc32_of_both(zlib.crc32(b"row"), zlib.crc32(b"wise"), 4) == zlib.crc32(b"rowwise")
        True
    """
    power, square, exponent = 1 << 31, 1 << 30, 8 * length  # x^0 and x^1, highest power last
    while exponent:
        if exponent & 1:
            power = _product(power, square)
        square = _product(square, square)
        exponent >>= 1
    return _product(first, power) ^ second


def _product(a: int, b: int) -> int:
    """Return a * b modulo CRC-32's polynomial; bit 31 - k is the coefficient of x^k."""
    result = 0
    for place in range(31, -1, -1):
        if a >> place & 1:
            result ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return result
