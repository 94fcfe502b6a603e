"""NVRTC, NVIDIA's compiler as a library, which CUDA builds of PyTorch and JAX bring."""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import os
from ctypes.util import find_library

import torch

_MISSING = """NVRTC, which compiles rowwise's kernels for your GPU, was not found; CUDA builds of
PyTorch and JAX bring it; install it with: pip install nvidia-cuda-nvrtc (CUDA 12:
nvidia-cuda-nvrtc-cu12)"""


class CompileError(RuntimeError):
    """The kernels do not compile; the message is the compiler's."""


class Nvrtc:
    """The compiler.

    Attributes:
        version: (major, minor).
        architectures: the compute capabilities that it compiles for, ascending, as 90 for 9.0.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        self.architectures = sorted(found)

    def compile(
        self, source: str, headers: dict[str, str], options: list[str], *, binary: bool
    ) -> tuple[bytes, str]:
        """Return the compiled source, a cubin or PTX, and what the compiler said.

        Raises:
            CompileError: it does not compile.
        """
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        strings = ctypes.c_char_p * len(headers)
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.encode(),
            b"rowwise.cu",
            len(headers),
            strings(*(text.encode() for text in headers.values())),
            strings(*(name.encode() for name in headers)),
        )
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), given)
            self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            said = ctypes.create_string_buffer(size.value)
            self._call("nvrtcGetProgramLog", program, said)
            log = said.value.decode(errors="replace")
            if failed:
                raise CompileError(
                    f"rowwise's kernels do not compile with NVRTC {self.version}: {log}"
                )
            kind = "CUBIN" if binary else "PTX"
            self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
            compiled = ctypes.create_string_buffer(size.value)
            self._call(f"nvrtcGet{kind}", program, compiled)
            return compiled.raw, log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CompileError(f"NVRTC's {name} failed with status {status}")


@functools.cache
def nvrtc() -> Nvrtc:
    """Return the newest compiler that there is, of PyTorch's own version of CUDA if there is one.

    A driver may refuse what a compiler of a later CUDA makes.

    Raises:
        RuntimeError: there is none; says how to get one.
    """
    found: list[Nvrtc] = []
    for path in _candidates():
        try:
            found.append(Nvrtc(path))
        except (OSError, AttributeError, CompileError):  # of another system, or damaged
            continue
    if not found:
        raise RuntimeError(" ".join(_MISSING.split()))
    own = (torch.version.cuda or "").partition(".")[0]
    return max(found, key=lambda library: (str(library.version[0]) == own, library.version))


def _candidates() -> list[str]:
    """Return where the library may lie: in NVIDIA's packages, or the system's."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    patterns = [os.path.join(folder, "*", "lib", "libnvrtc.so.*[0-9]") for folder in folders]
    patterns += [os.path.join(folder, "*", "bin", "nvrtc64_*_0.dll") for folder in folders]
    patterns += ["/usr/local/cuda/lib64/libnvrtc.so"]
    paths = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    system = find_library("nvrtc")
    return paths if system is None else [*paths, system]
