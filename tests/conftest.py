"""Puts the repository on sys.path for `import gloria_core`; the pack inside ComfyUI is set up in tests/nodes/."""

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

# Appended, never put first: our `nodes/` must not hide ComfyUI's `nodes.py`.
if str(REPO) not in sys.path:
    sys.path.append(str(REPO))
