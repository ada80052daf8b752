#!/usr/bin/env bash
# Publishes one JSON value to a channel with curl.
#
#     PUSH_API_KEY=… ./publish.sh CHANNEL JSON [IDEMPOTENCY_KEY]
#
# PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.
# The answer of the server goes to stdout. The exit status is 1 if the publication was refused, or if its outcome is unknown.
set -euo pipefail

channel=${1:?usage: publish.sh CHANNEL JSON [IDEMPOTENCY_KEY]}
json=${2:?usage: publish.sh CHANNEL JSON [IDEMPOTENCY_KEY]}
# All tries of one publication share this key, so that the server publishes it once.
key=${3:-$(cat /proc/sys/kernel/random/uuid)}

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# --retry repeats the request after 503 and 504, and waits for as long as Retry-After says.
# --retry-all-errors repeats it after a broken connection too. Without --fail a 4xx is no error here, so it is not repeated.
# The name of a channel has no character that JSON would have to escape.
# The key goes through a file descriptor, because every user of the machine can read the arguments of a process.
status=$(curl --silent --show-error --max-time 60 --retry 3 --retry-all-errors \
    --output "$answer" --write-out '%{http_code}' \
    --header @<(printf 'Authorization: Bearer %s\n' "${PUSH_API_KEY:?is not set}") \
    --header 'Content-Type: application/json' \
    --header "Idempotency-Key: $key" \
    --data "{\"channel\":\"$channel\",\"data\":$json}" \
    "${PUSH_API_URL:-http://127.0.0.1:2346}/api/publish") || {
    echo "publish.sh: no answer; it is unknown whether the publication was accepted. Try again with the key $key" >&2
    exit 1
}

if [[ $status != 200 ]]; then
    echo "publish.sh: not published, HTTP $status: $(cat "$answer")" >&2
    exit 1
fi
cat "$answer"
echo
