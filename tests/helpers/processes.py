"""Child processes that start quickly, and programs on several processes of `torch.distributed`."""

import multiprocessing
import os
import signal
import socket
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

_START = """
import datetime, os, signal, sys
import numpy as np, torch, torch.distributed as dist
import rowwise.torch
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank, ranks = dist.get_rank(), dist.get_world_size()
"""


def forkserver() -> multiprocessing.context.BaseContext:
    """Return torch's context whose children are forks of one process, in which torch is imported.

    A child imports rowwise itself when it unpickles what it is given, as a spawned one does.
    """
    import torch

    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch._dynamo"])
    return context


def run_forks(function: Callable[..., None], *arguments: object, processes: int = 2) -> None:
    """Call function(rank, *arguments) on each of several processes of `forkserver`."""
    import torch

    forkserver()
    torch.multiprocessing.start_processes(
        function, arguments, nprocs=processes, start_method="forkserver"
    )


def run_processes(
    ranks: int, program: str, *arguments: object, folder: Path, timeout: float = 150
) -> list[str]:
    """Run a program on each of several processes; return what they printed, by way of a folder.

    The program finds `rank`, `ranks`, `np`, `torch`, `dist` and `rowwise` there, and arguments as
    `sys.argv[1:]`. A process that fails fails the test, with what it wrote, but for one that a
    signal ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = _START + textwrap.dedent(program)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    end = time.monotonic() + timeout
    processes, printed = [], []
    try:
        for rank in range(ranks):
            wrote = [str(folder / f"{rank}.{name}") for name in ("out", "err")]
            values = (code, list(map(str, arguments)), common | {"RANK": str(rank)}, wrote)
            process = forkserver().Process(target=_run, args=values)
            process.start()
            processes.append((process, wrote))
        for process, (out, error) in processes:
            process.join(max(0.1, end - time.monotonic()))
            assert process.exitcode in (0, -signal.SIGKILL), Path(error).read_text()
            printed.append(Path(out).read_text().strip())
    finally:
        for process, _ in processes:
            process.kill()
            process.join()
    return printed


def _run(code: str, arguments: list[str], environment: dict[str, str], wrote: list[str]) -> None:
    """Run a program in a child, in which what it writes goes to files and warnings are errors."""
    for descriptor, path in zip((1, 2), wrote, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ |= environment
    sys.argv[1:] = arguments
    warnings.simplefilter("error")
    exec(code, {"__name__": "__main__"})
