"""Builds a component from its Go module, with nothing but the module proxy that Go is configured with."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster.errors import ClusterError
from e2e.cluster.versions import Component

_OUTPUT_LINES = 15
_FIRST_GO_WITH_TOOLCHAINS = (1, 21)
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def build(component: Component, directory: Path, log: Path) -> None:
    """Build a component's executable into a directory.

    Parameters
    ----------
    component
        What to build.
    directory
        An empty directory; the executable is all that is left in it.
    log
        Gets the complete output of the Go command.

    Raises
    ------
    ClusterError
        Where Go is missing or too old, or the build fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    module = directory / "module"
    module.mkdir()
    downloaded = _go_json(
        component, log, module, "mod", "download", "-json", f"{component.module}@v{component.version}"
    )
    upstream = _go_json(component, log, module, "mod", "edit", "-json", downloaded["GoMod"])
    _check_go(component, upstream["Go"], module)
    (module / "go.mod").write_text(go_mod(component, upstream))
    flags = f"-s -w {version_flags(component)}".strip()
    target = directory / component.name
    # -mod=mod lets Go complete the requirements and checksums from the module's own go.mod, which pins all of them.
    arguments = ("build", "-mod=mod", "-trimpath", "-ldflags", flags, "-o", str(target), component.package)
    _go(component, log, module, *arguments)
    shutil.rmtree(module)


def download(module: str, version: str, directory: Path) -> Path:
    """Download a Go module, build nothing, and return the directory with its files.

    Parameters
    ----------
    module, version
        The module, and its version without the leading ``v``.
    directory
        An empty directory, which stays so.

    Raises
    ------
    ClusterError
        Where Go is missing, or the download fails.
    """
    command = ["go", "mod", "download", "-json", f"{module}@v{version}"]
    try:
        result = subprocess.run(
            command, cwd=directory, env=_go_environment(), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ClusterError(
            f"{module} v{version} has to be downloaded, but there is no Go in PATH. Install Go (https://go.dev/dl/)."
        ) from None
    if result.returncode:
        raise ClusterError(f"downloading {module} v{version} failed:\n{result.stdout}{result.stderr}")
    return Path(json.loads(result.stdout)["Dir"])


def go_mod(component: Component, upstream: dict[str, Any]) -> str:
    """Return a go.mod from which a component can be built.

    Parameters
    ----------
    component
        What is to be built.
    upstream
        The module's own go.mod, as ``go mod edit -json`` prints it.
    """
    lines = [f"module disaggregatedset.dev/e2e/{component.name}", f"go {upstream['Go']}"]
    lines.append(f"require {component.module} v{component.version}")
    if component.is_kubernetes:
        # Kubernetes requires its staging modules at v0.0.0 and takes them from its own tree; outside of that tree each
        # is published as v0.<minor>.<patch>.
        staging = f"v0.{component.version.split('.', 1)[1]}"
        paths = (required["Path"] for required in upstream["Require"] if required["Version"] == "v0.0.0")
        lines.extend(f"replace {path} => {path} {staging}" for path in paths)
    return "\n".join(lines) + "\n"


def version_flags(component: Component) -> str:
    """Return the linker flags that tell a binary its version. Without them kubectl refuses to work."""
    variables = list(component.variables)
    if component.is_kubernetes:
        major, minor = component.minor.split(".")
        values = {"gitVersion": f"v{component.version}", "gitMajor": major, "gitMinor": minor}
        variables += [(f"{package}.{key}", value) for package in _VERSION_PACKAGES for key, value in values.items()]
    return " ".join(f"-X {name}={value}" for name, value in variables)


def _go_environment() -> dict[str, str]:
    environment = {"GOTOOLCHAIN": "auto", **os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    # Binaries for another platform would be of no use here.
    environment.pop("GOOS", None)
    environment.pop("GOARCH", None)
    return environment


def _go(component: Component, log: Path, directory: Path, *arguments: str) -> str:
    command = ["go", *arguments]
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            result = subprocess.run(
                command,
                cwd=directory,
                env=_go_environment(),
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise ClusterError(
                f"{component} has to be built, but there is no Go in PATH. Install Go (https://go.dev/dl/), or set "
                f"KUBEBUILDER_ASSETS to a directory that has {component.name} {component.minor}."
            ) from None
        file.write(result.stdout)
    if result.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_OUTPUT_LINES:])
        raise ClusterError(f"building {component} failed:\n{tail}\nThe full output is in {log}")
    return result.stdout


def _go_json(component: Component, log: Path, directory: Path, *arguments: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(_go(component, log, directory, *arguments))
    return parsed


def _check_go(component: Component, needed: str, directory: Path) -> None:
    printed = subprocess.run(
        ["go", "env", "GOVERSION", "GOTOOLCHAIN"],
        cwd=directory, env=_go_environment(), capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    installed, toolchain = printed[0].removeprefix("go"), printed[1]
    fetches_newer = toolchain != "local" and _numbers(installed) >= _FIRST_GO_WITH_TOOLCHAINS
    if _numbers(installed) < _numbers(needed) and not fetches_newer:
        raise ClusterError(
            f"{component} needs Go {needed}, but Go {installed} is installed and may not fetch a newer one "
            f"(GOTOOLCHAIN={toolchain}). Install Go {needed}, set GOTOOLCHAIN=auto, or set KUBEBUILDER_ASSETS to a "
            f"directory that has {component.name} {component.minor}."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
