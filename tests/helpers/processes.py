"""Child processes that start quickly, and programs on several processes of `torch.distributed`."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

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


def run_processes(ranks: int, program: str, *arguments: object, timeout: float = 150) -> list[str]:
    """Run a program on each of several processes; return what they printed.

    The program finds `rank`, `ranks`, `np`, `torch`, `dist` and `rowwise` there, and arguments as
    `sys.argv[1:]`. A process that fails fails the test, with what it wrote, but for one that a
    signal ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = _START + textwrap.dedent(program)
    path = os.pathsep.join(entry or "." for entry in sys.path)
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            env={**common, "RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    end = time.monotonic() + timeout
    printed = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=max(0.1, end - time.monotonic()))
            assert process.returncode in (0, -signal.SIGKILL), error
            printed.append(out.strip())
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return printed
