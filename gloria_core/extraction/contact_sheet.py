"""Records and their videos enter, a page that shows what was chosen and why leaves, as HTML and as a picture.

The HTML file needs nothing but itself. Every anchor has a number and can be relabelled or dropped on the page, which
shows the decisions as lines for the ComfyUI node and saves them as a file, which
`python -m gloria_core.extraction FOLDER --apply FILE` applies.
"""

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..conditioning.anchors import LABELS
from ..data.manifest import Manifest, ManifestAnchor, ManifestSource
from ..durable_files import commit_file
from .collect import Collection
from .decisions import DECISIONS_NAME, SHEET_KINDS, sheet_order
from .frames import crop_box, pictures
from .records import Candidate, Record

_THUMB_SIDE = 160
_JPEG_QUALITY = 80
# Shown of those that were not chosen, per source; the report names all.
_REJECTED_SHOWN = 12
_COLUMNS = 8
_PADDING, _TEXT_HEIGHT = 8, 14


class Card(NamedTuple):
    """One anchor or candidate with its small picture."""

    number: int | None
    """Among all that was found; None: refused by the pipeline."""
    source: str
    video: str
    kind: str
    label: str
    time: float
    why: str
    rejected: str | None
    picture: Any
    """PIL image."""


def make_cards(folder: Path, found: Manifest, decided: Manifest, collection: Collection) -> Iterator[Card]:
    """Cards of every source of the manifest: its anchors by label, then those dropped by eye and some others.

    Args:
        found: as the pipeline left it; its anchors are numbered.
        decided: the same after what was decided by eye.
    """
    records = {record.id: record for record in collection.records}
    first = 1
    for source, after in zip(found.sources, decided.sources, strict=True):
        cards = _source_cards(folder, source, after, records[source.id], first)
        first += len(source.anchors)
        yield from sorted(cards, key=_place)


def _source_cards(
    folder: Path, source: ManifestSource, decided: ManifestSource, record: Record, first: int
) -> list[Card]:
    labels = {(anchor.kind, anchor.time): anchor.label for anchor in decided.anchors}
    shown: list[tuple[int | None, str, Candidate, str | None]] = []
    for number, anchor in enumerate(sheet_order(source), first):
        each, label = _candidate_of(anchor, record), labels.get((anchor.kind, anchor.time))
        shown.append((number, label or anchor.label, each, None if label else "dropped by eye"))
    refused = [each for each in record.candidates if each.rejected is not None][:_REJECTED_SHOWN]
    shown += [(None, each.label, each, each.rejected) for each in refused]
    stills = _stills(folder / source.video, [each for _, _, each, _ in shown])
    return [
        Card(number, source.id, source.video, each.kind, label, each.time, _why(each, label), rejected, still)
        for (number, label, each, rejected), still in zip(shown, stills, strict=True)
    ]


def write_contact_sheet(work: Path, cards: Sequence[Card], lines: Sequence[str]) -> None:
    """Write contact_sheet.html and contact_sheet.png into `work`.

    Args:
        lines: what stands on top.
    """
    page = _page(cards, lines).encode()
    commit_file(work / "contact_sheet.html", [page], len(page))
    data = io.BytesIO()
    _picture(cards, lines).save(data, "PNG")
    commit_file(work / "contact_sheet.png", [data.getvalue()], data.tell())


def _candidate_of(anchor: ManifestAnchor, record: Record) -> Candidate:
    """What the pipeline knew about an anchor, whatever its label is by now."""
    for each in record.candidates:
        if each.rejected is None and each.kind == anchor.kind and each.time == anchor.time:
            return each
    assert anchor.time is not None
    return Candidate(kind=anchor.kind, label=anchor.label, time=anchor.time, box=anchor.box)


def _place(card: Card) -> tuple[Any, ...]:
    # What a person dropped stands in front of what the pipeline refused.
    is_refused = (card.rejected is not None, card.number is None)
    return *is_refused, SHEET_KINDS.index(card.kind), LABELS[card.kind].index(card.label), card.time


def _why(candidate: Candidate, label: str) -> str:
    parts = [f"{name} {value}" for name, value in candidate.evidence.items()]
    if candidate.kind != "global":
        parts.insert(0, f"quality {candidate.quality:.2f}")
    if candidate.label != label:
        parts.insert(0, f"found as {candidate.label}")
    return ", ".join(parts)


def _stills(video: Path, candidates: Sequence[Candidate]) -> list[Any]:
    """Small pictures in the candidates' order."""
    order = sorted(range(len(candidates)), key=lambda idx: candidates[idx].time)
    found: dict[int, Any] = {}
    times = [candidates[idx].time for idx in order]
    for idx, (_, picture_HWC) in zip(order, pictures(video, times), strict=True):
        box = candidates[idx].box
        found[idx] = _small(picture_HWC if box is None else crop_box(picture_HWC, box))
    return [found[idx] for idx in range(len(candidates))]


def _small(picture_HWC: Tensor) -> Any:
    from PIL import Image

    image = Image.fromarray(picture_HWC.contiguous().numpy())
    image.thumbnail((_THUMB_SIDE, _THUMB_SIDE))
    return image


def _picture(cards: Sequence[Card], lines: Sequence[str]) -> Any:
    """All cards on one sheet."""
    from PIL import Image, ImageDraw

    cell_width, cell_height = _THUMB_SIDE + _PADDING, _THUMB_SIDE + 3 * _TEXT_HEIGHT + _PADDING
    rows = -(-len(cards) // _COLUMNS)
    top = _PADDING + len(lines) * _TEXT_HEIGHT + _PADDING
    sheet = Image.new("RGB", (_COLUMNS * cell_width + _PADDING, top + rows * cell_height), (24, 24, 27))
    draw = ImageDraw.Draw(sheet)
    for idx, line in enumerate(lines):
        draw.text((_PADDING, _PADDING + idx * _TEXT_HEIGHT), _ascii(line), fill=(228, 228, 231))
    for idx, card in enumerate(cards):
        left, upper = _PADDING + idx % _COLUMNS * cell_width, top + idx // _COLUMNS * cell_height
        sheet.paste(card.picture, (left, upper))
        color = (134, 239, 172) if card.rejected is None else (252, 165, 165)
        words = [f"{_numbered(card)} {card.time:.2f} s", card.rejected or card.why, card.video]
        for line_idx, text in enumerate(words):
            place = (left, upper + _THUMB_SIDE + line_idx * _TEXT_HEIGHT)
            draw.text(place, _ascii(text)[:26], fill=color if line_idx == 0 else (161, 161, 170))
    return sheet


def _numbered(card: Card) -> str:
    return card.label if card.number is None else f"{card.number} {card.label}"


def _ascii(text: str) -> str:
    """The built-in font of the picture knows no more."""
    return text.encode("ascii", "replace").decode()


def _page(cards: Sequence[Card], lines: Sequence[str]) -> str:
    body = "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
    source, is_refused = None, False
    for card in cards:
        if card.source != source:
            source, is_refused = card.source, False
            body += f"\n<h2>{html.escape(card.video)} <small>{html.escape(card.source)}</small></h2>\n"
        if card.rejected is not None and not is_refused:
            is_refused = True
            body += "<h3>not chosen</h3>\n"
        body += _card(card)
    return _PAGE.replace("%BODY%", body).replace("%FILE%", DECISIONS_NAME)


def _card(card: Card) -> str:
    data = io.BytesIO()
    card.picture.save(data, "JPEG", quality=_JPEG_QUALITY)
    image = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    words = f"<b>{_numbered(card)}</b> {card.time:.2f} s<br><span>{html.escape(card.rejected or card.why)}</span>"
    look = ' class="refused"' if card.rejected is not None else ""
    picture = f'<img src="{image}" alt="{card.label}">'
    if card.number is None:
        return f"<figure{look}>{picture}<figcaption>{words}</figcaption></figure>\n"
    key = {"source": card.source, "kind": card.kind, "label": card.label, "time": card.time}
    choices = [("", "keep"), ("drop", "drop")] if card.rejected is None else [("", "stays dropped")]
    labels = LABELS[card.kind]
    choices += [(label, f"this is {label}") for label in labels if card.rejected is not None or label != card.label]
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in choices)
    return (
        f'<figure{look} data-number="{card.number}" data-anchor="{html.escape(json.dumps(key))}">{picture}'
        f"<figcaption>{words}<br><select>{options}</select></figcaption></figure>\n"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Anchors</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body { background: #18181b; color: #e4e4e7; font: 14px sans-serif; margin: 1.5em; }
figure { display: inline-block; vertical-align: top; width: 164px; margin: 4px; }
figcaption span, small { color: #a1a1aa; font-size: 12px; overflow-wrap: anywhere; }
img { max-width: 160px; max-height: 160px; } .refused { opacity: 0.55; } .changed { outline: 2px solid #fbbf24; }
#decided { position: fixed; right: 1.5em; top: 1em; width: 11em; display: grid; gap: 0.4em; }
body { padding-right: 13em; } button { padding: 0.6em 1em; } textarea { height: 8em; }
</style></head><body>
<div id="decided"><button id="save">Save decisions</button>
<label for="lines">for Gloria Relabel Anchors:</label><textarea id="lines" readonly></textarea></div>
%BODY%
<script>
const figures = [...document.querySelectorAll("figure[data-anchor]")];
const chosen = (figure) => figure.querySelector("select").value;
const decided = () => figures.filter((figure) => chosen(figure) !== "");
for (const figure of figures)
    figure.querySelector("select").onchange = () => {
        figure.classList.toggle("changed", chosen(figure) !== "");
        const lines = decided().map((each) => `${each.dataset.number} ${chosen(each)}`);
        document.getElementById("lines").value = lines.join("\\n");
    };
document.getElementById("save").onclick = () => {
    const decisions = decided().map((figure) => {
        const anchor = JSON.parse(figure.dataset.anchor), value = chosen(figure);
        return value === "drop" ? { ...anchor, action: "drop" } : { ...anchor, action: "relabel", to: value };
    });
    const link = document.createElement("a");
    const text = JSON.stringify({ schema: 1, decisions }, null, 2);
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "%FILE%";
    link.click();
};
</script></body></html>
"""
