"""Run test_short.py in an environment per version of the frameworks, and print one table.

    python tests/versions/run.py              # every environment: minutes for each
    python tests/versions/run.py --ends       # the oldest and the newest
    python tests/versions/run.py --oldest     # the oldest NumPy, and the oldest Keras with the
                                              # PyTorch that runs this: half a minute
    python tests/versions/run.py keras-3.8    # those named

Environments lie in build/versions and are used again. The wheel is the one that `make` built for
the environment that runs this.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / "build" / "versions"
TOOLS = ["pytest", "hypothesis", "safetensors"]
TORCH = "torch==2.13.*"  # beside an older Keras

# name: (Keras's backend, or "" for no Keras; what is installed).
ENVIRONMENTS = {
    "numpy-1.26": ("", ["numpy==1.26.*"]),
    "numpy-2": ("", ["numpy>=2"]),
    "torch-2.6": ("", ["torch==2.6.*", "numpy>=2"]),
    "torch-newest": ("", ["torch", "numpy>=2"]),
    **{f"keras-3.{minor}": ("torch", [f"keras==3.{minor}.*", TORCH]) for minor in range(8, 16)},
    # Keras 3.8 and 3.9 call what JAX 0.6 has no more.
    "keras-3.10-jax": ("jax", ["keras==3.10.*", "jax==0.6.*"]),
    "keras-3.15-jax": ("jax", ["keras==3.15.*", "jax"]),
    "keras-3.8-tensorflow": ("tensorflow", ["keras==3.8.*", "tensorflow-cpu==2.19.*"]),
    "keras-3.10-tensorflow": ("tensorflow", ["keras==3.10.*", "tensorflow-cpu==2.20.*"]),
    "keras-3.15-tensorflow": ("tensorflow", ["keras==3.15.*", "tensorflow-cpu"]),
}
BETWEEN = {
    "numpy-2",
    *(f"keras-3.{minor}" for minor in range(9, 15)),
}  # neither the oldest nor the newest of anything
OLDEST = ["numpy-1.26", "keras-3.8"]


def installed_wheel() -> Path:
    """Return the wheel that is installed in the environment that runs this."""
    folder = Path(sys.prefix) / "wheel"
    if not (wheels := list(folder.glob("*.whl"))):
        sys.exit(
            f"no wheel in {folder}: run `make .venv/.installed`, then this with .venv/bin/python"
        )
    return wheels[0]


def see_this_environment(folder: Path) -> None:
    """Let an environment import what the one that runs this has, where it has no other version."""
    (there,) = folder.glob("lib/python*/site-packages")
    (there / "outer.pth").write_text(sysconfig.get_path("purelib"))


def passes(name: str, wheel: Path, oldest: bool) -> bool:
    """Set the environment up, and run the tests in it."""
    backend, packages = ENVIRONMENTS[name]
    folder = BUILT / (f"{name}-here" if oldest and backend else name)
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    if oldest and backend:
        see_this_environment(folder)
        needed = subprocess.run([*pip, "--no-deps", packages[0]])
    else:
        needed = subprocess.run([*pip, *packages, *TOOLS])
    # Without its dependencies, so that versions outside of its bounds can be tried, too.
    placed = subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel])
    if needed.returncode or placed.returncode:
        return False
    test = "tests/versions/test_short.py"
    environment = os.environ | {
        "KERAS_BACKEND": backend or "torch",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return not subprocess.run(
        [python, "-m", "pytest", "-q", test], cwd=ROOT, env=environment
    ).returncode


def main() -> None:
    """Run what the arguments name, and exit with 1 if any fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--ends", action="store_true", help="The oldest and the newest alone.")
    parser.add_argument("--oldest", action="store_true", help="Two that are quick to set up.")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    names = arguments.names or ([n for n in ENVIRONMENTS if not (arguments.ends and n in BETWEEN)])
    if arguments.oldest:
        names = OLDEST
    wheel = installed_wheel()
    results = {name: passes(name, wheel, arguments.oldest) for name in names}
    for name, passed in results.items():
        print(f"{name:20} {'passes' if passed else 'FAILS'}   {' '.join(ENVIRONMENTS[name][1])}")
    sys.exit(not all(results.values()))


if __name__ == "__main__":
    main()
