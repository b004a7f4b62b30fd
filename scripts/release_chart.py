"""Writes into a checkout's chart what only a release knows: where it and its image are.

    release_chart.py --image REGISTRY/NAME --digest sha256:... --home URL [--chart DIRECTORY]

The image by its digest becomes the chart's default. The page of the project and what CHANGELOG.md
says of the version are for readers: Helm's `home` and `sources`, Artifact Hub's annotations
(https://artifacthub.io/docs/topics/annotations/helm/). Run by .github/workflows/release.yaml.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def released(
    chart: str, values: str, changelog: str, *, image: str, digest: str, home: str
) -> tuple[str, str]:
    """Chart.yaml and values.yaml of the release.

    Raises ValueError where they or the changelog do not have what is looked for.
    """
    meta = yaml.safe_load(chart)
    registry, _, repository = image.rpartition("/")
    facts = {
        "artifacthub.io/changes": yaml.safe_dump(
            changes(changelog, meta["version"]), sort_keys=False, width=10_000, allow_unicode=True
        ),
        "artifacthub.io/images": yaml.safe_dump(
            [{"name": "gpucost", "image": f"{image}@{digest}"}], sort_keys=False
        ),
        "artifacthub.io/links": yaml.safe_dump(
            [
                {"name": name, "url": f"{home}/{path}"}
                for name, path in (
                    ("documentation", "blob/main/docs/operations.md"),
                    ("support", "issues"),
                )
            ],
            sort_keys=False,
        ),
    }
    annotations = "".join(
        f"  {name}: |\n" + "".join(f"    {line}\n" for line in text.splitlines())
        for name, text in facts.items()
    )
    chart = replaced(chart, "annotations:\n", f"annotations:\n{annotations}")
    chart += f"home: {home}\nsources: [{home}]\n"
    for name, value in (("registry", registry), ("repository", repository), ("digest", digest)):
        values = _first_of_image(values, name, value)
    return chart, values


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


def replaced(text: str, what: str, by: str) -> str:
    """Raises ValueError unless `what` is there once."""
    if text.count(what) != 1:
        raise ValueError(f"{what!r} is there {text.count(what)} times")
    return text.replace(what, by)


def _first_of_image(values: str, name: str, value: str) -> str:
    begin = values.index("\nimage:\n")
    end = values.index("\n\n", begin + 1)
    section, found = re.subn(rf"(?m)^  {name}: .*$", f"  {name}: {value}", values[begin:end])
    if found != 1:
        raise ValueError(f"values.yaml has image.{name} {found} times")
    return values[:begin] + section + values[end:]


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--home", required=True)
    parser.add_argument("--chart", type=Path, default=ROOT / "helm/gpucost")
    args = parser.parse_args()
    files = [args.chart / "Chart.yaml", args.chart / "values.yaml"]
    chart, values = (path.read_text() for path in files)
    made = released(
        chart,
        values,
        (ROOT / "CHANGELOG.md").read_text(),
        image=args.image,
        digest=args.digest,
        home=args.home,
    )
    for path, text in zip(files, made, strict=True):
        path.write_text(text)


if __name__ == "__main__":
    main()
