"""MODEL, conditioning and the LATENT of a whole film in; the sampled LATENT of any length out, journaled on disk."""

import logging
import time
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..gloria_core.analysis.attention_file import AttentionRecorder
from ..gloria_core.analysis.attention_probe import ProbeSettings
from ..gloria_core.sampling.engine import run_chunks
from ..gloria_core.sampling.journal import Journal
from ..gloria_core.sampling.plan import PREFIX_LATENTS, Chunk, parse_seeds, plan_chunks
from .bridge.attention import FILM_FOLDER, check_probe, film_recorder
from .bridge.conditioning import model_prefix_mode
from .bridge.film_inputs import chunk_inputs_of, film_inputs
from .bridge.paths import jobs_root
from .bridge.player_previews import ChunkPreviews
from .bridge.player_status import FilmStatus
from .bridge.progress import format_seconds
from .bridge.sampling import (
    SAMPLER_NAMES,
    SCHEDULER_NAMES,
    Film,
    FilmProgress,
    check_film,
    chunk_latents_for,
    cue_chunks,
    environment,
    film_sigmas,
    sample_chunk,
    with_shift,
)
from .types import GloriaProbe

log = logging.getLogger(__name__)

_FORGOTTEN_KEYS = ("noise_mask", "batch_index", "downscale_ratio_spacial", "downscale_ratio_temporal")


class GloriaSampleLongVideo(io.ComfyNode):
    """Samples a film chunk by chunk; each finished chunk is safe on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaSampleLongVideo",
            display_name="Gloria Long Video Sampler",
            category="Gloria/sampling",
            description=(
                "Samples a video of any length in overlapping chunks that continue each other. Finished chunks stay "
                "in output/gloria/<job name>-...: cancel or lose power at any time, queue the same graph again and it "
                "goes on where it stopped, with the same result. Changed settings start a new job beside the old one. "
                "A video of one chunk equals KSampler with the same seed."
            ),
            search_aliases=["ksampler long", "infinite video", "continue video", "resume sampling", "wan long video"],
            inputs=_inputs(),
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The sampled film, read from disk piece by piece when it is used. Goes to Gloria Decode "
                    "Video.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[Any],
        negative: list[Any],
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        shift: float,
        chunk_frames: int,
        job_name: str,
        model_low_noise: Any = None,
        switch_at: float = 0.9,
        prefix_latents: int = PREFIX_LATENTS,
        blend: bool = True,
        seeds: str = "",
        preview_vae: Any = None,
        audio: dict[str, Any] | None = None,
        probe: ProbeSettings | None = None,
    ) -> io.NodeOutput:
        root = jobs_root(job_name)
        low_noise = None if model_low_noise is None else with_shift(model_low_noise, shift)
        high_noise = with_shift(model, shift)
        film = Film(high_noise, low_noise, switch_at, positive, negative, latent, steps, cfg, sampler_name, scheduler)
        check_film(film)
        check_probe(model, probe)
        plan = plan_chunks(film.total_latents, chunk_latents_for(chunk_frames), prefix_latents)
        film = cue_chunks(film, plan)
        own_seeds = parse_seeds(seeds, plan)
        settings = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        inputs = film_inputs(film, plan, {**settings, "shift": shift}, model, model_low_noise)
        # Latents given in place come back as they were, so there is nothing to cross-fade.
        is_blended = blend and model_prefix_mode(model) == "concat"
        per_chunk = chunk_inputs_of(film, own_seeds)
        with Journal(root, job_name, inputs, plan, film.latent_shape, environment(), per_chunk) as journal:
            previews = ChunkPreviews(film, journal, preview_vae, audio)
            attention = film_recorder(model, journal, probe, film_sigmas(film))
            with FilmStatus(journal.folder, job_name, len(plan.chunks), cls.hidden.unique_id) as status:
                samples = _run(film, seed, own_seeds, journal, previews, attention, status, is_blended)
        rest = {key: value for key, value in latent.items() if key not in _FORGOTTEN_KEYS}
        return io.NodeOutput({**rest, "samples": samples, FILM_FOLDER: journal.folder.name})


def _run(
    film: Film,
    seed: int,
    own_seeds: dict[int, int],
    journal: Journal,
    previews: ChunkPreviews,
    attention: AttentionRecorder,
    status: FilmStatus,
    is_blended: bool,
) -> Any:
    started = time.monotonic()
    plan = journal.plan
    progress = FilmProgress(film, plan, journal.kept, status)
    opening = _describe_opening(journal)
    log.info("%s: %s", journal.folder, opening)
    progress.say(opening)

    def denoise(chunk: Chunk, chunk_seed: int, prefix: Tensor | None) -> Tensor:
        return sample_chunk(film, chunk, chunk_seed, prefix, progress.start_chunk(chunk), attention.start())

    def finish(chunk: Chunk, is_kept: bool) -> None:
        attention.finish(chunk, is_kept)  # first, because the next line obeys Cancel
        progress.finish_chunk(chunk)
        status.finish_chunk(chunk.index, previews.make(chunk))

    run_chunks(plan, seed, journal, denoise, finish, own_seeds)
    progress.say("joining chunks")
    samples = journal.film(is_blended)
    adopted = f"; {len(journal.adopted)} chunks of an earlier take used again" if journal.adopted else ""
    progress.say(f"{len(plan.chunks)} chunks in {format_seconds(time.monotonic() - started)}; {opening}{adopted}")
    return samples


def _describe_opening(journal: Journal) -> str:
    """What was found on disk: kept chunks, or what changed since the last job of this name."""
    kept = journal.kept
    if kept:
        is_run = kept == tuple(range(kept[0], kept[-1] + 1))
        shown = f"{kept[0]}-{kept[-1]}" if is_run and len(kept) > 1 else ", ".join(map(str, kept))
        return f"resumed: chunk{'s' if len(kept) > 1 else ''} {shown} kept"
    if journal.changes:
        return f"new job {journal.folder.name}: {', '.join(journal.changes)}"
    return f"new job {journal.folder.name}"


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        io.Model.Input("model", tooltip="From Load Gloria Model, or any Wan video model."),
        io.Conditioning.Input("positive", tooltip="From Gloria Conditioning."),
        io.Conditioning.Input("negative", tooltip="From Gloria Conditioning."),
        io.Latent.Input("latent", tooltip="From Gloria Conditioning: it sets size and length of the video."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Noise of the first chunk; the others derive theirs from it. Keep it 'fixed' to resume.",
        ),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Denoising steps per chunk. The paper uses 30."),
        io.Float.Input(
            "cfg",
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strongly text and speech are followed. The paper uses 3.5; distilled models need 1.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLER_NAMES,
            default="uni_pc",
            tooltip="uni_pc is what Wan's own code and ComfyUI's Wan templates use; euler for distilled models.",
        ),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULER_NAMES,
            default="simple",
            tooltip="Spacing of the noise levels; simple for Wan.",
        ),
        io.Float.Input(
            "shift",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Spends more steps at high noise, like ModelSamplingSD3. Wan's authors use 3 for 480p and 5 for "
            "720p. 0 keeps the model as it comes in.",
        ),
        io.Int.Input(
            "chunk_frames",
            default=121,
            min=5,
            max=100_001,
            step=4,
            tooltip="Video frames sampled at once; decides memory and time per step. Wan 2.1 was trained on 81 frames, "
            "TI2V-5B on 121.",
        ),
        io.String.Input(
            "job_name",
            default="film",
            tooltip="Name of the folder in output/gloria that keeps finished chunks: letters, digits, '-' and '_'.",
        ),
        io.Model.Input(
            "model_low_noise",
            optional=True,
            tooltip="Second expert of two-expert models (Wan2.2 A14B low noise); 'model' is then the high-noise one.",
        ),
        io.Float.Input(
            "switch_at",
            default=0.9,
            min=0.0,
            max=1.0,
            step=0.001,
            optional=True,
            advanced=True,
            tooltip="Noise level below which model_low_noise takes over: 0.9 for Wan2.2 I2V-A14B, 0.875 for T2V-A14B.",
        ),
        io.Int.Input(
            "prefix_latents",
            default=PREFIX_LATENTS,
            min=0,
            max=32,
            optional=True,
            advanced=True,
            tooltip="Latent frames that each chunk takes over from the one before. The paper uses 4 (16 video frames).",
        ),
        io.Boolean.Input(
            "blend",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Cross-fade the overlap of two chunks (paper). Models that keep given frames untouched need none. "
            "Changing this does not sample again.",
        ),
        io.String.Input(
            "seeds",
            default="",
            optional=True,
            advanced=True,
            tooltip="Seeds of single chunks, counted from 0, for another take of them: '3: 1234, 7: 99'. Chunks before "
            "the first changed one are used again. 'Redo from here' in the player writes this.",
        ),
        io.Vae.Input(
            "preview_vae",
            optional=True,
            tooltip="Decodes finished chunks for the player, which takes some time per chunk; a small VAE (TAEHV) "
            "hardly any. Without it the player shows rough pictures, for a little CPU time.",
        ),
        io.Audio.Input("audio", optional=True, tooltip="The speech, to be heard in the player."),
        GloriaProbe.Input(
            "probe",
            optional=True,
            tooltip="From Gloria Attention Probe: notes which anchors the model looks at while chunks are sampled. It "
            "changes nothing in the result.",
        ),
    ]
