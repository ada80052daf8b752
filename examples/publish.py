"""Publishes one JSON value to a channel, with Python's standard library.

    PUSH_API_KEY=… python3 publish.py CHANNEL JSON [IDEMPOTENCY_KEY]

PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

API = os.environ.get("PUSH_API_URL", "http://127.0.0.1:2346")
TRIES = 5


class PublishError(Exception):
    """The server refused the publication, or its outcome is unknown."""


def publish(channel, data, idempotency_key=None):
    """Publishes `data` and returns the server's answer: the channel's epoch and the publication's offset."""
    # All tries of one publication share this key, so that the server publishes it once.
    body = {"channel": channel, "data": data, "idempotency_key": idempotency_key or str(uuid.uuid4())}
    request = urllib.request.Request(
        f"{API}/api/publish",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['PUSH_API_KEY']}", "Content-Type": "application/json"},
    )
    for attempt in range(TRIES):
        pause = 0.2 * 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                failure = f"HTTP {error.code}: {error.read().decode(errors='replace')}"
                # 503: not published. 504: the outcome is unknown. The same request may be sent again after both.
                if error.code not in (503, 504):
                    raise PublishError(failure) from None
                pause = float(error.headers.get("Retry-After", pause))
        except (OSError, http.client.HTTPException) as error:
            # The connection broke or nothing came in time. The outcome is unknown.
            failure = f"no answer: {error}"
        if attempt < TRIES - 1:
            time.sleep(pause)
    raise PublishError(f"given up after {TRIES} tries with the key {body['idempotency_key']}: {failure}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: publish.py CHANNEL JSON [IDEMPOTENCY_KEY]")
    try:
        print(json.dumps(publish(sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:])))
    except PublishError as error:
        sys.exit(f"publish.py: {error}")
