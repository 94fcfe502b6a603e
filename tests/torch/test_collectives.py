"""Gradients averaged by hand over the processes of a group, as PyTorch's tutorials do it."""

import os
import warnings

import pytest
import torch
import torch.distributed as dist
from beside_torch import Model, batches
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import rowwise.torch
from helpers.processes import run_forks


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
    run_forks(_worker, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_averaged_by_hand_trains_as_in_pytorch(way, states):
    for of_rank in states:
        torch.testing.assert_close(
            of_rank[way, "rowwise.torch"], of_rank[way, "torch.nn"], rtol=1e-4, atol=1e-5
        )
    for name, value in states[0][way, "rowwise.torch"].items():
        torch.testing.assert_close(value, states[1][way, "rowwise.torch"][name], rtol=0, atol=0)


# ---------------------------------------------------------------- weights that others shard


def _fsdp2(model, mesh):
    fully_shard(model, mesh=mesh)
    return model


def _tensor_parallel(style):
    def wrap(model, mesh):
        return parallelize_module(model, mesh, {"embedding": style()})

    return wrap


WRAPPERS = {
    "FSDP": lambda model, mesh: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
    "FSDP, original parameters": lambda model, mesh: FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True
    ),
    "FSDP2": _fsdp2,
    "tensor parallel, rows": _tensor_parallel(
        lambda: RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    ),
    "tensor parallel, columns": _tensor_parallel(
        lambda: ColwiseParallel(output_layouts=Replicate())
    ),
    "DDP": lambda model, mesh: nn.parallel.DistributedDataParallel(model),
}


def _shard(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name, wrap in WRAPPERS.items():
        for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = wrap(Model(library), mesh)
                optimizer = optimizers.Adam(model.parameters(), lr=0.01)
                for ids, targets in batches(6):
                    optimizer.zero_grad()
                    (model(ids) - targets).square().mean().backward()
                    optimizer.step()
                if isinstance(model, FullyShardedDataParallel):
                    with FullyShardedDataParallel.summon_full_params(model):
                        assert sum(p.numel() for p in model.parameters()) == 60 * 5 + 5 + 1
            said = [str(w.message) for w in caught if "dense" in str(w.message)]
            found[name, library.__name__] = model(torch.arange(60)[:, None]).detach(), said
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    run_forks(_shard, str(folder))
    return torch.load(folder / "0.pt", weights_only=False)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_weight_that_others_shard_has_pytorchs_numbers_and_one_warning(wrapper, sharded):
    ours, said = sharded[wrapper, "rowwise.torch"]
    theirs, nothing = sharded[wrapper, "torch.nn"]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not nothing
    assert len(said) == 1
