"""`torch.set_num_threads`, heeded by the kernels of tables."""

from __future__ import annotations

import torch

from rowwise.table import set_num_threads

_heeded = torch.get_num_threads()


def heed_torch() -> None:
    """Use as many threads as torch, where a program has told torch how many."""
    global _heeded
    threads = torch.get_num_threads()
    if threads != _heeded:
        _heeded = threads
        set_num_threads(threads)
