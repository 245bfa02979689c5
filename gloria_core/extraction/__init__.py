"""Footage enters, training clips and labelled anchors of one character leave (docs/extraction.md).

`pipeline.py` tells the whole way; `python -m gloria_core.extraction` runs it.
"""
