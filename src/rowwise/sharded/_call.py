"""The agreement with which every collective call begins: all ranks call the same, or all raise."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import errors
from rowwise.sharded._exchange import Exchange, all_gather_bytes, all_to_all

Counts = NDArray[np.int64]

KINDS = (
    "make", "lookup", "count", "change", "prefetch", "gradient", "update", "save", "load",
    "to_numpy", "slot", "update_counts", "last_update", "is_trained",
    "observe", "find", "renew",
)  # fmt: skip

# What a rank may refuse, by the name that travels to the others.
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(IndexError, TypeError, ValueError, AssertionError, MemoryError),
        *(OSError, FileNotFoundError),
        *(errors.UntrainedError, errors.RankMismatchError, errors.DamagedFileError),
    )
}


@dataclass(frozen=True)
class Call:
    """The call that every rank must be about to make.

    Attributes:
        kind: one of `KINDS`.
        table: number of the table in its group.
        steps: updates so far.
        rule: the update rule, as text.
        form: how the call's data is laid out, where it can be in several ways.
        learning_rate, iteration: of an update.
        factor: what the gradients of an update were multiplied with.
    """

    kind: str
    table: int
    steps: int
    rule: str
    form: int = 0
    learning_rate: float = 0.0
    iteration: int = 0
    factor: float = 1.0

    def numbers(self, error: Exception | None) -> Counts:
        """Return the call as it travels: nine integers, the last says whether it is refused."""
        rate, factor = np.array([self.learning_rate, self.factor]).view(np.int64)
        rule = zlib.crc32(self.rule.encode())
        fields = [KINDS.index(self.kind), self.table, self.steps, rule, self.form, rate]
        return np.array([*fields, self.iteration, factor, error is not None], np.int64)


def agree(exchange: Exchange, call: Call, counts: Counts, error: Exception | None = None) -> Counts:
    """Tell every rank what this one calls, and how much it will send.

    Args:
        exchange: the group.
        call: what this rank calls.
        counts: (ranks, 3) numbers for each rank.
        error: what this rank refuses its call with.

    Returns:
        (ranks, 3): the numbers that each rank has for this one.

    Raises:
        RankMismatchError: ranks call something else; on every rank.
        Exception: the error of the first rank that gave one; on every rank.
    """
    mine = call.numbers(error)
    header = np.hstack([np.broadcast_to(mine, (exchange.ranks, len(mine))), counts])
    one_each = [1] * exchange.ranks
    received = all_to_all(exchange, np.ascontiguousarray(header), one_each, one_each)
    calls = received[:, : len(mine)]
    if calls[:, -1].any():
        _raise_first(exchange, error)
    if (calls[1:] != calls[0]).any():
        rules = all_gather_bytes(exchange, call.rule.encode())
        raise _mismatch(calls, [rule.decode() for rule in rules])
    return received[:, len(mine) :]


def agree_on_arguments(
    exchange: Exchange, what: str, arguments: dict[str, object], error: Exception | None = None
) -> None:
    """Refuse arguments that differ between ranks.

    Raises:
        RankMismatchError: they differ; on every rank.
        Exception: the error of the first rank that gave one; on every rank.
    """
    told = json.dumps({"error": _packed(error), **arguments}, default=repr).encode()
    everyone = [json.loads(data) for data in all_gather_bytes(exchange, told)]
    for rank, other in enumerate(everyone):
        if other["error"]:
            raise _unpacked(rank, other["error"]) from error
    for rank, other in enumerate(everyone):
        for name, value in everyone[0].items():
            if other.get(name) != value:
                raise errors.RankMismatchError(
                    f"{what} has {name}={other.get(name)!r} on rank {rank} and {name}={value!r} on "
                    "rank 0; give every rank the same"
                )


def _raise_first(exchange: Exchange, error: Exception | None) -> None:
    told = json.dumps(_packed(error)).encode()
    for rank, data in enumerate(all_gather_bytes(exchange, told)):
        packed = json.loads(data)
        if packed:
            raise _unpacked(rank, packed) from error


def _packed(error: Exception | None) -> list[str] | None:
    return None if error is None else [type(error).__name__, str(error)]


def _unpacked(rank: int, packed: list[str]) -> Exception:
    kind = _ERRORS.get(packed[0], RuntimeError)
    return kind.__new__(kind, f"rank {rank}: {packed[1]}")  # whatever else its kind asks for


def _mismatch(calls: Counts, rules: list[str]) -> errors.RankMismatchError:
    def said(rank: int, field: int) -> str:
        value: Any = int(calls[rank, field])
        return (
            f"calls {KINDS[value] if 0 <= value < len(KINDS) else value}",
            f"calls table {value} of the group",
            f"is at step {value}",
            f"steps by {rules[rank]}",
            f"makes the call in form {value}",
            f"has the learning rate {calls[rank, 5:6].view(np.float64)[0]}",
            f"has the iteration {value}",
            f"multiplies its gradients with {calls[rank, 7:8].view(np.float64)[0]}",
        )[field]

    field = int((calls[1:] != calls[0]).any(axis=0).argmax())
    rank = 1 + int((calls[1:, field] != calls[0, field]).argmax())
    return errors.RankMismatchError(
        f"rank 0 {said(0, field)} and rank {rank} {said(rank, field)}; every rank makes the same "
        "calls in the same order, with an empty batch where it has no data; nothing has changed"
    )
