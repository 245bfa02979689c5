"""A folder enters, the places of a demo model's four files in it leave, as ComfyUI's model folders have them."""

from pathlib import Path

from gloria_core.demo.export import DIT_NAME
from gloria_core.demo.files import DemoFiles


class ModelFiles(DemoFiles):
    """The files of a folder that `gloria_core.demo.train` exported."""

    @property
    def vae(self) -> Path:
        return self.root / "vae" / super().vae.name

    @property
    def text_encoder(self) -> Path:
        return self.root / "text_encoders" / super().text_encoder.name

    @property
    def audio_encoder(self) -> Path:
        return self.root / "audio_encoders" / super().audio_encoder.name

    @property
    def dit(self) -> Path:
        return self.root / "diffusion_models" / DIT_NAME
