"""The code that made a result: a digest of every source file of this project that a stage imports, directly or not.

Read from the source by `ast`; nothing is imported. Comments, docstrings and layout do not count. Imports by a
name that is computed at run time (`importlib.import_module`) are not found, so `stage_code` adds the method.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mlssl.digest import digest_of
from mlssl.errors import ConfigError
from mlssl.project import search_here

OWN = ("mlssl", "baselines")
"""The packages whose code counts; all other packages are libraries."""

TRANSFER = (
    "mlssl.transfer.load",
    "mlssl.study.validation",
    "mlssl.runtime.device",
    "mlssl.runtime.distributed",
    "mlssl.results",
)
PICTURE = ("mlssl.pictures.embed", "mlssl.data.store", "mlssl.study.validation", "mlssl.runtime.device")
STUDY = ("mlssl.study.load",)
STAGES: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "mlssl.pretrain.loop",
        "mlssl.pretrain.run.signals",
        "mlssl.data.store",
        "mlssl.study.validation",
        "mlssl.runtime.device",
        "mlssl.runtime.distributed",
    ),
    "linear": ("mlssl.transfer.linear", *TRANSFER),
    "knn": ("mlssl.transfer.knn", *TRANSFER),
    "dense": ("mlssl.transfer.dense", *TRANSFER),
    "regions": ("mlssl.transfer.regions", *TRANSFER),
    "correspondence": ("mlssl.transfer.correspondence", *TRANSFER),
    "svm": ("mlssl.transfer.svm", *TRANSFER),
    "classification": ("mlssl.transfer.classification", *TRANSFER),
    "detection": ("mlssl.transfer.detection", *TRANSFER),
    "segmentation": ("mlssl.transfer.segmentation", *TRANSFER),
    "pseudo_labels": ("mlssl.transfer.pseudo_labels", "mlssl.study.validation", "mlssl.results"),
    "scenes": ("mlssl.scenes.write",),
    "dataset": ("mlssl.datasets.prepare",),
    "photos": ("mlssl.photos.importing",),
    "store": ("mlssl.data.store",),
    "proposals": ("mlssl.data.proposals", "mlssl.data.store", "mlssl.study.validation"),
    "pairs": ("mlssl.pretrain.pairs", "mlssl.study.validation", "mlssl.runtime.device"),
    "collect": ("mlssl.analysis.collect", *STUDY),
    "tables": ("mlssl.tables.write", *STUDY),
    "figures": ("mlssl.figures.write", *STUDY),
    "page": ("mlssl.page.write", *STUDY),
    "contact_sheet": ("mlssl.pictures.contact_sheet",),
    "neighbours": ("mlssl.pictures.neighbours", "mlssl.transfer.crop_categories", "mlssl.transfer.needs", *PICTURE),
    "histograms": ("mlssl.pictures.histograms", *PICTURE),
    "histogram_sheet": ("mlssl.pictures.histogram_sheet",),
    "search_benchmark": (
        "mlssl.search_benchmark.measure",
        "mlssl.pretrain.loop",
        "mlssl.search_benchmark.figure",
        "mlssl.results",
        *PICTURE,
    ),
    "cost_benchmark": (
        "mlssl.cost_benchmark.measure",
        "mlssl.cost_benchmark.table",
        "mlssl.data.pairs",
        "mlssl.data.proposals",
        "mlssl.results",
        "mlssl.study.load",
        "mlssl.runtime.device",
    ),
}
"""Stage -> the modules that its command calls. How a study is expanded is part of a stage that reads the study."""


class Import(NamedTuple):
    """One import statement: `from {level dots}{module} import {names}`, or `import {module}` without names."""

    level: int
    module: str
    names: tuple[str, ...]


class Source(NamedTuple):
    """One source file: the digest of its code, and its imports."""

    digest: str
    imports: tuple[Import, ...]


def stage_code(stage: str, target: str | None = None) -> dict[str, str]:
    """The code of a stage, and of the method given by the dotted path of its class: see `closure`.

    Raises ConfigError for an unknown stage, and as `closure` does.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage '{stage}' is not known; give one of {', '.join(STAGES)}")
    search_here()
    method = () if target is None else (target.rpartition(".")[0],)
    return closure(*STAGES[stage], *method)


def closure(*modules: str, packages: Collection[str] = ()) -> dict[str, str]:
    """Source path, such as `mlssl/method/losses.py` -> digest of its code, sorted by path.

    Of `modules` (dotted names), of all that they import, directly or not, at the top or inside functions, and of
    the packages around these, as far as it is own: in `mlssl`, `baselines`, one of `packages`, or a package (or
    single file) that one of `modules` is in. Imports for type checkers alone do not count, nor do modules without
    Python source. Raises ConfigError when one of `modules` has no source, or when a file cannot be parsed.
    """
    own = {name.partition(".")[0] for name in (*OWN, *packages, *modules)}
    for module in modules:
        if module not in source_files(module):
            raise ConfigError(f"there is no module '{module}'; give package.module, importable from here")
    digests: dict[str, str] = {}
    seen, left = set(modules), list(modules)
    while left:
        for name, file in source_files(left.pop()).items():
            package = file.name == "__init__.py"
            path = name.replace(".", "/") + ("/__init__.py" if package else ".py")
            if path in digests:
                continue
            source = read(file)
            digests[path] = source.digest
            new = set(imported(source, name if package else name.rpartition(".")[0])) - seen
            seen |= new
            left += [module for module in new if module.partition(".")[0] in own]
    return dict(sorted(digests.items()))


def differing(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The paths, sorted, whose digests differ or that only one of both has."""
    return sorted(path for path in theirs.keys() | ours.keys() if theirs.get(path) != ours.get(path))


def source_files(module: str) -> dict[str, Path]:
    """Dotted name -> source file of all that runs when `module` is imported: its packages and itself.

    What does not exist, or has no Python source (a folder without `__init__.py`, a compiled module), is left out.
    """
    names = module.split(".")
    try:
        spec = importlib.util.find_spec(names[0])
    except ValueError:  # an empty name, or a module that was made by hand
        spec = None
    if spec is None:
        return {}
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    found = {}
    for depth, name in enumerate(names, start=1):
        if depth > 1:
            file, folders = find_in(folders, name)
        if file is not None and file.suffix == ".py":
            found[".".join(names[:depth])] = file
    return found


def find_in(folders: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    """The file of module `name` in a package whose folders are `folders`, and the folders of its own modules."""
    for folder in folders:
        if (init := folder / name / "__init__.py").is_file():
            return init, [folder / name]
        if (file := folder / f"{name}.py").is_file():
            return file, []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]


def imported(source: Source, package: str) -> Iterator[str]:
    """Dotted names of what a file of `package` imports; some may be names inside a module."""
    for level, module, names in source.imports:
        try:
            base = importlib.util.resolve_name("." * level + module, package)
        except ImportError:  # more dots than packages: fails where it runs
            continue
        yield base
        yield from (f"{base}.{name}" for name in names)


def read(file: Path) -> Source:
    """A parsed file, read again only after a change; ConfigError if it is not Python."""
    stat = file.stat()
    return parsed(file, stat.st_mtime_ns, stat.st_size)


@cache
def parsed(file: Path, mtime_ns: int, size: int) -> Source:
    """`read` of a file with this time and size."""
    try:
        tree = ast.parse(file.read_bytes(), file)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, before Python 3.12
        line, why = getattr(error, "lineno", None) or 1, getattr(error, "msg", error)
        raise ConfigError(f"{file}, line {line}: is not valid Python ({why}); fix it") from None
    return Source(digest_of(normal_form(tree)), tuple(imports(tree)))


def normal_form(value: Any) -> str:
    """A syntax tree as text, without places in the file and without statements that do nothing.

    Empty fields are left out, which `ast.dump` does not do: later versions of Python have more of them.
    """
    if isinstance(value, ast.AST):
        parts = [type(value).__name__]
        for name in value._fields:
            if text := normal_form(getattr(value, name)):
                parts.append(f"{name}={text}")
        return f"({' '.join(parts)})"
    if isinstance(value, list):
        items = [normal_form(item) or "None" for item in value if not does_nothing(item)]
        return f"[{' '.join(items)}]" if items else ""
    return "" if value is None else ascii(value)


def does_nothing(node: Any) -> bool:
    """Whether this is a docstring (or another string statement) or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def imports(node: ast.AST) -> Iterator[Import]:
    """All import statements below `node` that may run."""
    if isinstance(node, ast.Import):
        yield from (Import(0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield Import(node.level, node.module or "", tuple(alias.name for alias in node.names))
    elif isinstance(node, ast.If) and is_type_checking(node.test):
        for statement in node.orelse:
            yield from imports(statement)
    else:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):  # expressions contain no statements
                yield from imports(child)


def is_type_checking(condition: ast.expr) -> bool:
    """Whether this is `TYPE_CHECKING` or `typing.TYPE_CHECKING`."""
    return "TYPE_CHECKING" in (getattr(condition, "id", None), getattr(condition, "attr", None))
