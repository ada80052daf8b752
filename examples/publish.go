// Publishes one JSON value to a channel, with Go's standard library.
//
//	PUSH_API_KEY=… go run publish.go CHANNEL JSON [IDEMPOTENCY_KEY]
//
// PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const tries = 5

var client = &http.Client{Timeout: 15 * time.Second}

// Publication is the body of the request.
type Publication struct {
	Channel        string          `json:"channel"`
	Data           json.RawMessage `json:"data"`
	IdempotencyKey string          `json:"idempotency_key"`
}

// Accepted is the answer of the server.
type Accepted struct {
	Channel   string `json:"channel"`
	Epoch     string `json:"epoch"`
	Offset    uint64 `json:"offset"`
	Duplicate bool   `json:"duplicate,omitempty"`
}

// publish sends p until the server has answered it. All tries share one idempotency key, so that the server
// publishes it once.
func publish(api, key string, p Publication) (*Accepted, error) {
	if p.IdempotencyKey == "" {
		random := make([]byte, 16)
		if _, err := rand.Read(random); err != nil {
			return nil, err
		}
		p.IdempotencyKey = hex.EncodeToString(random)
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // "<" in the data stays "<"
	if err := encoder.Encode(p); err != nil {
		return nil, err
	}
	var failure error
	for attempt := 0; attempt < tries; attempt++ {
		accepted, again, pause, err := try(api, key, body.Bytes())
		if err == nil || !again {
			return accepted, err
		}
		failure = err
		if pause < 0 {
			pause = 200 * time.Millisecond << attempt
		}
		if attempt < tries-1 {
			time.Sleep(pause)
		}
	}
	return nil, fmt.Errorf("given up after %d tries with the key %s: %w", tries, p.IdempotencyKey, failure)
}

// try sends the request once. `again` says whether the request may be sent again, and pause, unless it is
// negative, how long the server asks to wait before that.
func try(api, key string, body []byte) (accepted *Accepted, again bool, pause time.Duration, err error) {
	request, err := http.NewRequest(http.MethodPost, api+"/api/publish", bytes.NewReader(body))
	if err != nil {
		return nil, false, -1, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		// The connection broke or nothing came in time. The outcome is unknown.
		return nil, true, -1, fmt.Errorf("no answer: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, true, -1, fmt.Errorf("no whole answer: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		accepted = new(Accepted)
		return accepted, false, -1, json.Unmarshal(text, accepted)
	}
	// 503: not published. 504: the outcome is unknown. The same request may be sent again after both.
	again = answer.StatusCode == http.StatusServiceUnavailable || answer.StatusCode == http.StatusGatewayTimeout
	pause = -1
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		pause = time.Duration(seconds) * time.Second
	}
	return nil, again, pause, fmt.Errorf("HTTP %d: %s", answer.StatusCode, text)
}

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: publish CHANNEL JSON [IDEMPOTENCY_KEY]")
		os.Exit(1)
	}
	api := os.Getenv("PUSH_API_URL")
	if api == "" {
		api = "http://127.0.0.1:2346"
	}
	p := Publication{Channel: os.Args[1], Data: json.RawMessage(os.Args[2])}
	if len(os.Args) == 4 {
		p.IdempotencyKey = os.Args[3]
	}
	accepted, err := publish(api, os.Getenv("PUSH_API_KEY"), p)
	if err != nil {
		fmt.Fprintln(os.Stderr, "publish.go:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(accepted)
}
