"""Everything private to Keras that this package wraps, in one table.

`patches()` is the table. `install()` puts every wrapper in place, `uninstall()` takes it out again.
A Keras that changes one of these methods fails in tests/keras/test_patches.py first. On a version
that is not among the tested ones, or that lacks what is wrapped, nothing is wrapped and no layer
has a table.

What else is private to Keras are the methods that mixins override with `super()`, on instances of
optimizers that step tables alone: `_optimizer.py` and the backends' `OptimizerMixin`.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from rowwise.keras import _assets, _dynamic, _export, _ids, _loading, _optimizer
from rowwise.keras._backend import BACKEND, backend
from rowwise.keras._variable import TableVariableBase, variable_of

OLDEST, NEWEST = (3, 8), (3, 15)  # what `make test-versions` tests


@dataclass
class Patch:
    """A method or function of Keras's, wrapped.

    Attributes:
        owner: the class or module that has it.
        method: its name there.
        wrapper: called as wrapper(original, *arguments) in its place.
        parameters: the names of the parameters that it must have; None: they are only passed on.
    """

    owner: Any
    method: str
    wrapper: Callable[..., Any]
    parameters: tuple[str, ...] | None = None
    _original: Any = field(default=None, repr=False)

    def misfit(self) -> str | None:
        """Return why the wrapper cannot take the place of what Keras has; None if it can."""
        name = f"{self.owner.__name__}.{self.method}"
        original = vars(self.owner).get(self.method)
        if original is None:
            return f"there is no {name}"
        if self.parameters is not None:
            found = tuple(inspect.signature(original).parameters)
            if found != self.parameters:
                return f"{name} takes {found}, not {self.parameters}"
        return None

    @property
    def installed(self) -> bool:
        """Whether the wrapper is in place."""
        return self._original is not None

    def install(self) -> None:
        """Put the wrapper in place, once."""
        if self.installed:
            return
        original, wrapper = vars(self.owner)[self.method], self.wrapper

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        self._original = original
        setattr(self.owner, self.method, wrapped)

    def uninstall(self) -> None:
        """Put Keras's own method back."""
        if self.installed:
            setattr(self.owner, self.method, self._original)
            self._original = None


def build_optimizer(original: Any, optimizer: Any, variables: Any) -> Any:
    """Build an optimizer; where it meets a table, mix in the methods that step it."""
    variables = [variable_of(variable) for variable in variables]
    tables = [v for v in variables if isinstance(v, TableVariableBase)]
    if tables or any(getattr(v, "frozen_row", None) is not None for v in variables):
        _optimizer.mix_in(optimizer, backend.OptimizerMixin, backend.LossScaleMixin)
        for variable in tables if not _optimizer.is_wrapper(optimizer) else ():
            _optimizer.ensure_bound(optimizer, variable)
    return original(optimizer, variables)


def _everywhere() -> list[Patch]:
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.models import Functional
    from keras.src.optimizers.base_optimizer import BaseOptimizer
    from keras.src.saving import saving_lib, serialization_lib
    from keras.src.trainers.trainer import Trainer

    alone = ("save_weights_only", "load_weights_only")
    opening = ("name", "registered_name", "module", "obj_type", "full_config", "custom_objects")
    flat = ("self", "flat_inputs")
    legacy = ("load_weights_from_hdf5_group", "load_weights_from_hdf5_group_by_name")
    stores = ("saveable", "weights_store", "assets_store", "inner_path", "visited_saveables")
    return [
        Patch(BaseOptimizer, "build", build_optimizer, ("self", "variables")),
        Patch(Functional, "_convert_inputs_to_tensors", _ids.convert_inputs, flat),
        Patch(keras.Sequential, "build", _ids.build_sequential, ("self", "input_shape")),
        Patch(serialization_lib, "_retrieve_class_or_fn", _loading.retrieve_class, opening),
        *(Patch(saving_lib, name, _loading.refuse_weights_alone) for name in alone),
        Patch(saving_lib, "_save_state", _assets.save_state, stores),
        Patch(legacy_h5_format, "save_model_to_hdf5", _loading.refuse_legacy_file),
        *(Patch(legacy_h5_format, name, _loading.refuse_legacy_weights) for name in legacy),
        Patch(Trainer, "compile", _loading.compile_model),
        Patch(Trainer, "get_compile_config", _loading.compile_config, ("self",)),
        Patch(Trainer, "compile_from_config", _loading.compile_from_config, ("self", "config")),
    ]


def _on_torch() -> list[Patch]:
    # Keras refuses the formats that it does not have on torch before anything is traced.
    return [Patch(keras.Model, "export", _dynamic.refuse_export)]


def _on_jax() -> list[Patch]:
    from keras.src.backend.common.stateless_scope import StatelessScope
    from keras.src.backend.jax.trainer import JAXTrainer

    from rowwise.keras._jax import training, variable

    scope = ("self", "state_mapping", "collect_losses", "initialize_variables")
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    state = ("self", *(f"{kind}_variables" for kind in kinds), "purge_model_variables")
    force = ("self", "force")
    return [
        Patch(StatelessScope, "__init__", variable.map_tokens, scope),
        Patch(keras.Layer, "__call__", training.call_layer),
        Patch(JAXTrainer, "_get_jax_state", training.get_state, state),
        Patch(JAXTrainer, "jax_state_sync", training.sync_state, ("self",)),
        Patch(JAXTrainer, "make_train_function", training.make_train_function, force),
        Patch(JAXTrainer, "make_test_function", training.make_function, force),
        Patch(JAXTrainer, "make_predict_function", training.make_function, force),
        *(Patch(JAXTrainer, name, training.run_on_batch) for name in _ON_BATCH),
        *(Patch(JAXTrainer, name, training.run) for name in _LOOPS),
        Patch(keras.Model, "export", _export.export_model),
        Patch(_export_archive(), "add_endpoint", _export.add_endpoint, _ENDPOINT),
    ]


def _on_tensorflow() -> list[Patch]:
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    from rowwise.keras._tensorflow import internals, training

    force = ("self", "force")
    archive = _export_archive()
    functions = [f"make_{name}_function" for name in ("train", "test", "predict")]
    return [
        *(Patch(TensorFlowTrainer, name, training.make_function, force) for name in functions),
        *(Patch(TensorFlowTrainer, name, training.run) for name in (*_ON_BATCH, *_LOOPS)),
        Patch(archive, "add_endpoint", _export.add_endpoint, _ENDPOINT),
        Patch(archive, "_filter_and_track_resources", training.track_resources, ("self",)),
        *(Patch(*point) for point in internals.points_that_write_graphs()),
    ]


def _export_archive() -> Any:
    try:
        from keras.src.export.saved_model_export_archive import SavedModelExportArchive
    except ModuleNotFoundError:  # Keras 3.13 and older
        from keras.src.export.saved_model import ExportArchive as SavedModelExportArchive
    return SavedModelExportArchive


_ON_BATCH = ("train_on_batch", "test_on_batch", "predict_on_batch")
_LOOPS = ("fit", "evaluate", "predict")
_ENDPOINT = ("self", "name", "fn", "input_signature", "kwargs")
_ON_BACKEND = {"torch": _on_torch, "jax": _on_jax, "tensorflow": _on_tensorflow}


@functools.cache
def patches() -> tuple[Patch, ...]:
    """Return the table, for the backend that Keras runs on."""
    return (*_everywhere(), *_ON_BACKEND[BACKEND]())


def misfit() -> str | None:
    """Return why the table does not fit the Keras that is installed; None if it does."""
    version = tuple(int(number) for number in re.findall(r"\d+", keras.__version__)[:2])
    if not OLDEST <= version <= NEWEST:
        tested = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
        return f"rowwise knows Keras {tested}, and this is {keras.__version__}"
    try:
        found = [patch.misfit() for patch in patches() if not patch.installed]
    except (ImportError, AttributeError) as error:
        found = [str(error)]
    reasons = [reason for reason in found if reason]
    return f"Keras {keras.__version__} is changed: {reasons[0]}" if reasons else None


def install() -> None:
    """Put every wrapper in place; or none, with a warning, where they do not fit."""
    TableVariableBase.refused = misfit()
    if TableVariableBase.refused is not None:
        warnings.warn(
            f"{TableVariableBase.refused}; rowwise.keras's layers are trained densely here, by "
            f"Keras. pip install 'keras<{NEWEST[0]}.{NEWEST[1] + 1}' brings their tables back",
            stacklevel=2,
        )
        return
    for patch in patches():
        patch.install()


def uninstall() -> None:
    """Put Keras's own methods back. Optimizers that step tables keep their mixins."""
    for patch in patches():
        patch.uninstall()
