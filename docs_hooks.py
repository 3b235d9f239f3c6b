"""Hooks of mkdocs: the site has the layout of the repository, with every file that a page links to."""

from __future__ import annotations

import contextlib
import posixpath
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mlssl.analysis.several import read
from mlssl.page.content import gather
from mlssl.page.several import leaderboard_page
from mlssl.page.write import rendered
from mlssl.study.load import load
from mlssl.tables.leaderboard import ranked

ROOT = Path(__file__).parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "baselines/README.md",
         "results/reference/README.md")  # fmt: skip
SCORES = "results/reference/scores.html"
"""The page of all reference results, made from each of their metrics.tsv."""
STUDIES = {"demo": "demo", "pilot_lr": "pilot_lr", "study": "reference"}
"""Folder of reference results -> its study under config/; each has its results page beside its files."""
LINK = re.compile(r"(\]\()([^)#\s]+)")
"""A relative or absolute link of Markdown, up to its anchor."""


def linked(text: str, folder: str) -> set[str]:
    """Paths in the repository that a text in `folder` links to."""
    targets = {target for _, target in LINK.findall(text) if "://" not in target}
    return {posixpath.normpath(posixpath.join(folder, target)) for target in targets}


def listing(folder: Path) -> str:
    """A page for a folder: its tables, then links to its other files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tex"]
    lines = [f"# {folder.relative_to(ROOT).as_posix()}"]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".md":
            lines += [f"## {name}", path.read_text(encoding="utf-8")]
    others = [path.relative_to(folder).as_posix() for path in files if path.suffix != ".md"]
    return "\n\n".join([*lines, "## Files", "\n".join(f"- [{name}]({name})" for name in others)])


def results_page(folder: str, study: str) -> str:
    """The results page of a folder of reference results, as `mlssl page` would write it."""
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        loaded = load(ROOT / "config" / f"{study}.yaml")
        shutil.copytree(ROOT / "results" / "reference" / folder, loaded.out)
        return rendered("template.html", gather(loaded))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by the pages under their paths in the repository, and add what they link to."""
    site = Files([file for file in files if file.src_dir != config.docs_dir])
    pages = [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    targets = set(pages)
    for page in pages:
        targets |= linked((ROOT / page).read_text(encoding="utf-8"), posixpath.dirname(page))
    for name in sorted(targets):
        path = ROOT / name
        if path.is_dir():
            site.append(File.generated(config, f"{name}/index.md", content=listing(path)))
            for file in path.rglob("*"):
                if file.is_file() and file.suffix not in (".md", ".tex"):
                    uri = file.relative_to(ROOT).as_posix()
                    if site.get_file_from_path(uri) is None:
                        site.append(File.generated(config, uri, abs_src_path=str(file)))
        elif path.is_file() and site.get_file_from_path(name) is None:
            site.append(File.generated(config, name, abs_src_path=str(path)))
    results = read([ROOT / "results" / "reference"])
    page = leaderboard_page([replace(one, folder=one.folder.relative_to(ROOT)) for one in results], ranked(results))
    site.append(File.generated(config, SCORES, content=rendered("leaderboard.html", page)))
    for folder, study in STUDIES.items():
        name = f"results/reference/{folder}/page.html"
        site.append(File.generated(config, name, content=results_page(folder, study)))
    return site


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a folder leads to its page."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        target = match[2].rstrip("/")
        uri = posixpath.normpath(posixpath.join(folder, target, "index.md"))
        return f"{match[1]}{target}/index.md" if files.get_file_from_path(uri) else match[0]

    return LINK.sub(replaced, markdown)
