"""Frames with fitted poses enter, what is painted on the character leaves: expression, mouth, cheeks, marks, palette.

Everything is found by drawing the alternatives. A picture is linear in each color that is painted, so two drawings,
in black and in white, give the picture in any color.

Legend: T frames, H W pixels, h w pixels of a window, E expressions, L openings of the mouth, S shapes, M mark or cheek
colors, V viewpoints, K palette colors.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from .doll import HEAD_Y
from .look import Look
from .palette import MARK_COLORS
from .poses import Poses
from .puppet import Puppet, with_face
from .render import pixels_per_unit
from .shapes2d import MARK_SHAPES, PATCH

# Windows in heights of the character: the face, and torso with sleeves.
_FACE_SIZE, _FACE_Y = (0.56, 0.56), HEAD_Y
_BODY_SIZE, _BODY_Y = (0.46, 0.68), 0.335
_FIRST_OPENINGS = (0.0, 0.45, 0.9)
_NUM_OPENINGS = 11
# Pixels' worth of trust in the true palette.
_PALETTE_PRIOR = 0.3
PALETTE = ("skin", "hair", "shirt", "trousers", "shoes")


@dataclass(frozen=True, eq=False)
class Window:
    """The same part of the character cut from every frame: frames, poses and puppet for drawing it."""

    frames_T3hw: Tensor
    poses: Poses
    puppet: Puppet

    def draw(self, poses: Poses, look: Look | None = None) -> Tensor:
        """Pictures of the window [T, 3, h, w]."""
        puppet = self.puppet if look is None else replace(self.puppet, look=look)
        return puppet.draw(poses)[0]


def cut_window(puppet: Puppet, frames_T3HW: Tensor, poses: Poses, center_y: float, size: tuple[float, float]) -> Window:
    """Cut whole pixels around a height of the character; size is (height, width) in heights of it."""
    height, width = puppet.height, puppet.width
    unit = pixels_per_unit(height)
    window_height, window_width = (round(side * unit / 2) * 2 for side in size)
    window_height, window_width = min(window_height, height), min(window_width, width)
    unit_T = unit * poses.camera_T3[:, 2]
    x_T = width / 2 + (poses.x_T + poses.lean_T * center_y - poses.camera_T3[:, 0]) * unit_T
    y_T = height / 2 - (poses.bob_T + center_y - poses.camera_T3[:, 1]) * unit_T
    left_T = (x_T - window_width / 2).round().clamp(0, width - window_width)
    top_T = (y_T - window_height / 2).round().clamp(0, height - window_height)
    camera_T3 = torch.stack(
        [
            poses.camera_T3[:, 0] + (left_T + window_width / 2 - width / 2) / unit_T,
            poses.camera_T3[:, 1] - (top_T + window_height / 2 - height / 2) / unit_T,
            poses.camera_T3[:, 2] * height / window_height,
        ],
        1,
    )
    rows = top_T.long()[:, None] + torch.arange(window_height, device=top_T.device)
    columns = left_T.long()[:, None] + torch.arange(window_width, device=left_T.device)
    frame = torch.arange(len(poses), device=top_T.device)[:, None, None]
    cut = frames_T3HW.movedim(1, -1)[frame, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    small = replace(puppet, height=window_height, width=window_width)
    return Window(cut, replace(poses, camera_T3=camera_T3), small)


def face_window(puppet: Puppet, frames_T3HW: Tensor, poses: Poses) -> Window:
    """The window on the face."""
    return cut_window(puppet, frames_T3HW, poses, _FACE_Y, _FACE_SIZE)


def body_window(puppet: Puppet, frames_T3HW: Tensor, poses: Poses) -> Window:
    """The window on torso and sleeves."""
    return cut_window(puppet, frames_T3HW, poses, _BODY_Y, _BODY_SIZE)


def read_expression(window: Window) -> tuple[Tensor, Tensor]:
    """Expression (its number) and opening of the mouth [T] that draw the face best, whatever the cheeks' color."""
    device, num = window.frames_T3hw.device, len(window.poses)
    _, trust = window.puppet.draw(window.poses, with_marks=False)
    numbers = torch.arange(len(EXPRESSIONS), device=device).repeat_interleave(len(_FIRST_OPENINGS))
    openings = torch.tensor(_FIRST_OPENINGS, device=device).repeat(len(EXPRESSIONS))
    rest_TEL = _rest(window, numbers, openings, trust).view(num, len(EXPRESSIONS), -1)
    expression_T = rest_TEL.amin(2).argmin(1)
    openings_L = torch.linspace(0, 1, _NUM_OPENINGS, device=device)
    poses = window.poses.repeat_interleave(_NUM_OPENINGS)
    poses = with_face(poses, expression_T.repeat_interleave(_NUM_OPENINGS), openings_L.repeat(num))
    rest_TL = _difference(window, poses, trust, _NUM_OPENINGS)
    return expression_T, _lowest_between(rest_TL, openings_L)


def read_cheeks(window: Window) -> Tensor:
    """Color of the cheeks [T], an index into `MARK_COLORS`; the window's poses wear the expression."""
    black, share = _in_black_and_white(window, _quirk_looks(window.puppet.look))
    return _color_rest(window.frames_T3hw, black, share, torch.ones_like(share[:, :1])).argmin(1)


class Marks(NamedTuple):
    """The marks that draw a window best, whether they can be seen or not."""

    shape_TV: Tensor
    color_TV: Tensor
    rest_T: Tensor
    """Squared difference of the window that is left."""


def read_marks(window: Window) -> Marks:
    """Try every shape in every color on every side."""
    look = window.puppet.look
    patch_T4hw = _mark_patches(window)
    rests = []
    for shape in range(len(MARK_SHAPES)):
        shaped = replace(look, mark_shape_T4=torch.full_like(look.mark_shape_T4, shape))
        black, share = _in_black_and_white(window, _mark_looks(shaped))
        rests.append(
            torch.stack([_color_rest(window.frames_T3hw, black, share, patch) for patch in patch_T4hw.split(1, 1)], 1)
        )
    rest_TV64 = torch.stack(rests, 2).flatten(2)
    lowest_TV, best_TV = rest_TV64.min(2)
    elsewhere = (1 - patch_T4hw.sum(1, keepdim=True)).clamp(0, 1)
    elsewhere_T = (elsewhere * (window.frames_T3hw - black).square()).sum((1, 2, 3))
    return Marks(best_TV // len(MARK_COLORS), best_TV % len(MARK_COLORS), lowest_TV.sum(1) + elsewhere_T)


def _mark_patches(window: Window) -> Tensor:
    """How much of each pixel belongs to the place of each mark [T, V, h, w]."""
    look = window.puppet.look
    patched = replace(look, mark_shape_T4=torch.full_like(look.mark_shape_T4, PATCH))
    black = torch.zeros_like(look.mark_color_T43)
    first, second = black.clone(), black.clone()
    # Three marks in one drawing, each in a channel of its own, the fourth in another one.
    for idx in range(3):
        first[:, idx, idx] = 1
    second[:, 3, 0] = 1
    base, in_rgb, last = (
        window.draw(window.poses, replace(patched, mark_color_T43=colors)) for colors in (black, first, second)
    )
    return torch.cat([in_rgb - base, (last - base)[:, :1]], 1).clamp_min(0)


def read_palette(window: Window, trust_T1hw: Tensor) -> tuple[Tensor, Tensor]:
    """Colors [T, K, 3] of `PALETTE` that draw the window best, and the pixels [T, K] that show each.

    Args:
        trust_T1hw: how much each pixel counts.
    """
    look = window.puppet.look
    bare = replace(look, **{f"{name}_T3": torch.zeros_like(look.skin_T3) for name in PALETTE})
    base = window.draw(window.poses, bare)
    channels, shares = torch.eye(3, device=base.device), []
    for names in (PALETTE[:3], PALETTE[3:]):
        lit = replace(bare, **{f"{name}_T3": channels[idx].expand_as(look.skin_T3) for idx, name in enumerate(names)})
        shares.append((window.draw(window.poses, lit) - base)[:, : len(names)])
    tint_3 = window.puppet.tint_T3[0]
    share_TKD = torch.cat(shares, 1).flatten(2) / tint_3[torch.tensor([0, 1, 2, 0, 1], device=base.device), None]
    weighted_TKD = share_TKD * trust_T1hw.flatten(2)
    # What is out of sight keeps the color that it should have.
    true_TK3 = palette_of(look)
    rest_TD3 = (window.frames_T3hw - base).flatten(2).mT / tint_3 - share_TKD.mT @ true_TK3
    normal_TKK = weighted_TKD @ share_TKD.mT + _PALETTE_PRIOR * torch.eye(len(PALETTE), device=base.device)
    return true_TK3 + torch.linalg.solve(normal_TKK, weighted_TKD @ rest_TD3), weighted_TKD.sum(2)


def palette_of(look: Look) -> Tensor:
    """The colors [T or 1, K, 3] of `PALETTE` that a character should have."""
    return torch.stack([getattr(look, f"{name}_T3") for name in PALETTE], 1)


def _quirk_looks(look: Look) -> tuple[Look, Look]:
    black = torch.zeros_like(look.quirk_color_TE3)
    return replace(look, quirk_color_TE3=black), replace(look, quirk_color_TE3=black + 1)


def _mark_looks(look: Look) -> tuple[Look, Look]:
    black = torch.zeros_like(look.mark_color_T43)
    return replace(look, mark_color_T43=black), replace(look, mark_color_T43=black + 1)


def _in_black_and_white(window: Window, looks: tuple[Look, Look]) -> tuple[Tensor, Tensor]:
    """The window in black, and what each pixel adds per unit of color."""
    black, white = (window.draw(window.poses, look) for look in looks)
    return black, white - black


def _color_rest(frames: Tensor, black: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """Squared difference [T, M] to the picture in each of the mark colors, by multiplying out the square."""
    colors_3M = torch.tensor(MARK_COLORS, device=frames.device).T
    rest, weighted_share = frames - black, weight * share
    constant_T1 = (weight * rest.square()).sum((1, 2, 3))[:, None]
    linear_T3, square_T3 = (weighted_share * rest).sum((2, 3)), (weighted_share * share).sum((2, 3))
    return constant_T1 - 2 * linear_T3 @ colors_3M + square_T3 @ colors_3M.square()


def _rest(window: Window, numbers: Tensor, openings: Tensor, weight: Tensor) -> Tensor:
    """Difference to the face in each expression and opening [T, E L]."""
    num, times = len(window.poses), len(numbers)
    poses = with_face(window.poses.repeat_interleave(times), numbers.repeat(num), openings.repeat(num))
    return _difference(window, poses, weight, times)


def _difference(window: Window, poses: Poses, weight: Tensor, times: int) -> Tensor:
    pictures = window.draw(poses).unflatten(0, (-1, times))
    return ((pictures - window.frames_T3hw[:, None]).square() * weight[:, None]).sum((2, 3, 4))


def _lowest_between(rest_TL: Tensor, places_L: Tensor) -> Tensor:
    """Where the parabola through the lowest of evenly spaced values and its neighbors is lowest [T]."""
    best_T = rest_TL.argmin(1).clamp(1, len(places_L) - 2)
    left, middle, right = (rest_TL.gather(1, best_T[:, None] + step)[:, 0] for step in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp_min(1e-9)
    shift = (0.5 * (left - right) / bend).clamp(-1, 1)
    return places_L[best_T] + shift * (places_L[1] - places_L[0])
