"""The way from footage to a character, told once: a folder and backends enter, the list of stages leaves.

probe -> shots -> quality -> people -> sync -> clips -> viewpoints -> expressions -> crops -> judge -> choose -> globals
-> captions. Cheap stages come first, so that the dear ones see only what is left; crops come before the judge, who is
shown the crop.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from .anchor_stages import Choose, GlobalCandidates, JudgeExpressions, Measure
from .backends import Backends
from .expression_stage import Expressions
from .footage_stages import Captions, Clips, Probe, Quality, Shots, SinglePerson, SyncFilter
from .settings import ExtractionSettings
from .stage import Stage
from .view_stage import Viewpoints

# Raised whenever equal settings would find something else.
ALGORITHM = 1


def make_stages(folder: Path, settings: ExtractionSettings, backends: Backends) -> list[Stage]:
    """All stages that the backends allow, in order."""
    footage, anchors = settings.footage, settings.anchors
    stages: list[Stage] = [Probe(folder, footage), Shots(folder, footage), Quality(folder, footage)]
    if backends.people is not None:
        stages.append(SinglePerson(folder, footage, backends.people))
    if backends.sync is not None:
        stages.append(SyncFilter(folder, footage, backends.sync))
    stages.append(Clips(folder, settings.fps, settings.clip_frames))
    if backends.body is not None:
        stages.append(Viewpoints(folder, settings, backends.body))
    if backends.expressions is not None and backends.faces is not None:
        stages.append(Expressions(folder, settings.expressions, anchors, backends.faces, backends.expressions))
    stages.append(Measure(folder, anchors, settings.expressions, backends.people, backends.faces))
    if backends.judge is not None:
        stages.append(JudgeExpressions(folder, anchors, backends.judge))
    stages += [Choose(folder, anchors, backends.looks), GlobalCandidates(folder, settings.fps, anchors)]
    if backends.captions is not None:
        stages.append(Captions(folder, settings.fps, backends.captions))
    return stages


def not_done(backends: Backends) -> list[str]:
    """What is left out for want of a backend, for the report."""
    texts = {
        "body": "viewpoints are not looked for: nothing says how the body is turned",
        "people": "people are not counted: footage with several people is not noticed, bodies cannot be cropped",
        "sync": "lips and sound are not compared",
        "faces": "faces are not looked for: no expression anchors, back views are not checked for faces",
        "expressions": "expressions are not read: no expression anchors",
        "judge": "expressions are not judged a second time",
        "captions": "clips keep the caption of the text file beside their video, if any",
    }
    left_out = [text for part, text in texts.items() if getattr(backends, part) is None]
    if backends.people is backends.body is not None:
        left_out.insert(0, "people are not counted: a pose file knows one person")
    return left_out


def fingerprint(settings: ExtractionSettings, backends: Backends) -> str:
    """What results depend on besides the file itself."""
    content = {"algorithm": ALGORITHM, "settings": asdict(settings), "backends": backends.names}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
