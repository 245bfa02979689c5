"""A character and a seed enter, one source video of it leaves: frames, sound and prompts of any stretch, never stored.

Legend: T frames, H W pixels, C colors, N samples at 16 kHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import ToyWorldError
from ..media.read_audio import SAMPLE_RATE
from .captions import caption
from .character import Character
from .look import Look, look_of
from .poses import Poses, concatenate
from .program import Program, frame_times, make_program
from .render import pixels_per_unit, render, render_at_once
from .scene import Backdrop, Scene, make_scene, paint
from .speech import make_speech, mouth_opening_of

DEFAULT_SECONDS = 24.0
DEFAULT_SIZE = 64
_STREAM = 51
_SILENT_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Source:
    """One video of one character at one frame rate.

    Args:
        samples_N: float32 sound at 16 kHz as long as the video; None: silent.
    """

    character: Character
    scene: Scene
    program: Program
    samples_N: np.ndarray | None
    fps: float
    height: int = DEFAULT_SIZE
    width: int = DEFAULT_SIZE
    look: Look = field(init=False)
    backdrop: Backdrop = field(init=False)
    tint_T3: Tensor = field(init=False)
    """The light of the video [1, 3]."""
    speech_T: np.ndarray = field(init=False)
    """Opening of the mouth by speech in every frame of the video."""

    def __post_init__(self) -> None:
        num_frames = round(self.program.seconds * self.fps)
        silence = np.zeros(num_frames, dtype=np.float32)
        samples = self.samples_N
        object.__setattr__(self, "look", look_of([self.character]))
        object.__setattr__(self, "backdrop", paint(self.scene, pixels_per_unit(self.height)))
        object.__setattr__(self, "tint_T3", torch.tensor([self.scene.tint]))
        opening_T = silence if samples is None else mouth_opening_of(samples, self.fps, num_frames)
        object.__setattr__(self, "speech_T", opening_T)

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.speech_T)

    def poses(self, first_frame: int, num_frames: int) -> Poses:
        """Ground truth of a stretch.

        Raises:
            ToyWorldError: The video is shorter.
        """
        stop = first_frame + num_frames
        if first_frame < 0 or num_frames < 1 or stop > self.num_frames:
            raise ToyWorldError(f"Frames {first_frame} to {stop} of a video of {self.num_frames} frames do not exist.")
        times = frame_times(first_frame, num_frames, self.fps)
        return self.program.poses(times, self.speech_T[first_frame:stop])

    def frames(self, first_frame: int, num_frames: int) -> Tensor:
        """Pictures [T, H, W, C], float32, 0 to 1."""
        return self.picture(self.poses(first_frame, num_frames))

    def picture(self, poses: Poses) -> Tensor:
        """The character in other poses in the same room [T, H, W, C]."""
        return render(self.look, poses, self.backdrop, self.tint_T3, self.height, self.width)

    def prompt(self, first_frame: int, num_frames: int) -> str:
        """What happens in a stretch."""
        stop = first_frame + num_frames
        return caption(self.program, first_frame / self.fps, num_frames / self.fps, self.speech_T[first_frame:stop])

    def sound(self, first_frame: int, num_frames: int) -> np.ndarray:
        """Sound of a stretch [N]; zeros for a silent video."""
        start, stop = (round(frame * SAMPLE_RATE / self.fps) for frame in (first_frame, first_frame + num_frames))
        samples = np.zeros(0, dtype=np.float32) if self.samples_N is None else self.samples_N[start:stop]
        return np.pad(samples, (0, stop - start - len(samples)))


def make_source(
    character: Character,
    seed: int,
    fps: float,
    seconds: float = DEFAULT_SECONDS,
    height: int = DEFAULT_SIZE,
    width: int = DEFAULT_SIZE,
) -> Source:
    """The video of this number: its own room, program and speech."""
    rng = np.random.default_rng((_STREAM, seed))
    is_silent = rng.uniform() < _SILENT_SHARE
    return Source(
        character=character,
        scene=make_scene(seed),
        program=make_program(seed, seconds),
        samples_N=None if is_silent else make_speech(seed, seconds),
        fps=fps,
        height=height,
        width=width,
    )


def render_sources(sources: Sequence[Source], poses: Sequence[Poses], device: torch.device | str) -> Tensor:
    """Equally many pictures of each of several videos of one size, rendered together: [T, H, W, C] on `device`.

    Args:
        poses: one set for each video.
    """
    height, width = sources[0].height, sources[0].width
    num_each = len(poses[0])
    look = look_of([source.character for source in sources]).repeat_interleave(num_each)
    rooms = Backdrop(torch.cat([source.backdrop.texels_B3hw for source in sources]).to(device))
    tint_T3 = torch.cat([source.tint_T3 for source in sources]).repeat_interleave(num_each, 0)
    return render_at_once(look.to(device), concatenate(poses).to(device), rooms, tint_T3.to(device), height, width)
