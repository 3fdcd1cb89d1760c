"""Finds where the host would wait for a device, without having one: reads of what depends on the weights or batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Their result's shape or value must be known to the host. eigh looks at whether it converged.
READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "_linalg_check_errors"),
    "_linalg_eigh",
)


class Waits(TorchDispatchMode):
    """Under it every tensor that comes from a marked one is marked; `reads` has the name of each read of one."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.storages: dict[int, Any] = {}  # kept alive, so that no address is given out twice
        for tensor in tensors:
            self.mark(tensor)

    def mark(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage

    def marked(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.storages

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        out = function(*args, **(kwargs or {}))
        if any(map(self.marked, tensors)):
            name = function.overloadpacket.__name__
            by_mask = name == "index" and any(each.dtype == torch.bool for each in tensors[1:])
            if name in READS or by_mask:
                self.reads.append(name)
            for each in tree_leaves(out):
                if isinstance(each, Tensor):
                    self.mark(each)
        return out
