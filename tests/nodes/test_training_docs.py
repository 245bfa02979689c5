"""Help pages of the training nodes name every input and output. Run: pytest tests/nodes/test_training_docs.py"""

import re
from pathlib import Path

import pytest

from gloria_pack.nodes.build_dataset import GloriaBuildDataset
from gloria_pack.nodes.monitor_training import GloriaMonitorTraining
from gloria_pack.nodes.train_model import GloriaTrainModel

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.mark.parametrize("node", [GloriaBuildDataset, GloriaTrainModel, GloriaMonitorTraining])
def test_the_help_page_names_every_input_and_output_and_no_other(node):
    schema = node.define_schema()
    page = (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for title, existing in (("Inputs", [each.id for each in schema.inputs]),
                            ("Outputs", [each.display_name for each in schema.outputs])):  # fmt: skip
        named = [name for group in re.findall(r"\*\*([^*]+)\*\*", sections[title]) for name in group.split(", ")]
        assert sorted(set(named)) == sorted(existing)
