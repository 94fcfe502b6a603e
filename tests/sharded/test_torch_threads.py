"""Sharded modules and optimizers, with ranks as threads: the bits of one process."""

import hashlib
import math
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import rowwise.torch
from helpers.ranks import outcomes, run_ranks, share
from rowwise import Table
from rowwise.errors import RankMismatchError, UntrainedError
from rowwise.sharded import ThreadExchange
from rowwise.torch import optim
from rowwise.vectors import Vectors

ROWS, DIM, BATCH = 400, 6, 48
RNG = np.random.default_rng(0)
START = torch.from_numpy(RNG.standard_normal((ROWS, DIM)).astype(np.float32))
IDS = [torch.from_numpy(np.minimum(RNG.zipf(1.3, BATCH), ROWS) - 1) for _ in range(8)]
TARGETS = [torch.from_numpy(RNG.standard_normal((BATCH, DIM)).astype(np.float32)) for _ in IDS]
OPTIMIZERS = {
    "Adam": {},
    "AdamW": {"weight_decay": 0.1},
    "NAdam": {},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adagrad": {"lr_decay": 0.1},
    "RMSprop": {"maximize": True},
}


def bits(module):
    sharded = hasattr(module, "full_state_dict")
    weight = module.full_state_dict()["weight"] if sharded else module.weight.detach()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()


def train(module, optimizer, rank=0, ranks=1, clip=None, passes=1):
    for ids, target in zip(IDS, TARGETS, strict=True):
        optimizer.zero_grad()
        for number in range(passes):
            part, wanted = (share(share(x, number, passes), rank, ranks) for x in (ids, target))
            (module(part) - wanted).square().sum().backward()
        if clip is not None:
            rowwise.torch.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()


def sharded(exchange, **options):
    options = {"_weight": START, "average": False, **options}
    return rowwise.torch.ShardedEmbedding(ROWS, DIM, process_group=exchange, **options)


def one_process(name="Adam", module=rowwise.torch.Embedding, **options):
    """The weight that one process trains."""
    alone = module(ROWS, DIM, _weight=START.clone())
    train(alone, getattr(optim, name)(alone.parameters(), **OPTIMIZERS[name]), **options)
    return bits(alone)


def trained(exchange, name="Adam", train=train, **options):
    module = sharded(exchange)
    optimizer = getattr(optim, name)(module.parameters(), **OPTIMIZERS[name])
    train(module, optimizer, exchange.rank, exchange.ranks, **options)
    return bits(module)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_has_the_bits_of_one_process(name):
    assert run_ranks(2, lambda e: trained(e, name)) == [one_process(name)] * 2


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("options", [{"clip": 0.5}, {"clip": 1e9}, {"passes": 2}], ids=str)
def test_clipping_and_accumulation_have_the_bits_of_one_process(ranks, options):
    assert run_ranks(ranks, lambda e: trained(e, **options))[0] == one_process(**options)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.5}, {"max_norm": 2.0, "norm_type": 1.0}, {"scale_grad_by_freq": True}],
    ids=str,
)
def test_norms_and_frequencies_have_the_bits_of_one_process(options, ranks):
    options |= {"padding_idx": int(IDS[0][0])}
    alone = rowwise.torch.Embedding(ROWS, DIM, _weight=START.clone(), **options)
    train(alone, optim.AdamW(alone.parameters(), weight_decay=0.1))

    def run(exchange):
        module = sharded(exchange, **options)
        optimizer = optim.AdamW(module.parameters(), weight_decay=0.1)
        train(module, optimizer, exchange.rank, ranks)
        return bits(module)

    assert run_ranks(ranks, run) == [bits(alone)] * ranks


def train_bags(module, rank=0, ranks=1):
    optimizer = optim.Adam(module.parameters())
    factors = torch.linspace(0.1, 1, BATCH).reshape(-1, 4)
    for ids in IDS:
        optimizer.zero_grad()
        of_sum = {"per_sample_weights": share(factors, rank, ranks)} if module.mode == "sum" else {}
        module(share(ids.reshape(-1, 4), rank, ranks), **of_sum).square().sum().backward()
        optimizer.step()
    return bits(module)


def sharded_bags(exchange, **options):
    options = {"_weight": START, "average": False, "process_group": exchange, **options}
    return rowwise.torch.ShardedEmbeddingBag(ROWS, DIM, **options)


@pytest.mark.parametrize("max_norm", [None, 1.5])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_have_the_bits_of_one_process(mode, max_norm):
    options = {"mode": mode, "padding_idx": 1, "max_norm": max_norm}
    one = train_bags(rowwise.torch.EmbeddingBag(ROWS, DIM, _weight=START.clone(), **options))
    for ranks in (2, 3):
        found = run_ranks(ranks, lambda e: train_bags(sharded_bags(e, **options), e.rank, e.ranks))
        assert found == [one] * ranks


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_by_frequency_have_the_bits_of_one_process_and_the_numbers_of_an_embedding(mode):
    options = {"mode": mode, "scale_grad_by_freq": True, "padding_idx": 1}

    def run(exchange):
        return train_bags(sharded_bags(exchange, **options), exchange.rank, exchange.ranks)

    [one] = run_ranks(1, run)
    assert run_ranks(2, run) + run_ranks(3, run) == [one] * 5

    bags = sharded_bags(*ThreadExchange.group(1), **options)
    bags(IDS[0].reshape(-1, 4)).sum().backward()
    rows = torch.nn.Embedding(ROWS, DIM, padding_idx=1, scale_grad_by_freq=True)
    vectors = rows(IDS[0].reshape(-1, 4))
    sizes = (IDS[0].reshape(-1, 4) != 1).sum(dim=1).clamp(min=1) if mode == "mean" else 1
    (vectors.sum(dim=(1, 2)) / sizes).sum().backward()
    torch.testing.assert_close(bags.weight.grad.to_dense(), rows.weight.grad)


def test_bags_take_no_maximum_by_frequency():
    with pytest.raises(ValueError, match="mode='max' does not support scale_grad_by_freq"):
        sharded_bags(*ThreadExchange.group(1), mode="max", scale_grad_by_freq=True)


def test_weights_of_bags_get_their_gradient():
    [alone] = ThreadExchange.group(1)
    offsets = torch.tensor([0, 3, 3])
    gradients = []
    for kind, options in (
        (torch.nn.EmbeddingBag, {}),
        (rowwise.torch.ShardedEmbeddingBag, {"process_group": alone}),
    ):
        module = kind(ROWS, DIM, mode="sum", _weight=START.clone(), **options)
        factors = torch.linspace(0.1, 1, 8, requires_grad=True)
        module(IDS[0][:8], offsets, factors).square().sum().backward()
        gradients.append(factors.grad)
    torch.testing.assert_close(*gradients)


def test_it_starts_as_torchs_module_and_leaves_its_generator_alike():
    [alone] = ThreadExchange.group(1)
    rows = (1 << 24) // 100 + 77
    torch.manual_seed(3)
    expected, after = torch.nn.Embedding(rows, 101, padding_idx=-1).weight.detach(), torch.rand(1)
    torch.manual_seed(3)
    module = rowwise.torch.ShardedEmbedding(rows, 101, padding_idx=-1, process_group=alone)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(module.full_state_dict()["weight"], expected)


def test_gradients_are_averaged_as_ddp_averages_them():
    def moved(exchange, average):
        module = sharded(exchange, average=average)
        optimizer = optim.SGD(module.parameters(), lr=1.0)
        (0.5 * module(torch.tensor([7]))).sum().backward()
        optimizer.step()
        return (START[7] - module.full_state_dict()["weight"][7]).tolist()

    assert run_ranks(2, lambda e: moved(e, True)) == [pytest.approx([0.5] * DIM)] * 2
    assert run_ranks(2, lambda e: moved(e, False)) == [pytest.approx([1.0] * DIM)] * 2


def test_a_padding_row_gets_no_gradient():
    def run(exchange):
        module = sharded(exchange, padding_idx=int(IDS[0][0]))
        train(module, optim.AdamW(module.parameters()), exchange.rank, exchange.ranks)
        return module.table.update_counts[int(IDS[0][0])]

    assert run_ranks(2, run) == [0, 0]


def test_a_rank_without_a_batch_takes_part():
    def run(exchange):
        module = sharded(exchange)
        train(module, optim.Adam(module.parameters()), 0, 1 if exchange.rank else 10**6)
        return bits(module)

    assert run_ranks(2, run) == [one_process()] * 2


def test_a_rank_without_a_backward_pass_takes_part():
    def run(exchange):
        module = sharded(exchange)
        optimizer = optim.Adam(module.parameters())
        for ids, target in zip(IDS, TARGETS, strict=True):
            optimizer.zero_grad()
            out = module(ids if exchange.rank == 1 else ids[:0])
            if exchange.rank == 1:
                (out - target).square().sum().backward()
            optimizer.step()
        optimizer.zero_grad()
        optimizer.step()  # nobody has a gradient: no step
        assert module.table.steps == len(IDS)
        return bits(module)

    assert run_ranks(2, run) == [one_process()] * 2


@pytest.mark.parametrize("clip", [False, True])
def test_a_gradient_stays_until_zero_grad(clip):
    def run(module, rank=0, ranks=1):
        optimizer = optim.Adam(module.parameters())
        for ids in IDS[:4]:
            module(share(ids, rank, ranks)).square().sum().backward()
            if clip:
                rowwise.torch.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
            optimizer.step()
            if clip:
                optimizer.zero_grad()
        return bits(module)

    one = run(rowwise.torch.Embedding(ROWS, DIM, _weight=START.clone()))
    assert run_ranks(2, lambda e: run(sharded(e), e.rank, 2)) == [one] * 2


def test_an_evaluation_fills_untrained_rows():
    def run(exchange):
        module = sharded(exchange, _weight=None, untrained="zeros").eval()
        return module(torch.tensor([1, 2])).abs().sum().item()

    assert run_ranks(2, run) == [0.0, 0.0]


@pytest.mark.parametrize("untrained", ["zeros", "mean", "error"])
def test_an_evaluation_of_bags_fills_untrained_rows(untrained):
    ids, factors = IDS[1].reshape(-1, 4), torch.linspace(0.1, 1, BATCH).reshape(-1, 4)

    def run(module, rank=0, ranks=1):
        module.table.store.write(START.numpy())
        module.table.mark_trained(np.arange(0, ROWS, 3))
        return module.eval()(share(ids, rank, ranks), None, share(factors, rank, ranks)).detach()

    options = {"mode": "sum", "padding_idx": 1, "untrained": untrained}

    def on_rank(exchange):
        return run(sharded_bags(exchange, _weight=None, **options), exchange.rank, 2)

    if untrained == "error":
        with pytest.raises(UntrainedError, match="was never trained"):
            run_ranks(2, on_rank)
        return
    one = run(rowwise.torch.EmbeddingBag(ROWS, DIM, **options))
    assert torch.equal(torch.cat(run_ranks(2, on_rank)), one)


def test_vectors_of_words_are_taken_from_elsewhere():
    vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
    options = {"vocabulary": ["cup", "pot", "tea"], "seed": 5, "verbose": False}
    alone = rowwise.torch.Embedding.from_pretrained(vectors, **options)

    def run(exchange):
        kind = rowwise.torch.ShardedEmbeddingBag
        module = kind.from_pretrained(vectors, process_group=exchange, mode="sum", **options)
        assert not module.weight.requires_grad
        assert module.pretrained == alone.pretrained
        assert module.table.untrained().tolist() == [1]
        return bits(module)

    assert run_ranks(2, run) == [bits(alone)] * 2


# ---------------------------------------------------------------------- beside it


def test_the_norm_is_torchs_and_counts_shards_once():
    plain = torch.nn.Embedding(ROWS, DIM, _weight=START.clone())
    dense = torch.nn.Parameter(torch.ones(5))
    ((plain(IDS[0]) - TARGETS[0]).square().sum() + (3 * dense).sum()).backward()
    expected = {
        kind: float(torch.nn.utils.get_total_norm([plain.weight.grad, dense.grad], kind))
        for kind in (2.0, math.inf)
    }

    def run(exchange, kind):
        module, own = sharded(exchange), torch.nn.Parameter(torch.ones(5))
        part, wanted = (share(x[0], exchange.rank, 2) for x in (IDS, TARGETS))
        ((module(part) - wanted).square().sum() + (3 * own).sum()).backward()
        norm = rowwise.torch.clip_grad_norm_([*module.parameters(), own], 1.0, kind)
        return float(norm), own.grad.tolist()

    for kind, norm in expected.items():
        (found, gradient), other = run_ranks(2, lambda e, kind=kind: run(e, kind))
        assert other == (found, gradient)
        assert found == pytest.approx(norm, rel=1e-6)
        assert gradient == pytest.approx([3 / norm] * 5, rel=1e-5)


def after_backward():
    [alone] = ThreadExchange.group(1)
    module = sharded(alone)
    optimizer = optim.Adam(module.parameters())
    module(IDS[0]).sum().backward()
    return module, optimizer


def test_torchs_own_norms_refuse():
    module, _ = after_backward()
    for function in (torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_):
        with pytest.raises(RuntimeError, match=r"call rowwise.torch.clip_grad_norm_"):
            function(module.parameters(), 1.0)


def test_a_norm_that_is_not_finite_is_an_error_on_request():
    module, _ = after_backward()
    module.weight.grad._values()[0, 0] = math.nan
    with pytest.raises(RuntimeError, match="the norm of the gradients is nan"):
        rowwise.torch.clip_grad_norm_(module.parameters(), 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="neither 2 nor infinity"):
        rowwise.torch.clip_grad_norm_(module.parameters(), 1.0, 3)


def test_a_backward_pass_after_clipping_is_refused():
    module, _ = after_backward()
    rowwise.torch.clip_grad_norm_(module.parameters(), 1.0)
    with pytest.raises(RuntimeError, match="the gradient was exchanged already"):
        module(IDS[0]).sum().backward()


def test_the_gradient_can_be_looked_at():
    module, _ = after_backward()
    gradient = module.weight.grad
    counts = np.bincount(IDS[0], minlength=ROWS)
    np.testing.assert_array_equal(gradient.to_dense()[:, 0].numpy(), counts)
    module(IDS[0]).sum().backward()
    np.testing.assert_array_equal(module.weight.grad.to_dense()[:, 0].numpy(), 2 * counts)
    [asked] = torch.autograd.grad(module(IDS[0]).sum(), [module.weight])
    np.testing.assert_array_equal(asked.to_dense()[:, 0].numpy(), counts)


def test_a_grad_scaler_and_a_schedule_work():
    def run(module):
        optimizer = optim.Adam(module.parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for ids, target in zip(IDS, TARGETS, strict=True):
            optimizer.zero_grad()
            scaler.scale((module(ids) - target).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        return bits(module)

    [alone] = ThreadExchange.group(1)
    assert run(sharded(alone)) == run(rowwise.torch.Embedding(ROWS, DIM, _weight=START.clone()))


def test_what_needs_all_rows_refuses():
    [alone] = ThreadExchange.group(1)
    module = sharded(alone)
    for use in (
        lambda: module.weight + 1,
        lambda: module.weight[3],
        lambda: torch.nn.init.normal_(module.weight),
        lambda: module.weight.data,
    ):
        with pytest.raises(RuntimeError, match="no process has all of its rows"):
            use()
    with pytest.raises(RuntimeError, match=r"cannot become torch\.float16 on cpu"):
        module.half()
    assert module.to("cpu").float() is module
    with pytest.raises(RuntimeError, match=r"cannot become torch\.float16 on cpu"):
        sharded(alone, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"weight_decay=0.1\).*a sharded embedding is stepped"):
        optim.Adam(module.parameters(), weight_decay=0.1)


def test_an_id_outside_is_an_error_on_every_rank():
    def run(exchange):
        module = sharded(exchange)
        with pytest.raises(IndexError, match=f"rank 1: id {ROWS} at position 0 is outside"):
            module(torch.tensor([ROWS * exchange.rank]))
        return bits(module)

    assert run_ranks(2, run) == [bits(torch.nn.Embedding(ROWS, DIM, _weight=START))] * 2


@pytest.mark.parametrize(
    ("name", "values"), [("average", [True, False]), ("max_norm", [None, 1.0])], ids=str
)
def test_arguments_of_modules_that_differ_are_an_error_on_every_rank(name, values):
    _, errors = outcomes(2, lambda e: sharded(e, **{name: values[e.rank]}))
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    said = f"the module of table 0 has {name}={values[1]} on rank 1 and {name}={values[0]}"
    assert said in str(errors[0][1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"_weight": START[1:]}, r"rank 1: init has shape \(399, 6\)"),
        ({"padding_idx": ROWS}, "rank 1: Padding_idx must be within"),
        ({"untrained": "never"}, "rank 1: untrained='never' is not one of"),
    ],
    ids=["values", "padding_idx", "untrained"],
)
def test_a_bad_argument_on_one_rank_is_an_error_on_every_rank(options, said):
    _, errors = outcomes(2, lambda e: sharded(e, **(options if e.rank else {})))
    assert len(errors) == 2
    for _, error in errors:
        assert re.match(said, str(error))


def test_a_bad_argument_for_a_file_on_one_rank_is_an_error_on_every_rank(tmp_path):
    Table(ROWS, DIM).save(tmp_path / "table")

    def run(exchange):
        untrained = ("as-is", "never")[exchange.rank]
        load = rowwise.torch.ShardedEmbedding.load
        with pytest.raises(ValueError, match="rank 1: untrained='never' is not one of"):
            load(tmp_path / "table", exchange, untrained=untrained)

    run_ranks(2, run)


@pytest.mark.parametrize("offsets", [None, [0, 4], [1, 2], [0, 2, 1]], ids=str)
def test_offsets_that_do_not_fit_are_an_error_on_every_rank(offsets):
    given = [torch.tensor([0]), None if offsets is None else torch.tensor(offsets)]

    def run(exchange):
        module = sharded_bags(exchange)
        with pytest.raises(ValueError, match=r"rank 1: ids must be .* ids have shape \(3,\)"):
            module(torch.tensor([1, 2, 3]), given[exchange.rank])

    run_ranks(2, run)


def test_gradients_climbed_on_one_rank_alone_are_an_error_on_every_rank():
    def run(exchange):
        module = sharded(exchange)
        optimizer = rowwise.torch.optim.SGD(
            module.parameters(), lr=0.1, maximize=exchange.rank == 1
        )
        module(IDS[0]).sum().backward()
        optimizer.step()

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert "rank 1 multiplies its gradients with -1.0" in str(errors[0][1])


def test_layers_called_in_another_order_are_an_error_on_every_rank():
    def run(exchange):
        user, item = sharded(exchange), sharded(exchange)
        for module in (user, item) if exchange.rank == 0 else (item, user):
            module(IDS[0])

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert "rank 0 calls table 0 of the group and rank 1 calls table 1" in str(errors[0][1])


def test_without_a_process_group_the_error_says_how_to_make_one():
    with pytest.raises(RuntimeError, match=r'init_process_group\("gloo"\)'):
        rowwise.torch.ShardedEmbedding(ROWS, DIM)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_file_is_trained_on_by_any_number_of_ranks(tmp_path, ranks):
    def first(exchange):
        module = sharded(exchange)
        train(module, optim.Adam(module.parameters()), exchange.rank, 2)
        module.table.save(tmp_path / "table")

    def then(exchange):
        module = rowwise.torch.ShardedEmbedding.load(tmp_path / "table", exchange, average=False)
        train(module, optim.Adam(module.parameters()), exchange.rank, ranks)
        return bits(module)

    alone = rowwise.torch.Embedding(ROWS, DIM, _weight=START.clone())
    optimizer = optim.Adam(alone.parameters())
    train(alone, optimizer)
    train(alone, optimizer)
    run_ranks(2, first)
    assert run_ranks(ranks, then) == [bits(alone)] * ranks


def test_a_new_optimizer_starts_anew_as_torchs_does():
    def run(module):
        for _ in range(2):
            train(module, optim.Adam(module.parameters()))
        return bits(module)

    [alone] = ThreadExchange.group(1)
    assert run(sharded(alone)) == run(rowwise.torch.Embedding(ROWS, DIM, _weight=START.clone()))


@pytest.mark.parametrize("bags", [False, True])
def test_a_prefetch_has_the_bits_of_one_process(bags):
    def run(module, prefetch, rank=0, ranks=1):
        optimizer = optim.AdamW(module.parameters(), weight_decay=0.1)
        batches = [share(ids.reshape(-1, 4) if bags else ids, rank, ranks) for ids in IDS]
        used = 0
        for batch, upcoming in zip(batches, [*batches[1:], batches[0]], strict=True):
            optimizer.zero_grad()
            out = module(batch)
            with prefetch(module, upcoming):
                out.square().sum().backward()
                optimizer.step()
            ahead = module.table.store._ahead if prefetch is ahead_of else None
            used += ahead is not None and ahead.valid and (~ahead.late).sum()
        return bits(module), used

    def ahead_of(module, upcoming):
        return module.prefetch(upcoming)

    kinds = ("EmbeddingBag", "ShardedEmbeddingBag") if bags else ("Embedding", "ShardedEmbedding")
    alone, ours = (getattr(rowwise.torch, kind) for kind in kinds)
    one, _ = run(alone(ROWS, DIM, _weight=START.clone()), lambda *_: nullcontext())

    def on_rank(exchange):
        module = ours(ROWS, DIM, process_group=exchange, average=False, _weight=START)
        return run(module, ahead_of, exchange.rank, 2)

    for digest, used in run_ranks(2, on_rank):
        assert digest == one
        assert used > 10


@pytest.mark.parametrize("where", [0, 1])
def test_a_fused_step_is_skipped_on_every_rank_where_one_found_infinity(where):
    def run(exchange):
        module = sharded(exchange)
        optimizer = optim.Adam(module.parameters(), fused=True)
        optimizer.found_inf = torch.tensor(float(exchange.rank == where))
        module(IDS[0]).sum().backward()
        before = bits(module)
        optimizer.step()
        return bits(module) == before, module.table.steps

    assert run_ranks(2, run) == [(True, 0)] * 2


def test_a_fused_step_scales_gradients_that_were_clipped():
    def run(exchange, scale):
        module = sharded(exchange)
        optimizer = optim.SGD(module.parameters(), lr=0.1, fused=True)
        (module(IDS[0]).sum() * scale).backward()
        rowwise.torch.clip_grad_norm_(module.parameters(), 1e9)
        optimizer.grad_scale = torch.tensor(float(scale))
        optimizer.step()
        return bits(module)

    assert run_ranks(2, lambda e: run(e, 8)) == run_ranks(2, lambda e: run(e, 1))
