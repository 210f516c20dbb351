"""Links and commands in the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.naming import target_name
from sparrow.runtime.embedded import plan_cluster

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "src", "bench", "deploy", "tests") for p in (ROOT / d).rglob("*.md")),
    ]
    if not any(part.is_symlink() for part in path.parents)
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
#: Paths named in running text: in backticks, from the repository's top, with a suffix.
NAMED = re.compile(
    r"`((?:docs|src|tools|tests|bench|deploy)/[\w./-]+\.(?:md|py|pyx|pxd|sh|h|toml|proto))`"
)


def anchor(heading: str) -> str:
    """The anchor that common Markdown viewers give a heading."""
    text = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        assert goal.exists(), f"{target}: no such file"
        assert goal.is_relative_to(ROOT), f"{target} leaves the repository"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", goal.read_text(), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, (
                f"{target}: no such heading"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_the_text_exist(page: Path) -> None:
    for name in NAMED.findall(page.read_text()):
        assert (ROOT / name).exists(), name


def test_every_make_verb_in_the_documentation_exists() -> None:
    verbs = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for verb in re.findall(r"`make ([a-z][a-z-]*)", page.read_text()):
            assert verb in verbs, f"{page.relative_to(ROOT)}: make {verb}"


def test_the_front_page_attaches_to_what_the_code_serves() -> None:
    text = (ROOT / "README.md").read_text()
    name = target_name(VolumeId("demo"))
    first = plan_cluster(Path("data"), nodes=3).nodes[0]
    assert f"iscsi://{first.iscsi_addr}/{name}/0" in text
    assert f"-T {name} -p {first.iscsi_addr} --login" in text
