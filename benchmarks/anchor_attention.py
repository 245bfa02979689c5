"""The paper's two analyses of attention (sec. 5.4) on held-out characters of the toy world.

    python benchmarks/anchor_attention.py --model gloria_demo/models --output attention
    python benchmarks/anchor_attention.py --untrained --output attention    # random weights: shows that it runs

`--model` is a folder of a trained demo model's four files (docs/demo_model.md). Written are
    fig9_chunks.png      attention to the global anchor and to a chunk's first latent, over the chunks of sampled films
    fig9_maps.png        what each latent of four chunks of the first film looks at; anchors at the right
    fig10_angle.png      attention to the front and to the back anchor over how far the character is turned away
    fig10_time.png       attention to the back anchor over time, where a character turns round and where it does not
and one line of JSON is printed. For fig. 9 the model samples. For fig. 10 it is shown rendered clips with noise on
them, as in training, so the angle is known exactly.

Legend: B clips (1), C channels, T latent frames, F video frames, G groups (T frames, then anchors).
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from gloria_core.analysis.attention_chart import Curve, color_of, draw_curves, draw_maps
from gloria_core.analysis.attention_curves import AngleBin, attention_map, share_by_angle
from gloria_core.analysis.attention_file import read_shares
from gloria_core.analysis.attention_probe import AttentionProbe, ProbeSettings, spread
from gloria_core.conditioning.anchors import VIEWPOINTS
from gloria_core.conditioning.audio import frame_windows
from gloria_core.demo.audio_encoder import train_audio_encoder
from gloria_core.demo.export import DIT_NAME
from gloria_core.demo.files import DemoFiles
from gloria_core.demo.scratch import dit_config
from gloria_core.demo.sizes import CPU, TINY, WorldSizes
from gloria_core.demo.text_encoder import train_text_encoder
from gloria_core.demo.world_cache import DemoEncoders, load_demo_encoders
from gloria_core.generate import Job, generate
from gloria_core.model.attention import PROBE_OPTION
from gloria_core.model.checkpoint import load_dit
from gloria_core.model.dit import GloriaDiT
from gloria_core.sampling.denoise import Conditions, SampleSettings
from gloria_core.sampling.job_folder import read_plan
from gloria_core.sampling.plan import PREFIX_LATENTS
from gloria_core.sampling.schedule import flow_sigmas, timestep_of
from gloria_core.shapes import LatentSize, pixel_frames_for, pixel_span_of_latent
from gloria_core.toy_weights import write_toy_dit, write_toy_vae
from gloria_core.toyworld.anchors import global_anchor, viewpoint_anchors
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.program import Program, Turn, script
from gloria_core.toyworld.source import Source, make_source

GLOBAL, FRONT, BACK = ("global", "global"), ("viewpoint", "front"), ("viewpoint", "back")
FIRST_LATENT = "first latent"
SEED = 7_000
MAX_MAPS = 4
UNTRAINED = "untrained, random: the numbers mean nothing"


class ModelFiles(DemoFiles):
    """A demo model's four files as ComfyUI's model folders have them."""

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


@dataclass(frozen=True)
class Lab:
    """What every measurement needs."""

    model: GloriaDiT
    encoders: DemoEncoders
    world: WorldSizes
    settings: SampleSettings
    probe: ProbeSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help="folder with the four files of a demo model")
    model.add_argument("--untrained", action="store_true", help="random weights of toy size")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--characters", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=6, help="of each sampled film")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shift", type=float, default=1.5)
    parser.add_argument("--blocks", type=int, default=4, help="blocks to look at")
    parser.add_argument("--looks", type=int, default=3, help="steps to look at")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = write_untrained(Path(scratch)) if options.untrained else ModelFiles(options.model)
        lab = Lab(
            model=load_dit(files.dit, device=options.device).eval(),
            encoders=load_demo_encoders(CPU.world, files, torch.device(options.device)),
            world=CPU.world,
            settings=SampleSettings(
                steps=options.steps, cfg=2.0, shift=options.shift, chunk_latents=CPU.world.window_latents
            ),
            probe=ProbeSettings(options.blocks, options.looks),
        )
        films = [sampled_film(lab, number, options.chunks, Path(scratch)) for number in range(options.characters)]
    clips = [rendered_clip(lab, number, turns) for turns in (True, False) for number in range(options.characters)]
    weights, note = (UNTRAINED, " (untrained)") if options.untrained else (str(options.model), "")
    result = {
        "weights": weights,
        **over_chunks(films, options.output, note),
        **over_angles(clips, options.output, note),
    }
    print(json.dumps(result))


def write_untrained(folder: Path) -> ModelFiles:
    """Random weights, and small encoders after the few steps of the tiniest training."""
    files = ModelFiles(folder / "models")
    write_toy_dit(files.dit, dit_config(replace(TINY, dit=replace(TINY.dit, num_layers=6))))
    write_toy_vae(files.vae, width=4)
    train_text_encoder(TINY, files.text_encoder)
    train_audio_encoder(TINY, files.audio_encoder)
    return files


def source_of(lab: Lab, number: int, program: Program) -> Source:
    """A held-out character's video with its own room and speech."""
    drawn = make_source(held_out_character(number), SEED + number, lab.world.fps, program.seconds)
    return replace(drawn, program=program)


@torch.inference_mode()
def conditions_for(lab: Lab, source: Source, number: int, num_frames: int) -> Conditions:
    """Prompt, speech, first frame, a front-facing global anchor and the four views."""
    rng = np.random.default_rng((SEED, number))
    anchors = (*global_anchor(source, 0).anchors, *viewpoint_anchors(source, rng, VIEWPOINTS).anchors)
    has_audio = lab.model.config.gloria.has_audio
    return Conditions(
        text_BLD=lab.encoders.text(source.prompt(0, num_frames))[None],
        negative_text_BLD=lab.encoders.text("")[None],
        anchors=[lab.encoders.pictures(anchor.image_HWC[None, None]).float() for anchor in anchors],
        anchor_slots=tuple((anchor.kind, anchor.label) for anchor in anchors),
        audio_FLC=lab.encoders.speech(source.sound(0, num_frames)) if has_audio else None,
        start_BCTHW=lab.encoders.pictures(source.frames(0, 1)[None]).float(),
    )


def sampled_film(lab: Lab, number: int, num_chunks: int, root: Path) -> list[Tensor]:
    """Attention maps [T, G] of the chunks of a film; its anchors are the global one and then the views."""
    length = lab.settings.chunk_latents
    total = length + (num_chunks - 1) * (length - PREFIX_LATENTS)
    num_frames = pixel_frames_for(total)
    seconds = num_frames / lab.world.fps + 1
    source = source_of(lab, number, script([(0, "front")], [(0, "neutral")], seconds))
    conditions = conditions_for(lab, source, number, num_frames)
    start = conditions.start_BCTHW
    size = LatentSize(start.shape[1], total, *start.shape[3:])
    job = Job(root / "films", f"film-{number}", {})
    generate(lab.model, conditions, size, lab.settings, job, probe=lab.probe)
    (folder,) = (root / "films").glob(f"film-{number}-*")
    return [attention_map(read_shares(folder, chunk)) for chunk in read_plan(folder).chunks]


@dataclass(frozen=True)
class Clip:
    """What the latents of a rendered clip looked at, and how far the character was turned."""

    turns: bool
    front_T: Tensor
    back_T: Tensor
    yaw_T: Tensor
    seconds: list[float]


@torch.inference_mode()
def rendered_clip(lab: Lab, number: int, turns: bool) -> Clip:
    """A clip in which the character slowly turns its back, or talks to the camera, under each looked-at noise."""
    num_latents = lab.settings.chunk_latents
    num_frames = pixel_frames_for(num_latents)
    seconds = num_frames / lab.world.fps
    turn = Turn(0.0, seconds, 2 if number % 2 else -2)
    program = replace(script([(0.0, "front")], [(0.0, "neutral")], seconds + 1), turns=(turn,) if turns else ())
    source = source_of(lab, number, program)
    conditions = conditions_for(lab, source, number, num_frames)
    clean_BCTHW = lab.encoders.pictures(source.frames(0, num_frames)[None]).float()
    sigmas = flow_sigmas(lab.settings.steps, lab.settings.shift)
    probe = AttentionProbe.from_settings(lab.probe, len(lab.model.blocks), sigmas)
    generator = torch.Generator().manual_seed(number)
    for step in spread(lab.probe.num_steps, lab.settings.steps):
        sigma = float(sigmas[step])
        noise = torch.randn(clean_BCTHW.shape, generator=generator)
        show(lab.model, conditions, sigma * noise + (1 - sigma) * clean_BCTHW, sigma, probe)
    shares_TG = attention_map(probe.result())
    columns = [num_latents + conditions.anchor_slots.index(slot) for slot in (FRONT, BACK)]
    spans = [pixel_span_of_latent(idx) for idx in range(num_latents)]
    yaw_F = source.poses(0, num_frames).yaw_T.double()
    yaw_T = torch.stack([torch.atan2(yaw_F[a:b].sin().mean(), yaw_F[a:b].cos().mean()) for a, b in spans])
    middles = [sum(span) / 2 / lab.world.fps for span in spans]
    return Clip(turns, shares_TG[:, columns[0]], shares_TG[:, columns[1]], yaw_T, middles)


def show(model: GloriaDiT, conditions: Conditions, noisy_BCTHW: Tensor, sigma: float, probe: AttentionProbe) -> None:
    """One pass at one noise level, which the probe looks at."""
    device = model.patch_embedding.weight.device
    audio = conditions.audio_FLC
    model(
        noisy_BCTHW.to(device),
        torch.tensor([timestep_of(sigma)], device=device),
        conditions.text_BLD.to(device),
        anchors=[anchor.to(device) for anchor in conditions.anchors],
        anchor_slots=conditions.anchor_slots,
        audio_windows=None if audio is None else frame_windows(audio, 0, noisy_BCTHW.shape[2])[None].to(device),
        transformer_options={PROBE_OPTION: probe, "sigmas": torch.tensor([sigma])},
    )


def over_chunks(films: list[list[Tensor]], output: Path, note: str) -> dict[str, object]:
    """Fig. 9: means over characters, with their standard errors."""
    columns = {"global": len(films[0][0]), FIRST_LATENT: 0}
    colors = {"global": color_of(GLOBAL), FIRST_LATENT: "#8a929e"}
    curves, numbers = [], {}
    for name, column in columns.items():
        of_films = [[attention_to(table, column, idx) for idx, table in enumerate(film)] for film in films]
        by_chunk = zip(*of_films, strict=True)
        points, errors = zip(*(summary(values) for values in by_chunk), strict=True)
        curves.append(Curve(name, colors[name], list(enumerate(points)), errors))
        numbers[name] = [round(point, 5) for point in points]
    picture = draw_curves(curves, "chunk", title=f"attention of the latents a chunk adds{note}", min_tick=1)
    picture.save(output / "fig9_chunks.png")
    chosen = sorted({round(idx * (len(films[0]) - 1) / (MAX_MAPS - 1)) for idx in range(MAX_MAPS)})
    maps = [films[0][idx] for idx in chosen]
    draw_maps(maps, [f"chunk {idx}{note}" for idx in chosen]).save(output / "fig9_maps.png")
    return {"attention_over_chunks": numbers}


def attention_to(map_TG: Tensor, column: int, chunk_idx: int) -> float:
    """What the latents that a chunk adds give to one group."""
    return float(map_TG[PREFIX_LATENTS if chunk_idx else 0 :, column].mean())


def over_angles(clips: list[Clip], output: Path, note: str) -> dict[str, object]:
    """Fig. 10: by angle over all clips that turn, and over time in both kinds of clips."""
    turning = [clip for clip in clips if clip.turns]
    yaw_T = torch.cat([clip.yaw_T for clip in turning])
    tables = {
        "front": share_by_angle(torch.cat([clip.front_T for clip in turning]), yaw_T),
        "back": share_by_angle(torch.cat([clip.back_T for clip in turning]), yaw_T),
    }
    curves = [by_angle_curve(name, slot, tables[name]) for name, slot in (("front", FRONT), ("back", BACK))]
    title = f"attention to anchors{note}"
    picture = draw_curves(curves, "degrees away from the camera", title=title, x_range=(0.0, 180.0))
    picture.save(output / "fig10_angle.png")
    kinds = (("turns round", True, color_of(BACK)), ("talks to the camera", False, "#8a929e"))
    lines = [Curve(name, color, list(mean_over_time(clips, turns))) for name, turns, color in kinds]
    draw_curves(lines, "seconds", title=f"attention to the back anchor{note}").save(output / "fig10_time.png")
    return {"attention_over_angle": {name: [entry._asdict() for entry in table] for name, table in tables.items()}}


def by_angle_curve(name: str, slot: tuple[str, str], table: list[AngleBin]) -> Curve:
    points = [(entry.degrees, entry.mean) for entry in table]
    return Curve(name, color_of(slot), points, [entry.standard_error for entry in table])


def mean_over_time(clips: list[Clip], turns: bool) -> Iterator[tuple[float, float]]:
    own = [clip for clip in clips if clip.turns is turns]
    yield from zip(own[0].seconds, torch.stack([clip.back_T for clip in own]).mean(0).tolist(), strict=True)


def summary(values: tuple[float, ...]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


if __name__ == "__main__":
    main()
