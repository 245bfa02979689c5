"""Frames of a known character in a known room enter, the poses that explain them best leave.

First the nearest of a bank of small pictures, then Gauss-Newton steps on whole frames, derivatives by rendering. Marks
and cheeks are left out until they have been read: a picture with wrong marks must not turn the body.

Legend: T frames, H W pixels, h w pixels of the bank's pictures, K pictures of the bank, D values of a picture,
P fitted parameters, N alternatives, E expressions.
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
from .poses import Poses, concatenate
from .puppet import Puppet
from .render import cut_out

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
# the second number count less.
_PIXEL_SPREAD, _OUTLIER = 0.08, 0.25
_FIT_FRAMES = 28
# Turns of the head and of the body that are tried.
_FAR_TURNS = (-0.6, -0.3, 0.0, 0.3, 0.6), (-0.9, -0.45, 0.0, 0.45, 0.9)
_NEAR_TURNS = (-0.24, -0.12, 0.0, 0.12, 0.24)
_TRIED_PANS = tuple(step * 0.02 for step in range(-10, 11))


@dataclass(frozen=True, eq=False)
class PoseBank:
    """Small cut-out pictures of a character in neutral mood, all around, in several places and sizes."""

    poses: Poses
    cover_Khw: Tensor
    """Coverage by what is the same in every mood and with all marks."""
    color_KD: Tensor
    """Color times coverage."""
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
    colors, covers, energies = [], [], []
    for rows in torch.arange(len(grid), device=device).split(_BANK_FRAMES):
        cut = cut_out(puppet.look, poses[rows], _BANK_HEIGHT, width, keeps_marks=True)
        lasting = 1 - cut.marked_THW / cut.cover_THW.clamp_min(1e-3)
        color = cut.color_T3HW * puppet.tint_T3[:, :, None, None]
        # One factor of the coverage is already in the color.
        energies.append((lasting * color.square().sum(1) / cut.cover_THW.clamp_min(1e-3)).flatten(1).sum(1))
        colors.append((color * lasting[:, None]).flatten(1))
        covers.append(cut.cover_THW * lasting)
    return PoseBank(poses, torch.cat(covers), torch.cat(colors), torch.cat(energies))


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


def turned_bodies(poses: Poses) -> list[Poses]:
    """The same poses with the body turned a little, the head as it is."""
    return [replace(poses, yaw_T=_wrapped(poses.yaw_T + turn)) for turn in _NEAR_TURNS]


def _best_of(puppet: Puppet, frames_T3HW: Tensor, start: Poses, tried: list[Tensor]) -> Poses:
    """For each frame the parameters [T, P] that explain it best, marks and cheeks left out."""
    small_T3hw = puppet.fitted(frames_T3HW)
    theta_TNP = torch.stack(tried, 1)
    best = []
    for some in torch.arange(len(start), device=frames_T3HW.device).split(_FIT_FRAMES):
        theta = theta_TNP[some].flatten(0, 1)
        faces = start[some].repeat_interleave(len(tried))
        poses = _poses(theta, faces.expression_TE, faces.speech_T)
        picture, trust = puppet.draw(poses, with_marks=False)
        seen = small_T3hw[some].repeat_interleave(len(tried), 0)
        best.append(_cost(seen - picture, trust, _unusual(theta)).view(len(some), -1).argmin(1))
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
    small_T3hw = puppet.fitted(frames_T3HW)
    cover_THW = cut_out(puppet.look, start, puppet.height, puppet.width).cover_THW
    weight = (1 - cover_THW).repeat_interleave(len(pans), 0)
    cameras_T3 = _poses(theta_TP, start.expression_TE, start.speech_T).camera_T3
    rooms = puppet.backdrop.shot(cameras_T3, puppet.height, puppet.width, VIEW_HEIGHT)
    rooms = rooms * puppet.tint_T3[:, :, None, None]
    rest = ((small_T3hw.repeat_interleave(len(pans), 0) - rooms).square().sum(1) * weight).sum((1, 2))
    best_T = rest.view(len(start), -1).argmin(1) + len(pans) * torch.arange(len(start), device=device)
    return _poses(theta_TP[best_T], start.expression_TE, start.speech_T)


def refine(puppet: Puppet, frames_T3HW: Tensor, start: Poses, num_steps: int, with_marks: bool) -> Poses:
    """Gauss-Newton steps on everything but the face; a step that does not help is halved and tried again."""
    frames_T3HW = puppet.fitted(frames_T3HW)
    pieces = []
    for some in torch.arange(len(start), device=frames_T3HW.device).split(_FIT_FRAMES):
        pieces.append(_refine_some(puppet.of_frames(some), frames_T3HW[some], start[some], num_steps, with_marks))
    return concatenate(pieces)


def _refine_some(puppet: Puppet, frames_T3HW: Tensor, start: Poses, num_steps: int, with_marks: bool) -> Poses:
    def draw(theta_TP: Tensor) -> tuple[Tensor, Tensor]:
        faces = start.repeat_interleave(len(theta_TP) // len(start))
        return puppet.draw(_poses(theta_TP, faces.expression_TE, faces.speech_T), with_marks)

    device = frames_T3HW.device
    spread, longest = _SPREAD.to(device), _LONGEST.to(device)
    theta_TP = _theta(start)
    picture, trust = draw(theta_TP)
    cost_T = _cost(frames_T3HW - picture, trust, _unusual(theta_TP))
    reach_T1 = torch.ones(len(start), 1, device=device)
    for _ in range(num_steps):
        rest_TD = (frames_T3HW - picture).flatten(1) / _PIXEL_SPREAD
        slopes_TPD = _slopes(draw, theta_TP, picture) / _PIXEL_SPREAD
        weight_TD = trust.expand_as(picture).flatten(1) / (1 + (rest_TD * (_PIXEL_SPREAD / _OUTLIER)) ** 2)
        weighted_TPD = slopes_TPD * weight_TD[:, None]
        normal_TPP = weighted_TPD @ slopes_TPD.mT + torch.diag(1.05 / spread**2)
        right_TP = (weighted_TPD @ rest_TD[:, :, None])[..., 0] - _unusual(theta_TP) / spread
        step_TP = torch.linalg.solve(normal_TPP, right_TP).clamp(-longest, longest) * reach_T1
        tried_TP = theta_TP + step_TP
        tried_picture, tried_trust = draw(tried_TP)
        tried_cost_T = _cost(frames_T3HW - tried_picture, tried_trust, _unusual(tried_TP))
        better_T1 = (tried_cost_T < cost_T)[:, None]
        theta_TP = torch.where(better_T1, tried_TP, theta_TP)
        picture = torch.where(better_T1[..., None, None], tried_picture, picture)
        trust = torch.where(better_T1[..., None, None], tried_trust, trust)
        cost_T = torch.where(better_T1[:, 0], tried_cost_T, cost_T)
        reach_T1 = torch.where(better_T1, 1.0, 0.5 * reach_T1)
    return _poses(theta_TP, start.expression_TE, start.speech_T)


def _cost(rest: Tensor, trust: Tensor, unusual_TP: Tensor) -> Tensor:
    """What the steps lower: the logarithm keeps far pixels from counting by the square."""
    far = torch.log1p((rest / _OUTLIER).square()) * trust
    return (_OUTLIER / _PIXEL_SPREAD) ** 2 * far.sum((1, 2, 3)) + unusual_TP.square().sum(1)


def _unusual(theta_TP: Tensor) -> Tensor:
    """How many spreads each parameter is from its middle."""
    return (theta_TP - _MIDDLE.to(theta_TP.device)) / _SPREAD.to(theta_TP.device)


def _slopes(draw: Callable[[Tensor], tuple[Tensor, Tensor]], theta_TP: Tensor, picture: Tensor) -> Tensor:
    """Derivatives of the picture [T, P, D]."""
    nudge = _NUDGE.to(theta_TP.device)
    moved = theta_TP[:, None] + torch.diag(nudge)
    pictures = draw(moved.flatten(0, 1))[0].unflatten(0, (-1, len(nudge)))
    return ((pictures - picture[:, None]) / nudge[:, None, None, None]).flatten(2)


def _theta(poses: Poses) -> Tensor:
    """Fitted parameters [T, P] of poses."""
    pan_x_T, pan_y_T, zoom_T = poses.camera_T3.T
    lead_T = _wrapped(poses.head_yaw_T - poses.yaw_T)
    placed = (pan_x_T, pan_y_T, zoom_T.log(), poses.x_T, poses.bob_T, poses.lean_T)
    return torch.stack([*placed, poses.yaw_T, lead_T], 1)


def _poses(theta_TP: Tensor, expression_TE: Tensor, speech_T: Tensor) -> Poses:
    """Poses with these parameters and faces."""
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
