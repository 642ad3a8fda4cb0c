"""What is checked before anything is published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import disaggregatedset
from deploy import release

OURS = disaggregatedset.__version__
CHANGELOG = (
    f"# Changelog\n\n## Unreleased\n\n- b\n\n## [{OURS}] - 2026-12-24\n\n### Added\n\n- a\n\n## 0.0.1 - 2026-01-01\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what is looked at, with a changelog for this version."""
    for path in ("operator/disaggregatedset/__init__.py", "charts/disaggregatedset/Chart.yaml"):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(release.ROOT / path, tmp_path / path)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_the_version_with_notes_may_be_released(root: Path) -> None:
    release.check(f"v{OURS}", root)
    assert release.notes(OURS, root) == "### Added\n\n- a\n"


@pytest.mark.parametrize("tag", ["v9.9.9", OURS, f"v{OURS}-rc.1", ""])
def test_no_other_tag(root: Path, tag: str) -> None:
    with pytest.raises(ValueError, match="the version in"):
        release.check(tag, root)


def test_not_with_a_chart_of_another_version(root: Path) -> None:
    chart = root / "charts/disaggregatedset/Chart.yaml"
    chart.write_text(chart.read_text().replace(f"appVersion: {OURS}", "appVersion: 9.9.9"))
    with pytest.raises(ValueError, match=r"appVersion .* is not"):
        release.check(f"v{OURS}", root)


@pytest.mark.parametrize(
    "changelog", [CHANGELOG.replace(f"[{OURS}]", "[1.2.3]"), f"## {OURS} - 2026-12-24\n\n## 0.0.1\n"]
)
def test_not_without_notes(root: Path, changelog: str) -> None:
    (root / "CHANGELOG.md").write_text(changelog)
    with pytest.raises(ValueError, match=r"CHANGELOG.md has no section"):
        release.check(f"v{OURS}", root)


def test_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["check", "v9.9.9"]) == 1
    assert "release.py: the tag is v9.9.9" in capsys.readouterr().err
    assert release.main([]) == 2
