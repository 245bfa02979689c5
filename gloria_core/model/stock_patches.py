"""ComfyUI's stock block patches, honoured by our DiT: they see video tokens only, anchors pass beside them.

Public patches (InfiniteTalk's audio, controls, block replacements) reshape tokens by the video's grid;
tokens of anchors behind them would be taken for frames.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .blocks import BlockInputs, GloriaBlock, with_video


def run_block_with_patches(
    block: GloriaBlock, x_BSD: Tensor, inputs: BlockInputs, noisy_input: Tensor, time_BFD: Tensor
) -> Tensor:
    """Runs one block, or its replacement from `patches_replace`, and then the `double_block` patches."""
    options = inputs.transformer_options
    block_idx = options["block_index"]
    replacement = options.get("patches_replace", {}).get("dit", {}).get(("double_block", block_idx))
    x = block(x_BSD, inputs) if replacement is None else _run_replaced(block, x_BSD, inputs, replacement)
    for patch in options.get("patches", {}).get("double_block", ()):
        video = x[:, : inputs.modulation.num_video]
        out = patch({"img": video, "x": noisy_input, "vec": time_BFD, "block_index": block_idx, "img_offset": 0,
                     "transformer_options": options})
        x = with_video(x, out["img"])
    return x


def _run_replaced(block: GloriaBlock, x_BSD: Tensor, inputs: BlockInputs, replacement: Any) -> Tensor:
    """A replacement may call the original block any number of times, with changed video tokens, or not at all."""
    num_video = inputs.modulation.num_video
    anchors = x_BSD[:, num_video:]

    def original_block(args: dict[str, Any]) -> dict[str, Tensor]:
        nonlocal anchors
        changed = replace(
            inputs,
            context_BTD=args["txt"],
            modulation=replace(inputs.modulation, video_BF6D=args["vec"]),
            rope=torch.cat([args["pe"], inputs.rope[:, num_video:]], dim=1),
            transformer_options=args["transformer_options"],
        )
        out = block(torch.cat([args["img"], x_BSD[:, num_video:]], dim=1), changed)
        anchors = out[:, num_video:]
        return {"img": out[:, :num_video]}

    args = {"img": x_BSD[:, :num_video], "txt": inputs.context_BTD, "vec": inputs.modulation.video_BF6D,
            "pe": inputs.rope[:, :num_video], "transformer_options": inputs.transformer_options}
    video = replacement(args, {"original_block": original_block})["img"]
    return torch.cat([video, anchors], dim=1)
