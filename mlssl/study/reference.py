"""The reference of all settings, made from their declarations: as Markdown and as JSON schema."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from pydantic import TypeAdapter

from mlssl.study.identity import kind_of
from mlssl.study.methods import constructor
from mlssl.study.settings import (
    RESOLVED,
    TRANSFERS,
    Ablation,
    CostBenchmark,
    Dataset,
    DataSource,
    Kind,
    Level,
    Method,
    Pairs,
    Photos,
    Pictures,
    Pretrain,
    Proposals,
    Scenes,
    SearchBenchmark,
    Selection,
    StudyFile,
    Views,
)

METHODS = (
    "mlssl.method.mls.MLS",
    "baselines.moco_v2.MoCoV2",
    "baselines.densecl.DenseCL",
    "baselines.knn_moco.KNNMoCo",
    "baselines.nnclr.NNCLR",
    "baselines.msf.MSF",
    "baselines.byol.BYOL",
    "baselines.simsiam.SimSiam",
    "baselines.pixpro.PixPro",
    "baselines.pixcontrast.PixContrast",
    "baselines.slotcon.SlotCon",
    "baselines.self_emd.SelfEMD",
    "baselines.resim.ReSim",
    "baselines.soco.SoCo",
    "baselines.soco_fpn.SoCoFPN",
    "baselines.orl.ORL",
)
SECTIONS: dict[str, type] = {
    "The study": StudyFile,
    "data, transfer_data": DataSource,
    "data.scenes": Scenes,
    "data.dataset": Dataset,
    "data.photos": Photos,
    "pretrain": Pretrain,
    "pretrain.views": Views,
    "pretrain.proposals": Proposals,
    "pretrain.pairs": Pairs,
    "methods.<name>": Method,
    "ablations.<axis>": Ablation,
    "ablations.<axis>.levels.<level>": Level,
    "transfers.<name>": Selection,
    **{f"transfers.{name}": cls for name, cls in TRANSFERS.items()},
    "pictures": Pictures,
    "search_benchmark": SearchBenchmark,
    "cost_benchmark": CostBenchmark,
}
INTRODUCTION = """# Settings

Every key of a study file, as `mlssl settings` prints it from the declarations in `mlssl/study/settings.py` and from
the constructors of the methods. A setting of the kind *experiment* can change a number: another value gives a run
(or a transfer) another name, and the results of the old one are kept. The kinds *operation*, *place* and *label*
can be changed at any time.
"""


def schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors that complete and check YAML."""
    study = TypeAdapter(StudyFile).json_schema()
    properties = study["properties"]
    properties["extends"] = {
        "type": ["string", "array"],
        "items": {"type": "string"},
        "description": "another study file, as seen from this one, or several, each over those before it",
    }
    definitions = study.setdefault("$defs", {})
    pretrain = _section(Pretrain, definitions)
    properties["pretrain"] = pretrain
    definitions["Method"]["properties"]["pretrain"] = pretrain
    selection = _section(Selection, definitions)["properties"]
    transfers = {}
    for name, cls in TRANSFERS.items():
        section = _section(cls, definitions)
        section["properties"] = selection | section["properties"]
        transfers[name] = {"anyOf": [section, {"type": "null"}]}  # null removes the section of a base study
    properties["transfers"] = {"type": "object", "additionalProperties": False, "properties": transfers}
    for mapping in ("methods", "ablations"):
        patterns = properties[mapping]["patternProperties"]
        patterns.update({name: {"anyOf": [section, {"type": "null"}]} for name, section in patterns.items()})
    for mapping in ("transfers", "ablations"):
        properties[mapping]["type"] = ["object", "null"]  # null removes all of them
    for section in definitions.values():
        section.pop("required", None)  # a study that extends another gives a part of a section
    complete = study.pop("required")
    study["anyOf"] = [{"required": ["extends"]}, {"required": complete}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **study}


def _section(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a stage's settings without what a study gives elsewhere."""
    found = TypeAdapter(cls).json_schema()
    definitions.update(found.pop("$defs", {}))
    found["properties"] = {key: value for key, value in found["properties"].items() if key not in RESOLVED}
    found.pop("required", None)
    return found


def markdown() -> str:
    """The reference as Markdown."""
    parts = [INTRODUCTION]
    for title, cls in SECTIONS.items():
        shown = [f.name for f in dataclasses.fields(cls) if cls not in (Pretrain, *TRANSFERS.values())
                 or f.name not in RESOLVED]  # fmt: skip
        properties = TypeAdapter(cls).json_schema()
        rows: list[tuple[str, ...]] = [
            (name, *_value(properties["properties"][name], properties.get("$defs", {})), kind_of(cls, name).value,
             properties["properties"][name].get("description", ""))
            for name in shown
        ]  # fmt: skip
        about = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
        parts.append(
            f"## {title}\n\n{about}\n\n{_table(('key', 'value', 'default', 'kind', 'what it does'), rows)}"
        )
    parts.append("## methods.<name>.params, common\n\nWhat the constructors of the methods that ship take.\n")
    for target in METHODS:
        takes = constructor(target)
        rows = []
        for name, annotation in takes.types.items():
            value, _ = _value(TypeAdapter(annotation).json_schema(), {})
            rows.append((name, value, json.dumps(takes.defaults[name]), Kind.EXPERIMENT.value))
        required = f"\nMust hold: {', '.join(f'`{text}`' for text in takes.requires)}.\n" if takes.requires else ""
        parts.append(f"### {target}\n\n{_table(('key', 'value', 'default', 'kind'), rows)}{required}")
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *((f"`{row[0]}`", *row[1:]) for row in rows)]
    return "".join(
        "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in line) + " |\n" for line in lines
    )


def _value(found: dict[str, Any], definitions: dict[str, Any]) -> tuple[str, str]:
    """What a setting takes, in words, and its default."""
    default = json.dumps(found["default"]) if "default" in found else ""
    return _type(found, definitions), default.replace('"', "")


def _type(found: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "anyOf" in found:
        return " or ".join(dict.fromkeys(_type(option, definitions) for option in found["anyOf"]))
    if "$ref" in found or "allOf" in found:
        return "a section"
    if "enum" in found or "const" in found:
        return ", ".join(map(str, found.get("enum", [found.get("const")])))
    kind = found.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        items = found.get("prefixItems")
        return (
            f"{len(items)} of: {_type(items[0], definitions)}"
            if items
            else f"list of {_type(found.get('items', {}), definitions)}"
        )
    names = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "string": "text",
        "object": "mapping",
    }
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {found[key]:g}" for key, sign in bounds.items() if key in found]
    return ", ".join([names.get(str(kind), "anything"), *limits])
