"""70,000 steps past what the clock remembers, saved and loaded right there, beside dense training.

    python benchmarks/clock_renewal.py [--steps 70000]

A table remembers 65,535 steps and then brings every row up to date. Each rule trains a table of 8
rows three times: by rows, densely in float32, and densely in float64, which is the truth. Rows are
touched at every 100th step, or at a few steps about that limit, or once, or never. The table is
saved and loaded at each of the five steps about that limit; a twin is never saved, and must have
the same bits. Printed are the largest errors of weights and slots, in units of the last place
(2^-23) of the largest value that its row had; ends with status 1 if a table is worse than a dense
float32 run by the tests' criterion, or the bits differ.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import rowwise

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from test_exactness import Judge, assert_as_good_as_dense, contents, start

MOST_STEPS = 2**16 - 1
RULES = {
    "Adam": rowwise.rules.Adam(),
    "Adam, amsgrad": rowwise.rules.Adam(amsgrad=True),
    "AdamW": rowwise.rules.AdamW(),
    "SGD, momentum": rowwise.rules.SGD(0.01, momentum=0.9),
    "SGD, momentum, weight decay": rowwise.rules.SGD(0.01, momentum=0.99, weight_decay=0.01),
    "SGD, Nesterov": rowwise.rules.SGD(0.01, momentum=0.9, nesterov=True),
    "Lion": rowwise.rules.Lion(0.0001),
    "Lion, weight decay": rowwise.rules.Lion(0.0001, weight_decay=0.1),
}


def touched(step):
    """Rows whose gradients step (from 1) brings."""
    due = [
        step % 100 == 0,
        step in (1, 2, MOST_STEPS),
        step in (MOST_STEPS - 1, MOST_STEPS + 1),
        step in (5, 2**15, MOST_STEPS + 2000),
        step == 9,
        step == MOST_STEPS,
        step == MOST_STEPS + 1,
        False,
    ]
    return np.flatnonzero(due)


def run(rule, steps, file):
    """Train table, twin and dense runs; return the judge and the table, or raise AssertionError."""
    weights = start(8, 3)
    table, twin = (rowwise.Table(8, 3, rule, init=weights) for _ in range(2))
    judge, rng = Judge(weights, rule), np.random.default_rng(5)
    for step in range(1, steps + 1):
        ids = touched(step)
        gradients = rng.normal(size=(len(ids), 3))
        lr = rule.learning_rate * (1 + step % 3)
        table.update(ids, gradients, lr)
        twin.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
        if abs(step - MOST_STEPS) <= 2:
            table.save(file)
            table = rowwise.Table.load(file, mmap=step % 2 == 0)
            assert_as_good_as_dense(table, judge)
    assert_as_good_as_dense(table, judge, {f"row {row}": [row] for row in range(8)})
    for name, values in contents(table).items():
        assert (values == contents(twin)[name]).all(), f"{name} of the twin has other bits"
    return judge, table


def main():
    """Print a line for each rule; return whether one is worse than dense training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=70_000)
    steps = parser.parse_args().steps
    print(f"{steps:,} steps, largest error in ulps: by rows / dense float32")
    failed = 0
    for name, rule in RULES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                judge, table = run(rule, steps, Path(folder) / "table")
            except AssertionError as error:
                print(f"{name:28} {error}", flush=True)
                failed = 1
                continue
        dense = contents(judge.dense)
        errors = [
            f"{part} {judge.error(part, values):.2f} / {judge.error(part, dense[part]):.2f}"
            for part, values in contents(table).items()
        ]
        print(f"{name:28} {', '.join(errors)}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
