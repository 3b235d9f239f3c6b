"""Write `results/<study>/index.html`: one file, for a browser without network."""

from __future__ import annotations

from pathlib import Path

import jinja2

from mlssl.files import write_text
from mlssl.page.content import gather
from mlssl.page.parts import Page
from mlssl.study.expand import Study

HERE = Path(__file__).parent


def write_page(study: Study) -> Path:
    """Write the results page of a study from what there is of its results; returns its path."""
    path = study.out / "index.html"
    write_text(path, render(gather(study)))
    return path


def render(page: Page) -> str:
    """The page as HTML. All text is escaped; an unknown name in the template is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(page=page)
