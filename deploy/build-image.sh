#!/usr/bin/env bash
# Builds the operator's image, and puts its SBOM beside it: see `make image`.
#
#   IMAGE   name and tag
#   BASE    base image; by default the Dockerfile's. `debian`: that of debian-base.sh, for where only package registries can be
#           reached. `any`: the Dockerfile's where it can be pulled, and `debian` otherwise
#   SBOM    file that gets the SBOM (CycloneDX)
set -euo pipefail
cd "$(dirname "$0")/.."

version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' operator/disaggregatedset/__init__.py)"
image="${IMAGE:-disaggregatedset:$version}"
sbom="${SBOM:-dist/disaggregatedset-$version.cdx.json}"
default_base="$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)"

e2e/docker.sh up

# Docker's command from version 23 on builds by its plugin buildx only; before, it has BuildKit itself.
if docker buildx version >/dev/null 2>&1; then
  build=(docker buildx build --load --provenance=false)
else
  build=(env DOCKER_BUILDKIT=1 docker build)
  for candidate in docker /usr/bin/docker; do
    major="$("$candidate" version --format '{{.Client.Version}}' 2>/dev/null | cut -d. -f1)"
    [[ -n "$major" && "$major" -lt 23 ]] && build=(env DOCKER_BUILDKIT=1 "$candidate" build) && break
  done
fi

base="${BASE:-}"
if [[ "$base" == any ]]; then
  if docker image inspect "$default_base" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$default_base" >&2; then
    base=
  else
    echo "build-image.sh: $default_base can't be pulled; taking Debian's packages" >&2
    base=debian
  fi
fi
[[ "$base" == debian ]] && base="$(deploy/debian-base.sh)"

arguments=(--file deploy/Dockerfile --tag "$image" --build-arg "BASE=${base:-$default_base}" --build-arg "VERSION=$version")
if revision="$(git rev-parse HEAD 2>/dev/null)"; then
  # The time of the commit: building it again tomorrow gives the same files.
  epoch="$(git log -1 --format=%ct)"
  mapfile -t sources < <(sed -n 's/^!//p' .dockerignore)
  [[ -z "$(git status --porcelain -- "${sources[@]}" deploy/Dockerfile)" ]] || revision+="-dirty"
  arguments+=(--build-arg "REVISION=$revision")
fi
arguments+=(--build-arg "SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-${epoch:-0}}")
# Where the registries are reached through a proxy with a certificate authority of its own, the build must trust it too.
[[ -n "${SSL_CERT_FILE:-}" ]] && arguments+=(--secret "id=ca,src=$SSL_CERT_FILE")
# Where containers have no network of their own, that of the host: BUILD_ARGS=--network=host.
# shellcheck disable=SC2086
"${build[@]}" "${arguments[@]}" ${BUILD_ARGS:-} . >&2

mkdir -p "$(dirname "$sbom")"
container="$(docker create "$image")"
trap 'docker rm "$container" >/dev/null' EXIT
docker cp "$container:/app/share/sbom/disaggregatedset.cdx.json" "$sbom" >/dev/null
echo "$image $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%.0f MB", $1 / 1e6}'), SBOM: $sbom"
