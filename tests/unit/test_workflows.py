"""The workflows are what they say: bounded, with least rights, and of the chart as it is."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

import published
from programs import ROOT

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
JOBS = [
    (f"{name}/{job}", jobs)
    for name, flow in WORKFLOWS.items()
    for job, jobs in flow["jobs"].items()
]
TARGETS = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))


def words(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_is_bounded_and_has_the_rights_that_it_says(name: str, job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 120, name
    assert all(flow["permissions"] == {"contents": "read"} for flow in WORKFLOWS.values())
    for step in job["steps"]:
        action = step.get("uses", "")
        # A tag is moved by whoever may push there; a commit is what was looked at.
        assert not action or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
        if action.startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        # What a pull request can choose never stands in a command.
        assert "${{" not in step.get("run", "")


def test_one_commit_of_an_action_is_used_and_its_version_is_told() -> None:
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    told = set(re.findall(r"uses: (\S+) # v(?:\d+)(?:\.\d+)*\n", text))
    assert told == set(re.findall(r"uses: (\S+)", text))
    assert len(told) == len({action.partition("@")[0] for action in told})


def test_actionlint_finds_nothing() -> None:
    ran = subprocess.run(
        [published.actionlint(), *sorted(FOLDER.glob("*.yaml"))],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_calls_targets_that_there_are(name: str, job: dict[str, Any]) -> None:
    for target in re.findall(r"\bmake ([a-z0-9-]+)", words(job)):
        assert target in TARGETS, name


def test_the_released_chart_is_the_scripts() -> None:
    said = words(WORKFLOWS["release"]["jobs"]["chart"])
    assert re.search(r"scripts/release_chart\.py --image \S+ --digest \S+ --home \S+", said)
    assert said.index("release_chart") < said.index("helm package") < said.index("helm push")


def test_image_and_chart_are_signed_by_digest_with_an_sbom() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    [build] = [step for step in jobs["image"]["steps"] if "build-push" in step.get("uses", "")]
    assert build["with"]["sbom"] is True
    assert set(build["with"]["platforms"].split(",")) == {"linux/amd64", "linux/arm64"}
    for job in ("image", "chart"):
        assert re.search(r'cosign sign --yes "\S+@\$(DIGEST|digest)"', words(jobs[job]))
        assert jobs[job]["permissions"]["id-token"] == "write"
