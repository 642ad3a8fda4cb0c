"""Writes and reads kubeconfig files."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.errors import ClusterError
from e2e.cluster.pki import KeyPair


@dataclass(frozen=True)
class Access:
    """What a client needs in order to talk to an API server.

    Attributes
    ----------
    server
        Its URL.
    authority
        PEM of the certificate authority to trust.
    certificate, key
        PEM of a client's certificate and key, or None.
    token
        A bearer token, or None.
    """

    server: str
    authority: str
    certificate: str | None = None
    key: str | None = None
    token: str | None = None


def with_certificate(server: str, authority: Path, pair: KeyPair) -> Access:
    """Return the access of a client that has a certificate."""
    return Access(server, authority.read_text(), pair.certificate.read_text(), pair.key.read_text())


def write(path: Path, access: Access, *, name: str, namespace: str = "default") -> Path:
    """Write a kubeconfig that needs no other file, and return its path.

    Parameters
    ----------
    path
        Where to; only its owner may read it.
    access
        What it grants.
    name
        Name of its cluster, user and context.
    namespace
        Default namespace of its context.
    """
    user: dict[str, str] = {}
    if access.certificate and access.key:
        user = {"client-certificate-data": _encode(access.certificate), "client-key-data": _encode(access.key)}
    if access.token:
        user = {"token": access.token}
    cluster = {"server": access.server, "certificate-authority-data": _encode(access.authority)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def read(path: Path) -> Access:
    """Read the current context of a kubeconfig.

    Raises
    ------
    ClusterError
        If it authenticates by anything but a certificate or a token.
    """
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    access = Access(
        server=cluster["server"],
        authority=_pem(cluster, "certificate-authority", path) or "",
        certificate=_pem(user, "client-certificate", path),
        key=_pem(user, "client-key", path),
        token=user.get("token"),
    )
    if not (access.token or (access.certificate and access.key)):
        raise ClusterError(f"the user of {path} has neither a client certificate nor a token")
    return access


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in items if item["name"] == name)


def _pem(section: dict[str, str], key: str, path: Path) -> str | None:
    if data := section.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    if file := section.get(key):
        return (path.parent / file).read_text()
    return None
