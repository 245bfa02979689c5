"""Which anchor does the model look at, when: queries and keys of chosen passes enter, shares of attention leave.

Self-attention runs over video and anchor tokens together (paper sec. 4.1), each at its own RoPE position (eq. 1). One
softmax over all keys gives key j of query i the weight

    p_ij = exp(s q_i . k_j) / Z_i,    Z_i = sum_j exp(s q_i . k_j),    s = 1 / sqrt(K),

with q and k already rotated. The keys fall into disjoint groups G_g that cover them all: every latent frame of the
video, and every anchor. What query i gives to a group is its share

    P_ig = sum_{j in G_g} p_ij = exp(l_ig) / sum_h exp(l_ih),    l_ig = log sum_{j in G_g} exp(s q_i . k_j),

because Z_i = sum_h exp(l_ih): a group acts like one key whose logit is the log-sum-exp of its own, and the shares of a
query sum to one. A row of p needs no other row, so queries are taken a few at a time and the matrix never exists. The
mean of P over the queries of a latent frame and over the heads is what figs. 9 and 10 show (sec. 5.4).

Nothing is written into the pass, so the sample stays the same bit for bit. Where a host computes attention in 8 bits,
these are the shares of the exact softmax of the same queries and keys.

Cost of one look (one block in one pass of one sample), with V video tokens, S = V + A tokens and width D: 2 V S D
operations, half of what the block's own attention takes, without any weights. Memory: the logits of a few queries of
one head and their softmax, 128 MiB at most (8 MiB on a CPU), that head's keys in float32 and a [V, G] table of shares;
about 20 bytes go through memory for each pair of a query and a key in each head. A pass that is not looked at costs
one look-up in a dictionary per block.

Legend: B samples, V video tokens, S all tokens (video first), D width, K width of a head, F latent frames, G groups (F
frames, then anchors), Q queries taken at once, L looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PlanError
from ..model.anchor_tokens import Slot
from ..shapes import TokenGrid

# Of logits at once: what a processor's cache holds; elsewhere enough to keep the device busy.
CPU_BLOCK_BYTES, DEVICE_BLOCK_BYTES = 4 << 20, 64 << 20
# Samplers may carry a noise level through float32 and back.
_LEVEL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ProbeSettings:
    """Where to look.

    Args:
        num_blocks: spread evenly over the model's depth; more than it has are all of them.
        num_steps: spread evenly over the sampler's steps.
        heads: by index; all of them when empty.
    """

    num_blocks: int = 4
    num_steps: int = 3
    heads: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class AttentionShares:
    """What the video tokens of one chunk looked at.

    Args:
        slots: kind and label of each anchor, in the order of the columns behind the chunk's latent frames.
        looks: (step, block) of each look.
        shares_LFG: mean over heads and over the queries of a latent frame; every row sums to one.
        tokens: of each group, by which even attention would be shared.
    """

    slots: tuple[Slot, ...]
    looks: tuple[tuple[int, int], ...]
    shares_LFG: Tensor
    tokens: tuple[int, ...]


def spread(count: int, total: int) -> tuple[int, ...]:
    """Middles of `count` equal parts of `range(total)`; all of it when `count` is larger."""
    if count < 1 or total < 1:
        raise PlanError(f"The attention probe was asked for {count} of {total} places, expected at least 1.")
    count = min(count, total)
    return tuple((2 * idx + 1) * total // (2 * count) for idx in range(count))


class AttentionProbe:
    """Collects the looks at one chunk; hand it to the model as `transformer_options[PROBE_OPTION]`.

    Args:
        sigmas: noise levels [steps + 1] of the whole chunk, by which a pass is known to belong to a step.
        steps, blocks: that are looked at, by index.
        heads: by index; all of them when empty.
    """

    def __init__(
        self, sigmas: Tensor | Sequence[float], steps: Sequence[int], blocks: Sequence[int], heads: Sequence[int] = ()
    ) -> None:
        self._ends = [float(sigma) for sigma in sigmas[1:]]
        self._steps = frozenset(steps)
        self._blocks = frozenset(blocks)
        self._heads = tuple(heads)
        self._looks: list[tuple[int, int, PassLayout, Tensor]] = []
        # Not as decorators: those import PyTorch's compiler, seconds that only a probe's user should pay.
        self.of_pass = torch.compiler.disable(self.of_pass)
        self.look = torch.compiler.disable(self.look)

    @classmethod
    def from_settings(
        cls, settings: ProbeSettings, num_blocks: int, sigmas: Tensor | Sequence[float]
    ) -> "AttentionProbe":
        """A probe of evenly spread blocks and steps."""
        steps, blocks = spread(settings.num_steps, len(sigmas) - 1), spread(settings.num_blocks, num_blocks)
        return cls(sigmas, steps, blocks, settings.heads)

    def of_pass(
        self, grid: TokenGrid, slots: Sequence[Slot], anchors: Sequence[Tensor], options: Mapping[str, Any]
    ) -> "PassProbe | None":
        """The probe of one forward pass, or None when its step is not looked at.

        Args:
            slots: kind and label of each anchor, for the whole batch.
            anchors: tokens [B, a, D] of each anchor.
            options: `sigmas` is the noise level of the pass; `cond_or_uncond` tells the parts of the batch apart, 0
                being the positive prompt's, which alone is looked at; without it everything is.
        """
        step = self._step_of(float(options["sigmas"].flatten()[0]))
        parts = options.get("cond_or_uncond", (0,))
        if step not in self._steps or 0 not in parts:
            return None
        layout = PassLayout(grid, tuple(slots), tuple(tokens.shape[1] for tokens in anchors))
        return PassProbe(self, step, layout, tuple(part == 0 for part in parts))

    def look(self, step: int, block: int, layout: "PassLayout", q_BVD: Tensor, k_BSD: Tensor, num_heads: int) -> None:
        """Keep the shares of one block's attention."""
        if block in self._blocks:
            shares_FG = group_shares(q_BVD, k_BSD, num_heads, layout, self._heads)
            self._looks.append((step, block, layout, shares_FG.cpu()))

    def result(self) -> AttentionShares | None:
        """All looks; None when there was none, because no pass of a chosen step reached the model.

        A pass that is repeated within its step (a solver's second evaluation, a second positive prompt) is another
        look. An anchor that only some of them had gets nothing in the others.
        """
        if not self._looks:
            return None
        tokens_of_slot: dict[Slot, int] = {}
        for _, _, layout, _ in self._looks:
            tokens_of_slot |= layout.tokens_of_slot
        slots, grid = tuple(tokens_of_slot), self._looks[0][2].grid
        shares_LFG = torch.zeros(len(self._looks), grid.frames, grid.frames + len(slots))
        for idx, (_, _, layout, shares_FG) in enumerate(self._looks):
            video_FF, anchors_FA = shares_FG.tensor_split([grid.frames], dim=1)
            shares_LFG[idx, :, : grid.frames] = video_FF
            # Several pictures of one label are one group.
            columns = torch.tensor([grid.frames + slots.index(slot) for slot in layout.slots], dtype=torch.long)
            shares_LFG[idx].index_add_(1, columns, anchors_FA)
        looks = tuple((step, block) for step, block, _, _ in self._looks)
        tokens = (grid.height * grid.width,) * grid.frames + tuple(tokens_of_slot.values())
        return AttentionShares(slots, looks, shares_LFG, tokens)

    def _step_of(self, sigma: float) -> int:
        """Index of the step that a noise level lies in: from its start on, above its end."""
        num_ended = sum(end * (1 + _LEVEL_TOLERANCE) >= sigma for end in self._ends)
        return min(num_ended, len(self._ends) - 1)


@dataclass(frozen=True)
class PassLayout:
    """Where the groups of keys lie: the video's frames first, then each anchor's tokens."""

    grid: TokenGrid
    slots: tuple[Slot, ...]
    anchor_tokens: tuple[int, ...]

    @property
    def tokens_of_slot(self) -> dict[Slot, int]:
        """Tokens of all pictures of each kind and label."""
        counts: dict[Slot, int] = {}
        for slot, count in zip(self.slots, self.anchor_tokens, strict=True):
            counts[slot] = counts.get(slot, 0) + count
        return counts


@dataclass(frozen=True)
class PassProbe:
    """What the blocks of one forward pass see of a probe.

    Args:
        is_looked_at: of each equal part of the batch.
    """

    probe: AttentionProbe
    step: int
    layout: PassLayout
    is_looked_at: tuple[bool, ...]

    def look(self, block: int, q_BVD: Tensor, k_BSD: Tensor, num_heads: int) -> None:
        """Called by self-attention with its flat queries of the video and keys of everything, both rotated."""
        parts = zip(q_BVD.chunk(len(self.is_looked_at)), k_BSD.chunk(len(self.is_looked_at)), strict=True)
        for is_looked_at, (q, k) in zip(self.is_looked_at, parts, strict=True):
            if is_looked_at:
                self.probe.look(self.step, block, self.layout, q, k, num_heads)


@torch.no_grad()
def group_shares(
    q_BVD: Tensor, k_BSD: Tensor, num_heads: int, layout: PassLayout, heads: Sequence[int] = ()
) -> Tensor:
    """Shares [F, G], float32: the mean over samples, heads and the queries of a frame of what each group gets."""
    num_frames = layout.grid.frames
    heads = heads or range(num_heads)
    if not all(0 <= head < num_heads for head in heads):
        raise PlanError(f"The attention probe was asked for heads {list(heads)}, the model has 0 to {num_heads - 1}.")
    q_BVNK, k_BSNK = (x.detach().unflatten(-1, (num_heads, -1)) for x in (q_BVD, k_BSD))
    block_bytes = CPU_BLOCK_BYTES if q_BVD.device.type == "cpu" else DEVICE_BLOCK_BYTES
    rows = max(1, block_bytes // (4 * k_BSD.shape[1]))
    total_FG = torch.zeros(num_frames, num_frames + len(layout.slots), device=q_BVD.device)
    for sample in range(len(q_BVD)):
        for head in heads:
            k_KS = k_BSNK[sample, :, head].float().T
            parts = [_shares(q_QK.float(), k_KS, layout) for q_QK in q_BVNK[sample, :, head].split(rows)]
            total_FG += torch.cat(parts).unflatten(0, (num_frames, -1)).mean(1)
    return total_FG / (len(q_BVD) * len(heads))


def _shares(q_QK: Tensor, k_KS: Tensor, layout: PassLayout) -> Tensor:
    """Sums [Q, G] of the softmax over each group of keys."""
    # The scale acts behind the product: what queries and keys hold in 16 bits is then exact in TF32 too.
    logits_QS = torch.addmm(q_QK.new_zeros(1), q_QK, k_KS, beta=0, alpha=q_QK.shape[1] ** -0.5)
    video, anchors = logits_QS.softmax(1).tensor_split([layout.grid.count], dim=1)
    of_anchors = [part.sum(1, keepdim=True) for part in anchors.split(list(layout.anchor_tokens), dim=1)]
    of_frames = video.unflatten(1, (layout.grid.frames, -1)).sum(2)
    return torch.cat([of_frames, *(of_anchors if layout.anchor_tokens else ())], dim=1)
