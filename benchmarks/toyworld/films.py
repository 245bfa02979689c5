"""A held-out character and the name of a program enter, a film of it leaves: its truth, and what the model is shown.

    turning   turns to another view in every second chunk, one mood for four chunks
    feeling   faces the camera, another mood in every chunk
    talking   faces the camera, neutral
    random    turns and moods at any time, as in training

Turns and moods begin at seams (but in `random`), so that the prompt of a chunk says what its last frames must show.

Legend: T frames, C colors, H W pixels.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor
from gloria_core.demo.sizes import WorldSizes
from gloria_core.sampling.plan import PREFIX_LATENTS, Chunk, ChunkPlan, plan_chunks
from gloria_core.shapes import pixel_frames_for, pixel_span_of_latent
from gloria_core.toyworld.anchors import expression_anchors, viewpoint_anchors
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.poses import Poses
from gloria_core.toyworld.program import Mood, Program, Turn, make_program
from gloria_core.toyworld.scene import make_scene
from gloria_core.toyworld.source import Source
from gloria_core.toyworld.speech import make_speech

PROGRAMS = ("turning", "feeling", "talking", "random")
# As many expressions as a training sample has at most.
NUM_EXPRESSIONS = 4
_STREAM = 211
_TALKATIVE = 0.85
# Sideways turns of the global anchor: the sleeves must stay out of its sight.
_GLOBAL_YAW = math.radians(15)
_TURN_DELAY, _QUARTERS_A_SECOND = 0.25, 1.25
_MOOD_CHUNKS = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Film:
    """What is filmed and what is shown to the model."""

    number: int
    """Of the held-out character."""
    program: str
    source: Source
    plan: ChunkPlan
    """Of the full model; an arm may cut the same film into other chunks."""
    seed: int
    """Of the noise, the same in all arms."""
    anchors: tuple[Anchor, ...]
    """The global one, four views, `NUM_EXPRESSIONS` expressions."""
    global_pose: Poses
    view_poses: Poses

    @property
    def num_frames(self) -> int:
        """Video frames of the film; the source is a little longer."""
        return pixel_frames_for(self.plan.total_latents)

    def truth(self) -> Poses:
        """What every frame should show."""
        return self.source.poses(0, self.num_frames)

    def expressions(self) -> tuple[str, ...]:
        """Expressions that have an anchor."""
        return tuple(anchor.label for anchor in self.anchors if anchor.kind == "expression")


def make_film(world: WorldSizes, number: int, program: str, num_chunks: int, seed: int) -> Film:
    """The film of this character and program; the same one for the same arguments."""
    rng = np.random.default_rng((_STREAM, seed, number, PROGRAMS.index(program)))
    window = world.window_latents
    plan = plan_chunks(window + (num_chunks - 1) * (window - PREFIX_LATENTS), window)
    # A second more, so that no chunk asks for frames behind the end.
    seconds = pixel_frames_for(plan.total_latents) / world.fps + 1
    scene_seed = int(rng.integers(2**31))
    order = [EXPRESSIONS[idx] for idx in rng.permutation(len(EXPRESSIONS))]
    if program == "talking":
        order.sort(key=lambda name: name != "neutral")
    shown, others = order[:NUM_EXPRESSIONS], order[NUM_EXPRESSIONS:]
    source = Source(
        held_out_character(number), make_scene(scene_seed), _program(program, rng, plan, seconds, world.fps, shown),
        make_speech(scene_seed, seconds, _TALKATIVE), world.fps, world.side, world.side,
    )  # fmt: skip
    views = viewpoint_anchors(source, rng, VIEWPOINTS)
    moods = expression_anchors(source, rng, shown)
    global_pose = _global_pose(source, rng, others)
    portrait = Anchor("global", "global", source.picture(global_pose)[0])
    return Film(
        number=number, program=program, source=source, plan=plan, seed=int(rng.integers(2**31)),
        anchors=(portrait, *views.anchors, *moods.anchors), global_pose=global_pose, view_poses=views.poses,
    )  # fmt: skip


def frames_of(chunk: Chunk) -> tuple[int, int]:
    """Video frames of a chunk, prefix included: first and behind the last."""
    return pixel_span_of_latent(chunk.start)[0], pixel_span_of_latent(chunk.stop - 1)[1]


def seams_of(plan: ChunkPlan) -> list[int]:
    """The first video frame that each later chunk adds."""
    return [pixel_span_of_latent(chunk.start + chunk.prefix)[0] for chunk in plan.chunks[1:]]


def _program(
    name: str, rng: np.random.Generator, plan: ChunkPlan, seconds: float, fps: float, shown: list[str]
) -> Program:
    drawn = replace(make_program(int(rng.integers(2**31)), seconds), start_view="front")
    begins = [0.0, *(seam / fps for seam in seams_of(plan))]
    if name == "random":
        return replace(drawn, moods=_among(shown, drawn.moods))
    if name == "turning":
        quarters = rng.choice((1, 2), size=len(begins)) * rng.choice((-1, 1), size=len(begins))
        turns = tuple(
            Turn(begin + _TURN_DELAY, abs(int(by)) / _QUARTERS_A_SECOND, int(by))
            for begin, by in list(zip(begins, quarters, strict=True))[1::2]
        )
        moods = tuple(
            Mood(begin, shown[idx % len(shown)]) for idx, begin in enumerate(begins[::_MOOD_CHUNKS])
        )
        return replace(drawn, turns=turns, moods=moods)
    every = begins if name == "feeling" else begins[:1]
    moods = tuple(Mood(begin, shown[idx % len(shown)]) for idx, begin in enumerate(every))
    return replace(drawn, turns=(), moods=moods)


def _among(shown: list[str], moods: tuple[Mood, ...]) -> tuple[Mood, ...]:
    """The same times with these expressions alone, never one twice in a row: no caption says "sad then sad"."""
    chosen: list[int] = []
    for mood in moods:
        idx = EXPRESSIONS.index(mood.expression) % len(shown)
        chosen.append((idx + 1) % len(shown) if chosen[-1:] == [idx] else idx)
    return tuple(Mood(mood.start, shown[idx]) for mood, idx in zip(moods, chosen, strict=True))


def _global_pose(source: Source, rng: np.random.Generator, others: list[str]) -> Poses:
    """Some moment of the camera, the character facing it in a mood that the film never asks for."""
    pose = source.poses(int(rng.integers(source.num_frames)), 1)
    yaw_T = torch.tensor([rng.uniform(-_GLOBAL_YAW, _GLOBAL_YAW)], dtype=torch.float32)
    worn = torch.tensor([EXPRESSIONS.index(others[rng.integers(len(others))])])
    return replace(
        pose, yaw_T=yaw_T, head_yaw_T=yaw_T, speech_T=torch.zeros(1),
        expression_TE=F.one_hot(worn, len(EXPRESSIONS)).float(),
    )  # fmt: skip
