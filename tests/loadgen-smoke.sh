#!/usr/bin/env bash
# A second of each of the load generator's commands against the real server; it fails if a delivery was lost, doubled or
# out of order. Its numbers are no measurement: the build is not the release one and the machine may be busy.
#   loadgen-smoke.sh SERVER LOADGEN
set -euo pipefail
server=${1:?usage: loadgen-smoke.sh SERVER LOADGEN} loadgen=${2:?usage: loadgen-smoke.sh SERVER LOADGEN}
scratch=$(mktemp -d)
export URINGCAST_AUTH__HS256_SECRET="the secret of a second of load, 32 bytes"
: "${LOADGEN_API_KEY:=a-key-of-a-second-of-load-32-bytes}"
export LOADGEN_API_KEY
URINGCAST_COMPRESSION__MODE=on URINGCAST_AUTH__DUPLICATE_LOGIN=allow URINGCAST_NAMESPACES__ROOM__PUBLISH=members \
    URINGCAST_HTTP__LISTEN=127.0.0.1:0 URINGCAST_HTTP__KEYS="[\"$LOADGEN_API_KEY\"]" \
    "$server" --listen 127.0.0.1:0 --shards 2 --echo >"$scratch/ready" 2>"$scratch/log" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$scratch"' EXIT
for ((tries = 0; tries < 200; tries++)); do
    [[ -s $scratch/ready ]] && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
address=$(sed -n 's|^listening on ws://\([^/]*\)/ws .*|\1|p' "$scratch/ready")
[[ -n $address ]] || { cat "$scratch/log"; echo "the server did not start"; exit 1; }
api=$(sed -n 's|.*HTTP API on \(http://[^ ]*\).*|\1|p' "$scratch/log")
[[ -n $api ]] || { cat "$scratch/log"; echo "the HTTP API did not start"; exit 1; }

run() {
    echo "loadgen $*"
    "$loadgen" "$@" --timeout 20 </dev/null
}
run echo --url "ws://$address/echo" --connections 20 --pipeline 4 --seconds 1 --warmup 0.2
run fanout --url "ws://$address/ws" --subscribers 200 --publishers 4 --seconds 1 --warmup 0.2
run connect --url "ws://$address/ws" --connections 500 --settle 0 --pid "$pid"
run chat --url "ws://$address/ws" --connections 100 --churn 40 --away-ms 100 --seconds 1 --warmup 0.2 --threads 2
run storm --url "ws://$address/ws" --connections 500 --before 0.3 --jitter-ms 200 --threads 2 --html "$scratch/storm.html"
rooms=(--url "ws://$address/ws" --users same --seconds 1 --warmup 0.2)
run channels "${rooms[@]}" -c 100 -k 10 --fanout 20 --window 4
run channels "${rooms[@]}" -c 100 -k 10 --fanout 20 --rate 200 --threads 2
run channels "${rooms[@]}" -c 100 -k 10 --fanout 20 --do reply
run channels "${rooms[@]}" -c 100 -k 10 --fanout 20 --do subscribe --window 4 --pid "$pid"
run api "${rooms[@]}" --api "$api" -c 4 --pipeline 4 -n 3
run api "${rooms[@]}" --api "$api" -c 1 --broadcast 20 -n 20
run api "${rooms[@]}" --api "$api" -c 20 -n 0 --idle --settle 0.1 --pid "$pid"
run newcomers --url "ws://$address/ws" -n 60 --newcomers 20
run fanout --url "ws://$address/ws" --users same --subscribers 50 --rate 100 --last --seconds 1 --warmup 0.2
# All of it once more with compression; with windows of their own, and each message by itself.
small="permessage-deflate; server_no_context_takeover; server_max_window_bits=10; client_max_window_bits=9"
run echo --url "ws://$address/echo" --connections 20 --payload 600 --seconds 1 --warmup 0.2 --compress
run fanout --url "ws://$address/ws" --subscribers 100 --payload 1024 --content feed --window 16 --seconds 1 --compress
run fanout --url "ws://$address/ws" --subscribers 100 --payload 1024 --content feed --window 16 --seconds 1 --compress="$small"
run chat --url "ws://$address/ws" --connections 50 --churn 20 --away-ms 100 --payload 600 --seconds 1 --compress="$small"
run storm --url "ws://$address/ws" --connections 100 --before 0.3 --payload 600 --compress
run abuse --url "ws://$address/ws" --connections 50 --abusers 20 --seconds 0.3 --pid "$pid"

kill "$pid"
trap 'rm -rf "$scratch"' EXIT
wait "$pid" || { cat "$scratch/log"; echo "the server did not end well"; exit 1; }

cat >"$scratch/servers.toml" <<END
[[server]]
name = "uringcast"
command = ["$(realpath "$server")", "--listen", "127.0.0.1:0", "--shards", "1", "--echo"]
env = { URINGCAST_AUTH__DUPLICATE_LOGIN = "allow" }
END
run suite --servers "$scratch/servers.toml" --rounds 1 --seconds 0.3 --scale-down 50 --html "$scratch/suite.html"
grep -q '<svg' "$scratch/suite.html" && grep -q '<svg' "$scratch/storm.html"
