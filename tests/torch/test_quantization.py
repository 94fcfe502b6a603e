"""torch.ao.quantization finds these modules as it finds PyTorch's."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    convert,
    default_embedding_qat_qconfig,
    float_qparams_weight_only_qconfig,
    prepare,
    prepare_qat,
    quantize_dynamic,
)

import rowwise.torch
from rowwise.errors import UntrainedError
from rowwise.torch import Embedding, EmbeddingBag, optim

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor"
)
IDS = torch.tensor([[1, 2, 1], [0, 4, 3]])
CONFIG = float_qparams_weight_only_qconfig


def configured(model, config):
    model.qconfig = config
    return model


WAYS = {
    "by name": lambda model: quantize_dynamic(model, {"0": CONFIG}),
    "by PyTorch's class": lambda model: quantize_dynamic(
        model, {nn.Embedding: CONFIG, nn.EmbeddingBag: CONFIG}
    ),
    "prepare, convert": lambda model: convert(prepare(configured(model, CONFIG))),
    "in place": lambda model: quantize_dynamic(model, {"0": CONFIG}, inplace=True),
}


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("way", WAYS)
def test_a_module_is_quantized_as_pytorchs(way, kind):
    found = []
    for library in (rowwise.torch, nn):
        torch.manual_seed(0)
        model = nn.Sequential(
            getattr(library, kind)(5, 8, **({"mode": "sum"} if "Bag" in kind else {}))
        )
        found.append(WAYS[way](model.eval()))
    ours, theirs = found
    assert type(ours[0]) is type(theirs[0])
    offsets = [torch.arange(0, 6, 3)] if kind == "EmbeddingBag" else []
    ids = IDS.reshape(-1) if offsets else IDS
    assert torch.equal(ours[0](ids, *offsets), theirs[0](ids, *offsets))


def test_quantization_aware_training_is_pytorchs():
    found = []
    for library in (rowwise.torch, nn):
        torch.manual_seed(0)
        model = nn.Sequential(library.Embedding(5, 8)).train()
        model.qconfig = default_embedding_qat_qconfig
        model = prepare_qat(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(IDS).square().sum().backward()
        optimizer.step()
        found.append(convert(model.eval())(IDS))
    assert torch.equal(*found)


def test_a_quantized_module_gives_what_untrained_rows_gave():
    model = nn.Sequential(Embedding(5, 8, untrained="zeros"))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    quantized = quantize_dynamic(model.eval(), {"0": CONFIG})
    torch.testing.assert_close(quantized(IDS), model(IDS).detach(), atol=0.02, rtol=0)
    assert isinstance(model[0], Embedding)
    model[0].untrained = "error"
    with pytest.raises(UntrainedError, match="row 0"):
        quantize_dynamic(model, {"0": CONFIG})


def test_modules_that_nobody_configured_stay():
    model = nn.Sequential(EmbeddingBag(5, 8), nn.Linear(8, 2)).eval()
    assert type(quantize_dynamic(model, {nn.Linear})[0]) is EmbeddingBag
