"""Every way in which a program reads, replaces, copies or empties an optimizer's state."""

import copy
import pickle
from collections import defaultdict

import pytest
import torch
from beside_torch import Model, train
from torch import nn

import rowwise.torch
from rowwise.torch import optim

OPTIMIZERS = {
    "Adam": ("Adam", {"lr": 0.05}),
    "amsgrad": ("Adam", {"lr": 0.05, "amsgrad": True}),
    "NAdam": ("NAdam", {"lr": 0.05}),
    "Adagrad": ("Adagrad", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "SGD": ("SGD", {"lr": 0.05}),
}


class Run:
    """A model and its optimizer after some training, with what they were before it."""

    def __init__(self, library, optimizers, name):
        kind, self.options = OPTIMIZERS[name]
        self.kind = getattr(optimizers, kind)
        self.model = Model(library)
        self.optimizer = self.kind(self.model.parameters(), **self.options)
        self.fresh = copy.deepcopy(self.optimizer.state_dict())
        self.first_weights = copy.deepcopy(self.model.state_dict())
        self.train(10)

    @property
    def weight(self):
        return self.model.embedding.weight

    def train(self, steps, seed=1):
        train(self.model, self.optimizer, steps, seed=seed)


def load_fresh(run):
    run.optimizer.load_state_dict(run.fresh)


def load_fresh_with_the_weights(run):  # as torch-lr-finder's reset()
    run.model.load_state_dict(run.first_weights)
    run.optimizer.load_state_dict(run.fresh)


def load_state_of_a_new_optimizer(run):
    run.optimizer.load_state_dict(run.kind(run.model.parameters(), **run.options).state_dict())


def load_own_state(run):
    run.optimizer.load_state_dict(run.optimizer.state_dict())


def load_a_copy_of_before(run):
    before = copy.deepcopy(run.optimizer.state_dict())
    run.train(5)
    run.optimizer.load_state_dict(before)


def load_state_of_before(run):  # which torch does not copy: its tensors are trained on
    before = run.optimizer.state_dict()
    run.train(5)
    run.optimizer.load_state_dict(before)


def clear(run):
    run.optimizer.state.clear()


def new_state(run):
    run.optimizer.state = defaultdict(dict)


def delete_the_weights_state(run):
    run.optimizer.state.pop(run.weight, None)


def delete_every_state(run):
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in run.optimizer.state:
                del run.optimizer.state[parameter]


def empty_the_weights_state(run):
    run.optimizer.state[run.weight] = {}


def clear_the_weights_state(run):
    run.optimizer.state[run.weight].clear()


def begin_again(run):
    run.optimizer.__init__(run.model.parameters(), **run.options)


def set_state_of_nothing(run):
    run.optimizer.__setstate__({"state": defaultdict(dict)})


def new_optimizer(run):
    run.optimizer = run.kind(run.model.parameters(), **run.options)


def new_optimizer_while_the_old_lives(run):
    run.old = run.optimizer
    run.optimizer = run.kind(run.model.parameters(), **run.options)


def new_optimizer_with_the_old_ones_state(run):
    new = run.kind(run.model.parameters(), **run.options)
    new.load_state_dict(run.optimizer.state_dict())
    run.optimizer = new


def take_over_the_state(run):
    new = run.kind(run.model.parameters(), **run.options)
    new.state = run.optimizer.state
    run.optimizer = new


def change_the_state_by_hand(run):
    for state in run.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and name != "step":
                value.mul_(0.5)
                state[name] = value * 2 + 0.01


def zero_the_state(run):
    for state in run.optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def replace_the_state_with_copies(run):
    for state in run.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                state[name] = value.clone()


def data_of_the_state(run):
    for state in run.optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.dim():
                value.data = value.data * 0.5


def one_slot_deleted(run):
    for state in run.optimizer.state.values():
        if "momentum_buffer" in state:
            state["momentum_buffer"] = None


def pickled(run):
    run.model, run.optimizer = pickle.loads(pickle.dumps((run.model, run.optimizer)))


def copied(run):
    run.model, run.optimizer = copy.deepcopy((run.model, run.optimizer))


def groups_replaced(run):
    run.optimizer.param_groups[:] = []
    run.optimizer.add_param_group({"params": list(run.model.parameters())})


def groups_split(run):
    groups = run.optimizer.param_groups
    rest = {key: value for key, value in groups[0].items() if key != "params"}
    parameters = groups[0]["params"]
    groups[:] = [{**rest, "params": parameters[:1], "lr": 0.01}, {**rest, "params": parameters[1:]}]


def weight_replaced(run):
    run.model.embedding.weight = nn.Parameter(run.weight.detach().clone() * 0.5)
    run.optimizer.param_groups[0]["params"][0] = run.weight


def weight_and_state_moved(run):
    old = run.weight
    state = run.optimizer.state.pop(old, None)
    run.model.embedding.weight = nn.Parameter(old.detach().clone() * 0.5)
    run.optimizer.param_groups[0]["params"][0] = run.weight
    if state is not None:
        run.optimizer.state[run.weight] = state


def folds(run):  # cross validation: weights and optimizer begin again for each
    for fold in range(3):
        run.model.load_state_dict(run.first_weights)
        run.optimizer.load_state_dict(run.fresh)
        run.train(4, seed=fold)


def step_numbers_changed(run):
    for state in run.optimizer.state.values():
        if "step" in state:
            state["step"] = torch.tensor(100.0)


WAYS = [
    load_fresh, load_fresh_with_the_weights, load_state_of_a_new_optimizer, load_own_state,
    load_a_copy_of_before, load_state_of_before, clear, new_state, delete_the_weights_state,
    delete_every_state, empty_the_weights_state, clear_the_weights_state, begin_again,
    set_state_of_nothing, new_optimizer, new_optimizer_while_the_old_lives,
    new_optimizer_with_the_old_ones_state, take_over_the_state, change_the_state_by_hand,
    zero_the_state, replace_the_state_with_copies, data_of_the_state, one_slot_deleted, pickled,
    copied, groups_replaced, groups_split, weight_replaced, weight_and_state_moved, folds,
    step_numbers_changed,
]  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:several optimizers", "ignore:the gradient is dense", "ignore:.*momentum product"
)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_next_steps_are_pytorchs(way, name):
    found, errors = [], []
    for library, optimizers in ((rowwise.torch, optim), (nn, torch.optim)):
        run = Run(library, optimizers, name)
        try:
            way(run)
            run.train(6, seed=3)
        except (KeyError, RuntimeError, TypeError) as error:
            errors.append(type(error))
            continue
        state = run.optimizer.state.get(run.weight, {})
        state = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
        found.append((run.model.state_dict(), state))
    if errors:
        assert len(errors) == 2
        assert errors[0] is errors[1]
    else:
        torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_lists_parameters_in_the_order_in_which_pytorch_does(name):
    orders = []
    kind, options = OPTIMIZERS[name]
    for library, optimizers in ((rowwise.torch, optim), (nn, torch.optim)):
        first, late, last = nn.Linear(2, 2), library.Embedding(5, 2), nn.Linear(2, 2)
        early = library.Embedding(5, 2)
        modules = nn.ModuleList([late, early, first, last])
        optimizer = getattr(optimizers, kind)(modules.parameters(), **options)
        ids = torch.tensor([1, 3])
        for vectors in (early(ids), early(ids) + late(ids)):
            optimizer.zero_grad()
            last(first(vectors)).sum().backward()
            optimizer.step()
        names = {parameter: name for name, parameter in modules.named_parameters()}
        orders.append([names[parameter] for parameter in optimizer.state])
    assert orders[0] == orders[1]
