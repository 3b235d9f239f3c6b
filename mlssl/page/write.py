"""Write `results/<study>/index.html`: one file, for a browser without network."""

from __future__ import annotations

from pathlib import Path

import jinja2

from mlssl.files import write_text
from mlssl.page.content import gather
from mlssl.study.study import Study

HERE = Path(__file__).parent


def write_page(study: Study) -> Path:
    """Write the results page of a study from what there is of its results; returns its path."""
    path = study.out / "index.html"
    write_text(path, rendered("template.html", gather(study)))
    return path


def rendered(template: str, page: object) -> str:
    """A page as HTML by one of the templates here. All text is escaped; an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=page)
