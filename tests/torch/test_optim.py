"""Trained beside PyTorch's modules and optimizers, the weights are those of dense training."""

import copy
import io

import numpy as np
import pytest
import torch
from beside_torch import ROWS, Model, all_three, assert_as_exact, batches, train

import rowwise.torch
from rowwise.torch._parameter import TableParameter

OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd, weight decay": ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam, large epsilon": ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3}),
    "amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "maximize": ("Adam", {"lr": 0.001, "maximize": True}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop, momentum, centered": ("RMSprop", {"lr": 0.01, "momentum": 0.8, "centered": True}),
    "adagrad": ("Adagrad", {"lr": 0.05, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "rowwise adagrad": ("RowwiseAdagrad", {"lr": 0.05, "lr_decay": 0.01}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adamax": ("Adamax", {"lr": 0.01}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "nadam, decoupled decay": (
        "NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
}  # fmt: skip
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name, optimizers, model, **changes):
    kind, options = OPTIMIZERS[name]
    if not hasattr(optimizers, kind):  # what torch has not, ours makes densely of its modules
        optimizers = rowwise.torch.optim
    return getattr(optimizers, kind)(model.parameters(), **{**options, **changes})


def is_by_rows(model):
    weight = model.embedding.weight
    return not isinstance(weight, TableParameter) or (
        weight.binding.owner is not None and weight.table.rule is not None
    )


@every_optimizer
@pytest.mark.parametrize("bag", [False, True])
def test_the_weights_are_those_of_dense_training(name, bag):
    looks = []

    def run(model, optimizers):
        optimizer = make(name, optimizers, model)

        def look(t):
            if t in (7, 70):
                looks.append(model.embedding.weight.detach().clone())

        train(model, optimizer, 150, look)
        assert is_by_rows(model)

    assert_as_exact(*all_three(run, bag=bag))
    for ours, truth in zip(looks[:2], looks[4:], strict=True):
        torch.testing.assert_close(ours, truth.float(), rtol=1e-4, atol=1e-5)


def test_rowwise_adagrad_of_dense_tensors_is_its_formula():
    matrix, bias, number = (torch.nn.Parameter(torch.ones(shape)) for shape in [(2, 2), (2,), ()])
    optimizer = rowwise.torch.optim.RowwiseAdagrad(
        [matrix, bias, number], lr=0.5, lr_decay=1.0, weight_decay=1.0, eps=1.0, maximize=True
    )
    for _ in range(2):
        for parameter in (matrix, bias, number):
            parameter.grad = torch.full_like(parameter, 2.0)
        matrix.grad[0, 1] = 4.0
        optimizer.step()
    row, w, total = np.array([2.0, 4.0]), np.ones(2), 0.0
    for t in (1, 2):
        g = -row + w
        total += (g * g).mean()
        w -= 0.5 / t * g / (np.sqrt(total) + 1)
    np.testing.assert_allclose(matrix[0].detach(), w, rtol=1e-6)
    assert optimizer.state[matrix]["sum"].shape == (2, 1)
    assert optimizer.state[bias]["sum"].shape == (1,)
    assert optimizer.state[number]["sum"].shape == ()
    assert (matrix[1] == bias).all()
    assert (bias == number).all()


def test_rowwise_adagrad_names_a_number_below_zero():
    with pytest.raises(ValueError, match="eps must be at least 0, not -1"):
        rowwise.torch.optim.RowwiseAdagrad([torch.ones(2, requires_grad=True)], eps=-1)


def test_an_optimizer_that_forgets_missed_steps_would_be_noticed():
    def run(model, optimizers):
        if optimizers is rowwise.torch.optim:
            model = Model(torch.nn, sparse=True)
            optimizer = torch.optim.SparseAdam(model.embedding.parameters(), lr=0.01)
            train(model, optimizer, 100)
        else:
            train(model, torch.optim.Adam(model.embedding.parameters(), lr=0.01), 100)
        return model

    with pytest.raises(AssertionError, match="PyTorch's"):
        assert_as_exact(*all_three(run))


@every_optimizer
def test_schedules(name):
    def run(model, optimizers):
        optimizer = make(name, optimizers, model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 20)
        train(model, optimizer, 100, lambda t: schedule.step())
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))


@every_optimizer
def test_gradients_of_several_batches_clipped(name):
    def run(model, optimizers):
        optimizer = make(name, optimizers, model)
        for t, (ids, targets) in enumerate(batches(90)):
            (model(ids) - targets).square().mean().backward()
            if t % 3 == 2:
                if t % 2:
                    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                    assert norm > 0
                else:
                    torch.nn.utils.clip_grad_value_(model.parameters(), 0.02)
                optimizer.step()
                optimizer.zero_grad(set_to_none=bool(t % 4))
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))


@every_optimizer
def test_a_state_goes_on_in_either_optimizer(name):
    models = {}
    for first in ("ours", "theirs"):
        for second in ("ours", "theirs"):
            library = {"ours": rowwise.torch, "theirs": torch.nn}
            optimizers = {"ours": rowwise.torch.optim, "theirs": torch.optim}
            model = Model(library[first])
            optimizer = make(name, optimizers[first], model)
            train(model, optimizer, 40)
            file = io.BytesIO()
            torch.save([model.state_dict(), optimizer.state_dict()], file)
            file.seek(0)
            state, optimizer_state = torch.load(file, weights_only=True)
            assert type(state["embedding.weight"]) is torch.Tensor
            model = Model(library[second])
            model.load_state_dict(state)
            optimizer = make(name, optimizers[second], model, lr=0.5)
            optimizer.load_state_dict(optimizer_state)
            train(model, optimizer, 40, seed=1)
            assert is_by_rows(model)
            models[first, second] = model
    for model in models.values():
        torch.testing.assert_close(
            model.state_dict(), models["theirs", "theirs"].state_dict(), rtol=1e-4, atol=2e-5
        )


@every_optimizer
def test_a_resumed_run_has_the_bits_of_one_never_stopped(name):
    def resume(stop):
        model = Model(rowwise.torch)
        optimizer = make(name, rowwise.torch.optim, model)
        train(model, optimizer, 30)
        state = copy.deepcopy([model.state_dict(), optimizer.state_dict()])  # syncs either way
        if stop:
            model = Model(rowwise.torch)
            optimizer = make(name, rowwise.torch.optim, model)
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        train(model, optimizer, 30, seed=1)
        return model.state_dict(), optimizer.state_dict()["state"]

    torch.testing.assert_close(resume(True), resume(False), rtol=0, atol=0)


@every_optimizer
def test_a_copied_pair_goes_on_by_itself(name):
    model = Model(rowwise.torch)
    optimizer = make(name, rowwise.torch.optim, model)
    train(model, optimizer, 30)
    before = model.embedding.weight.detach().clone()
    twin, its_optimizer = copy.deepcopy([model, optimizer])
    train(twin, its_optimizer, 30, seed=1)
    assert is_by_rows(twin)
    assert torch.equal(model.embedding.weight.detach(), before)
    train(model, optimizer, 30, seed=1)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-6)


def test_states_look_like_pytorchs():
    for name, (kind, _) in OPTIMIZERS.items():
        states = []
        for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (torch.nn, torch.optim)):
            model = Model(library)
            optimizer = make(name, optimizers, model)
            train(model, optimizer, 2)
            states.append(optimizer.state_dict())
        ours, theirs = states
        assert ours["param_groups"] == theirs["param_groups"]
        shapes = [
            {
                key: {n: getattr(v, "shape", v) for n, v in s.items()}
                for key, s in x["state"].items()
            }
            for x in states
        ]
        assert shapes[0] == shapes[1], kind
        assert all(isinstance(v, torch.Tensor) for v in ours["state"].get(0, {}).values())


# ---------------------------------------------------------------------- what runs densely

DENSE = {
    "weight decay in the gradient": ("Adam", {"weight_decay": 0.1}, "gives every row a gradient"),
    "momentum and weight decay": (
        "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, "gives every row a gradient",
    ),
    "momentum longer than the root": ("Adam", {"betas": (0.99, 0.9)}, "moves rows for more steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_by_rows_is_pytorchs_step_with_one_warning(name):
    kind, options, cause = DENSE[name]

    def run(model, optimizers):
        optimizer = getattr(optimizers, kind)(model.parameters(), **options)
        if optimizers is rowwise.torch.optim:
            with pytest.warns(UserWarning, match=cause) as warned:
                train(model, optimizer, 40)
            assert len([w for w in warned if "every step visits" in str(w.message)]) == 1
        else:
            train(model, optimizer, 40)

    assert_as_exact(*all_three(run))


@pytest.mark.parametrize("name", ["momentum", "adam", "nadam"])
def test_two_optimizers_in_turns_keep_their_own_slots(name):
    def run(model, optimizers):
        first, second = (make(name, optimizers, model) for _ in range(2))
        train(model, first, 20)
        train(model, second, 20, seed=1)
        train(model, first, 20, seed=2)
        train(model, second, 20, seed=3)

    with pytest.warns(UserWarning, match="several optimizers step this table"):
        models = all_three(run)
    assert_as_exact(*models)


@pytest.mark.parametrize("name", ["adam", "nadam", "adagrad"])
def test_hyperparameters_changed_on_the_way(name):
    def run(model, optimizers):
        optimizer = make(name, optimizers, model)
        train(model, optimizer, 20)
        optimizer.param_groups[0].update(eps=1e-4, lr=0.03)
        train(model, optimizer, 20, seed=1)
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))


# ---------------------------------------------------------------------- around the step


def test_hooks_run_once_and_closures_are_evaluated():
    model = Model(rowwise.torch)
    torch.optim.Adam(model.linear.parameters())  # PyTorch's own step has its hooks by now
    optimizer = rowwise.torch.optim.Adam(model.parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    ids, targets = next(batches(1))

    def closure():
        optimizer.zero_grad()
        loss = (model(ids) - targets).square().mean()
        loss.backward()
        return loss

    before = model.embedding.weight.detach().clone()
    assert optimizer.step(closure).item() > 0
    assert calls == ["before", "after"]
    assert not torch.equal(model.embedding.weight.detach(), before)
    assert model.embedding.weight.grad is not None


def test_groups_have_their_own_settings_and_can_be_added():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.linear.parameters(), lr=0.01)
        optimizer.add_param_group({"params": [model.embedding.weight], "lr": 0.05, "eps": 1e-4})
        train(model, optimizer, 60)
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))


def test_scaled_gradients_and_a_skipped_step():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=10)
        for t, (ids, targets) in enumerate(batches(40)):
            optimizer.zero_grad()
            loss = (model(ids) - targets).square().mean()
            scaler.scale(loss * (float("inf") if t == 9 else 1)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))


def test_a_parameter_without_gradient_takes_no_step():
    def run(model, optimizers):
        optimizer = optimizers.Adam(model.parameters(), lr=0.01)
        for t, (ids, targets) in enumerate(batches(60)):
            optimizer.zero_grad()
            if t % 3:
                (model(ids) - targets).square().mean().backward()
            else:
                model.linear(
                    torch.ones(1, 5, dtype=targets.dtype).to(model.linear.weight.dtype)
                ).sum().backward()
            optimizer.step()

    assert_as_exact(*all_three(run))


def test_the_gradient_can_be_looked_at():
    models = [Model(library) for library in (rowwise.torch, torch.nn)]
    optimizer = rowwise.torch.optim.Adam(models[0].parameters())
    ids, targets = next(batches(1))
    for model in models:
        (model(ids) - targets).square().mean().backward()
    ours, theirs = (model.embedding.weight.grad for model in models)
    assert optimizer
    assert ours.is_sparse
    assert ours.shape == (ROWS, 5)
    for f in (torch.norm, lambda g: g.abs().max(), lambda g: g[3], lambda g: (g * 2).sum(dim=1)):
        value = f(ours)
        torch.testing.assert_close(value.to_dense() if value.is_sparse else value, f(theirs))
    torch.testing.assert_close(ours.to_dense(), theirs)
    models[0].embedding.weight.grad *= 0.5
    torch.testing.assert_close(models[0].embedding.weight.grad.to_dense(), theirs * 0.5)
    models[0].embedding.weight.grad.zero_()
    assert float(models[0].embedding.weight.grad.norm()) == 0


def test_optimizers_derive_from_their_namesakes_alone():
    # class_resolver, and with it PyKEEN, goes through the descendants of torch's Optimizer that
    # are of one package with a base of theirs, and refuses two of one name.
    for name in rowwise.torch.optim.__all__:
        if hasattr(torch.optim, name):
            ours = getattr(rowwise.torch.optim, name)
            direct = [kind for kind in ours.__mro__ if torch.optim.Optimizer in kind.__bases__]
            assert all(kind.__module__.startswith("torch.optim.") for kind in direct)


def test_what_else_torch_has_is_found_beside_the_optimizers():
    from rowwise.torch import optim

    schedule = optim.lr_scheduler.StepLR(optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1), 1)
    assert type(schedule) is torch.optim.lr_scheduler.StepLR
    assert optim.SparseAdam is torch.optim.SparseAdam
    with pytest.raises(AttributeError, match="'Adma'"):
        _ = optim.Adma


def test_an_optimizer_of_torchs_beside_one_of_ours_steps_densely_with_one_warning():
    def run(model, optimizers):
        first = optimizers.Adam(model.parameters(), lr=0.01)
        train(model, torch.optim.Adam(model.parameters(), lr=0.01), 40)
        assert first.param_groups

    with pytest.warns(UserWarning, match="torch.optim.Adam steps it beside") as said:
        assert_as_exact(*all_three(run))
    assert len([w for w in said if "steps it beside" in str(w.message)]) == 1


def test_an_optimizer_that_wraps_one_of_ours_leaves_it_the_gradient_by_row(recwarn):
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner
            super().__init__(inner.param_groups, {})
            self.param_groups = inner.param_groups

        def step(self):
            self.inner.step()

    def run(model, optimizers):
        optimizer = Wrapper(optimizers.Adam(model.parameters(), lr=0.01))
        train(model, optimizer, 40)
        assert is_by_rows(model)

    assert_as_exact(*all_three(run))
    assert not recwarn.list
