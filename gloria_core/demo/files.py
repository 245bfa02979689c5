"""An output folder enters, the places of everything the demo model's training writes leave."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import TrainingError

DIT_NAME = "gloria_demo_dit.safetensors"
# Runs of the diffusion model, in order.
BASE, GLOBAL, PICTURES, IDENTITY = "base", "global", "pictures", "identity"
CURRICULUM = (GLOBAL, PICTURES, IDENTITY)
# Datasets: those of the base and of the pictures, and one of whole windows for the paper's stages.
WINDOWS = "windows"
DATASETS = {BASE: BASE, GLOBAL: WINDOWS, PICTURES: PICTURES, IDENTITY: WINDOWS}


@dataclass(frozen=True)
class DemoFiles:
    """Where things are."""

    root: Path

    @property
    def vae(self) -> Path:
        """Wan 2.1's format: *Load VAE* reads it."""
        return self.root / "encoders" / "gloria_demo_vae.safetensors"

    @property
    def text_encoder(self) -> Path:
        """*Load Gloria Demo Encoders* reads it."""
        return self.root / "encoders" / "gloria_demo_text_encoder.safetensors"

    @property
    def audio_encoder(self) -> Path:
        """*Load Gloria Demo Encoders* reads it."""
        return self.root / "encoders" / "gloria_demo_audio_encoder.safetensors"

    @property
    def encoders(self) -> tuple[Path, Path, Path]:
        """Everything that a dataset is encoded with."""
        return self.vae, self.text_encoder, self.audio_encoder

    @property
    def vae_run(self) -> Path:
        """Snapshots and metrics of the autoencoder's training."""
        return self.root / "vae"

    def cache(self, dataset: str) -> Path:
        """One of the datasets."""
        return self.root / f"cache_{dataset}"

    def run(self, name: str) -> Path:
        """One of the training runs, or one of an arm's."""
        return self.root / f"run_{name}"

    def result(self, name: str) -> Path:
        """The weights that a finished run has left."""
        results = sorted((self.run(name) / "results").glob("*_merged.safetensors"))
        if not results:
            raise TrainingError(f"{self.run(name)} has no results. Run the same command again to finish it.")
        return results[-1]

    @property
    def fresh_dit(self) -> Path:
        """The diffusion model before its first step."""
        return self.root / "fresh_dit.safetensors"

    @property
    def export(self) -> Path:
        """`ModelFiles` are below it."""
        return self.root / "models"


class ModelFiles(DemoFiles):
    """The four files in folders as ComfyUI's model folders have them."""

    @property
    def dit(self) -> Path:
        """The whole Gloria model: *Load Diffusion Model* and *Load Gloria Model* read it."""
        return self.root / "diffusion_models" / DIT_NAME

    @property
    def vae(self) -> Path:
        """As in the training's folder."""
        return self.root / "vae" / super().vae.name

    @property
    def text_encoder(self) -> Path:
        """As in the training's folder."""
        return self.root / "text_encoders" / super().text_encoder.name

    @property
    def audio_encoder(self) -> Path:
        """As in the training's folder."""
        return self.root / "audio_encoders" / super().audio_encoder.name
