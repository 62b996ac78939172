"""Reports as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import SCHEMA
from distloss._audit.report.format import Format, Terminal


def _json(audits: Audits, _terminal: Terminal) -> str:
    if not audits.several:
        return "".join(f"{report.to_json()}\n" for report in audits.reports)
    whole = {
        "schema": SCHEMA,
        "passes": audits.passes,
        "reports": [report.to_dict() for report in audits.reports],
        "unchecked": [asdict(one) for one in audits.unchecked],
    }
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


FORMAT = Format("json", _json)
