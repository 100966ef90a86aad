#!/usr/bin/env bash
# Install what the tests need besides Python packages: a PostgreSQL and a Redis server, which the
# tests start and stop themselves, and Chromium. Does nothing if all of them are there. Without root
# it prints the command that installs what is missing, and fails.
set -euo pipefail
# A plain `su` leaves these out of PATH: update-rc.d and dpkg's own programs are there.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
command -v initdb >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null \
  || missing+=(postgresql)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} = 0 ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need these programs, which are not installed: ${missing[*]}." >&2
  echo "On Debian or Ubuntu: sudo apt-get install --yes ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2

# Do not let the packages start servers of their own.
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
    update-rc.d redis-server disable  # nor when the machine boots
  fi
done
