"""Frames of a known character in a known room enter, the poses that explain them best leave.

First the nearest of a bank of small pictures, then Gauss-Newton steps on whole frames, derivatives by rendering.

Legend: T frames, H W pixels, h w pixels of the small pictures, K pictures of the bank, D their values, P fitted
parameters, E expressions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from .canvas import VIEW_HEIGHT
from .look import Look
from .poses import Poses, concatenate
from .render import cut_out, pixels_per_unit, render
from .scene import Backdrop, paint
from .source import Source

_BANK_YAWS = 24
_BANK_X = (-0.2, -0.16, -0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12, 0.16, 0.2)
_BANK_Y = (0.475, 0.51, 0.545)
_BANK_ZOOM = (0.93, 1.0, 1.075)
_BANK_HEIGHT = 32
_BANK_FRAMES = 512
# Squared difference that a pixel outside of the character counts for.
_UNEXPLAINED = 0.06
# For each parameter: its middle, its usual spread, how far it is moved to see what it does, its longest step.
_PARAMETERS = {
    "pan_x": (0.0, 0.08, 0.004, 0.06),
    "pan_y": (0.51, 0.03, 0.004, 0.06),
    "log_zoom": (0.0, 0.06, 0.01, 0.06),
    "x": (0.0, 0.08, 0.004, 0.06),
    "bob": (0.008, 0.012, 0.004, 0.02),
    "lean": (0.0, 0.03, 0.006, 0.03),
    "yaw": (0.0, 1e3, 0.04, 0.3),
    "head_lead": (0.0, 0.35, 0.04, 0.3),
}
_MIDDLE, _SPREAD, _NUDGE, _LONGEST = torch.tensor(list(_PARAMETERS.values())).T
_PAN_X, _PAN_Y, _LOG_ZOOM, _X, _BOB, _LEAN, _YAW, _HEAD_LEAD = range(len(_PARAMETERS))
# Spread of a pixel's value around the model, which weighs the picture against what is usual; pixels further off than
# the second number count less, so that a wrong mark does not turn the body.
_PIXEL_SPREAD, _OUTLIER = 0.08, 0.25
_FIT_FRAMES = 28
# Turns of the head and of the body that are tried.
_FAR_TURNS = (-0.6, -0.3, 0.0, 0.3, 0.6), (-0.9, -0.45, 0.0, 0.45, 0.9)
_NEAR_TURNS = (-0.18, 0.0, 0.18), (-0.24, -0.12, 0.0, 0.12, 0.24)
_TRIED_PANS = tuple(step * 0.02 for step in range(-10, 11))


@dataclass(frozen=True, eq=False)
class Puppet:
    """A character in its room, ready to be drawn in any pose."""

    look: Look
    backdrop: Backdrop
    tint_T3: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, source: Source, device: torch.device | str, shrink: int = 1) -> "Puppet":
        """The character and the room of a video, drawn `shrink` times smaller."""
        height, width = source.height // shrink, source.width // shrink
        backdrop = paint(source.scene, pixels_per_unit(height), device)
        return cls(source.look.to(device), backdrop, source.tint_T3.to(device), height, width)

    def picture(self, poses: Poses) -> Tensor:
        """Frames [T, 3, H, W]."""
        return render(self.look, poses, self.backdrop, self.tint_T3, self.height, self.width).movedim(-1, 1)


@dataclass(frozen=True, eq=False)
class PoseBank:
    """Small cut-out pictures of a character in neutral mood, all around, in several places and sizes."""

    poses: Poses
    color_KD: Tensor
    """Color times coverage."""
    cover_Khw: Tensor
    energy_K: Tensor
    """Sum of color squared times coverage."""

    def nearest(self, frames_T3HW: Tensor) -> Poses:
        """For each frame the pose that explains most of it with the least difference."""
        small_T3hw = F.interpolate(frames_T3HW, size=self.cover_Khw.shape[1:], mode="area")
        cover_KD = self.cover_Khw.flatten(1)
        best = []
        for some_T3hw in small_T3hw.split(_BANK_FRAMES):
            inside_TK = some_T3hw.square().sum(1).flatten(1) @ cover_KD.T
            cross_TK = some_T3hw.flatten(1) @ self.color_KD.T
            best.append((inside_TK - 2 * cross_TK + self.energy_K - _UNEXPLAINED * cover_KD.sum(1)).argmin(1))
        return self.poses[torch.cat(best)]


def make_bank(puppet: Puppet) -> PoseBank:
    """Draw the bank of a character."""
    device = puppet.tint_T3.device
    grid = torch.tensor(list(product(range(_BANK_YAWS), _BANK_X, _BANK_Y, _BANK_ZOOM)), device=device)
    theta_TP = _MIDDLE.to(device).repeat(len(grid), 1)
    theta_TP[:, _PAN_X], theta_TP[:, _PAN_Y], theta_TP[:, _LOG_ZOOM] = grid[:, 1], grid[:, 2], grid[:, 3].log()
    theta_TP[:, _YAW] = grid[:, 0] * (2 * math.pi / _BANK_YAWS)
    mood = EXPRESSIONS.index("neutral")
    expression_TE = F.one_hot(torch.full((len(grid),), mood, device=device), len(EXPRESSIONS)).float()
    poses = _poses(theta_TP, expression_TE, torch.zeros(len(grid), device=device))
    width = round(_BANK_HEIGHT * puppet.width / puppet.height)
    pieces = [
        cut_out(puppet.look, poses[start : start + 128], _BANK_HEIGHT, width) for start in range(0, len(grid), 128)
    ]
    color_K3hw = torch.cat([piece.color_T3HW for piece in pieces]) * puppet.tint_T3[:, :, None, None]
    cover_Khw = torch.cat([piece.cover_THW for piece in pieces])
    # One factor of the coverage is already in the color.
    energy_K = (color_K3hw.square().sum(1) / cover_Khw.clamp_min(1e-3)).flatten(1).sum(1)
    return PoseBank(poses, color_K3hw.flatten(1), cover_Khw, energy_K)


def turn_far(puppet: Puppet, frames_T3HW: Tensor, start: Poses) -> Poses:
    """The best of several turns of the head, and of the body around it: the bank turns both as one."""
    theta_TP = _theta(start)
    tried = []
    for head, body in product(*_FAR_TURNS):
        turned_TP = theta_TP.clone()
        turned_TP[:, _YAW] += theta_TP[:, _HEAD_LEAD] + head + body
        turned_TP[:, _HEAD_LEAD] = -body
        tried.append(turned_TP)
    return _best_of(puppet, frames_T3HW, start, [theta_TP, *tried])


def turn_near(puppet: Puppet, frames_T3HW: Tensor, start: Poses) -> Poses:
    """The best of several small turns of the head and of the body: steps can get caught in a repeating mark."""
    theta_TP = _theta(start)
    tried = []
    for head, body in product(*_NEAR_TURNS):
        turned_TP = theta_TP.clone()
        turned_TP[:, _YAW] += body
        turned_TP[:, _HEAD_LEAD] += head - body
        tried.append(turned_TP)
    return _best_of(puppet, frames_T3HW, start, [theta_TP, *tried])


def _best_of(puppet: Puppet, frames_T3HW: Tensor, start: Poses, tried: list[Tensor]) -> Poses:
    """For each frame the parameters [T, P] that explain it best."""
    small_T3hw = F.interpolate(frames_T3HW, size=(puppet.height, puppet.width), mode="area")
    theta_TNP = torch.stack(tried, 1)
    best = []
    for some in torch.arange(len(start), device=frames_T3HW.device).split(_FIT_FRAMES):
        theta = theta_TNP[some].flatten(0, 1)
        faces = start[some].repeat_interleave(len(tried))
        pictures = puppet.picture(_poses(theta, faces.expression_TE, faces.speech_T))
        seen = small_T3hw[some].repeat_interleave(len(tried), 0)
        best.append(_cost(seen, pictures, _unusual(theta)).view(len(some), -1).argmin(1))
    best_T = torch.cat(best)
    chosen_TP = theta_TNP[torch.arange(len(best_T), device=best_T.device), best_T]
    return _poses(chosen_TP, start.expression_TE, start.speech_T)


def align_room(puppet: Puppet, frames_T3HW: Tensor, start: Poses) -> Poses:
    """Pan the camera to where the room fits best around the character, which stays where it is in the picture."""
    device = frames_T3HW.device
    pans = torch.tensor(_TRIED_PANS, device=device)
    theta_TP = _theta(start).repeat_interleave(len(pans), 0)
    theta_TP[:, _X] += pans.repeat(len(start))
    theta_TP[:, _PAN_X] += pans.repeat(len(start))
    small_T3hw = F.interpolate(frames_T3HW, size=(puppet.height, puppet.width), mode="area")
    cover_THW = cut_out(puppet.look, start, puppet.height, puppet.width).cover_THW
    weight = (1 - cover_THW).repeat_interleave(len(pans), 0)
    cameras_T3 = _poses(theta_TP, start.expression_TE, start.speech_T).camera_T3
    rooms = puppet.backdrop.shot(cameras_T3, puppet.height, puppet.width, VIEW_HEIGHT)
    rooms = rooms * puppet.tint_T3[:, :, None, None]
    rest = ((small_T3hw.repeat_interleave(len(pans), 0) - rooms).square().sum(1) * weight).sum((1, 2))
    best_T = rest.view(len(start), -1).argmin(1) + len(pans) * torch.arange(len(start), device=device)
    return _poses(theta_TP[best_T], start.expression_TE, start.speech_T)


def refine(puppet: Puppet, frames_T3HW: Tensor, start: Poses, num_steps: int) -> Poses:
    """Gauss-Newton steps on everything but the face; a step that does not help is halved and tried again."""
    frames_T3HW = F.interpolate(frames_T3HW, size=(puppet.height, puppet.width), mode="area")
    pieces = []
    for begin in range(0, len(start), _FIT_FRAMES):
        some = slice(begin, begin + _FIT_FRAMES)
        pieces.append(_refine_some(puppet, frames_T3HW[some], start[some], num_steps))
    return concatenate(pieces)


def _refine_some(puppet: Puppet, frames_T3HW: Tensor, start: Poses, num_steps: int) -> Poses:
    def draw(theta_TP: Tensor) -> Tensor:
        times = len(theta_TP) // len(start)
        faces = start.repeat_interleave(times)
        return puppet.picture(_poses(theta_TP, faces.expression_TE, faces.speech_T))

    device = frames_T3HW.device
    spread, longest = _SPREAD.to(device), _LONGEST.to(device)
    theta_TP = _theta(start)
    picture = draw(theta_TP)
    cost_T = _cost(frames_T3HW, picture, _unusual(theta_TP))
    reach_T1 = torch.ones(len(start), 1, device=device)
    for _ in range(num_steps):
        rest_TD = (frames_T3HW - picture).flatten(1) / _PIXEL_SPREAD
        slopes_TPD = _slopes(draw, theta_TP, picture) / _PIXEL_SPREAD
        trust_TD = 1 / (1 + (rest_TD * (_PIXEL_SPREAD / _OUTLIER)) ** 2)
        weighted_TPD = slopes_TPD * trust_TD[:, None]
        normal_TPP = weighted_TPD @ slopes_TPD.mT + torch.diag(1.05 / spread**2)
        right_TP = (weighted_TPD @ rest_TD[:, :, None])[..., 0] - _unusual(theta_TP) / spread
        step_TP = torch.linalg.solve(normal_TPP, right_TP).clamp(-longest, longest) * reach_T1
        tried_TP = theta_TP + step_TP
        tried_picture = draw(tried_TP)
        tried_cost_T = _cost(frames_T3HW, tried_picture, _unusual(tried_TP))
        is_better_T = tried_cost_T < cost_T
        theta_TP = torch.where(is_better_T[:, None], tried_TP, theta_TP)
        picture = torch.where(is_better_T[:, None, None, None], tried_picture, picture)
        cost_T = torch.where(is_better_T, tried_cost_T, cost_T)
        reach_T1 = torch.where(is_better_T[:, None], 1.0, 0.5 * reach_T1)
    return _poses(theta_TP, start.expression_TE, start.speech_T)


def _cost(frames_T3HW: Tensor, picture: Tensor, unusual_TP: Tensor) -> Tensor:
    """What the steps lower: the logarithm keeps far pixels from counting by the square."""
    rest = (frames_T3HW - picture).flatten(1) / _OUTLIER
    return (_OUTLIER / _PIXEL_SPREAD) ** 2 * torch.log1p(rest**2).sum(1) + unusual_TP.square().sum(1)


def _unusual(theta_TP: Tensor) -> Tensor:
    """How many spreads each parameter is from its middle."""
    return (theta_TP - _MIDDLE.to(theta_TP.device)) / _SPREAD.to(theta_TP.device)


def _slopes(draw: Callable[[Tensor], Tensor], theta_TP: Tensor, picture: Tensor) -> Tensor:
    """Derivatives of the picture [T, P, D]."""
    nudge = _NUDGE.to(theta_TP.device)
    num_parameters = len(nudge)
    moved = theta_TP[:, None] + torch.diag(nudge)
    pictures = draw(moved.flatten(0, 1)).unflatten(0, (-1, num_parameters))
    return ((pictures - picture[:, None]) / nudge[:, None, None, None]).flatten(2)


def _theta(poses: Poses) -> Tensor:
    lead_T = torch.remainder(poses.head_yaw_T - poses.yaw_T + math.pi, 2 * math.pi) - math.pi
    return torch.stack(
        [
            poses.camera_T3[:, 0],
            poses.camera_T3[:, 1],
            poses.camera_T3[:, 2].log(),
            poses.x_T,
            poses.bob_T,
            poses.lean_T,
            poses.yaw_T,
            lead_T,
        ],
        1,
    )


def _poses(theta_TP: Tensor, expression_TE: Tensor, speech_T: Tensor) -> Poses:
    yaw_T = theta_TP[:, _YAW]
    return Poses(
        yaw_T=_wrapped(yaw_T),
        head_yaw_T=_wrapped(yaw_T + theta_TP[:, _HEAD_LEAD]),
        x_T=theta_TP[:, _X],
        bob_T=theta_TP[:, _BOB],
        lean_T=theta_TP[:, _LEAN],
        expression_TE=expression_TE,
        speech_T=speech_T,
        camera_T3=torch.cat([theta_TP[:, :_LOG_ZOOM], theta_TP[:, _LOG_ZOOM, None].exp()], 1),
    )


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def with_face(poses: Poses, expression_T: Tensor, speech_T: Tensor) -> Poses:
    """The same poses with other faces, expressions by their number."""
    return replace(poses, expression_TE=F.one_hot(expression_T, len(EXPRESSIONS)).float(), speech_T=speech_T)
