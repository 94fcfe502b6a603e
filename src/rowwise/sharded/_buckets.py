"""Where a row lies: id -> position in bucket order -> rank and row there.

The order of rows does not depend on the number of ranks. Ids are spread over 4096 buckets, and
rows stand bucket by bucket; each rank holds one block of that order. A table is therefore moved
to another number of ranks by cutting the same order elsewhere.

The bucket of an id is `(id + id // 4096) * 2531 mod 4096`. 2531 / 4096 is close to the golden
ratio, so that consecutive ids, and ids that are multiples of a power of two, fall evenly over the
buckets (Knuth's multiplicative hashing). Ids in order of frequency therefore load all ranks alike,
where blocks of ids would give most of the work to the first rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

BUCKETS = 4096
_BITS = 12
_GOLDEN = 2531  # BUCKETS / golden ratio, odd: a bijection of the buckets

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The places of `rows` rows on `ranks` ranks.

    Rank r holds the positions r * block to (r + 1) * block - 1, where block is rows / ranks,
    rounded up. `torch.distributed`'s `Shard(0)` cuts a tensor in the same way.

    Raises:
        ValueError: a rank would hold no row.

    Example:
        >>> layout = Layout(10, 2)
        >>> layout.positions(np.arange(10)).tolist()
        [0, 6, 2, 8, 4, 1, 7, 3, 9, 5]
        >>> layout.ids(rank=0).tolist()
        [0, 5, 2, 7, 4]
    """

    rows: int
    ranks: int

    def __post_init__(self) -> None:
        if (self.ranks - 1) * self.block >= self.rows:
            raise ValueError(
                f"rows={self.rows} over {self.ranks} ranks leaves rank {self.ranks - 1} without a "
                f"row; use at most {-(-self.rows // self.block)} ranks, or rows of {self.ranks**2}"
            )

    @property
    def block(self) -> int:
        """Rows on each rank but the last, which may hold fewer."""
        return -(-self.rows // self.ranks)

    def span(self, rank: int) -> tuple[int, int]:
        """Return the first position of a rank, and the one after its last."""
        return rank * self.block, min((rank + 1) * self.block, self.rows)

    def positions(self, ids: Ids) -> Ids:
        """Return the positions (...,) of rows ids (...,) in the order of buckets."""
        turn = ids >> _BITS
        return self._starts[((ids + turn) * _GOLDEN) & (BUCKETS - 1)] + turn

    def ids(self, rank: int) -> Ids:
        """Return the ids of the rows on a rank, (rows there,), in their order there."""
        return self.ids_at(np.arange(*self.span(rank)))

    def ids_at(self, positions: Ids) -> Ids:
        """Return the ids (n,) of the rows at positions (n,)."""
        bucket = np.searchsorted(self._starts, positions, side="right") - 1
        turn = positions - self._starts[bucket]
        low = (bucket * _GOLDEN_INVERSE - turn) & (BUCKETS - 1)
        return (turn << _BITS) + low

    @cached_property
    def _starts(self) -> Ids:
        """(BUCKETS,) position of the first row of each bucket."""
        turns, rest = divmod(self.rows, BUCKETS)
        sizes = np.full(BUCKETS, turns, np.int64)
        sizes[((np.arange(rest) + turns) * _GOLDEN) & (BUCKETS - 1)] += 1
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]])


_GOLDEN_INVERSE = pow(_GOLDEN, -1, BUCKETS)
