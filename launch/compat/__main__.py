"""Tries every supported release of vLLM and writes `docs/compatibility.md`.

python -m launch.compat [--model DIR] [--only VERSION ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from launch.compat.packages import NotToBeHad, Trial, fetch_wheel
from launch.compat.page import Finding, page
from launch.compat.releases import RELEASES, Release
from launch.compat.signatures import missing
from launch.compat.sources import Sources

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache/models/SmolLM2-135M-Instruct"
CACHE = ROOT / ".cache/compat"
LIMIT = 600.0
"""Seconds for one release's run."""


def check(release: Release, model: Path, wheels: Path) -> Finding:
    finding = Finding(release)
    try:
        wheel = fetch_wheel(release, wheels)
    except NotToBeHad as error:
        finding.failed, finding.note = True, str(error)
        return finding
    sources = Sources(wheel)
    finding.missing = missing(sources)
    sources.close()
    if not release.runs_on_cpu:
        finding.note = "no CPU build of this release"
        return finding
    with tempfile.TemporaryDirectory(prefix="callboard-compat-") as folder:
        try:
            trial = Trial(Path(folder) / "venv")
            extra = trial.install(wheel)
        except NotToBeHad as error:
            finding.note = f"{error} on this machine"
            return finding
        finding.note = f"with {', '.join(extra)}" if extra else ""
        _run(finding, trial, model)
    return finding


def _run(finding: Finding, trial: Trial, model: Path) -> None:
    command = [str(trial.python), "-m", "launch.compat.smoke", str(model)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        finding.failed, finding.note = True, f"not done after {LIMIT:.0f} s"
        return
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        lines = done.stderr.strip().splitlines()
        finding.failed, finding.note = True, lines[-1] if lines else f"exit {done.returncode}"
        return
    result = json.loads(done.stdout.strip().splitlines()[-1])
    finding.tokens, finding.stored = result["tokens"], result["stored"]
    finding.seconds = result["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.compat", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--only", nargs="+", metavar="VERSION", help="these releases alone")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/compatibility.md")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    chosen = [r for r in RELEASES if arguments.only is None or r.version in arguments.only]
    good = True
    for release in chosen:
        sys.stderr.write(f"vLLM {release.version} …\n")
        finding = check(release, arguments.model.absolute(), arguments.cache)
        sys.stderr.write(f"  {'good' if finding.good else 'BAD'} {finding.note}\n")
        _kept(arguments.cache, release).write_bytes(msgspec.json.encode(finding))
        good = good and finding.good
    kept = [file for r in RELEASES if (file := _kept(arguments.cache, r)).is_file()]
    findings = [msgspec.json.decode(file.read_bytes(), type=Finding) for file in kept]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(page(findings, machine))
    sys.exit(0 if good else 1)


def _kept(cache: Path, release: Release) -> Path:
    return cache / f"{release.distribution}-{release.version}.json"


if __name__ == "__main__":
    main()
