"""Time `rowwise.vectors.load` beside gensim's reader.

The work is a GloVe text file with numbers of five or six digits, as GloVe's own are, made once.
Each reader reads it in a process of its own, right after it was read once, so that the disk is no
part.
"Reading alone" is `readinto` of the whole file, which is what the disk cache gives. Peak memory is
that of the process beyond its start.

    python benchmarks/vectors.py [--mb 1000] [--dim 300] [--keep FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_OURS = "import rowwise.vectors\nrowwise.set_num_threads({})"
_WORDS = "\nwords = [f'word{i}' for i in range(10_000)]"
# What a process imports, and what is timed in it.
READERS = {
    "rowwise, 2 threads": (_OURS.format(2), "m = rowwise.vectors.load(PATH).matrix"),
    "rowwise, 1 thread": (_OURS.format(1), "m = rowwise.vectors.load(PATH).matrix"),
    "rowwise, words= of 10,000": (
        _OURS.format(2) + _WORDS + " + ['absent']",
        "m = rowwise.vectors.load(PATH, words=words).matrix",
    ),
    "gensim": (
        "from gensim.models import KeyedVectors",
        "m = KeyedVectors.load_word2vec_format(PATH, binary=False, no_header=True).vectors",
    ),
    "reading alone": (
        "b, m = bytearray(1 << 22), None",
        "with open(PATH, 'rb', 0) as f:\n    while f.readinto(b): pass",
    ),
}
_PROGRAM = """
import json, sys, time
from pathlib import Path
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
PATH = sys.argv[1]
IMPORT
before, start = status("VmRSS"), time.perf_counter()
WORK
seconds = time.perf_counter() - start
kept = None if m is None else float(m[::1000].astype("float64").sum())
print(json.dumps([seconds, (status("VmHWM") - before) / 1024, kept]))
"""


def generate(path: Path, megabytes: int, dim: int) -> int:
    """Write a file of about that size; return the number of its rows."""
    rng = np.random.default_rng(0)
    rows = 0
    with path.open("w") as file:
        while file.tell() < megabytes * 10**6:
            numbers = rng.normal(0, 0.4, (1000, dim))
            for row in numbers.tolist():
                file.write(f"word{rows} " + " ".join([f"{x:.5g}" for x in row]) + "\n")
                rows += 1
    return rows


def measure(reader: str, path: Path) -> tuple[float, float, float | None]:
    """Return seconds, MiB, and a sum of some rows to compare."""
    imports, work = READERS[reader]
    program = _PROGRAM.replace("IMPORT", imports).replace("WORK", work)
    output = subprocess.run(
        [sys.executable, "-c", program, path], check=True, capture_output=True, text=True
    )
    seconds, memory, kept = json.loads(output.stdout)
    return seconds, memory, kept


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="make the file here, or take the one here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.keep or Path(folder) / "vectors.txt"
        if not path.exists():
            start = time.perf_counter()
            rows = generate(path, arguments.mb, arguments.dim)
            print(f"made {rows:,} rows in {time.perf_counter() - start:.0f} s")
        size = path.stat().st_size
        print(f"{size:,} bytes, D={arguments.dim}, {os.cpu_count()} cores")
        print()
        print("| reader | seconds | MB/s | gensim takes | peak MiB |")
        print("|:---|---:|---:|---:|---:|")
        found = {reader: measure(reader, path) for reader in ("reading alone", *READERS)}
        theirs = found["gensim"][0]
        for reader in READERS:
            seconds, memory, kept = found[reader]
            if kept is not None and "words=" not in reader:
                np.testing.assert_allclose(kept, found["gensim"][2], rtol=1e-9)
            print(
                f"| {reader} | {seconds:.2f} | {size / seconds / 1e6:,.0f} | "
                f"{theirs / seconds:.1f}x | {memory:,.0f} |"
            )


if __name__ == "__main__":
    main()
