"""What is in the image, and how it runs where nothing is allowed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import disaggregatedset
from e2e.operator import ROOT
from tests.image.images import RESTRICTED, Image


def locked(image: Image) -> dict[str, str]:
    """What uv.lock says that the image's Python gets: names and versions."""
    uv = Path(sys.executable).with_name("uv")
    command = [
        str(uv),
        "export",
        "--locked",
        "--no-default-groups",
        "--no-emit-project",
        "--no-hashes",
        "--no-annotate",
    ]
    exported = subprocess.run([*command, "--no-header"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    environment = image.python("import json, sys; print(json.dumps({'python_full_version': sys.version.split()[0]}))")
    environment["python_version"] = ".".join(environment["python_full_version"].split(".")[:2])
    requirements = [Requirement(line) for line in exported.splitlines()]
    return {
        canonical(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate(environment)
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_help_of_a_restricted_container(image: Image) -> None:
    result = image.run("--help")
    assert result.returncode == 0, result.stderr
    assert "Run the DisaggregatedSet operator" in result.stdout


def test_any_user_may_run_it(image: Image) -> None:
    # OpenShift gives each namespace numbers of its own.
    result = image.run("--help", options=(*RESTRICTED, "--user=1000660000:0"))
    assert result.returncode == 0, result.stderr


def test_it_needs_no_shell(image: Image) -> None:
    program = """if True:
        import json, os, shutil
        print(json.dumps([os.path.realpath(path) for name in ("sh", "bash") if (path := shutil.which(name))]))
    """
    shells = image.python(program)
    assert shells, "a base without a shell: what hides it from the container has nothing to hide"
    hidden = tuple(f"--volume=/dev/null:{shell}:ro" for shell in shells)
    assert image.run("-c", "true", options=(*RESTRICTED, *hidden, "--entrypoint=sh")).returncode != 0
    assert image.run("--help", options=(*RESTRICTED, *hidden)).returncode == 0


def test_a_wrong_flag_is_refused(image: Image) -> None:
    result = image.run("--workers=none")
    assert result.returncode == 2
    assert "--workers" in result.stderr


def test_its_user_is_a_number_and_not_root(image: Image) -> None:
    user = image.inspect()["Config"]["User"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "runAsNonRoot can't be told of names"


def test_nothing_belongs_to_the_user_or_is_writable(image: Image) -> None:
    program = """if True:
        import json, os, pathlib
        files = [path for path in pathlib.Path("/app").rglob("*") if not path.is_symlink()]
        print(json.dumps([str(path) for path in files if path.stat().st_uid or path.stat().st_mode & 0o022]))
    """
    assert image.python(program) == []


def test_labels(image: Image) -> None:
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in image.inspect()["Config"]["Labels"].items()}
    assert labels["version"] == disaggregatedset.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["source"].startswith("https://")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert labels["base.name"]


def test_it_contains_what_is_locked_and_the_operator(image: Image) -> None:
    program = (
        "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    )
    installed = {canonical(name): version for name, version in image.python(program)}
    assert installed == locked(image) | {"disaggregatedset": disaggregatedset.__version__}


def test_its_bill_of_materials_is_what_it_contains(image: Image) -> None:
    bill = image.python("print(open('/app/share/sbom/disaggregatedset.cdx.json').read())")
    assert bill["bomFormat"] == "CycloneDX"
    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("disaggregatedset", disaggregatedset.__version__)
    assert {canonical(c["name"]): c["version"] for c in bill["components"]} == locked(image)
    assert [c["name"] for c in bill["components"] if not c.get("licenses")] == []


def test_nothing_is_compiled_when_it_starts(image: Image) -> None:
    program = """if True:
        import json, os, sys
        import disaggregatedset.cli
        cached = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
        print(json.dumps([name for name, path in cached.items() if path and not os.path.exists(path)]))
    """
    few = [name for name in image.python(program) if not re.match(r"kubernetes\.(aio\.)?client\.(api|models)\.", name)]
    assert few == []


SOURCES = (".dockerignore", "LICENSE", "README.md", "deploy", "e2e/docker.sh", "operator", "pyproject.toml", "uv.lock")


def copy_of_the_sources(target: Path) -> Path:
    """What the image is built from, which nobody changes meanwhile, with the time of now on each file."""
    for name in SOURCES:
        source, copy = ROOT / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, copy_function=shutil.copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    return target


def contents(image: Image) -> dict[str, str]:
    program = """if True:
        import hashlib, json, pathlib
        files = [path for path in pathlib.Path("/app").rglob("*") if path.is_file()]
        print(json.dumps({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))
    """
    found: dict[str, str] = image.python(program)
    return found


@pytest.mark.usefixtures("image")
def test_the_same_sources_give_the_same_layer(tmp_path: Path) -> None:
    """But for the base, all that the image has is in one layer; its digest covers times, modes and owners too."""
    if not os.environ.get("DSET_IMAGE_BASE"):
        pytest.skip("DSET_IMAGE_BASE: not said which base to build on")
    sources = copy_of_the_sources(tmp_path / "sources")
    images = [Image("disaggregatedset-reproduced:1"), Image("disaggregatedset-reproduced:2")]
    try:
        for image in images:
            choice = {
                "IMAGE": image.name,
                "BASE": os.environ["DSET_IMAGE_BASE"],
                "SBOM": str(tmp_path / "sbom.json"),
                "SOURCE_DATE_EPOCH": "1700000000",
                "BUILD_ARGS": "--no-cache",
            }
            command = [sources / "deploy" / "build-image.sh"]
            environment = {**os.environ, **choice}
            built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr[-4000:]
            for path in sources.rglob("*"):
                path.touch()
        one, other = images
        assert contents(one) == contents(other)
        assert one.layers == other.layers
    finally:
        subprocess.run(["docker", "image", "rm", *(image.name for image in images)], capture_output=True, check=False)


def test_the_stored_sbom_is_the_images(image: Image) -> None:
    stored = ROOT / "dist" / f"disaggregatedset-{disaggregatedset.__version__}.cdx.json"
    if not stored.exists():
        pytest.skip(f"{stored} is made by `make image`")
    assert json.loads(stored.read_text()) == image.python(
        "print(open('/app/share/sbom/disaggregatedset.cdx.json').read())"
    )
