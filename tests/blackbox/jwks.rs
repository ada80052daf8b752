//! Keys by URL (docs/security.md): the server fetches them, a token with an unknown key waits for the next fetch, and
//! whatever the address answers, the keys that were fetched before stay in force.

use std::time::{Duration, Instant};

use jsonwebtoken::Header;
use serde_json::{Value, json};

use crate::metrics::Metrics;
use crate::support::key_server::{KeyServer, Reply, TestKey, key_set, response};
use crate::support::tls::Files;
use crate::support::{Client, DEADLINE, Options, Server, now_s, token, until};

async fn accepted(server: &Server, token: &str) -> Client {
    Client::join_with(server, token).await.0
}

fn fetches(outcome: &str) -> String {
    format!("uringcast_jwks_fetches_total{{outcome=\"{outcome}\"}}")
}

async fn fetched(server: &Server) -> Metrics {
    let metrics = Metrics::of(server).await;
    metrics.reach("uringcast_jwks_keys", |keys| keys > 0).await;
    metrics
}

#[tokio::test]
async fn keys_rotate_while_clients_are_connected() {
    let (old, new) = (TestKey::ed("2026-10"), TestKey::ec("2026-11"));
    let keys = KeyServer::start(&[&old]).await;
    let server = keys.options().start();
    let metrics = fetched(&server).await;
    let request = keys.last_request();
    assert!(request.starts_with("GET /keys.json?site=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains(&format!("host: {}\r\n", keys.addr)), "{request}");

    let mut first = accepted(&server, &old.token(1)).await;
    keys.publish(&[&new]);
    // Several at once, on both shards: they share the fetches that the server makes for them.
    let mut clients = Vec::new();
    for user in 2..12 {
        let mut client = Client::open(&server).await;
        client.send(&json!({"type": "auth", "data": {"token": new.token(user)}})).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.expect("auth_success").await;
    }
    assert_eq!(keys.requests(), 2, "one at the start and one for the new key");
    assert_eq!(metrics.get(&fetches("changed")).await, 2);

    // Who is connected stays, and can go on with a token by the new key.
    first.send(&json!({"type": "refresh", "id": "r", "data": {"token": new.token(1)}})).await;
    while first.next().await["type"] != "refreshed" {}
    Client::is_refused(&server, &old.token(20)).await;
    assert_eq!(keys.requests(), 2, "an unknown key is asked for once in 30 s");
    server.logged("new keys were fetched from http://127.0.0.1").await;
    assert!(!server.log().contains("site=1"), "a query may hold a secret");
}

#[tokio::test]
async fn a_client_s_messages_keep_their_order_while_its_token_waits() {
    let (old, new) = (TestKey::ed("a"), TestKey::ec("b"));
    let keys = KeyServer::start(&[&old]).await;
    let server = keys.options().start();
    let metrics = fetched(&server).await;
    keys.reply(Reply::Held);
    let mut client = Client::open(&server).await;
    let subscribe = |channel: &str| {
        let claims = json!({"sub": 1, "channel": channel, "exp": now_s() + 600});
        json!({"type": "subscribe", "id": channel, "data": {"channel": channel, "token": new.sign(&claims)}})
    };
    client
        .pipeline(&[
            json!({"type": "heartbeat", "id": "before"}),
            json!({"type": "auth", "id": "auth", "data": {"token": new.token(1)}}),
            json!({"type": "heartbeat", "id": "after"}),
            subscribe("news"),
            json!({"type": "users", "id": "users"}),
        ])
        .await;
    assert_eq!(client.expect("heartbeat").await["id"], "before");
    metrics.reach("uringcast_tokens_put_off_total", |count| count == 1).await;
    // Others are served meanwhile.
    accepted(&server, &old.token(2)).await.leave().await;
    keys.publish(&[&old, &new]);
    let mut ids = Vec::new();
    while ids.len() < 4 {
        let answer = client.next().await;
        assert!(answer["type"] != "error" && answer["type"] != "auth_failed", "{answer}");
        if let Some(id) = answer["id"].as_str() {
            ids.push(id.to_owned());
        }
    }
    // Two channels may have two owners, whose answers come in any order.
    ids[2..].sort();
    assert_eq!(ids, ["auth", "after", "news", "users"]);
    assert_eq!(keys.requests(), 2);
}

#[tokio::test]
async fn every_way_to_show_a_token_waits_for_its_key() {
    let (old, new) = (TestKey::ed("a"), TestKey::ec("b"));
    let of_channel = |key: &TestKey| key.sign(&json!({"sub": 1, "channel": "news", "exp": now_s() + 600}));
    for way in ["auth", "auth.channels", "refresh", "subscribe", "refresh of a channel"] {
        let keys = KeyServer::start(&[&old]).await;
        let server = keys.options().env("URINGCAST_CHANNELS__SUBSCRIBE", "token").start();
        fetched(&server).await;
        let sign_in = |channels: Value| json!({"type": "auth", "data": {"token": old.token(1), "channels": channels}});
        let subscribe = |token: String| json!({"type": "subscribe", "data": {"channel": "news", "token": token}});
        let mut client = Client::open(&server).await;
        let (first, second, expected) = match way {
            "auth" => (None, json!({"type": "auth", "data": {"token": new.token(1)}}), "auth_success"),
            "auth.channels" => (None, sign_in(json!([{"channel": "news", "token": of_channel(&new)}])), "subscribed"),
            "refresh" => {
                (Some(sign_in(json!([]))), json!({"type": "refresh", "data": {"token": new.token(1)}}), "refreshed")
            }
            "subscribe" => (Some(sign_in(json!([]))), subscribe(of_channel(&new)), "subscribed"),
            _ => (
                Some(sign_in(json!([{"channel": "news", "token": of_channel(&old)}]))),
                json!({"type": "refresh", "data": {"channel": "news", "token": of_channel(&new)}}),
                "refreshed",
            ),
        };
        if let Some(first) = first {
            client.send(&first).await;
            client.find(if way == "refresh of a channel" { "subscribed" } else { "auth_success" }).await;
        }
        keys.publish(&[&old, &new]);
        client.send(&second).await;
        loop {
            let answer = client.next().await;
            assert!(answer["type"] != "error" && answer["type"] != "auth_failed", "{way}: {answer}");
            if answer["type"] == expected {
                break;
            }
        }
        assert_eq!(keys.requests(), 2, "{way}");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let (known, unknown) = (TestKey::ed("a"), TestKey::ec("made up"));
    let keys = KeyServer::start(&[&known]).await;
    let evil = KeyServer::start(&[&unknown]).await;
    let server = keys
        .options()
        .env("URINGCAST_LIMITS__AUTH_FAILURES_PER_IP_PER_MINUTE", 0)
        .env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow")
        .start();
    let metrics = fetched(&server).await;
    let began = Instant::now();
    // What a token says of where its key is, is not looked at.
    let header = Header { jku: Some(evil.url()), x5u: Some(evil.url()), ..Header::default() };
    let claims = json!({"sub": 1, "exp": now_s() + 600, "iss": evil.url()});
    let token = unknown.sign_with(header, &claims);
    for _ in 0..5 {
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = Client::open(&server).await;
            client.send(&json!({"type": "auth", "data": {"token": token}})).await;
            clients.push(client);
        }
        for mut client in clients {
            client.expect("auth_failed").await;
            client.closed(4401).await;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(30), "a machine that is too slow for this test");
    assert_eq!((keys.requests(), evil.requests()), (2, 0));
    assert_eq!(metrics.get("uringcast_tokens_refused_total{reason=\"no_key\"}").await, 50);
    assert_eq!(metrics.get(&fetches("same")).await, 1);
    accepted(&server, &known.token(1)).await;
    assert_eq!(keys.requests(), 2);
}

#[tokio::test]
async fn a_server_starts_without_its_keys_and_takes_them_when_they_come() {
    let key = TestKey::ed("a");
    let keys = KeyServer::start(&[&key]).await;
    keys.reply(Reply::Hangup);
    let server = keys.options().env("URINGCAST_AUTH__HS256_SECRET", crate::support::SECRET).start();
    server.logged("No keys have been fetched since the start").await;
    accepted(&server, &token(1, "by the secret")).await.leave().await;
    Client::is_refused(&server, &key.token(2)).await;
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_jwks_keys").await, 0);
    keys.publish(&[&key]);
    metrics.reach("uringcast_jwks_keys", |keys| keys == 1).await;
    accepted(&server, &key.token(2)).await.leave().await;
    assert_eq!(metrics.get("uringcast_jwks_age_seconds").await / 60, 0);
}

#[tokio::test]
async fn old_keys_stay_in_force_whatever_the_address_answers() {
    let (old, new) = (TestKey::ed("a"), TestKey::ec("b"));
    let keys = KeyServer::start(&[&old]).await;
    let elsewhere = KeyServer::start(&[&new]).await;
    let server = keys.options().start();
    let metrics = fetched(&server).await;
    let set = key_set(&[&new]);
    let ok = |fields: &str, body: &str| response("200 OK", fields, body);
    let location = format!("Location: {}\r\n", elsewhere.url());
    let many: Vec<TestKey> = (0..33).map(|_| TestKey::ec("same")).collect();
    let answers = [
        ("unreachable", Reply::Hangup),
        ("unreachable", Reply::Bytes(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())),
        ("unreachable", Reply::Bytes(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n{set}", "x".repeat(70_000)).into())),
        ("refused", response("500 Internal Server Error", "", &set)),
        ("refused", response("404 Not Found", "", &set)),
        ("refused", response("204 No Content", "", "")),
        ("refused", response("302 Found", &location, "")),
        ("refused", response("308 Permanent Redirect", &location, "")),
        ("refused", ok("Content-Encoding: gzip\r\n", &set)),
        ("refused", Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{set}").into())),
        ("refused", Reply::Bytes(format!("HTTP/1.1 200 OK\r\n\r\n{}{set}", " ".repeat(256 * 1024)).into())),
        ("refused", Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n                                      ")),
        ("unusable", ok("", "<html>down for maintenance</html>")),
        ("unusable", ok("", "{}")),
        ("unusable", ok("", "{\"keys\": []}")),
        ("unusable", ok("", &key_set(&many.iter().collect::<Vec<_>>()))),
    ];
    for (outcome, answer) in answers {
        let what = format!("{answer:?}").chars().take(120).collect::<String>();
        let before = metrics.get(&fetches(outcome)).await;
        keys.reply(answer);
        server.signal("HUP");
        let grown = async || (metrics.get(&fetches(outcome)).await > before).then_some(());
        until(&format!("{outcome} after {what}"), grown).await;
        accepted(&server, &old.token(1)).await.leave().await;
    }
    assert_eq!(elsewhere.requests(), 0, "redirects are not followed");
    assert_eq!(metrics.get("uringcast_jwks_keys").await, 1);
    server.logged("The 1 keys that were fetched before stay in force").await;
    Client::is_refused(&server, &new.token(2)).await;
    keys.publish(&[&old, &new]);
    server.signal("HUP");
    metrics.reach("uringcast_jwks_keys", |keys| keys == 2).await;
    accepted(&server, &new.token(2)).await.leave().await;
}

#[tokio::test]
async fn a_fetch_has_eight_seconds() {
    let key = TestKey::ed("a");
    let keys = KeyServer::start(&[&key]).await;
    let server = keys.options().start();
    let metrics = fetched(&server).await;
    let dripping = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1_000)).into_bytes();
    for (outcomes, reply) in [(1, Reply::Dripping(dripping)), (2, Reply::Held)] {
        keys.reply(reply);
        server.signal("HUP");
        metrics.reach(&fetches("unreachable"), |count| count == outcomes).await;
        server.logged("it took more than 8 s").await;
        accepted(&server, &key.token(1)).await.leave().await;
    }
}

#[tokio::test]
async fn a_token_waits_no_longer_than_a_request_may() {
    let (old, new) = (TestKey::ed("a"), TestKey::ec("b"));
    let keys = KeyServer::start(&[&old]).await;
    let server = keys.options().env("URINGCAST_LIMITS__REQUEST_MS", 700).start();
    let metrics = fetched(&server).await;
    keys.reply(Reply::Held);
    let (mut patient, mut gone) = (Client::open(&server).await, Client::open(&server).await);
    let began = Instant::now();
    gone.send(&json!({"type": "auth", "data": {"token": new.token(2)}})).await;
    metrics.reach("uringcast_tokens_put_off_total", |count| count == 1).await;
    gone.vanish();
    let answer = patient.auth(&new.token(1)).await;
    assert_eq!(answer["type"], "auth_failed", "{answer}");
    patient.closed(4401).await;
    assert!(began.elapsed() < Duration::from_secs(8), "before the fetch gave up");
    assert!(metrics.get("uringcast_tokens_waited_in_vain_total").await >= 1);
    server.logged("no key for its algorithm and kid").await;
    // What comes after all is taken.
    keys.publish(&[&new]);
    metrics.reach(&fetches("changed"), |count| count == 2).await;
    accepted(&server, &new.token(3)).await.leave().await;
}

#[tokio::test]
async fn a_server_that_is_told_to_go_does_not_wait_for_a_fetch() {
    let (old, new) = (TestKey::ed("a"), TestKey::ec("b"));
    let keys = KeyServer::start(&[&old]).await;
    let mut server = keys.options().start();
    let metrics = fetched(&server).await;
    keys.reply(Reply::Held);
    let mut client = Client::open(&server).await;
    client.send(&json!({"type": "auth", "data": {"token": new.token(1)}})).await;
    metrics.reach("uringcast_tokens_put_off_total", |count| count == 1).await;
    server.signal("TERM");
    client.closed(1001).await;
    assert!(server.ended(DEADLINE).success());
}

#[tokio::test]
async fn an_https_address_is_trusted_by_its_authority() {
    let (key, files) = (TestKey::ed("a"), Files::new());
    let keys = KeyServer::start_tls(&[&key], &files).await;
    let url = |host: &str| format!("https://{host}:{}/keys", keys.addr.port());
    let options = || keys.options().env("URINGCAST_AUTH__JWKS_URL", url("localhost"));

    let by_file = options().env("URINGCAST_AUTH__JWKS_CA_FILE", files.cert().display()).start();
    fetched(&by_file).await;
    accepted(&by_file, &key.token(1)).await.leave().await;
    let by_variable = options().env("SSL_CERT_FILE", files.cert().display()).start();
    fetched(&by_variable).await;

    let other = Files::new();
    let (wrong_authority, wrong_name) = (
        options().env("URINGCAST_AUTH__JWKS_CA_FILE", other.cert().display()).start(),
        options()
            .env("URINGCAST_AUTH__JWKS_URL", url("127.0.0.1"))
            .env("URINGCAST_AUTH__JWKS_CA_FILE", files.cert().display())
            .start(),
    );
    for server in [wrong_authority, wrong_name] {
        server.logged("TLS with it failed").await;
        Client::is_refused(&server, &key.token(1)).await;
    }
    // A new file counts at SIGHUP.
    let server = options().env("URINGCAST_AUTH__JWKS_CA_FILE", other.cert().display()).start();
    server.logged("TLS with it failed").await;
    std::fs::copy(files.cert(), other.cert()).unwrap();
    server.signal("HUP");
    fetched(&server).await;
}

#[tokio::test]
async fn an_address_that_cannot_be_trusted_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let start = |settings: &[(&str, &str)]| {
        let mut options = Options::bare(&["--listen", "127.0.0.1:0"]);
        for (name, value) in settings {
            options = options.env(name, value);
        }
        options.run()
    };
    let (url, ca) = ("URINGCAST_AUTH__JWKS_URL", "URINGCAST_AUTH__JWKS_CA_FILE");
    let https = "https://id.example/keys";
    start(&[(url, "http://id.example/keys")]).refused(&["plain http", "auth.jwks_allow_http"]);
    start(&[(url, "id.example/keys")]).refused(&[url, "is not a URL"]);
    start(&[(url, https), (ca, &file("empty.pem", ""))]).refused(&["auth.jwks_ca_file", "no certificate"]);
    start(&[(url, https), (ca, "/nowhere/ca.pem")]).refused(&["/nowhere/ca.pem", "cannot be read"]);
    start(&[(url, https), ("SSL_CERT_FILE", &file("none.pem", "")), ("SSL_CERT_DIR", "/nowhere")])
        .refused(&["no certificate authorities", "ca-certificates"]);
    start(&[(ca, "ca.pem"), ("URINGCAST_AUTH__HS256_SECRET", crate::support::SECRET)])
        .refused(&["needs auth.jwks_url"]);
}
