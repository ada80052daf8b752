#!/usr/bin/env bash
# Publishes many values in one request with curl: each line of the input is a publication.
#
#     PUSH_API_KEY=… ./publish_lines.sh < publications.ndjson
#
# A line is a JSON object: {"channel":"news","data":{"headline":"It works"},"idempotency_key":"7f3a"}. Give each line an
# idempotency_key: the request is sent again if its outcome is unknown, and then no line is published twice.
# PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.
# The server's answer goes to stdout: a line for each publication. The exit status is 1 if one was not published.
set -euo pipefail

answer=$(mktemp)
lines=$(mktemp)
trap 'rm -f "$answer" "$lines"' EXIT
# The request may be sent more than once, and the input can be read once.
cat > "$lines"

status=$(curl --silent --show-error --max-time 60 --retry 3 --retry-all-errors \
    --output "$answer" --write-out '%{http_code}' \
    --header @<(printf 'Authorization: Bearer %s\n' "${PUSH_API_KEY:?is not set}") \
    --header 'Content-Type: application/x-ndjson' \
    --data-binary "@$lines" \
    "${PUSH_API_URL:-http://127.0.0.1:2346}/api/publish") || {
    echo "publish_lines.sh: no answer; it is unknown what was accepted. Try again with the same keys" >&2
    exit 1
}

cat "$answer"
if [[ $status != 200 ]]; then
    echo "publish_lines.sh: nothing was published, HTTP $status" >&2
    exit 1
fi
# Only a publication that was not accepted has this member, and a text in JSON has no bare quote.
if grep -q '"error":{' "$answer"; then
    echo "publish_lines.sh: not all lines were published" >&2
    exit 1
fi
