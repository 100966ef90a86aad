#!/usr/bin/env bash
# Installs what tests need beside Python packages: a PostgreSQL server, which tests start and stop
# themselves, and Chromium, in which they use the pages. Quick when both are there. Without root it
# only says what to do, and the tests that need what is missing fail.
set -euo pipefail

missing=()
command -v initdb >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null \
  || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} = 0 ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Tests need more; on Debian: sudo apt-get install --yes ${missing[*]}" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
for package in "${missing[@]}"; do
  if [ "$package" = postgresql ]; then
    # No cluster of the system's own: nothing shall run when the tests have ended.
    apt-get install --yes --quiet=2 --no-install-recommends postgresql-common
    sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' \
      /etc/postgresql-common/createcluster.conf
  fi
  apt-get install --yes --quiet=2 --no-install-recommends "$package"
done
