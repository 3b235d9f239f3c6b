"""The documents: every link and every path that they name is there."""

import re

import pytest
from support.snakemake import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "baselines" / "README.md"]
DOCUMENTS += [ROOT / "results" / "reference" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for path in re.findall(r"`((?:mlssl|workflow|baselines|config|docs|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
