"""Open safetensors files, whose tensors are read slice by slice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError

_DTYPES = {
    "F16": "float16", "F32": "float32", "F64": "float64",
    "I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64",
}  # fmt: skip


@contextmanager
def tensors_of(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file; what is wrong with it is a `VectorsFileError`.

    Raises:
        VectorsFileError: it is damaged, or an entry is missing.
        ModuleNotFoundError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{os.fspath(path)!r} needs safetensors; pip install 'rowwise[files]'"
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise VectorsFileError(
            path, found=f"no whole safetensors file ({error})", fix="download it again"
        ) from error


def save_tensors(
    tensors: dict[str, NDArray[Any]], path: str, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: there is no room, or no permission.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path!r} cannot be written: {error}") from error


class TensorRows:
    """Read a tensor's rows from the file slice by slice.

    Raises:
        VectorsFileError: it is not of a dtype that NumPy has.
    """

    def __init__(self, path: str | os.PathLike[str], file: Any, name: str) -> None:
        self._slice = file.get_slice(name)
        self.shape: tuple[int, ...] = tuple(self._slice.get_shape())
        dtype = self._slice.get_dtype()
        if dtype not in _DTYPES:
            raise VectorsFileError(
                path,
                found=f"tensor {name!r} of {dtype}",
                expected=" or ".join(_DTYPES),
                fix="save it as float32",
            )
        self.dtype = np.dtype(_DTYPES[dtype])

    def __getitem__(self, part: slice) -> NDArray[Any]:
        return np.asarray(self._slice[part])
