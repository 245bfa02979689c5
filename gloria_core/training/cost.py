"""Sizes of a Wan DiT and token counts enter, the floating-point operations that one training sample needs leave.

Useful operations only: the forward pass, and the backward pass down to what is trained. What is computed twice to save
memory does not count, nor do the adapters themselves (a percent or two).
"""

from ..sampling.cost import DiTShape, forward_flops


def useful_flops(shape: DiTShape, tokens: int, trains_base: bool) -> float:
    """Operations of one sample.

    Args:
        tokens: of the video and its anchors.
        trains_base: every weight (full fine-tuning) instead of adapters on the blocks' linear layers.
    """
    dim, layers = shape.dim, shape.num_layers
    forward = forward_flops(shape, tokens, 0)
    attention = layers * 4 * tokens * dim * (tokens + shape.context_tokens)
    linear = forward - attention
    # Gradients of queries, keys and values on one side, of the probabilities on the other.
    backward = 2 * attention
    if trains_base:
        return forward + backward + 2 * linear
    # Frozen weights pass the gradient on and have none. It ends at the text and at the first block's input.
    text, first_input = layers * 4 * shape.context_tokens * dim**2, 6 * tokens * dim**2
    return forward + backward + linear - text - first_input


def flop_utilisation(flops: float, seconds: float, peak_flops_per_second: float) -> float:
    """Share of the device's matrix rate that did useful work."""
    return flops / seconds / peak_flops_per_second
