"""Tests of docs/schemas: up to date, valid, and true for what the harness writes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemas
from fakes import fake_run
from kdump_harness.__main__ import main
from kdump_harness.base.evidence import Evidence
from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.judgement import DrillRecord
from kdump_harness.drill.plan import Plan
from kdump_harness.pytest_plugin.matrix import Matrix, MatrixEntry
from kdump_harness.vm.host_check import HostFinding

jsonschema = pytest.importorskip("jsonschema")

DATA = Path(__file__).parents[1] / "data"


def strict(schema: Any) -> Any:
    """Return the schema, without room for keys that it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    return {**found, "additionalProperties": False} if "properties" in found and "type" in found else found


def verdict(directory: Path) -> dict[str, Any]:
    run = fake_run()
    plan = Plan(subject=SystemUnderTest(name="debian-12", family=find_family("debian")))
    with contextlib.closing(Evidence(directory / "drill")) as evidence:
        record = DrillRecord(run, plan, evidence)
        record.verdict.check("level", True, expected=31, seen=31)
        record.conclude(None)
    return json.loads((directory / "drill" / "verdict.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def outputs(directory: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name of a schema and a JSON that the harness wrote."""
    made = verdict(directory)
    yield "verdict", made
    yield "verdict", json.loads((DATA / "verdicts" / "debian-12.json").read_text(encoding="utf-8"))
    for verb, path in (
        ("inspect", DATA / "vmcore" / "zlib.kdump"),
        ("diagnose", DATA / "consoles" / "rhel-96m-oom.log"),
    ):
        main([verb, str(path), "--json", str(directory / verb)])
        yield verb, json.loads((directory / verb).read_text(encoding="utf-8"))
    main(["inspect", __file__, "--json", str(directory / "inspect")])
    yield "inspect", json.loads((directory / "inspect").read_text(encoding="utf-8"))
    finding = HostFinding(name="QEMU", ok=True, seen="installed")
    yield "doctor", {"fit": True, "findings": [vars(finding)]}
    matrix = Matrix()
    matrix.add(
        MatrixEntry(image="debian-12", scenario="test_x.py::test_y", nodeid="test_x.py::test_y", verdicts=[made])
    )
    yield "matrix", matrix.to_json()


def test_what_the_harness_writes_is_what_its_schema_says(tmp_path: Path) -> None:
    seen = set()
    for name, written in outputs(tmp_path):
        jsonschema.validate(written, strict(schemas.schemas()[name]))
        seen.add(name)
    assert seen == {"verdict", "inspect", "diagnose", "doctor", "matrix"}


def test_a_json_of_another_shape_is_refused(tmp_path: Path) -> None:
    for change in ({"memory_mib": "1G"}, {"reached": "NOWHERE"}, {"schema": 2}, {"checks": [{"name": "level"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**verdict(tmp_path / str(change)[:9]), **change}, schemas.schemas()["verdict"])


def test_the_schemas_are_valid() -> None:
    for schema in schemas.schemas().values():
        jsonschema.Draft202012Validator.check_schema(schema)
