"""The result as JUnit XML: a suite a gate, a case an optimizer, pair or run; inconclusive is `skipped`."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.check.result import Case, CheckResult, Gate, Status

FAILED = (Status.FAIL, Status.INCOMPATIBLE)
SKIPPED = (Status.INCONCLUSIVE, Status.SKIPPED)


def junit(result: CheckResult) -> str:
    """The document."""
    root = ET.Element("testsuites", name="bench check")
    for gate in result.gates:
        _add_suite(root, gate)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_suite(root: ET.Element, gate: Gate) -> None:
    cases = gate.cases or (Case(name=gate.name, status=gate.status, text=gate.text),)
    counts = {
        "tests": len(cases),
        "failures": sum(case.status in FAILED for case in cases),
        "errors": 0,
        "skipped": sum(case.status in SKIPPED for case in cases),
    }
    suite = ET.SubElement(root, "testsuite", {"name": gate.name, **{key: str(value) for key, value in counts.items()}})
    for case in cases:
        _add_case(suite, gate, case)


def _add_case(suite: ET.Element, gate: Gate, case: Case) -> None:
    element = ET.SubElement(suite, "testcase", classname=f"bench.check.{gate.name}", name=case.name)
    if case.status in FAILED:
        ET.SubElement(element, "failure", message=case.text, type=str(case.status)).text = case.text
    elif case.status in SKIPPED:
        ET.SubElement(element, "skipped", message=case.text)
    elif case.text:
        ET.SubElement(element, "system-out").text = f"{case.status}: {case.text}"
