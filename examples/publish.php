<?php
/**
 * Publishes one JSON value to a channel, with PHP 8 and no extension.
 *
 *     PUSH_API_KEY=… php publish.php CHANNEL JSON [IDEMPOTENCY_KEY]
 *
 * PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.
 */
declare(strict_types=1);

const TRIES = 5;

/** The server refused the publication, or its outcome is unknown. */
final class PublishError extends RuntimeException
{
}

/**
 * Publishes $data and returns the server's answer: the channel's epoch and the publication's offset.
 *
 * @return array<string, mixed>
 */
function publish(string $channel, mixed $data, ?string $idempotencyKey = null): array
{
    // All tries of one publication share this key, so that the server publishes it once.
    $idempotencyKey ??= bin2hex(random_bytes(16));
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Authorization: Bearer ' . getenv('PUSH_API_KEY'), 'Content-Type: application/json'],
        'content' => json_encode(
            ['channel' => $channel, 'data' => $data, 'idempotency_key' => $idempotencyKey],
            JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION,
        ),
        'timeout' => 15,
        'ignore_errors' => true, // so that the body of a 4xx or 5xx can be read
    ]]);
    $url = (getenv('PUSH_API_URL') ?: 'http://127.0.0.1:2346') . '/api/publish';
    for ($attempt = 0; $attempt < TRIES; $attempt++) {
        $pause = 0.2 * 2 ** $attempt;
        $stream = @fopen($url, 'r', false, $context);
        if ($stream === false) {
            // The connection broke or nothing came in time. The outcome is unknown.
            $failure = 'no answer: ' . (error_get_last()['message'] ?? 'the request failed');
        } else {
            $headers = stream_get_meta_data($stream)['wrapper_data'];
            $body = (string) stream_get_contents($stream);
            fclose($stream);
            $status = (int) explode(' ', $headers[0])[1];
            if ($status === 200) {
                return json_decode($body, true, flags: JSON_THROW_ON_ERROR);
            }
            $failure = "HTTP $status: $body";
            // 503: not published. 504: the outcome is unknown. The same request may be sent again after both.
            if ($status !== 503 && $status !== 504) {
                throw new PublishError($failure);
            }
            foreach ($headers as $header) {
                if (preg_match('/^Retry-After: *(\d+)$/i', $header, $found)) {
                    $pause = (float) $found[1];
                }
            }
        }
        if ($attempt < TRIES - 1) {
            usleep((int) ($pause * 1_000_000));
        }
    }
    throw new PublishError('given up after ' . TRIES . " tries with the key $idempotencyKey: $failure");
}

if ($argc !== 3 && $argc !== 4) {
    fwrite(STDERR, "usage: publish.php CHANNEL JSON [IDEMPOTENCY_KEY]\n");
    exit(1);
}
try {
    // Objects stay objects: as an array an empty one would be written as [].
    $data = json_decode($argv[2], false, flags: JSON_THROW_ON_ERROR);
    echo json_encode(publish($argv[1], $data, $argv[3] ?? null), JSON_UNESCAPED_SLASHES), "\n";
} catch (PublishError | JsonException $error) {
    fwrite(STDERR, "publish.php: {$error->getMessage()}\n");
    exit(1);
}
