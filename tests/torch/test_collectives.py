"""Gradients averaged by hand over the processes of a group, as PyTorch's tutorials do it."""

import os

import pytest
import torch
import torch.distributed as dist
from beside_torch import Model, batches
from torch import nn

import rowwise.torch


def average(gradient):
    dist.all_reduce(gradient)
    gradient /= 2


def reduce_and_broadcast(gradient):
    dist.reduce(gradient, 0)
    dist.broadcast(gradient, 0)


def gather(gradient):
    parts = [torch.zeros(gradient.shape) for _ in range(2)]
    dist.all_gather(parts, gradient)
    gradient.copy_(parts[0] + parts[1])


WAYS = {
    "all_reduce of grad": lambda p: average(p.grad),
    "all_reduce of grad.data": lambda p: average(p.grad.data),
    "all_reduce of grad.view(-1)": lambda p: average(p.grad.view(-1)),
    "reduce, broadcast": lambda p: reduce_and_broadcast(p.grad),
    "reduce, broadcast of data": lambda p: reduce_and_broadcast(p.grad.data),
    "all_gather": lambda p: gather(p.grad),
}


def _worker(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    states = {}
    for way, change in WAYS.items():
        for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
            model = Model(library)
            optimizer = optimizers.Adam(model.parameters(), lr=0.01)
            for ids, targets in batches(6):
                optimizer.zero_grad()
                (model(ids[rank::2]) - targets[rank::2]).square().mean().backward()
                for parameter in model.parameters():
                    change(parameter)
                optimizer.step()
            states[way, library.__name__] = model.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # torch's teardown can wait for itself: the group's threads need the GIL it holds


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_averaged_by_hand_trains_as_in_pytorch(way, states):
    for of_rank in states:
        torch.testing.assert_close(
            of_rank[way, "rowwise.torch"], of_rank[way, "torch.nn"], rtol=1e-4, atol=1e-5
        )
    for name, value in states[0][way, "rowwise.torch"].items():
        torch.testing.assert_close(value, states[1][way, "rowwise.torch"][name], rtol=0, atol=0)
