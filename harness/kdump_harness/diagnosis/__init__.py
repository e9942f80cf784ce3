"""Diagnosis of kdump logs: the failure that a console log shows, its phase, and its remedy."""

from __future__ import annotations

from .engine import diagnose_case, diagnose_file, diagnose_text
from .judge import INDETERMINATE, OK, Diagnosis, Rejected, Symptom
from .table import SymptomRow, SymptomTable, load_symptoms

__all__ = [
    "INDETERMINATE",
    "OK",
    "Diagnosis",
    "Rejected",
    "Symptom",
    "SymptomRow",
    "SymptomTable",
    "diagnose_case",
    "diagnose_file",
    "diagnose_text",
    "load_symptoms",
]
