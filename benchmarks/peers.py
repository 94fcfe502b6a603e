"""Step time and memory of every embedding layer we know, beside ours: writes docs/benchmarks.md.

`contenders.py` says what a step is. One of ours stays alive while the peers of its interface come
one by one; each peer's steps alternate with its own, a few of one and a few of the other, so that
both see the same hours of a shared machine. The ratio is of the medians. Ours have made 300
steps before they are measured, as in the middle of training: a dense peer's step costs the same
from the second on.

    python benchmarks/peers.py [--rows 100000 4000000] [--optimizers Adam] [--ids uniform]
    python benchmarks/peers.py --ours "rowwise on JAX" --rows 10000    # beside its own peers alone
    python benchmarks/peers.py --write      # all cells, into docs/benchmarks.md and step-time.png
    python benchmarks/peers.py --write --resume    # with the cells that a run cut short has made
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
LIMIT = HERE.parent / "build" / "tools" / "limit"
MEASURED = HERE.parent / "build" / "cells.jsonl"  # of the latest run, a cell a line
WARM_UP, ROUNDS = 300, 5
PAUSE = 0.3  # seconds after a peer's turn, in which a thread of JAX's gives its memory back
GIB = 2**30


@dataclass(frozen=True)
class Contender:
    """One that takes part: what `contenders.py` calls it, and the Keras backend of its process."""

    title: str
    name: str
    backend: str = "torch"
    optimizers: tuple[str, ...] = ("SGD", "Adagrad", "RMSprop", "Adam")


# Ours, each with the peers of the same interface.
RIVALS = {
    Contender("Table", "table"): [],
    Contender("PyTorch", "our_torch"): [
        Contender("torch, sparse", "torch_sparse", optimizers=("SGD", "Adagrad", "Adam")),
        Contender("torch, dense", "torch_dense"),
        Contender("FBGEMM", "fbgemm", optimizers=("SGD", "Adagrad")),
        Contender("FBGEMM, row-wise", "fbgemm_rowwise", optimizers=("Adagrad",)),
    ],
    **{
        Contender(f"rowwise on {title}", "our_keras", backend): [
            Contender(f"Keras on {title}", "keras_layer", backend)
        ]
        for title, backend in (("torch", "torch"), ("JAX", "jax"), ("TensorFlow", "tensorflow"))
    },
}
OURS = [ours.title for ours in RIVALS]
TITLES = [*OURS, *(peer.title for peers in RIVALS.values() for peer in peers)]


class Worker:
    """A process of `contenders.py` with one Keras backend."""

    def __init__(self, backend: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", HERE / "contenders.py"],
            env=os.environ | {"KERAS_BACKEND": backend},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("SHOW_ERRORS") else None,
            text=True,
        )

    def __call__(self, *command: Any) -> Any:
        """Send a command and waits for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{command} failed; SHOW_ERRORS=1 shows why")
        return json.loads(answer)

    def close(self) -> None:
        """End the process, and gives its memory back."""
        self.process.kill()
        self.process.wait()


@dataclass
class Cell:
    """One optimizer, number of rows and law of ids: seconds of a step, by title; ratios; peaks."""

    optimizer: str
    rows: int
    ids: str
    seconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    limit: float | None = None


Rivals = dict[Contender, list[Contender]]


def take_up_frameworks(workers: dict[str, Worker], rivals: Rivals) -> None:
    """Lets all make a step first: what their libraries hold from then on is nobody's table."""
    for ours, peers in rivals.items():
        for one in (ours, *peers):
            workers[one.backend]("make", one.name, one.optimizers[-1], 100)
            workers[one.backend]("run", one.name, 100, False, 2)
            workers[one.backend]("drop", one.name)


def measure(cell: Cell, workers: dict[str, Worker], rivals: Rivals) -> None:
    """Fill a cell."""

    def run(one: Contender, count: int) -> list[float]:
        return list(workers[one.backend]("run", one.name, cell.rows, cell.ids == "Zipf", count))

    def make(one: Contender) -> None:
        workers[one.backend]("make", one.name, cell.optimizer, cell.rows)

    def note_peak(one: Contender) -> None:
        cell.peaks[one.title] = workers[one.backend]("peak", one.name)

    def drop(one: Contender) -> None:
        workers[one.backend]("drop", one.name)

    for ours, peers in rivals.items():
        make(ours)
        run(ours, WARM_UP)
        note_peak(ours)  # before a peer comes into the same process
        mine = [] if peers else run(ours, 40)
        for peer in peers:
            if cell.optimizer not in peer.optimizers:
                continue
            make(peer)
            slow = run(peer, 3)[-1] > 0.5
            time.sleep(PAUSE)
            theirs, beside = [], []
            for _ in range(ROUNDS - 2 if slow else ROUNDS):
                beside += run(ours, 7)[1:]
                theirs += run(peer, 2 if slow else 7)[1:]
                time.sleep(PAUSE)
            note_peak(peer)
            drop(peer)
            cell.seconds[peer.title] = statistics.median(theirs)
            cell.ratios[peer.title] = statistics.median(theirs) / statistics.median(beside)
            mine += beside
        cell.seconds[ours.title] = statistics.median(mine)
        drop(ours)
    if cell.optimizer == "Adam" and LIMIT.exists():
        cell.limit = memory_limit(cell.rows, cell.ids == "Zipf")


def memory_limit(rows: int, zipf: bool) -> float:
    """Seconds to gather and to read-modify-write the bare rows of Adam's three arrays."""
    command = [LIMIT, "--rows", str(rows), "--steps", "3", "--repeats", "30"]
    output = subprocess.run(
        command + ["--zipf"] * zipf, capture_output=True, text=True, check=True
    ).stdout
    both = re.search(r"gather ([\d.]+).*read-modify-write ([\d.]+)", output, re.DOTALL)
    if both is None:
        raise RuntimeError(f"benchmarks/limit printed no times:\n{output}")
    return (float(both[1]) + float(both[2])) / 1000


def measured_before(optimizer: str, rows: int, ids: str) -> Cell | None:
    """Return the cell that the run before has finished."""
    lines = MEASURED.read_text().splitlines() if MEASURED.exists() else []
    for cell in (Cell(**json.loads(line)) for line in lines):
        if (cell.optimizer, cell.rows, cell.ids) == (optimizer, rows, ids):
            return cell
    return None


def sixteen_million() -> str:
    """Ours alone, where dense training has no room, nor what the other processes keep."""
    rows, worker = 16_000_000, Worker("torch")
    worker("make", "our_torch", "Adam", rows)
    worker("run", "our_torch", rows, False, WARM_UP)
    seconds = statistics.median(worker("run", "our_torch", rows, False, 40))
    peak = worker("peak", "our_torch") / GIB
    worker.close()
    return (
        f"With 16,000,000 rows, Adam and uniform ids our PyTorch step takes {seconds * 1e3:.1f} ms"
        f" in {peak:.1f} GiB."
    )


def table_of(cells: list[Cell], entry: Any) -> list[str]:
    """Return a Markdown table of entry(cell, title)."""
    lines = [
        "| optimizer | ids | rows | " + " | ".join(TITLES) + " |",
        "|---|---|---:|" + "---:|" * len(TITLES),
    ]
    for cell in cells:
        entries = " | ".join(entry(cell, title) for title in TITLES)
        lines.append(f"| {cell.optimizer} | {cell.ids} | {cell.rows:,} | {entries} |")
    return lines


def time_entry(cell: Cell, title: str) -> str:
    """Milliseconds, and for a peer how many times ours."""
    if title not in cell.seconds:
        return "-"
    ratio = f" ({cell.ratios[title]:.1f}x)" if title in cell.ratios else ""
    return f"{cell.seconds[title] * 1e3:.1f}{ratio}"


def memory_entry(cell: Cell, title: str) -> str:
    """GiB."""
    return f"{cell.peaks[title] / GIB:.2f}" if title in cell.peaks else "-"


def report(cells: list[Cell], sixteen: str) -> str:
    """Return the measured part of docs/benchmarks.md."""
    packages = ("torch", "keras", "jax", "tensorflow-cpu", "fbgemm-gpu-cpu")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    limits = [cell for cell in cells if cell.limit]
    adams = [
        "| ids | rows | bare rows | Table | over the limit | PyTorch | over the limit |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {c.ids} | {c.rows:,} | {c.limit * 1e3:.1f} | {c.seconds['Table'] * 1e3:.1f} | "
            f"{c.seconds['Table'] / c.limit:.2f}x | {c.seconds['PyTorch'] * 1e3:.1f} | "
            f"{c.seconds['PyTorch'] / c.limit:.2f}x |"
            for c in limits
            if c.limit
        ),
    ]
    return "\n".join(
        [
            f"Measured with {versions}; {platform.machine()}, {os.cpu_count()} cores, 2 threads.",
            "Milliseconds of a step, the median; in brackets a peer's time over ours of the same",
            "interface (PyTorch's, or Keras's on that backend), measured in turns with it.",
            "",
            *table_of(cells, time_entry),
            "",
            sixteen,
            "",
            "Peak memory in GiB, from before the layer was made to the end of its steps:",
            "",
            *table_of([c for c in cells if c.ids == "uniform"], memory_entry),
            "",
            "Adam's step over the memory's limit: the bare rows of weights and two slots, gathered",
            "once and once read and written (`build/tools/limit`). In milliseconds:",
            "",
            *adams,
        ]
    )


def plot(cells: list[Cell], path: Path) -> None:
    """Adam's step time against rows, on logarithmic axes."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    chosen = [cell for cell in cells if cell.optimizer == "Adam" and cell.ids == "uniform"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for title in (t for t in TITLES if t in chosen[0].seconds):
        ours = title in OURS
        axes.loglog(
            [cell.rows for cell in chosen],
            [cell.seconds[title] * 1e3 for cell in chosen],
            marker="o",
            linewidth=2.5 if ours else 1,
            linestyle="-" if ours else "--",
            label=title if not ours or "rowwise" in title else f"rowwise, {title}",
        )
    axes.set(xlabel="rows of the table", ylabel="milliseconds of a training step, Adam")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def write(path: Path, text: str) -> None:
    """Put text between the two marks of a Markdown file."""
    page = path.read_text()
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    head, tail = page.split(begin)[0], page.split(end)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main() -> None:
    """Measures, prints, and writes if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 4 * 10**6])
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "Adagrad", "RMSprop", "Adam"])
    parser.add_argument("--ids", nargs="+", default=["uniform", "Zipf"])
    parser.add_argument("--ours", nargs="+", default=OURS, choices=OURS, help="and their peers")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--resume", action="store_true", help="go on where a run was cut short")
    arguments = parser.parse_args()
    rivals = {ours: peers for ours, peers in RIVALS.items() if ours.title in arguments.ours}
    if arguments.write and len(rivals) < len(RIVALS):
        parser.error("--write needs all of ours: leave out --ours")
    MEASURED.parent.mkdir(exist_ok=True)
    if not arguments.resume:
        MEASURED.unlink(missing_ok=True)
    workers = {backend: Worker(backend) for backend in {ours.backend for ours in rivals}}
    take_up_frameworks(workers, rivals)
    cells = []
    for optimizer in arguments.optimizers:
        for ids in arguments.ids:
            for rows in arguments.rows:
                cell = measured_before(optimizer, rows, ids) or Cell(optimizer, rows, ids)
                if not cell.seconds:
                    measure(cell, workers, rivals)
                    with MEASURED.open("a") as file:
                        print(json.dumps(asdict(cell)), file=file)
                cells.append(cell)
                print(table_of([cell], time_entry)[-1], flush=True)
    for worker in workers.values():
        worker.close()
    if len(rivals) < len(RIVALS):
        return
    text = report(cells, sixteen_million() if arguments.write else "")
    print(text)
    if arguments.write:
        write(DOCS / "benchmarks.md", text)
        plot(cells, DOCS / "step-time.png")


if __name__ == "__main__":
    main()
