"""The ablation benchmark of the toy world: a demo model enters, numbers with intervals leave. See `__main__.py`."""
