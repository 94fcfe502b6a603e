"""The device's kernels, compiled once for a card and a family of rules, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from rowwise import _native
from rowwise.torch._device._nvrtc import Nvrtc, nvrtc

# The parts of C++'s own headers that the kernels' source uses; NVRTC has no such headers.
_HEADERS = {
    "cstddef": "",
    "cstdint": (
        "using int64_t = long long; using uint64_t = unsigned long long;\n"
        "using uint32_t = unsigned int; using uint16_t = unsigned short;\n"
        "using uint8_t = unsigned char;\n#define UINT32_MAX 0xffffffffu\n"
    ),
    "cmath": (
        "#define INFINITY __int_as_float(0x7f800000)\n"
        "namespace std { using ::fabs; using ::pow; using ::sqrt; }\n"
    ),
}
# No multiply-add is fused, and division and root are IEEE's: the CPU's bits.
_IEEE = ["--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"]
_CHECKSUM = hashlib.sha256().digest_size
_OPTIONS = ["--std=c++17", "-default-device", *_IEEE]


def compile_kernels(
    rule: _native.Rule,
    architecture: int,
    *,
    ptx: bool = False,
    compiler: Nvrtc | None = None,
    more: tuple[str, ...] = (),
) -> tuple[bytes, str]:
    """Return the kernels of a rule's family for a compute capability, and the compiler's log.

    Args:
        rule: of the family.
        architecture: 90 for 9.0.
        ptx: whether to return PTX, which the driver compiles, and not a cubin.
        compiler: NVRTC unless given.
        more: options.

    Raises:
        RuntimeError: no compiler, or the kernels do not compile.
    """
    texts = dict(_native.device_texts())
    source = texts.pop("device/entry.cu")
    options = [
        f"--gpu-architecture={'compute' if ptx else 'sm'}_{architecture}",
        f"-DROWWISE_RULE={_native.rule_class(rule)}",
        *_OPTIONS,
        *more,
    ]
    texts["call.hpp"] = texts["device/call.hpp"]  # as kernels.hpp includes it
    library = nvrtc() if compiler is None else compiler
    return library.compile(source, {**_HEADERS, **texts}, options, binary=not ptx)


def cached_kernels(rule: _native.Rule, capability: tuple[int, int]) -> bytes:
    """Return the kernels of a rule's family for a card, from the cache, or compiled into it.

    Args:
        rule: of the family.
        capability: of the card, (9, 0).

    Raises:
        RuntimeError: no compiler, or a card older than all that it knows.
    """
    library = nvrtc()
    card = 10 * capability[0] + capability[1]
    known = [architecture for architecture in library.architectures if architecture <= card]
    if not known:
        raise RuntimeError(
            f"a GPU of compute capability {capability[0]}.{capability[1]} is older than all that "
            f"NVRTC {library.version[0]}.{library.version[1]} compiles for (from "
            f"{library.architectures[0] / 10} on); install an older nvidia-cuda-nvrtc, or leave "
            "the embedding on the CPU"
        )
    ptx = card not in known  # newer than the compiler: the driver compiles the rest of the way
    key = hashlib.sha256()
    about = (_native.rule_class(rule), known[-1], ptx, library.version, _OPTIONS)
    key.update(repr((about, sorted(_native.device_texts()), sorted(_HEADERS.items()))).encode())
    name = f"{key.hexdigest()[:32]}.{'ptx' if ptx else 'cubin'}"
    kept = _kept(name)
    if kept is not None:
        return kept
    compiled, _ = compile_kernels(rule, known[-1], ptx=ptx, compiler=library)
    _keep(name, compiled)
    return compiled


def cache_folder() -> Path:
    """Return the folder of compiled kernels: below XDG_CACHE_HOME, or ~/.cache.

    Raises:
        RuntimeError: the user has no home, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rowwise" / "kernels"


def _kept(name: str) -> bytes | None:
    """Return what `_keep` wrote; None where there is no such file, or a damaged one."""
    try:
        content = (cache_folder() / name).read_bytes()
    except (OSError, RuntimeError):
        return None
    checksum, compiled = content[:_CHECKSUM], content[_CHECKSUM:]
    return compiled if checksum == hashlib.sha256(compiled).digest() else None


def _keep(name: str, compiled: bytes) -> None:
    """Write a file of a checksum and the kernels; without a place, room or permission, none."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(compiled).digest() + compiled)
            os.replace(draft, folder / name)
        except BaseException:
            os.unlink(draft)
            raise
    except (OSError, RuntimeError):
        return
