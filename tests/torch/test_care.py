"""Who gets which gradient, and who makes the step."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from beside_torch import Model, all_three, assert_as_exact, batches, train
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rowwise.torch
from helpers.processes import run_forks
from rowwise.torch import Embedding, optim

IDS = torch.tensor([1, 2, 1])


def gradient_of(embedding):
    embedding.weight.grad = None
    embedding(IDS).sum().backward()
    return embedding.weight.grad


def test_one_warning_says_that_there_is_a_faster_way():
    embedding = Embedding(5, 2)
    optimizer = torch.optim.Adam(embedding.parameters())
    with pytest.warns(UserWarning, match=r"rowwise\.torch\.optim.* all 5 rows"):
        assert not gradient_of(embedding).is_sparse
    for _ in range(3):  # in which a second warning would be an error
        optimizer.step()
        gradient_of(embedding)


def test_a_gradient_by_rows_is_for_an_optimizer_that_takes_it():
    embedding = Embedding(5, 2)
    optimizer = optim.Adam(embedding.parameters())
    assert gradient_of(embedding).is_sparse
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.warns(UserWarning, match="gives every row a gradient"):
        optimizer.step()
    assert not gradient_of(embedding).is_sparse
    del optimizer
    gc.collect()
    assert not gradient_of(embedding).is_sparse
    torch.optim.Adam(embedding.parameters()).step()  # takes over


@pytest.mark.filterwarnings("ignore:the gradient is dense")
def test_plain_optimizers_are_followed_bit_by_bit():
    weights = []
    for library in (rowwise.torch, nn):
        model = Model(library)
        train(model, torch.optim.Adam(model.parameters(), lr=0.01), 20)
        weights.append(model.embedding.weight)
    assert torch.equal(*weights)


def test_sparse_adam_gets_the_sparse_gradient_asked_for():
    weights = []
    for library in (rowwise.torch, nn):
        model = Model(library, sparse=True)
        train(model, torch.optim.SparseAdam(model.embedding.parameters(), lr=0.01), 20)
        weights.append(model.embedding.weight)
    assert torch.equal(*weights)


def test_a_hook_gets_a_dense_gradient():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01)
        model.embedding.weight.register_hook(lambda gradient: gradient.clamp(-0.02, 0.02) + 1e-3)
        train(model, optimizer, 40)

    with pytest.warns(UserWarning, match="a hook takes a dense gradient"):
        models = all_three(run)
    assert_as_exact(*models)


def test_a_decay_switched_on_and_off():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01)
        for seed, decay in enumerate((0, 0.1, 0)):
            optimizer.param_groups[0]["weight_decay"] = decay
            train(model, optimizer, 20, seed=seed)
        if optimizers is optim:
            assert model.embedding.weight.table.steps == 40

    with pytest.warns(UserWarning, match="gives every row a gradient"):
        models = all_three(run)
    assert_as_exact(*models)


def test_amsgrad_switched_on():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01, amsgrad=True)
        train(model, optimizer, 20)
        optimizer.param_groups[0]["amsgrad"] = False
        train(model, optimizer, 20, seed=1)

    assert_as_exact(*all_three(run))


def test_optimizers_of_two_kinds_in_turns():
    def run(model, optimizers):
        pair = [
            optimizers.Adam(model.parameters(), lr=0.01),
            optimizers.SGD(model.parameters(), lr=0.01, momentum=0.9),
        ]
        for turn in range(6):
            train(model, pair[turn % 2], 5, seed=turn)

    with pytest.warns(UserWarning, match="several optimizers step this table"):
        models = all_three(run)
    assert_as_exact(*models)


def test_manual_changes_of_the_gradient():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01)
        for ids, targets in batches(30):
            optimizer.zero_grad()
            (model(ids) - targets).square().mean().backward()
            weight = model.embedding.weight
            weight.grad.add_(weight.detach(), alpha=0.1)
            weight.grad[3] = 0.5
            optimizer.step()

    assert_as_exact(*all_three(run))


def test_a_fused_optimizer_unscales_gradients_itself():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for t, (ids, targets) in enumerate(batches(20)):
            optimizer.zero_grad()
            loss = (model(ids) - targets).square().mean()
            scaler.scale(loss * (float("inf") if t == 5 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
        if optimizers is optim:
            assert model.embedding.weight.table.steps == 19

    assert_as_exact(*all_three(run))


def test_options_and_mistakes_are_pytorchs():
    embedding = Embedding(5, 2)
    for wrong in ({"lr": -1.0}, {"betas": (1.0, 0.9)}, {"foreach": True, "fused": True}):
        for kind in (optim.Adam, torch.optim.Adam):
            with pytest.raises((ValueError, RuntimeError)):
                kind(embedding.parameters(), **wrong)
    optimizer = optim.SGD(embedding.parameters(), lr=0.1, differentiable=True)
    embedding(IDS).sum().backward()
    with (
        pytest.warns(UserWarning, match="differentiable=True"),
        pytest.raises(RuntimeError, match="leaf Variable"),
    ):
        optimizer.step()


def test_a_loaded_state_that_its_steps_do_not_explain_is_pytorchs():
    def run(model, optimizers):
        optimizer = optimizers.NAdam(model.parameters(), lr=0.01)
        train(model, optimizer, 5)
        state = optimizer.state_dict()
        state["state"][0]["mu_product"] = torch.tensor(0.5)
        optimizer.load_state_dict(state)
        train(model, optimizer, 5, seed=1)

    with pytest.warns(UserWarning, match=r"momentum product is 0\.5"):
        models = all_three(run)
    assert_as_exact(*models)


# ---------------------------------------------------------------- two processes


def _worker(rank, folder, sparse):
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = Model(rowwise.torch, bag=True, sparse=sparse)
    shared = DistributedDataParallel(model)
    optimizer = optim.Adam(shared.parameters(), lr=0.01)
    for ids, targets in batches(20):
        optimizer.zero_grad()
        (shared(ids[rank::2]) - targets[rank::2]).square().mean().backward()
        assert model.embedding.weight.grad.is_sparse == sparse
        optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), f"{folder}/state.pt")
    torch.distributed.barrier()
    os._exit(0)  # torch's teardown can wait for itself: the group's threads need the GIL it holds


@pytest.mark.parametrize("sparse", [False, True])
def test_two_processes_train_to_the_numbers_of_one(sparse, tmp_path):
    run_forks(_worker, str(tmp_path), sparse)
    model = Model(nn, bag=True)
    train(model, torch.optim.Adam(model.parameters(), lr=0.01), 20, seed=0)
    together = torch.load(tmp_path / "state.pt")
    torch.testing.assert_close(together, model.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_forks_child_can_train_after_torch_has_used_its_threads():
    """The parent has not trained when it forks for the first time, and has for the second."""
    code = """
import os, numpy as np, torch
torch.set_num_threads(2)
torch.ones(1_000_000).exp()

def train():
    import rowwise
    rowwise.set_num_threads(2)
    rowwise.Table(5000, 8, "adam").update(np.arange(5000), np.ones((5000, 8)))

for parent_trains in (False, True):
    if parent_trains:
        train()
    child = os.fork()
    if child == 0:
        train()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
