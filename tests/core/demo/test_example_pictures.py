"""The pictures of the demo's anchor board: what the command writes, for every slot.

Run: python -m pytest tests/core/demo/test_example_pictures.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from gloria_core.conditioning.board import KIND_OF_SLOT
from gloria_core.demo.example_pictures import main

ASSETS = Path(__file__).resolve().parents[3] / "assets"
# Other processors round a few pixels to the next level.
MAX_MEAN_LEVELS = 0.05


def test_the_shipped_pictures_are_those_that_the_command_writes(tmp_path: Path):
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"doll_{slot}.png" for slot in KIND_OF_SLOT}
    for path in tmp_path.iterdir():
        made, shipped = (np.asarray(Image.open(file), dtype=float) for file in (path, ASSETS / path.name))
        assert np.abs(made - shipped).mean() <= MAX_MEAN_LEVELS


def test_another_character_looks_different(tmp_path: Path):
    assert main([str(tmp_path), "--character", "3"]) == 0
    made, shipped = (np.asarray(Image.open(folder / "doll_back.png"), dtype=float) for folder in (tmp_path, ASSETS))
    assert np.abs(made - shipped).mean() > 10
