"""Click logs, day after day: ids that nobody numbered, in memory that does not grow.

    python examples/click_log.py [--days 20] [--clicks 100000] [--rows 16384]

A log is made up: users who come back and users who come once, items that are new every day and
forgotten within a week, each known by a 64-bit hash alone. One factorization model predicts every
click before it trains on it (so that its log loss is that of ids as they come):

    dynamic      `DynamicTable`: a row for what comes twice, taken back from what stays away
    hashing      the hashing trick: id modulo the number of rows; ids that collide share a row;
                 with as many rows, and with as much memory
    vocabulary   a pass over the whole log first, then a row for each id that is in it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import rowwise
from rowwise.dynamic import DynamicTable

DIM, BATCH, RATE = 9, 512, 0.1  # a bias and 8 factors
USERS, ITEMS_A_DAY, DAYS_ALIVE = 4000, 1000, 7
ONCE = 0.25  # share of clicks whose user, and of clicks whose item, is seen only once


def hashed(numbers: np.ndarray, salt: int) -> np.ndarray:
    """Return 64-bit hashes, as a log would hold them."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    for shift in (30, 27):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(0xBF58476D1CE4E5B9)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


def log(days: int, clicks: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield days of (user, item) ids (clicks, 2) and whether each was a click (clicks,)."""
    rng = np.random.default_rng(0)
    tastes = rng.normal(0, 0.7, (USERS, 4))
    items = rng.normal(0, 0.9, (days * ITEMS_A_DAY, 5))  # how good, and for which taste
    visitors = 0
    for day in range(days):
        user = rng.zipf(1.2, clicks) % USERS
        age = np.minimum(rng.geometric(1 / 2, clicks) - 1, min(day, DAYS_ALIVE - 1))
        item = (day - age) * ITEMS_A_DAY + rng.zipf(1.15, clicks) % ITEMS_A_DAY
        signal = items[item, 0] + (tastes[user] * items[item, 1:]).sum(1) - 0.5
        ids = np.stack([hashed(user, 1), hashed(item, 2)], axis=1)
        for column in (0, 1):
            once = rng.random(clicks) < ONCE
            ids[once, column] = hashed(visitors + np.arange(once.sum()), 3)
            visitors += int(once.sum())
            signal[once] = rng.normal(-0.5, 1, once.sum())
        yield ids, rng.random(clicks) < 1 / (1 + np.exp(-signal))


class Dynamic:
    """Rows for ids as they come."""

    def __init__(self, rows: int) -> None:
        self.table = DynamicTable(rows, DIM, "adagrad", admit_after=2, seed=0)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of a batch that is about to be trained on."""
        self.table.observe(ids)
        return self.table.lookup(ids)

    def update(self, ids: np.ndarray, gradients: np.ndarray) -> None:
        """Train on the batch."""
        self.table.update(ids, gradients, RATE)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.table.index.rows

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return self.table.nbytes


class Hashing:
    """Ids modulo the number of rows."""

    def __init__(self, rows: int) -> None:
        self.table = rowwise.Table(rows, DIM, "adagrad", seed=0)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of a batch."""
        return self.table.lookup(ids % self.table.rows)

    def update(self, ids: np.ndarray, gradients: np.ndarray) -> None:
        """Train on the batch."""
        self.table.update(ids % self.table.rows, gradients, RATE)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.table.rows

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return self.table.nbytes


class Full:
    """A row for each id of the whole log, which has to be there before training starts."""

    def __init__(self, vocabulary: np.ndarray) -> None:
        self.vocabulary = vocabulary
        self.table = rowwise.Table(len(vocabulary), DIM, "adagrad", seed=0)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of a batch."""
        return self.table.lookup(np.searchsorted(self.vocabulary, ids))

    def update(self, ids: np.ndarray, gradients: np.ndarray) -> None:
        """Train on the batch."""
        self.table.update(np.searchsorted(self.vocabulary, ids), gradients, RATE)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.table.rows

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return self.table.nbytes + self.vocabulary.nbytes


def train(rows: Any, days: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], float]:
    """Predict, then train on, day after day; return each day's log loss, and ids a second."""
    losses, bias, seen, begin = [], -0.5, 0, time.perf_counter()
    for ids, clicked in days:
        total = 0.0
        for start in range(0, len(ids), BATCH):
            batch, truth = ids[start : start + BATCH], clicked[start : start + BATCH]
            vectors = rows.lookup(batch)
            user, item = vectors[:, 0], vectors[:, 1]
            signal = bias + user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(1)
            total += float(np.logaddexp(0, np.where(truth, -signal, signal)).sum())
            error = (1 / (1 + np.exp(-signal)) - truth)[:, None]
            gradients = error[:, :, None] * np.stack([item, user], axis=1)
            gradients[:, :, 0] = error
            rows.update(batch, gradients)
            bias -= 0.1 * float(error.mean())
            seen += batch.size
        losses.append(total / len(ids))
    return losses, seen / (time.perf_counter() - begin)


def main() -> None:
    """Train each, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--clicks", type=int, default=100_000, help="Lines of the log a day.")
    parser.add_argument("--rows", type=int, default=16_384, help="Rows of the bounded tables.")
    options = parser.parse_args()
    days = list(log(options.days, options.clicks))
    distinct = np.unique(np.concatenate([ids.reshape(-1) for ids, _ in days]))
    rates = np.concatenate([clicked for _, clicked in days]).mean()
    print(f"{options.days} days, {options.clicks * options.days:,} lines, {len(distinct):,} ids")
    alone = -(rates * np.log(rates) + (1 - rates) * np.log1p(-rates))
    print(f"log loss of the click rate alone: {alone:.4f}")
    print(f"\n{'':12}{'rows':>10}{'MB':>8}{'ids/s':>12}{'log loss':>10}{'last day':>10}")
    dynamic, hashing = Dynamic(options.rows), Hashing(options.rows)
    as_large = options.rows * dynamic.nbytes // hashing.nbytes
    for name, rows in (
        ("dynamic", dynamic),
        ("hashing", hashing),
        ("hashing", Hashing(as_large)),
        ("vocabulary", Full(distinct)),
    ):
        losses, speed = train(rows, days)
        print(
            f"{name:12}{rows.rows:>10,}{rows.nbytes / 1e6:>8.1f}{speed:>12,.0f}"
            f"{np.mean(losses):>10.4f}{losses[-1]:>10.4f}"
        )


if __name__ == "__main__":
    main()
