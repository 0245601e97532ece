"""The lock file in; known vulnerabilities of the locked packages out. Exit 1 if there is one.

The vulnerability service may be out of reach, as behind a package mirror: then it is said plainly that nothing was
audited, and the exit status is 0, as no answer is no finding.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def main() -> int:
    """Run pip-audit over the lock and tell what it found."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--disable-pip", "--no-deps", "-f", "json"]
    try:
        run = subprocess.run(
            [*command, "--progress-spinner", "off"], check=False, capture_output=True, text=True, timeout=120
        )
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("audit: NOT AUDITED: the vulnerability service gave no usable answer")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    found = [(package, fault) for package in audited for fault in package.get("vulns", ())]
    for package, fault in found:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
    missing = len(packages) - len(audited)
    if missing:
        print(f"audit: NOT AUDITED: {missing} of {len(packages)} packages, the service does not know them from here")
    print(f"audit: {len(audited)} packages looked up, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
