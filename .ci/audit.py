"""What is known against the packages that are installed, by pip-audit from https://osv.dev.

Where OSV cannot be reached, that is said in one line and is no failure; with OSV_URL another server is asked. This
project, installed from its checkout, and pip, which nothing here imports, are left out. A local version such as
2.12.0+cpu is looked up as the release it is built from.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import Distribution, distributions
from pathlib import Path

SERVICE = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
PATIENCE_SECONDS = 5
OWN = "optimizer-bench"
# Advisory → why it does not concern this project; each is to go when its package has a fixed release.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """The exit code: 0 where nothing is known, or nobody could be asked."""
    if fault := unreachable():
        print(f"pip-audit: skipped, {SERVICE} cannot be asked ({fault})")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "installed.txt")
        listed.write_text("".join(f"{line}\n" for line in sorted(set(map(pinned, installed())))))
        return subprocess.run([
            sys.executable, "-m", "pip_audit", "--strict", "--progress-spinner=off", "--no-deps", "--disable-pip",
            "--vulnerability-service=osv", f"--osv-url={SERVICE}", "--timeout=10", f"--requirement={listed}",
            *(f"--ignore-vuln={name}" for name in ACCEPTED),
        ], check=False, env={**os.environ, "PIP_AUDIT_LOGLEVEL": "ERROR"}).returncode  # fmt: skip


def unreachable() -> str | None:
    """Why the service gives no answer; None where it does."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "1.0"}).encode()
    request = urllib.request.Request(SERVICE, question, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())[:120]
    return None


def installed() -> list[Distribution]:
    """The distributions of this environment."""
    return [found for found in distributions() if found.name.lower() not in (OWN, "pip")]


def pinned(found: Distribution) -> str:
    """`name==version` without the part that says how it was built."""
    return f"{found.name}=={found.version.partition('+')[0]}"


if __name__ == "__main__":
    sys.exit(main())
