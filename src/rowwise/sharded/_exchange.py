"""The one collective call that a sharded table needs: an exchange of arrays."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import ExchangeError

Array = NDArray[Any]


class Pending(Protocol):
    """An exchange on its way."""

    def wait(self) -> Array:
        """Return what was received.

        Raises:
            ExchangeError: another rank is gone, or did not answer in time.
        """


class Exchange(Protocol):
    """A group of ranks that give each other arrays.

    Attributes:
        rank: this one's number, from 0.
        ranks: how many there are.
    """

    rank: int
    ranks: int

    def start(
        self,
        array: Array,
        counts: Sequence[int],
        received: Sequence[int],
        out: Array | None = None,
    ) -> Pending:
        """Send parts of an array to all ranks, and begin to receive theirs.

        Every rank calls it in the same order. The array must stay as it is until `wait` returns.

        Args:
            array: (sum(counts), ...), contiguous: first the counts[0] entries for rank 0, and so
                on.
            counts: entries for each rank.
            received: entries from each rank, which must be the number that it sends.
            out: (sum(received), ...), contiguous, to receive into; a new array unless given.

        Returns:
            the exchange under way; `wait` gives (sum(received), ...), in order of ranks.

        Raises:
            ExchangeError: see `Pending.wait`.
        """

    def next_table(self) -> int:
        """Return 0, 1, 2...: the number of a new table in this group, the same on every rank."""


def all_to_all(
    exchange: Exchange, array: Array, counts: Sequence[int], received: Sequence[int]
) -> Array:
    """Send parts of an array to all ranks and return theirs; see `Exchange.start`."""
    return exchange.start(array, counts, received).wait()


def start_in_place(
    exchange: Exchange,
    array: Array,
    counts: Sequence[int],
    received: Sequence[int],
    out: Array,
    write_own: Callable[[Array], None],
) -> Pending:
    """Begin an exchange into out, with the part that a rank has for itself written meanwhile.

    That part stays off the wire where there are two ranks: it lies at an end of both arrays then.
    Among more ranks it is a small one, in the middle, and goes with the others.

    Args:
        exchange, array, counts, received, out: see `Exchange.start`.
        write_own: writes this rank's own part, of `out` or of `array`, which need not hold it.
    """
    rank = exchange.rank
    own, here = own_part(counts, rank), own_part(received, rank)
    if exchange.ranks != 2:
        write_own(array[own])
        return exchange.start(array, counts, received, out)
    others, theirs = (
        slice(0, part.start) if rank else slice(part.stop, None) for part in (own, here)
    )
    counts, received = (
        [0 if r == rank else n for r, n in enumerate(of)] for of in (counts, received)
    )
    pending = exchange.start(array[others], counts, received, out[theirs])
    write_own(out[here])
    return pending


def own_part(counts: Sequence[int], rank: int) -> slice:
    """Return where a rank's own entries are, of an array with so many for each rank."""
    begin = sum(counts[:rank])
    return slice(begin, begin + counts[rank])


def all_gather(exchange: Exchange, array: Array) -> Array:
    """Return the arrays (n, ...) of all ranks, (ranks, n, ...); n is the same everywhere."""
    n = len(array)
    copies = np.concatenate([array] * exchange.ranks)
    whole = all_to_all(exchange, copies, [n] * exchange.ranks, [n] * exchange.ranks)
    return whole.reshape(exchange.ranks, *array.shape)


def all_gather_bytes(exchange: Exchange, data: bytes) -> list[bytes]:
    """Return what each rank gave; the lengths may differ."""
    lengths = all_gather(exchange, np.array([len(data)]))[:, 0].tolist()
    mine = np.frombuffer(bytearray(data * exchange.ranks), np.uint8)
    whole = all_to_all(exchange, mine, [len(data)] * exchange.ranks, lengths)
    ends = np.cumsum(lengths)
    return [whole[end - n : end].tobytes() for end, n in zip(ends, lengths, strict=True)]


def gather(exchange: Exchange, array: Array) -> Array | None:
    """Return the arrays (n, ...) of all ranks, one after the other, on rank 0; else None."""
    lengths = all_gather(exchange, np.array([len(array)]))[:, 0].tolist()
    first = exchange.rank == 0
    none = [0] * exchange.ranks
    sent = [len(array), *none[1:]]
    whole = all_to_all(exchange, np.ascontiguousarray(array), sent, lengths if first else none)
    return whole if first else None


def all_reduce(exchange: Exchange, array: Array, ufunc: np.ufunc = np.add) -> Array:
    """Return the sums (n,) over all ranks; each rank sums its share of the numbers."""
    share = -(-len(array) // exchange.ranks)
    padded = np.zeros(share * exchange.ranks, array.dtype)
    padded[: len(array)] = array
    even = [share] * exchange.ranks
    parts = all_to_all(exchange, padded, even, even).reshape(exchange.ranks, share)
    return all_gather(exchange, ufunc.reduce(parts, axis=0)).reshape(-1)[: len(array)]


class ThreadExchange:
    """A rank that is a thread: arrays travel through queues of one process.

    Example:
        >>> ranks = ThreadExchange.group(2)
        >>> to_0 = ranks[1].start(np.array([7, 8, 9]), [1, 2], [2, 2])
        >>> ranks[0].start(np.array([5, 6]), [0, 2], [0, 1]).wait()
        array([7])
        >>> to_0.wait()
        array([5, 6, 8, 9])
    """

    def __init__(self, rank: int, mailboxes: list[_Mailbox], timeout: float) -> None:
        self.rank, self.ranks = rank, len(mailboxes)
        self._mailboxes, self._timeout = mailboxes, timeout
        self._calls = self._tables = 0
        self.bytes_sent = 0

    @classmethod
    def group(cls, ranks: int, timeout: float = 20.0) -> list[ThreadExchange]:
        """Return the ranks of a new group, one for each thread.

        Args:
            ranks: how many.
            timeout: seconds after which a rank that waits for another gives up.
        """
        mailboxes = [_Mailbox() for _ in range(ranks)]
        return [cls(rank, mailboxes, timeout) for rank in range(ranks)]

    def start(
        self,
        array: Array,
        counts: Sequence[int],
        received: Sequence[int],
        out: Array | None = None,
    ) -> Pending:
        """Put the parts of an array into the other ranks' queues; see `Exchange.start`."""
        call, self._calls = self._calls, self._calls + 1
        begin = 0
        for to, count in enumerate(counts):
            part = array[begin : begin + count].copy()
            self._mailboxes[to].put((call, self.rank), part)
            self.bytes_sent += part.nbytes if to != self.rank else 0
            begin += count

        def wait() -> Array:
            mailbox = self._mailboxes[self.rank]
            parts = [mailbox.take((call, sender), self._timeout) for sender in range(self.ranks)]
            for sender, (part, count) in enumerate(zip(parts, received, strict=True)):
                if len(part) != count:
                    raise ExchangeError(f"rank {sender} sent {len(part)} entries, not {count}")
            return np.concatenate(parts, out=out)

        return _Waiting(wait)

    def next_table(self) -> int:
        """Return the number of a new table; see `Exchange.next_table`."""
        self._tables += 1
        return self._tables - 1

    def leave(self) -> None:
        """Make every exchange of the others that waits for this rank fail, now and later."""
        for mailbox in self._mailboxes:
            mailbox.put(None, self.rank)


class _Waiting:
    def __init__(self, wait: Callable[[], Array]) -> None:
        self.wait = wait


class _Mailbox:
    """Arrays that came for a rank, by call and sender."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._arrived: dict[Any, Array] = {}
        self._gone: set[int] = set()
        self._lock = threading.Lock()

    def put(self, key: Any, part: Any) -> None:
        self._queue.put((key, part))

    def take(self, key: tuple[int, int], timeout: float) -> Array:
        with self._lock:
            while key not in self._arrived:
                if key[1] in self._gone:
                    raise ExchangeError(f"rank {key[1]} is gone")
                try:
                    got, part = self._queue.get(timeout=timeout)
                except queue.Empty:
                    raise ExchangeError(f"rank {key[1]} sent nothing for {timeout} s") from None
                if got is None:
                    self._gone.add(part)
                else:
                    self._arrived[got] = part
            return self._arrived.pop(key)
