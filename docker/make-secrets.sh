#!/usr/bin/env bash
# Creates the secrets of an installation once; existing secrets are kept.
#   docker/make-secrets.sh [address of PostgreSQL and Redis for workers on other machines]
# The folder is closed to other users of this machine; the files in it are world-readable, because
# the containers read them as a user that does not exist here.
set -euo pipefail

folder="$(cd "$(dirname "$0")" && pwd)/secrets"
install --directory --mode 0700 "$folder"

keep() {  # keep NAME: write what comes in, unless the file is there
  local file="$folder/$1"
  if [ -e "$file" ]; then cat > /dev/null; else cat > "$file"; chmod 0644 "$file"; fi
}
random() { head --bytes 32 /dev/urandom | base64 --wrap 0 | tr '+/' '-_' | tr --delete '='; }

random | keep secret_key
random | keep metrics_token
random | keep database_password
random | keep broker_password
database="$(cat "$folder/database_password")"
broker="$(cat "$folder/broker_password")"
printf 'postgres://meta:%s@%s:5432/meta' "$database" postgres | keep database_url
printf 'redis://:%s@%s:6379/0' "$broker" redis | keep broker_url

if [ $# = 1 ]; then
  install --directory --mode 0700 "$folder/for-workers"
  printf 'postgres://meta:%s@%s:5432/meta' "$database" "$1" | keep for-workers/database_url
  printf 'redis://:%s@%s:6379/0' "$broker" "$1" | keep for-workers/broker_url
  keep for-workers/secret_key < "$folder/secret_key"
  echo "for other machines: copy $folder/for-workers to docker/secrets there"
fi
