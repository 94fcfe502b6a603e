"""Sharded modules on real processes: gloo, DDP, FSDP2, checkpoints of torch.distributed.

One program runs on three processes, which form smaller groups too: starting them takes longest.
"""

import json
import re

import numpy as np
import pytest

from helpers.processes import run_processes
from rowwise import Table

PROGRAM = """
import hashlib, json, time
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel
from rowwise.errors import ExchangeError

FOLDER = sys.argv[1]
ROWS, DIM, BATCH = 301, 4, 24
PAIR, FIRST = dist.new_group([0, 1]), dist.new_group([0])
found = {}

class Model(torch.nn.Module):
    def __init__(self, group=None):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = rowwise.torch.ShardedEmbedding(ROWS, DIM, process_group=group)
        self.head = torch.nn.Linear(DIM, 2)

    def forward(self, ids):
        return self.head(self.embedding(ids))

def train(model, optimizer, steps, start=0, clip=False, rank=rank, ranks=ranks):
    for step in range(start, start + steps):
        ids = torch.randint(ROWS, (BATCH,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(ids[BATCH * rank // ranks : BATCH * (rank + 1) // ranks]).square().mean().backward()
        if clip:
            rowwise.torch.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

def digest(table):
    parts = [table.to_numpy(), *map(table.slot, table.slot_names), table.update_counts]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]

# ---- beside DDP and FSDP2
def ddp(model):
    rowwise.torch.exclude_sharded(model)
    return DistributedDataParallel(model)

def fsdp(model):
    ignored = rowwise.torch.exclude_sharded(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)), ignored_params=ignored)
    return model

for wrap in (ddp, fsdp):
    model = wrap(Model())
    train(model, rowwise.torch.optim.Adam(model.parameters(), lr=0.1), 4, clip=True)
    inner = getattr(model, "module", model)
    head = inner.head.weight.detach()
    head = head.full_tensor() if hasattr(head, "full_tensor") else head
    found[wrap.__name__] = head.flatten().tolist(), inner.embedding.table.to_numpy()[:9].tolist()

# ---- a checkpoint of torch.distributed, written by two, read by three and by one
def adamw(group=None):
    model = Model(group)
    return model, rowwise.torch.optim.AdamW(model.embedding.parameters(), lr=0.1)

def loaded(group=None):
    model, optimizer = adamw(group)
    state = model.state_dict()
    dcp.load(state, checkpoint_id=FOLDER + "/dcp", process_group=group)
    model.load_state_dict(state)
    return model, optimizer

if rank < 2:
    model, optimizer = adamw(PAIR)
    train(model, optimizer, 5, ranks=2)
    dcp.save(model.state_dict(), checkpoint_id=FOLDER + "/dcp", process_group=PAIR)
    found["saved"] = digest(model.embedding.table)
    train(model, optimizer, 3, start=5, ranks=2)
    found["trained on"] = digest(model.embedding.table)
dist.barrier()
found["loaded by 3"] = digest(loaded()[0].embedding.table)
if rank == 0:
    found["loaded by 1"] = digest(loaded(FIRST)[0].embedding.table)
if rank < 2:
    model, optimizer = loaded(PAIR)
    train(model, optimizer, 3, start=5, ranks=2)
    found["loaded and trained on"] = digest(model.embedding.table)
    try:
        model = Model(PAIR)
        state = model.state_dict()
        dcp.load(state, checkpoint_id=FOLDER + "/dcp", process_group=PAIR)
        model.load_state_dict(state)
    except RuntimeError as error:
        found["without an optimizer"] = str(error)

# ---- any ids: a checkpoint of torch.distributed, written by two, read by three
def dynamic(group=None):
    module = rowwise.torch.ShardedDynamicEmbedding(
        48, DIM, buckets=8, admit_after=2, evict_share=0.2, seed=1, average=False,
        process_group=group,
    )
    return module, rowwise.torch.optim.AdamW(module.parameters(), lr=0.1)

def click(module, optimizer, steps, start, rank=rank, ranks=ranks):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(30, (BATCH,), generator=generator) * 10**12 + step // 3
        share = slice(BATCH * rank // ranks, BATCH * (rank + 1) // ranks)
        optimizer.zero_grad()
        weights = torch.randn(BATCH, DIM, generator=generator)[share]
        (module(ids[share]) * weights).sum().backward()
        optimizer.step()

def save_dynamic(module, name):
    module.dynamic.save(FOLDER + "/" + name)
    return hashlib.sha256(open(FOLDER + "/" + name, "rb").read()).hexdigest()[:16]

if rank < 2:
    module, optimizer = dynamic(PAIR)
    click(module, optimizer, 12, 0, ranks=2)
    dcp.save(module.state_dict(), checkpoint_id=FOLDER + "/dcp-dynamic", process_group=PAIR)
    found["dynamic saved"] = save_dynamic(module, "dynamic-2")
dist.barrier()
module, optimizer = dynamic()
state = module.state_dict()
dcp.load(state, checkpoint_id=FOLDER + "/dcp-dynamic")
module.load_state_dict(state)
found["dynamic loaded by 3"] = save_dynamic(module, "dynamic-3")
click(module, optimizer, 12, 12)
found["dynamic evictions"] = module.dynamic.evictions().sum().item()
found["dynamic trained on"] = save_dynamic(module, "dynamic-3-on")
if rank == 0:
    module = rowwise.torch.ShardedDynamicEmbedding.load(
        FOLDER + "/dynamic-2", FIRST, average=False
    )
    optimizer = rowwise.torch.optim.AdamW(module.parameters(), lr=0.1)
    click(module, optimizer, 12, 12, ranks=1)
    found["dynamic trained on by 1"] = save_dynamic(module, "dynamic-1-on")

# ---- PyTorch's own state_dict
plain = torch.nn.Embedding(30, 4)
torch.nn.init.constant_(plain.weight, 0.5)
module = rowwise.torch.ShardedEmbedding(30, 4)
module.load_state_dict(plain.state_dict())
again = torch.nn.Embedding(30, 4)
again.load_state_dict(module.full_state_dict())
found["state_dict"] = torch.equal(again.weight, plain.weight)
try:
    module.load_state_dict({"weight": torch.zeros(31, 4)})
except RuntimeError as error:
    found["another shape"] = str(error)

# ---- what the processes give differs
Sharded, ones = rowwise.torch.ShardedEmbedding, torch.tensor([1])
if rank == 1:
    rowwise.Table(30, DIM).save(FOLDER + "/a")
    rowwise.Table(31, DIM).save(FOLDER + "/b")
dist.barrier()
first, second = Sharded(30, DIM), Sharded(30, DIM)
found["errors"] = []
for wrong in (
    lambda: Sharded(30, DIM + (rank == 2)),
    lambda: Sharded(30, DIM, _weight=torch.zeros(30 + (rank == 1), DIM)),
    lambda: [layer(ones) for layer in ((second, first) if rank == 1 else (first, second))],
    lambda: Sharded.load(FOLDER + ("/b" if rank == 1 else "/a")),
    lambda: Sharded.load(FOLDER + ("/c" if rank == 2 else "/a")),
):
    try:
        wrong()
    except Exception as error:
        found["errors"].append(f"{type(error).__name__}: {error}")

# ---- a loss that is not finite on one process
model, optimizer = adamw()
scaler = ShardedGradScaler(device="cpu", init_scale=8.0)
found["steps"] = []
for factor in (float("inf") if rank == 1 else 1.0, 1.0):
    optimizer.zero_grad()
    scaler.scale(factor * model(torch.tensor([rank, 7])).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    found["steps"].append(model.embedding.table.steps)

# ---- a process that is killed
model, optimizer = adamw()
train(model, optimizer, 3)
model.embedding.table.save(FOLDER + "/table")
found["file"] = digest(model.embedding.table)
print(json.dumps(found), flush=True)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
start = time.monotonic()
try:
    train(model, optimizer, 2, start=3)
except ExchangeError as error:
    print(json.dumps([time.monotonic() - start, str(error)]), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder):
    """Return each process's findings, and those of the survivors after one was killed."""
    printed = [text.splitlines() for text in run_processes(3, PROGRAM, folder, folder=folder)]
    return [[json.loads(line) for line in lines] for lines in printed]


def test_ddp_and_fsdp_train_the_dense_part_and_leave_the_table(found):
    for wrap in ("ddp", "fsdp"):
        assert found[0][0][wrap] == found[1][0][wrap] == found[2][0][wrap]
    for by_ddp, by_fsdp in zip(found[0][0]["ddp"], found[0][0]["fsdp"], strict=True):
        assert np.allclose(by_ddp, by_fsdp, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_two_processes_is_loaded_by_three_and_by_one(found):
    assert [each[0]["loaded by 3"] for each in found] == [found[0][0]["saved"]] * 3
    assert found[0][0]["loaded by 1"] == found[0][0]["saved"]


def test_a_checkpoint_is_trained_on_to_the_same_bits(found):
    assert found[0][0]["loaded and trained on"] == found[0][0]["trained on"]
    assert found[0][0]["trained on"] != found[0][0]["saved"]


def test_a_checkpoint_is_not_loaded_without_the_slots(found):
    assert "make the optimizer before you load" in found[0][0]["without an optimizer"]


def test_ids_of_a_checkpoint_of_two_processes_go_on_in_three_and_in_one(found):
    ours, *others = [each[0] for each in found]
    assert [one["dynamic loaded by 3"] for one in others] == [ours["dynamic saved"]] * 2
    assert ours["dynamic evictions"] > 20
    assert ours["dynamic trained on by 1"] == ours["dynamic trained on"]
    assert ours["dynamic trained on"] != ours["dynamic saved"]


def test_a_plain_state_dict_fills_a_sharded_module_and_the_other_way_round(found):
    assert [each[0]["state_dict"] for each in found] == [True] * 3
    assert "weight has shape (31, 4), the table (30, 4)" in found[0][0]["another shape"]


def test_what_one_process_gives_wrongly_is_an_error_on_every_process(found):
    expected = (
        r"RankMismatchError: table \d+ has dim=5 on rank 2 and dim=4 on rank 0",
        r"ValueError: rank 1: init has shape \(31, 4\); the table needs \(30, 4\)",
        r"RankMismatchError: rank 0 calls table \d+ of the group and rank 1 calls table",
        r"RankMismatchError: .* has rows=31 on rank 1 and rows=30 on rank 0",
        r"FileNotFoundError: rank 2: there is no file '.*/c'",
    )
    for each in found:
        assert len(each[0]["errors"]) == len(expected)
        for said, pattern in zip(each[0]["errors"], expected, strict=True):
            assert re.match(pattern, said)


def test_a_step_that_one_process_has_to_skip_all_skip(found):
    assert [each[0]["steps"] for each in found] == [[0, 1]] * 3


def test_a_process_that_is_killed_is_an_error_on_the_others_and_leaves_the_file(found, folder):
    assert len(found[1]) == 1
    for rank in (0, 2):
        seconds, error = found[rank][1]
        assert seconds < 30  # the timeout of the group is 60
        assert f"rank {rank} of 3 lost another rank during " in error
        assert "start again from the last checkpoint" in error
    assert Table.load(folder / "table").steps == 3
