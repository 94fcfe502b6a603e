"""Instructions per id of the hot kernels, counted by Valgrind: a figure that does not depend on how
busy the machine is, by which a change can be judged.

Counts whole runs of `build/tools/limit --only` with few and with many repeats; the difference is
the repeats' own. Valgrind runs the AVX2 copy of the kernels.

    make build/tools/limit && python benchmarks/instructions.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

LIMIT = Path(__file__).parent.parent / "build" / "tools" / "limit"
FEW, MANY = 2, 12


def instructions(kernel: str, dim: int, ids: int, repeats: int) -> int:
    """Count the instructions of a whole run."""
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", LIMIT),
            *("--only", kernel, "--rows", "20000", "--dim", str(dim), "--ids", str(ids)),
            *("--threads", "1", "--repeats", str(repeats)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    if found is None:
        raise RuntimeError(f"callgrind printed no count:\n{run.stderr}")
    return int(found[1])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 64, 300])
    parser.add_argument("--ids", type=int, default=4096)
    arguments = parser.parse_args()
    print("| kernel | " + " | ".join(f"D={dim}" for dim in arguments.dims) + " |")
    print("|---|" + "---:|" * len(arguments.dims))
    for kernel in ("lookup", "plan", "update"):
        cells = []
        for dim in arguments.dims:
            few, many = (
                instructions(kernel, dim, arguments.ids, repeats) for repeats in (FEW, MANY)
            )
            cells.append(f"{(many - few) / (MANY - FEW) / arguments.ids:.0f}")
        print(f"| {kernel} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
