"""Write the JSON Schema of each JSON that the harness writes to docs/schemas: python docs/generate/schemas.py."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import json
import types
import typing
from pathlib import Path
from typing import Any

from kdump_harness.audit.result import Audit
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.compare.bisection import Bisection
from kdump_harness.campaigns.compare.result import Comparison
from kdump_harness.campaigns.kernels.result import Kernels
from kdump_harness.campaigns.size.result import Size
from kdump_harness.campaigns.sweep.result import Sweep
from kdump_harness.diagnosis import Symptom
from kdump_harness.pytest_plugin.matrix import MatrixEntry, Outcome
from kdump_harness.vm.host_check import HostFinding
from kdump_harness.vmcore import Inspection

SCHEMAS = Path(__file__).parents[1] / "schemas"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_STAGES = {"enum": [stage.name for stage in Stage]}
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null", Path: "string"}


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the schema of a value with this annotation, as dataclasses.asdict() and json write it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Stage:
        return _STAGES
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin in (list, tuple, collections.abc.Sequence, frozenset, set):
        kinds = [schema_of(one) for one in dict.fromkeys(arguments) if one is not Ellipsis]
        return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}
    if origin in (dict, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return object_of(hint)
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return {"enum": [one.value for one in hint]}
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return {"type": "integer"}
    if hint in (datetime.date, datetime.datetime):
        return {"type": "string"}
    return {"type": _SIMPLE[hint]} if hint in _SIMPLE else {}


def object_of(cls: type[Any], **more: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataclass; fields that have a default may be absent from the output of older versions."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    needed = [
        one.name for one in fields if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    properties = {one.name: schema_of(hints[one.name]) for one in fields}
    return {"type": "object", "properties": {**more, **properties}, "required": needed}


def _record(cls: type[Any], **more: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a result with its version, and whether it is good."""
    return object_of(cls, schema={"const": 1}, ok={"type": "boolean"}, **more)


def schemas() -> dict[str, dict[str, Any]]:
    """Return all schemas by the name of their file."""
    text, maybe_text = {"type": "string"}, {"type": ["string", "null"]}
    symptom = object_of(Symptom)
    symptom["required"] = [name for name in symptom["required"] if name != "file"]
    summary = {"summary": text, "figures": {"type": "object"}}
    found: dict[str, dict[str, Any]] = {
        "verdict": object_of(Verdict, schema={"const": 1}),
        "audit": _record(Audit),
        "sweep": _record(Sweep, refused={"type": "object", "additionalProperties": text}),
        "size": _record(Size),
        "compare": _record(Comparison, kernel=maybe_text, **summary),
        "bisect": _record(Bisection, **summary),
        "kernel-matrix": _record(Kernels),
        "inspect": object_of(Inspection, whole={"type": ["boolean", "null"]}, triage={}, judgement=text),
        "diagnose": {
            "type": "object",
            "properties": {
                "mode": text, "stage": _STAGES, "family": maybe_text, "kernel": maybe_text,
                "symptoms": {"type": "array", "items": symptom},
            },
            "required": ["mode", "stage", "symptoms"],
        },
        "doctor": {
            "type": "object",
            "properties": {"fit": {"type": "boolean"}, "findings": {"type": "array", "items": object_of(HostFinding)}},
            "required": ["fit", "findings"],
        },
        "matrix": {
            "type": "object",
            "properties": {
                "schema": {"const": 1}, "started": text, "took_s": {"type": "number"},
                "images": schema_of(list[str]), "scenarios": schema_of(list[str]),
                "unavailable": schema_of(dict[str, str]),
                "counts": {"type": "object", "properties": {one.value: {"type": "integer"} for one in Outcome}},
                "tests": {"type": "array", "items": object_of(MatrixEntry)},
            },
            "required": ["schema", "started", "tests"],
        },
    }  # fmt: skip
    return {
        name: {"$schema": _DRAFT, "title": f"{name}.json of kdump-harness", **schema} for name, schema in found.items()
    }


def text_of(schema: dict[str, Any]) -> str:
    """Return the text of a schema's file."""
    return json.dumps(schema, indent=1) + "\n"


def main() -> None:
    """Write all files."""
    SCHEMAS.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (SCHEMAS / f"{name}.json").write_text(text_of(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
