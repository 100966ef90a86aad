#!/usr/bin/env bash
# Installs what tests need beside Python packages: a PostgreSQL server, which tests start and stop
# themselves. Quick when there is one. Without root it only says what to do, and the tests fail.
set -euo pipefail

if command -v initdb >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Tests need a PostgreSQL server; on Debian: sudo apt-get install --yes postgresql" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# No cluster of the system's own: nothing shall run when the tests have ended.
apt-get install --yes --quiet=2 --no-install-recommends postgresql-common
sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' \
  /etc/postgresql-common/createcluster.conf
apt-get install --yes --quiet=2 --no-install-recommends postgresql
