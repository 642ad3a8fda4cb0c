#!/usr/bin/env bash
# A base for deploy/Dockerfile where only package registries can be reached: Debian with its Python, and nothing that is
# not needed for it. Prints the image's name.
#
#   deploy/debian-base.sh [package...]    more packages of Debian
#
# What it makes is kept in $DSET_CACHE/images, by default ~/.cache/disaggregatedset/images, by everything it is made of but
# the versions that Debian has on the day: remove the file to have newer ones. Needs root, and installs mmdebstrap.
set -euo pipefail

readonly SUITE=bookworm SNAPSHOT=1735689600
readonly CACHE="${DSET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/disaggregatedset}/images"
readonly PACKAGES=(ca-certificates python3 python3-venv "$@")

say() { echo "debian-base.sh: $*" >&2; }

architecture="$(dpkg --print-architecture)"
key="$({ cat "$0"; echo "$architecture ${PACKAGES[*]}"; } | sha256sum | cut -c1-12)"
image="localhost/disaggregatedset-base:$SUITE-$key"
tarball="$CACHE/debian-$SUITE-$key.tar"

docker image inspect "$image" >/dev/null 2>&1 && { echo "$image"; exit; }

mkdir -p "$CACHE"
exec 9>"$CACHE/.lock"
flock 9
if [[ ! -f "$tarball" ]]; then
  if ! command -v mmdebstrap >/dev/null; then
    say "installing mmdebstrap"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mmdebstrap >/dev/null
  fi
  say "making $tarball, which takes two minutes"
  started=$SECONDS
  # All files have one time, and the archive one order: the same packages give the same bytes.
  SOURCE_DATE_EPOCH=$SNAPSHOT mmdebstrap --quiet --variant=essential --architectures="$architecture" \
    --include="$(IFS=,; echo "${PACKAGES[*]}")" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$SUITE" "$tarball.part.tar" >&2
  mv "$tarball.part.tar" "$tarball"
  say "made it in $((SECONDS - started)) s, $(du -m "$tarball" | cut -f1) MB"
fi
docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'ENV LANG=C.UTF-8' \
  --change 'CMD ["python3"]' "$tarball" "$image" >/dev/null
echo "$image"
