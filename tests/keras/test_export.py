"""Models recorded by torch: the lookup is in the record, with the values of that moment."""

import io

import numpy as np
import pytest
import torch
from side_by_side import classifier, data

from rowwise.keras import Embedding

IDS = torch.from_numpy(data()[0].astype("int32"))


@pytest.fixture(scope="module")
def model():
    """Adam has left rows behind that are yet to be brought to now."""
    model = classifier(Embedding)
    model.compile("adam", "mse")
    model.fit(*data(), batch_size=8, epochs=1, verbose=0)
    return model


# Warnings of torch's own about tracing, and about its replacement.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_looks_up_other_ids_than_those_it_was_traced_with(model):
    traced = torch.jit.trace(model, (IDS[:4],), check_trace=False)
    np.testing.assert_array_equal(traced(IDS[4:8]).detach(), model(IDS[4:8]).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_model_is_saved_and_keeps_its_values(model):
    exported = torch.export.export(model, (IDS[:4],))
    file = io.BytesIO()
    torch.export.save(exported, file)
    before = model(IDS[4:8]).detach()
    model.fit(*data(), epochs=1, verbose=0)
    file.seek(0)
    again = torch.export.load(file).module()
    np.testing.assert_array_equal(again(IDS[4:8]).detach(), before)


# Torch's compiler asks a tensor between two parts of the graph for its gradient, and warns itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_breaks_its_graph_at_the_lookup_and_is_right(model):
    compiled = torch.compile(model, backend="eager")
    np.testing.assert_array_equal(compiled(IDS[4:8]).detach(), model(IDS[4:8]).detach())
