"""The detector of host reads: operations through which a value of a tensor reaches Python, or decides a size."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Calls that never reach the dispatcher on the CPU, or as something else. `tensor` reads the tensors it is given.
_FUNCTIONS: Mapping[Any, str] = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.__array__: "numpy",
    Tensor.__dlpack__: "dlpack",
    Tensor.__repr__: "text",
    Tensor.__format__: "text",
    Tensor.cpu: "cpu",
}
_READS = frozenset({
    "_local_scalar_dense", "equal", "is_nonzero", "allclose",
    # The size of the result is a value.
    "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    # The numbers' validity is checked on the host.
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_pinv", "multinomial",
})  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class HostReads:
    """A context that collects the host reads in it, by name, in `found`."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = (_Functions(self.found), _Operations(self.found))

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)


class _Functions(TorchFunctionMode):
    """Reads that show in the calls of torch's functions only."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if name := _FUNCTIONS.get(func):
            self._found.append(name)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Reads that show in the operations of torch's dispatcher."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _READS or _by_mask(name, args) or _repeats_by_value(func) or _leaves_its_device(name, args, result):
            self._found.append(name)
        return result


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an index is boolean: its count of true elements is a size."""
    return name in _INDEXING and any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


def _repeats_by_value(func: Any) -> bool:
    """Whether repeats are a tensor: their sum is a size."""
    return func is torch.ops.aten.repeat_interleave.Tensor


def _leaves_its_device(name: str, args: tuple[Any, ...], result: Any) -> bool:
    """Whether a tensor is copied from a device to the host."""
    source = args[1] if name == "copy_" else args[0] if name == "_to_copy" else None
    return isinstance(source, Tensor) and source.device.type not in ("cpu", "meta") and result.device.type == "cpu"
