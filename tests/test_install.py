"""The project as a package: a wheel, its command, and a study from anywhere."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from support.snakemake import ROOT, small, write

WITHOUT_CHECKOUT = """
import os, sys
sys.path[:] = [path for path in sys.path if not os.path.isfile(os.path.join(path or ".", "Snakefile"))]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel unpacked, as `pip install` lays it out."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(out.glob("*.whl"))
    site = out / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # An editable installation of a checkout must not lend its `baselines` to the wheel.
    (site / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    return site


def call(site, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd)}
    command = [sys.executable, str(site / "bin" / "mlssl"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_wheel_has_one_package_and_the_command(installed, tmp_path):
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"mlssl", "bin", "sitecustomize.py"}
    done = call(installed, tmp_path, "--help")
    assert done.returncode == 0
    assert "pretrain" in done.stdout


@pytest.mark.long
@pytest.mark.slow
def test_an_installed_package_runs_a_study_from_anywhere(installed, tmp_path):
    study = write(tmp_path / "mine.yaml", small(name="mine", compare=["moco_v2"], pictures=None))
    planned = call(installed, tmp_path, "run", "tiny", "-n")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "pretrain                6" in planned.stdout + planned.stderr
    done = call(installed, tmp_path, "run", study, "--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "moco_v2" in (tmp_path / "results/mine/tables/main.md").read_text()
    assert "1 of 1" in call(installed, tmp_path, "status", "--study", study).stdout


def test_every_imported_library_is_declared():
    """Also those that pandas imports for the tables: tabulate for Markdown, jinja2 for LaTeX."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(text for extra in extras for text in extra)]
    names = {re.split("[<>=! \\[]", text)[0].lower() for text in declared}
    distributions = metadata.packages_distributions()
    optional = {"cv2": "opencv-python-headless", "faiss": "faiss-cpu", "umap": "umap-learn"}
    for path in [*(ROOT / "mlssl").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for module in (m.split(".")[0] for m in modules):
                if module in sys.stdlib_module_names or module in ("mlssl", "baselines", "pillow_heif"):
                    continue
                found = {name.lower() for name in distributions.get(module, [optional.get(module, module)])}
                assert found & names, f"{path}: {module} is not declared in pyproject.toml"
    assert {"tabulate", "jinja2"} <= names


def test_the_reference_of_settings_is_what_the_declarations_say():
    from mlssl.study import reference

    assert (ROOT / "docs" / "settings.md").read_text() == reference.markdown().rstrip() + "\n"
    schema = reference.schema()
    assert schema["properties"]["pretrain"]["properties"]["lr"]["exclusiveMinimum"] == 0
    linear = schema["properties"]["transfers"]["properties"]["linear"]["anyOf"][0]["properties"]
    assert linear["runs"]["enum"] == ["all", "compare"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_the_json_schema_accepts_every_study_that_ships(path):
    jsonschema = pytest.importorskip("jsonschema")  # Snakemake brings it
    from mlssl.study import reference

    jsonschema.validate(yaml.safe_load(path.read_text()), reference.schema())
    jsonschema.validate({"extends": str(path), "seeds": [0]}, reference.schema())
    broken = yaml.safe_load(path.read_text()) | {"colour": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, reference.schema())


def test_the_project_is_found_from_a_checkout():
    from mlssl import project

    assert Path(ROOT) / "Snakefile" == project.SNAKEFILE
    assert project.study_file("demo") == ROOT / "config" / "demo.yaml"
    assert project.study_file("nowhere.yaml") == Path("nowhere.yaml")
