#!/usr/bin/env bash
# Installs what tests need beside Python packages: a PostgreSQL and a Redis server, which tests start
# and stop themselves, and Chromium, in which they use the pages. Quick when all are there. Without
# root it only says what to do, and the tests that need what is missing fail.
set -euo pipefail

missing=()
command -v initdb >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null \
  || missing+=(postgresql)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} = 0 ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Tests need more; on Debian: sudo apt-get install --yes ${missing[*]}" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2

# No server of the system's own: nothing shall run when the tests have ended.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
fi
for package in "${missing[@]}"; do
  if [ "$package" = postgresql ]; then
    apt-get install --yes --quiet=2 --no-install-recommends postgresql-common
    sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' \
      /etc/postgresql-common/createcluster.conf
  fi
  apt-get install --yes --quiet=2 --no-install-recommends "$package"
  if [ "$package" = redis-server ]; then
    update-rc.d redis-server disable  # nor at the next start of the machine
  fi
done
