"""Small real videos whose frames say their own number, and encoders whose latents say what was encoded."""

from fractions import Fraction

import av
import numpy as np
import torch

from gloria_core.data.precompute import Encoders


def write_frames(path, times, codec="libx264rgb", time_base=Fraction(1, 1000), options=None, size=64):
    """A silent video that shows frame k, gray of 2 k + 10, from `times[k]` seconds on."""
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream(codec, rate=25)
        video.width = video.height = size
        video.pix_fmt = "rgb24" if codec == "libx264rgb" else "bgr0"
        video.options = {"crf": "0", "g": "12"} if codec == "libx264rgb" else {}
        video.codec_context.time_base = time_base
        for idx, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 2 * idx + 10, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def write_video(path, seconds=2.0, fps=24, size=64, sound=True):
    """Frame k is gray of 2 k + 10 (k < 120), so that every frame says when it is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264rgb", rate=fps, options={"crf": "0", "g": "12"})
        video.width = video.height = size
        video.pix_fmt = "rgb24"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for idx in range(round(seconds * fps)):
            picture = np.full((size, size, 3), 2 * idx + 10, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            wave = (np.sin(np.arange(int(seconds * 16000)) * 0.05) * 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            for piece in [*audio.encode(frame), *audio.encode()]:
                container.mux(piece)
    return path


def shown(frames_THWC):
    """The numbers of the frames that a clip shows."""
    return (frames_THWC[:, 16, 16].mean(dim=-1) * 255 / 2 - 5).round().int().tolist()


class CountingEncoders:
    """Encoders whose latents are block means, so that what was encoded can be read off."""

    def __init__(self, fingerprint="one"):
        self.videos = self.texts = 0
        self.encoders = Encoders(
            latent_channels=16, encode_video=self.video, encode_text=self.text,
            fingerprints={"vae": fingerprint, "text": "text", "audio": "audio"},
        )  # fmt: skip

    def video(self, video_THWC):
        self.videos += 1
        groups = [group for group in (video_THWC[:1], *video_THWC[1:].split(4)) if len(group)]
        cells = [group.mean(dim=(0, 3)).unfold(0, 8, 8).unfold(1, 8, 8).mean(dim=(2, 3)) for group in groups]
        return torch.stack(cells)[None].expand(16, -1, -1, -1)

    def text(self, prompt):
        self.texts += 1
        return torch.full((3, 16), float(len(prompt)))
