"""By which code a result was made: what belongs to it, and what changes its digest."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlssl.errors import ConfigError
from mlssl.study import code

ROOT = Path(__file__).parents[1]
BASE = """
def scaled(x, by=2):
    return x * by

class Head:
    width: int = 64

    async def run(self):
        return f"{self.width}"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules into a folder that Python imports from: `write({"sample/a.py": "text"})`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        importlib.invalidate_caches()
        return tmp_path

    return write


@pytest.fixture
def same(write):
    """Whether two texts are the same code."""

    def same(one, other):
        write({"one_sample.py": one, "other_sample.py": other})
        (first,), (second,) = (code.closure(f"{name}_sample").values() for name in ("one", "other"))
        return first == second

    return same


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\ndef", '"""About the module."""\ndef'),
        ("\ndef", "# A comment.\n\n\n\ndef"),
        ("    return x", '    """About the function."""\n    return x'),
        ("    return x", "    # A comment.\n\n    return x  "),
        ("class Head:", 'class Head:\n    """About the class.\n\n    At length.\n    """\n'),
        ("width: int = 64", 'width: int = 64\n    """About the attribute."""'),
        ("        return f", '        r"""About the coroutine."""\n        return f'),
        ("(x, by=2)", "(\n    x,\n    by=2,\n)"),
        ("x * by", "(x * by)"),
        ('f"', "f'''"),
        ("64", "0x40"),
        ("\n", "\r\n"),
        ("\n\nclass", "\n    pass\n\nclass"),
    ],
)
def test_what_is_no_code_leaves_the_digest(same, old, new):
    changed = BASE.replace(old, new)
    if new == "f'''":
        changed = changed.replace('}"', "}'''")
    assert changed != BASE
    assert same(BASE, changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("64", "65"),
        ("64", "64.0"),
        ("x * by", "x + by"),
        ("by=2", "by=3"),
        ("by=2", "*, by=2"),
        ("\ndef", "import os\ndef"),
        ("x * by", "by * x"),
        ("width", "depth"),
        ("int", "float"),
        ("async ", ""),
        ('f"{self.width}"', '"self.width"'),
        ("    return x * by", "    x * by"),
        ("class Head:", "@final\nclass Head:"),
        ("\n\nclass", "\n    ...\n\nclass"),
    ],
)
def test_a_change_of_code_changes_the_digest(same, old, new):
    assert old in BASE
    assert not same(BASE, BASE.replace(old, new))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("", '"""About."""', True),
        ("def f(): pass", 'def f():\n    """About."""', True),
        ("x = 'a' 'b'", "x = 'ab'", True),
        ("f(None)", "f()", False),
        ("f(None)", "f('None')", False),
        ("f(True)", "f(1)", False),
        ("f('a b')", "f('a', 'b')", False),
        ("f('é')", "f('e')", False),
        ("x = {**a, b: c}", "x = {a: b, **c}", False),
        ("try:\n    f()\nexcept E:\n    pass", "try:\n    f()\nexcept E:\n    g()", False),
        ("if a:\n    f()\n    g()", "if a:\n    f()\ng()", False),
    ],
)
def test_corners_of_the_normal_form(same, one, other, equal):
    assert same(one, other) is equal


def test_the_normal_form_has_no_empty_fields():
    # Those are what differs between versions of Python, and a digest must not.
    form = code.normal_form(ast.parse("class A:\n    def f(self): return None"))
    arguments = "(arguments args=[(arg arg='self')])"
    function = f"(FunctionDef name='f' args={arguments} body=[(Return value=(Constant))])"
    assert form == f"(Module body=[(ClassDef name='A' body=[{function}])])"


def test_a_file_is_parsed_again_when_it_changes(write):
    path = write({"sample.py": "x = 1"}) / "sample.py"
    before = code.closure("sample")
    parsed = code.parsed.cache_info().misses
    assert code.closure("sample") == before
    assert code.parsed.cache_info().misses == parsed
    path.write_text("x = 2")
    os.utime(path, ns=(1, 1))
    assert code.differing(before, code.closure("sample")) == ["sample.py"]


START = """
import os, sample.plain as p
from sample import submodule, not_a_module
from sample.names import name
from . import sibling
from .deep import relative
from .deep.more.bottom import *

def f():
    import sample.in_function
    if os:
        try: from sample import in_try
        except ImportError: from sample import in_except
        else: from sample import in_else
        finally: from sample import in_finally
    with f(): from sample import in_with
    for _ in f(): from sample import in_loop
    match os:
        case None: from sample import in_match

class A:
    async def f(self): from sample import in_method
"""


def test_all_ways_to_import_are_followed_and_nothing_else(write):
    statements = ("function", "try", "except", "else", "finally", "with", "loop", "match", "method")
    files = {
        "sample/__init__.py": "from . import by_init",
        "sample/by_init.py": "",
        "sample/start.py": START,
        **{f"sample/{name}.py": "" for name in ("plain", "submodule", "names", "sibling")},
        **{f"sample/in_{name}.py": "" for name in statements},
        "sample/deep/__init__.py": "import sample.by_deep",
        "sample/by_deep.py": "",
        "sample/deep/relative.py": "from ..up import x\nfrom .. import beside\nfrom ... import z",
        "sample/up.py": "",
        "sample/beside.py": "",
        "sample/deep/more/__init__.py": "",
        "sample/deep/more/bottom.py": "from ...far import x",
        "sample/far.py": "",
    }
    write({**files, "sample/unused.py": "", "sample/deep/unused.py": "", "sample/os.py": ""})
    found = code.closure("sample.start")
    assert list(found) == sorted(files)
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in found.values())


def test_cycles_end(write):
    write({"sample/__init__.py": "", "sample/a.py": "import sample.b", "sample/b.py": "from sample import a, b"})
    assert set(code.closure("sample.a")) == {"sample/__init__.py", "sample/a.py", "sample/b.py"}


def test_imports_for_type_checkers_do_not_count(write):
    write(
        {
            "sample/__init__.py": "",
            "sample/a.py": """
from typing import TYPE_CHECKING
import typing
if TYPE_CHECKING:
    from sample import types_1
elif typing:
    from sample import b
if typing.TYPE_CHECKING:
    if typing: from sample import types_2
else:
    from sample import c
if not TYPE_CHECKING:
    from sample import d
""",
            **{f"sample/{name}.py": "" for name in ("types_1", "types_2", "b", "c", "d")},
        }
    )
    assert set(code.closure("sample.a")) == {f"sample/{name}.py" for name in ("__init__", "a", "b", "c", "d")}


def test_packages_without_init_are_walked(write):
    write({"sample/deep/a.py": "from sample.other import b\nfrom . import c", "sample/other/b.py": ""})
    write({"sample/deep/c.py": ""})
    assert set(code.closure("sample.deep.a")) == {"sample/deep/a.py", "sample/deep/c.py", "sample/other/b.py"}


def test_a_package_goes_before_a_module_of_the_same_name(write):
    write({"sample/__init__.py": "", "sample/a/__init__.py": "from .b import c", "sample/a.py": ""})
    write({"sample/a/b.py": "", "sample/b.py": ""})
    assert set(code.closure("sample.a")) == {"sample/__init__.py", "sample/a/__init__.py", "sample/a/b.py"}


def test_files_of_other_packages_are_not_followed(write):
    write({"sample/__init__.py": "", "sample/a.py": "import other.losses, losses", "sample/losses.py": ""})
    write({"other/__init__.py": "", "other/losses.py": "", "losses.py": ""})
    own = {"sample/__init__.py", "sample/a.py"}
    assert set(code.closure("sample.a")) == own
    assert set(code.closure("sample.a", packages=["other"])) == own | {"other/__init__.py", "other/losses.py"}


def test_an_own_method_in_one_file_belongs_to_its_stage(write, monkeypatch):
    folder = write({"my_sample_methods.py": "from mlssl.parts.momentum import MomentumPair\nclass Own: pass"})
    monkeypatch.chdir(folder)
    plain, own = code.stage_code("pretrain"), code.stage_code("pretrain", "my_sample_methods.Own")
    assert {"my_sample_methods.py", "mlssl/parts/momentum.py"} <= own.keys()
    assert own.items() >= plain.items()
    assert "baselines/moco_v2.py" in code.stage_code("pretrain", "baselines.moco_v2.MoCoV2")
    assert not any(path.startswith("baselines/") for path in own)


def test_nothing_is_imported(write):
    write({"sample/__init__.py": "raise RuntimeError", "sample/a.py": "raise RuntimeError"})
    assert len(code.closure("sample.a")) == 2
    assert "sample" not in sys.modules


@pytest.mark.parametrize("module", ["sample.b", "sample.a.b", "sample.empty", "no_such_sample", "sys", "", ".a"])
def test_a_missing_module_is_named(write, module):
    folder = write({"sample/__init__.py": "", "sample/a.py": ""})
    (folder / "sample" / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"there is no module '{module}'"):
        code.closure("sample.a", module)


def test_an_import_that_finds_nothing_is_passed_over(write):
    write({"sample.py": "import sample.nothing, mlssl.no_such_module\nfrom .. import x\nfrom mlssl import nothing"})
    assert list(code.closure("sample")) == ["mlssl/__init__.py", "sample.py"]


@pytest.mark.parametrize(("text", "line"), [("x = 1\nx = = 2\n", 2), ("x = 1\n\0", ""), ("def f(:", 1)])
def test_a_file_that_is_no_python_is_named_with_its_line(write, text, line):
    folder = write({"sample/__init__.py": "import sample.wrong", "sample/wrong.py": text})
    with pytest.raises(ConfigError) as error:
        code.closure("sample")
    assert str(error.value).startswith(f"{folder / 'sample' / 'wrong.py'}, line {line}")


def test_differing_names_what_changed_came_or_went():
    theirs = {"same.py": "0", "went.py": "1", "changed.py": "2"}
    assert code.differing(theirs, {"same.py": "0", "changed.py": "3", "came.py": "1"}) == [
        "came.py",
        "changed.py",
        "went.py",
    ]
    assert code.differing(theirs, theirs) == []


def test_an_unknown_stage_is_refused():
    with pytest.raises(ConfigError, match="stage 'training' is not known; give one of pretrain, "):
        code.stage_code("training")


def test_this_module_needs_the_standard_library_alone():
    files = code.closure("mlssl.study.code")
    assert "mlssl/study/code.py" in files
    for path in files:
        for name in (found.module for found in code.imports(ast.parse((ROOT / path).read_text()))):
            assert name.split(".")[0] in {*sys.stdlib_module_names, "mlssl"}, f"{path} imports {name}"


VERBS = {
    "scenes": ("scenes",),
    "store": ("store",),
    "proposals": ("proposals",),
    "pairs": ("pairs",),
    "dataset": ("dataset",),
    "import_": ("photos",),
    "pretrain": ("pretrain",),
    "transfer": (
        "linear",
        "knn",
        "dense",
        "regions",
        "correspondence",
        "svm",
        "classification",
        "detection",
        "segmentation",
    ),
    "pseudo_labels": ("pseudo_labels",),
    "collect": ("collect",),
    "tables": ("tables",),
    "figures": ("figures",),
    "page": ("page",),
    "contact_sheet": ("contact_sheet",),
    "picture": ("neighbours", "histograms"),
    "histogram_sheet": ("histogram_sheet",),
    "search_benchmark": ("search_benchmark",),
    "cost_benchmark": ("cost_benchmark",),
}
NAMING = {"mlssl.study", *(f"mlssl.study.{name}" for name in ("sources", "code", "identity"))}
"""What says which experiment a result belongs to, and decides no number in it."""


def module_of(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.parametrize("verb", VERBS)
def test_a_stage_has_all_that_its_verb_imports(verb):
    trees = [ast.parse(path.read_text()) for path in (ROOT / "mlssl" / "cli").glob("*.py")]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    (function,) = (node for node in nodes if node.name == verb)
    own = [found for found in code.imports(function) if found.module.split(".")[0] in code.OWN]
    names = set(code.imported(code.Source("", tuple(own)), "mlssl"))
    wanted = {name for name in names if name in code.source_files(name)} - NAMING
    assert wanted
    closures = [set(code.stage_code(stage)) for stage in VERBS[verb]]
    # Each picture takes another of the branches.
    paths = set.union(*closures) if verb == "picture" else set.intersection(*closures)
    assert wanted <= {module_of(path) for path in paths}


def test_every_stage_belongs_to_a_verb():
    assert sorted(code.STAGES) == sorted(stage for stages in VERBS.values() for stage in stages)


IMPORT_ALL = """
import importlib, json, sys
from mlssl.study.code import OWN, STAGES

def own():
    return sorted(name for name in sys.modules if name.split(".")[0] in OWN)

loaded = {}
for stage, modules in STAGES.items():
    for name in own():
        del sys.modules[name]
    for module in (*modules, "baselines.densecl") if stage == "pretrain" else modules:
        importlib.import_module(module)
    loaded[stage] = own()
print(json.dumps(loaded))
"""


@pytest.mark.slow
def test_what_a_stage_loads_when_it_is_imported_is_its_code():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded.keys() == code.STAGES.keys()
    for stage, modules in loaded.items():
        paths = code.stage_code(stage, "baselines.densecl.DenseCL" if stage == "pretrain" else None)
        assert set(modules) <= {module_of(path) for path in paths}, stage
