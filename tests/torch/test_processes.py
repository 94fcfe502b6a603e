"""Modules handed to other processes, which then share their memory, as in PyTorch."""

import pytest
import torch
from torch import nn

import rowwise.torch
from helpers.processes import forkserver

IDS = torch.arange(6)


def add_one(modules, results):
    """Train in a child: every row loses 1 where the memory is shared."""
    for module in modules:
        before = module(IDS).detach().clone()
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        module(IDS).sum().backward()
        optimizer.step()
        results.put((before.numpy(), module(IDS).detach().numpy()))


def change_what_comes(inbox, results):
    taken = inbox.get()
    taken.add_(1)
    results.put(taken.numpy().copy())
    inbox.get()  # the memory is needed until the parent has looked


@pytest.mark.filterwarnings("ignore:.*trained densely")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_process_trains_the_same_memory(method):
    context = forkserver() if method == "forkserver" else torch.multiprocessing.get_context(method)
    modules, results = [], context.SimpleQueue()
    for library in (rowwise.torch, nn):
        torch.manual_seed(0)
        modules.append(library.Embedding(6, 3))
    process = context.Process(target=add_one, args=(modules, results))
    process.start()
    found = [[*results.get()] for _ in modules]
    process.join()
    assert process.exitcode == 0
    for values, module in zip(found, modules, strict=True):
        values.append(module(IDS).detach().numpy())
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(other))


@pytest.mark.parametrize("sent", ["weight.data", "state_dict"])
def test_a_tensor_sent_to_another_process_shares_its_memory(sent):
    context = forkserver()
    module, inbox, results = (
        rowwise.torch.Embedding(6, 3),
        context.SimpleQueue(),
        context.SimpleQueue(),
    )
    before = module.weight.detach().clone()
    process = context.Process(target=change_what_comes, args=(inbox, results))
    process.start()
    values = module.weight.data if sent == "weight.data" else module.state_dict()["weight"]
    with pytest.warns(UserWarning, match="sent to another process.* trained densely"):
        inbox.put(values)
    seen = results.get()
    torch.testing.assert_close(torch.from_numpy(seen), before + 1)
    torch.testing.assert_close(module(IDS).detach(), before + 1)
    inbox.put(None)
    process.join()


class Encoded(torch.utils.data.Dataset):
    """A data set that holds a model."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.module(torch.tensor([index])).detach()[0]


@pytest.mark.filterwarnings("ignore:.*trained densely")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_loaders_worker_may_hold_a_module(method):
    module = rowwise.torch.Embedding(6, 3)
    loader = torch.utils.data.DataLoader(
        Encoded(module),
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=forkserver() if method == "forkserver" else method,
    )
    for _ in range(2):
        rows = torch.cat(list(loader))
        torch.testing.assert_close(rows, module.weight.detach()[:4])


@pytest.mark.filterwarnings("ignore:.*trained densely")
def test_hogwild_trains_shared_memory():
    module = rowwise.torch.Embedding(6, 3)
    before = module.share_memory().weight.detach().clone()
    context = torch.multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    for _ in range(2):
        process = context.Process(target=add_one, args=([module], results))
        process.start()
        process.join()
    torch.testing.assert_close(module.weight.detach(), before - 2)


def train_on(module, optimizer, results):
    for _ in range(3):
        optimizer.zero_grad()
        module(IDS).square().sum().backward()
        optimizer.step()
    results.put(module(IDS).detach().numpy())


@pytest.mark.filterwarnings("ignore:.*trained densely")
@pytest.mark.parametrize("kind", ["Adam", "RowwiseAdagrad"])
def test_an_optimizer_goes_along_to_a_child_process(kind):
    context = forkserver()
    found = []
    for sent in (True, False):
        torch.manual_seed(0)
        module, results = rowwise.torch.Embedding(6, 3), context.SimpleQueue()
        optimizer = getattr(rowwise.torch.optim, kind)(module.parameters(), lr=0.1)
        train_on(module, optimizer, context.SimpleQueue())
        if sent:
            process = context.Process(target=train_on, args=(module, optimizer, results))
            process.start()
            found.append(results.get())
            process.join()
            assert process.exitcode == 0
        else:
            train_on(module, optimizer, results)
            found.append(results.get())
        train_on(module, optimizer, results)
        found.append(results.get())
    for mine, other in zip(found[:2], found[2:], strict=True):  # the state is shared as well
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(other))
