"""Weights that are split over processes (FSDP2): this process's part, and a part as a split tensor again."""

from torch import Tensor


def is_split(tensor: Tensor) -> bool:
    """Whether the tensor is one process's view of a split one."""
    return hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_split(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; when it is split, every process has to ask."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def split_like(part: Tensor, reference: Tensor) -> Tensor:
    """This process's part as a tensor that is split as `reference` is."""
    if not is_split(reference):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part.to(reference.device),
        reference.device_mesh,
        reference.placements,
        run_check=False,
        shape=reference.shape,
        stride=reference.stride(),
    )
