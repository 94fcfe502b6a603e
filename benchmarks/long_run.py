"""20,000 steps of every rule beside dense training: does the error grow?

    python benchmarks/long_run.py docs/long-run.png

Each rule trains a table three times with the same batches: by rows, densely in float32, and
densely in float64, which is the truth. Rows are touched by a Zipf law, so that some wait for
thousands of steps; gradients range from 1e-6 to 1; the learning rate warms up, then follows a
cosine. At checkpoints the whole table is looked at. Drawn is the root mean square error of the
weights, in units of the last place (2^-23) of the largest weight of the same row.
"""

import argparse
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np

import rowwise
from rowwise.rules import pytorch

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from helpers.oracle import Dense

matplotlib.use("agg")
import matplotlib.pyplot as plt

plt.rcParams["svg.fonttype"] = "none"  # text stays text, and the file small

ROWS, DIM, BATCH = 200, 4, 8
CHECKPOINTS = 40
RULES = {
    "SGD, momentum, weight decay": rowwise.rules.SGD(0.01, momentum=0.9, weight_decay=0.01),
    "RMSprop": rowwise.rules.RMSprop(),
    "RMSprop, momentum": rowwise.rules.RMSprop(momentum=0.9),
    "Adagrad": rowwise.rules.Adagrad(),
    "Adadelta": rowwise.rules.Adadelta(1.0),
    "Adam": rowwise.rules.Adam(),
    "Adam, amsgrad": rowwise.rules.Adam(amsgrad=True),
    "AdamW": rowwise.rules.AdamW(),
    "Adamax": rowwise.rules.Adamax(),
    "Nadam": rowwise.rules.Nadam(),
    "Lion": rowwise.rules.Lion(0.0001),
    "Ftrl": rowwise.rules.Ftrl(0.1),
    "PyTorch SGD, Nesterov": pytorch.SGD(0.01, momentum=0.9, nesterov=True),
    "PyTorch RMSprop, centered": pytorch.RMSprop(0.001, centered=True),
    "PyTorch Adam": pytorch.Adam(),
    "PyTorch AdamW": pytorch.AdamW(),
    "PyTorch NAdam": pytorch.NAdam(),
    "PyTorch Adamax": pytorch.Adamax(),
}


def batches(rule, steps):
    """(ids, gradients, learning rate) of each step."""
    rng = np.random.default_rng(0)
    often = 1.0 / np.arange(1, ROWS + 1) ** 1.5
    size = 10.0 ** rng.uniform(-6, 0, (ROWS, 1))
    for t in range(steps):
        ids = rng.choice(ROWS, BATCH, p=often / often.sum())
        gradients = (rng.normal(size=(BATCH, DIM)) * size[ids]).astype(np.float32)
        warm, cosine = min(1.0, (t + 1) / 500), 0.55 + 0.45 * np.cos(np.pi * t / steps)
        yield ids, gradients, rule.learning_rate * warm * cosine


def errors(rule, steps):
    """(checkpoints,) step numbers, and the errors (checkpoints,) by rows and dense in float32."""
    start = np.random.default_rng(1).uniform(-0.05, 0.05, (ROWS, DIM)).astype(np.float32)
    table = rowwise.Table(ROWS, DIM, rule, init=start)
    truth, dense = Dense(start, rule), Dense(start, rule, np.float32)
    looks = np.unique(np.geomspace(1, steps, CHECKPOINTS).astype(int))
    found = []
    for t, (ids, gradients, rate) in enumerate(batches(rule, steps), 1):
        table.update(ids, gradients, rate)
        truth.step(ids, gradients, rate)
        dense.step(ids, gradients, rate)
        if t in looks:
            ulp = 2.0**-23 * np.abs(truth.weights).max(axis=1, keepdims=True) + 1e-38
            found.append(
                [
                    np.sqrt(np.mean(((weights - truth.weights) / ulp) ** 2))
                    for weights in (table.to_numpy(), dense.weights)
                ]
            )
    return looks, *np.transpose(found)


def main():
    """Draws the picture and prints the table of the last errors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", help="an .svg or .png file")
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()

    columns = 3
    figure, axes = plt.subplots(
        -(-len(RULES) // columns), columns, figsize=(11, 14), sharex=True, layout="constrained"
    )
    print("| rule | by rows, ulps | dense float32, ulps |\n|---|---:|---:|")
    for axis, (name, rule) in zip(axes.flat, RULES.items(), strict=False):
        began = time.perf_counter()
        looks, ours, dense = errors(rule, options.steps)
        axis.loglog(looks, np.maximum(dense, 1e-3), color="#999999", label="dense float32")
        axis.loglog(looks, np.maximum(ours, 1e-3), color="#d62728", label="by rows")
        axis.set_title(name, fontsize=10)
        print(f"| {name} | {ours[-1]:.2f} | {dense[-1]:.2f} |", flush=True)
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    axes.flat[0].legend(fontsize=8)
    figure.supxlabel("step")
    figure.supylabel("root mean square error against dense float64, ulps")
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
