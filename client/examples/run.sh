#!/bin/sh
# Runs a script on a node, waits for its end for at most a minute, and prints the job as JSON.
#
#   FLEETBUS_URL=http://127.0.0.1:8000 FLEETBUS_TOKEN=fb_… sh run.sh SCRIPT NODE
set -eu

key=$(cat /proc/sys/kernel/random/uuid)

curl --silent --show-error --fail-with-body --retry 10 --retry-connrefused --retry-max-time 60 \
  --header "Authorization: Bearer $FLEETBUS_TOKEN" \
  --header "Content-Type: application/json" \
  --header "Idempotency-Key: $key" \
  --data "{\"script\": \"$1\", \"target\": {\"node\": \"$2\"}}" \
  "$FLEETBUS_URL/api/v1/jobs?wait=60"
