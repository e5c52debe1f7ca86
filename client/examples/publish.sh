#!/bin/sh
# Tells a fact of a service, with curl 7.76 or later.
#
#   FLEETBUS_URL=http://127.0.0.1:8000 FLEETBUS_TOKEN=fb_… sh publish.sh
#
# The key makes it safe to send the same again when no answer came, which --retry does for at most a minute.
set -eu

key=$(cat /proc/sys/kernel/random/uuid)

curl --silent --show-error --fail-with-body --retry 10 --retry-connrefused --retry-max-time 60 \
  --header "Authorization: Bearer $FLEETBUS_TOKEN" \
  --header "Content-Type: application/json" \
  --header "Idempotency-Key: $key" \
  --data '{"type": "event.billing.invoice.paid", "subject": "invoice 17", "data": {"amount": 12.5}}' \
  "$FLEETBUS_URL/api/v1/events"
