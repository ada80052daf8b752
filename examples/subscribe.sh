#!/usr/bin/env bash
# Subscribes to channels with curl, by server-sent events, and prints the data of each event: one JSON message.
#
#     PUSH_TOKEN=… ./subscribe.sh CHANNEL...
#
# PUSH_URL is the address of the server, http://127.0.0.1:2345 unless it is set. To look at a channel for a moment, this is enough:
#
#     curl -N -H "Authorization: Bearer $PUSH_TOKEN" 'http://127.0.0.1:2345/sse?channel=news'
#
# The rest of this file connects again after a cut and goes on where it was, as EventSource does in a browser.
set -uo pipefail

: "${1:?usage: subscribe.sh CHANNEL...}" "${PUSH_TOKEN:?is not set}"
channels=()
for channel in "$@"; do channels+=(--data-urlencode "channel=$channel"); done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The id of the last event, and how long the server asks to wait before a reconnect.
: >"$work/id"
echo 1000 >"$work/retry_ms"

# Prints the events of a stream. An event ends with an empty line: one that is cut off before never happened.
# Lines that begin with a colon are comments, which keep the connection alive.
print_events() {
    local line id='' data=''
    while IFS= read -r line; do
        case $line in
        'id: '*) id=${line#id: } ;;
        'data: '*) data+=${data:+$'\n'}${line#data: } ;;
        'retry: '*) echo "${line#retry: }" >"$work/retry_ms" ;;
        '')
            [[ -z $data ]] || printf '%s\n' "$data"
            [[ -z $id ]] || printf '%s\n' "$id" >"$work/id"
            id='' data=''
            ;;
        esac
    done
}

failures=0
while :; do
    : >"$work/head"
    # The id holds the positions of all channels of the stream, so the server knows what was missed.
    resume=()
    [[ ! -s $work/id ]] || resume=(--header "Last-Event-ID: $(<"$work/id")")
    # --no-buffer prints each event at once. A connection without a byte for 60 s is dead, because the server sends comments.
    # The token goes through a file descriptor: every user of the machine can read the arguments of a process.
    curl --silent --no-buffer --fail --get "${channels[@]}" --dump-header "$work/head" --speed-limit 1 --speed-time 60 \
        --header @<(printf 'Authorization: Bearer %s\n' "$PUSH_TOKEN") "${resume[@]}" \
        "${PUSH_URL:-http://127.0.0.1:2345}/sse" | print_events
    # An id that begins with "!" closes the stream for good, and 204 says so again.
    status=$(sed -n '1s/^[^ ]* \([0-9]*\).*/\1/p' "$work/head")
    if [[ $status == 204 || $(<"$work/id") == '!'* || ($status == 4?? && $status != 429) ]]; then
        echo "subscribe.sh: the stream has ended for good: HTTP $status, id $(<"$work/id")" >&2
        exit 1
    fi
    # The pause is random, so that the clients of a server that restarts do not come back all at once.
    if [[ $status == 200 ]]; then failures=0; else failures=$((failures < 5 ? failures + 1 : 5)); fi
    pause_ms=$(($(<"$work/retry_ms") * (1 << failures) * (500 + RANDOM % 500) / 1000))
    echo "connection lost (HTTP ${status:-none}): connecting again in $pause_ms ms" >&2
    sleep "$((pause_ms / 1000)).$(printf %03d $((pause_ms % 1000)))"
done
