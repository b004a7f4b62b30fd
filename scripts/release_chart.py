"""Writes into a checkout's chart what only a release knows: where it and its image are.

    release_chart.py --image REGISTRY/NAME --digest sha256:... --home URL [--chart DIRECTORY]

The image by its digest becomes the chart's default. For readers come Helm's `home` and `sources`,
what CHANGELOG.md says of the version and the rest of what Artifact Hub shows
(https://artifacthub.io/docs/topics/annotations/helm/), and links of the README that lead out of
the chart lead to the project's page. Run by .github/workflows/release.yaml.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent


class Released(NamedTuple):
    """Where the image and the project are."""

    image: str
    digest: str
    home: str


def release(chart: Path, changelog: str, place: Released) -> None:
    """Rewrite the files of a chart.

    Raises ValueError where they or the changelog do not have what is looked for.
    """
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["version"]
    pages = f"{place.home}/blob/v{version}"
    notes = {
        "changes": changes(changelog, version),
        "images": [{"name": "gpucost", "image": f"{place.image}@{place.digest}"}],
        "links": [
            {"name": "documentation", "url": f"{pages}/docs/operations.md"},
            {"name": "support", "url": f"{place.home}/issues"},
        ],
    }
    annotations = "".join(f"  artifacthub.io/{name}: |\n{_block(of)}" for name, of in notes.items())
    registry, _, repository = place.image.rpartition("/")
    home = f"home: {place.home}\nsources: [{place.home}]\n"
    image = {"registry": registry, "repository": repository, "digest": place.digest}
    _change(chart / "Chart.yaml", {r"^annotations:\n": f"{home}annotations:\n{annotations}"})
    _change(
        chart / "values.yaml",
        {
            rf"^(image:\n(?: .*\n)*?  {name}:) .*\n": rf"\1 {value}\n"
            for name, value in image.items()
        },
    )
    _change(chart / "README.md", {r"\]\(\.\./\.\./": f"]({pages}/"}, once=False)


def changes(changelog: str, version: str) -> list[dict[str, str]]:
    """What a version's section says, as Artifact Hub wants it. Raises ValueError."""
    sections = re.split(r"(?m)^## \[([^\]]+)\].*\n", changelog)
    found = dict(zip(sections[1::2], sections[2::2], strict=True)).get(version)
    if found is None:
        raise ValueError(f"CHANGELOG.md has no section of {version}")
    parts = re.split(r"(?m)^### (\w+)\n", found)
    return [
        {"kind": kind.lower(), "description": " ".join(entry.split())}
        for kind, text in zip(parts[1::2], parts[2::2], strict=True)
        for entry in re.split(r"(?m)^- ", text)[1:]
    ]


def _block(value: object) -> str:
    text = yaml.safe_dump(value, sort_keys=False, width=10_000, allow_unicode=True)
    return "".join(f"    {line}\n" for line in text.splitlines())


def _change(path: Path, by: dict[str, str], *, once: bool = True) -> None:
    text = path.read_text()
    for pattern, new in by.items():
        text, found = re.subn(f"(?m){pattern}", new, text)
        if not found or (once and found > 1):
            raise ValueError(f"{path.name} has {found} times what is to be changed: {pattern}")
    path.write_text(text)


def main() -> None:
    """Release the checkout's chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in Released._fields:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--chart", type=Path, default=ROOT / "helm/gpucost")
    args = parser.parse_args()
    place = Released(args.image, args.digest, args.home)
    release(args.chart, (ROOT / "CHANGELOG.md").read_text(), place)


if __name__ == "__main__":
    main()
