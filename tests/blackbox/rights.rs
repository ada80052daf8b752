//! Rights that end while a connection lives, against the real binary: tokens that expire, newer ones that grant less,
//! tokens of channels, and revocations by the backend, on every shard and over a restart.

use serde_json::{Value, json};

use crate::api::{Backend, options};
use crate::support::{
    Client, Event, Options, Raw, SECRET, Server, assert_shape, http, now_s, request, sign, sign_with, until,
};

/// A server whose channels ask for a token, but those of `open:`.
fn guarded() -> Options {
    options()
        .env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow")
        // Tokens end to the second here.
        .env("URINGCAST_AUTH__LEEWAY_S", 0)
        .env("URINGCAST_CHANNELS__SUBSCRIBE", "token")
        .env("URINGCAST_CHANNELS__PUBLISH", "members")
        .env("URINGCAST_NAMESPACES__OPEN__SUBSCRIBE", "signed_in")
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({"user_id": 1, "username": "Alice", "exp": now_s() + 600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn user_token(changes: Value) -> String {
    sign(&claims(changes))
}

fn channel_token(channel: &str, changes: Value) -> String {
    let mut claims = json!({"sub": 1, "channel": channel, "exp": now_s() + 600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    sign(&claims)
}

async fn signed_in(server: &Server, token: &str) -> Client {
    Client::join_with(server, token).await.0
}

/// The connection is told that its token counts no more, whatever came before that.
async fn cut(client: &mut Client, reason: &str) {
    let failed = client.find("auth_failed").await;
    assert_shape(&failed, &json!({"type": "auth_failed", "code": 401, "message": "<text>"}));
    assert_eq!(client.closed(4401).await, reason);
}

/// Passes over what the lobby tells.
async fn ended(client: &mut Client, channel: &str, code: u16) {
    let told = client.find("unsubscribed").await;
    assert_eq!(told, json!({"type": "unsubscribed", "code": code, "data": {"channel": channel}}));
}

#[tokio::test]
async fn a_token_is_told_to_expire_and_does() {
    let server = guarded().start();
    let exp = now_s() + 3;
    let mut short = signed_in(&server, &user_token(json!({"exp": exp}))).await;
    let told = short.expect("token_expiring").await;
    assert_eq!(told, json!({"type": "token_expiring", "data": {"expires_at": exp * 1000}}));
    short.nothing_pending().await;
    cut(&mut short, "token expired").await;
    assert!(now_s() >= exp, "not before its time");
}

#[tokio::test]
async fn a_refresh_in_time_keeps_the_connection() {
    let server = guarded().start();
    let mut client = signed_in(&server, &user_token(json!({"exp": now_s() + 3}))).await;
    let mut witness = signed_in(&server, &user_token(json!({"exp": now_s() + 3}))).await;
    client.expect("token_expiring").await;
    let exp = now_s() + 600;
    let answer = client.ask("refresh", json!({"token": user_token(json!({"exp": exp}))})).await;
    assert_eq!(answer["data"]["expires_at"], exp * 1000, "{answer}");
    cut(&mut witness, "token expired").await;
    client.nothing_pending().await;
    // A newer token may also end sooner; then it is told of anew.
    let answer = client.ask("refresh", json!({"token": user_token(json!({"exp": now_s() + 2}))})).await;
    assert_eq!(answer["type"], "refreshed", "{answer}");
    client.find("token_expiring").await;
    cut(&mut client, "token expired").await;
}

#[tokio::test]
async fn however_short_a_token_lives_there_is_time_to_renew_it() {
    let server = guarded().start();
    let mut exp = now_s() + 4;
    let mut client = Client::open(&server).await;
    let success = client.auth(&user_token(json!({"exp": exp}))).await;
    assert_eq!(success["data"]["expires_at"], exp * 1000, "{success}");
    for _ in 0..3 {
        // Half of what was left is left: a client has that long to get the next token.
        let told = client.expect("token_expiring").await;
        assert_eq!(told["data"]["expires_at"], exp * 1000);
        assert!(now_s() < exp, "told before the end");
        exp = now_s() + 4;
        let answer = client.ask("refresh", json!({"token": user_token(json!({"exp": exp}))})).await;
        assert_eq!(answer["data"]["expires_at"], exp * 1000, "{answer}");
    }
}

#[tokio::test]
async fn a_channels_token_is_renewed_without_leaving_the_channel() {
    let server = guarded().start();
    let mut client = signed_in(&server, &user_token(json!({}))).await;
    let mut other = signed_in(&server, &user_token(json!({"user_id": 2, "channels": ["vip"]}))).await;
    client.find("user_online").await;
    let exp = now_s() + 8;
    let token = channel_token("vip", json!({"exp": exp}));
    let answer = client.ask("subscribe", json!({"channel": "vip", "token": token})).await;
    assert_eq!(answer["data"]["expires_at"], exp * 1000, "{answer}");
    other.subscribe("vip").await;
    let told = client.expect("token_expiring").await;
    assert_eq!(told, json!({"type": "token_expiring", "data": {"channel": "vip", "expires_at": exp * 1000}}));
    // What is no token for this user and channel changes nothing.
    let later = now_s() + 600;
    for (channel, wrong) in [
        ("vip", channel_token("vip", json!({"sub": 2, "exp": later}))),
        ("vip", channel_token("other", json!({"exp": later}))),
        ("vip", user_token(json!({"exp": later}))),
        ("vip", "nonsense".to_owned()),
    ] {
        let error = client.ask_refused("refresh", json!({"channel": channel, "token": wrong}), 403).await;
        assert_eq!(error["data"], json!({"channel": "vip"}));
    }
    let unheard = json!({"channel": "other", "token": channel_token("other", json!({}))});
    client.ask_refused("refresh", unheard, 404).await;
    let newer = channel_token("vip", json!({"exp": later}));
    let answer = client.ask("refresh", json!({"channel": "vip", "token": newer})).await;
    let expected = json!({"channel": "vip", "expires_at": later * 1000});
    assert_eq!((&answer["type"], &answer["data"]), (&json!("refreshed"), &expected), "{answer}");
    // A witness with the old token alone sees it end; the renewed subscription goes on.
    let mut witness = signed_in(&server, &user_token(json!({}))).await;
    let answer = witness.ask("subscribe", json!({"channel": "vip", "token": token})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    ended(&mut witness, "vip", 401).await;
    let answer = other.ask("publish", json!({"channel": "vip", "data": "still here"})).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    assert_eq!(client.expect("publication").await["data"]["data"], "still here");
}

#[tokio::test]
async fn the_right_to_a_channel_ends_with_its_token() {
    let server = guarded().start();
    let mut client = signed_in(&server, &user_token(json!({"channels": ["news"]}))).await;
    let exp = now_s() + 2;
    for (channel, exp) in [("a", exp), ("b", exp), ("c", exp + 600), ("open:x", exp), ("news", exp)] {
        let token = channel_token(channel, json!({ "exp": exp }));
        let answer = client.ask("subscribe", json!({"channel": channel, "token": token})).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
    }
    let answer = client.ask("unsubscribe", json!({"channel": "b"})).await;
    assert_eq!(answer["code"], 200);
    // Of `b` there is nothing left to end, `open:` asks for no token, and `news` is the user's own.
    ended(&mut client, "a", 401).await;
    client.ask_refused("publish", json!({"channel": "a", "data": 1}), 403).await;
    client.ask_refused("subscribe", json!({"channel": "a"}), 403).await;
    for channel in ["c", "news"] {
        let answer = client.ask("publish", json!({"channel": channel, "data": 1})).await;
        assert_eq!(answer["type"], "ack", "{answer}");
    }
    client.nothing_pending().await;
    // With a newer token it is had again.
    let answer = client.ask("subscribe", json!({"channel": "a", "token": channel_token("a", json!({}))})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
}

#[tokio::test]
async fn a_newer_token_that_grants_less_ends_what_it_does_not_grant() {
    let server = guarded().start();
    let mut client = signed_in(&server, &user_token(json!({"channels": ["a", "b"]}))).await;
    for channel in ["a", "b", "open:x"] {
        client.subscribe(channel).await;
    }
    let token = channel_token("c", json!({}));
    assert_eq!(client.ask("subscribe", json!({"channel": "c", "token": token})).await["type"], "subscribed");
    let narrower = user_token(json!({"channels": ["b", "d"]}));
    // A subscribe that is under way by the old token's right ends too.
    client
        .pipeline(&[
            json!({"type": "unsubscribe", "data": {"channel": "b"}}),
            json!({"type": "refresh", "id": "r", "data": {"token": narrower}}),
            json!({"type": "subscribe", "id": "s", "data": {"channel": "b"}}),
        ])
        .await;
    ended(&mut client, "b", 200).await;
    assert_eq!(client.expect("refreshed").await["id"], "r");
    ended(&mut client, "a", 403).await;
    assert_eq!(client.expect("subscribed").await["id"], "s");
    client.nothing_pending().await;
    client.subscribe("d").await;
    client.ask_refused("subscribe", json!({"channel": "a"}), 403).await;
    let others = user_token(json!({"user_id": 2, "channels": ["a"]}));
    client.ask_refused("refresh", json!({ "token": others }), 403).await;
    client.nothing_pending().await;
}

#[tokio::test]
async fn a_revoked_user_is_cut_on_every_shard_and_kept_out() {
    let server = guarded().shards(3).start();
    let backend = Backend::of(&server).await;
    let old = user_token(json!({"iat": now_s() - 10}));
    let without_iat = user_token(json!({}));
    let other = user_token(json!({"user_id": 2, "iat": now_s() - 10}));
    let mut cut_ones = Vec::new();
    for _ in 0..8 {
        cut_ones.push(signed_in(&server, &old).await);
        cut_ones.push(signed_in(&server, &without_iat).await);
    }
    let mut stays = signed_in(&server, &other).await;
    let done = backend.post("/api/revoke", &json!({"user": "1"})).await.ok();
    assert_eq!(done["connections"], 16, "{done}");
    for client in &mut cut_ones {
        cut(client, "token revoked").await;
    }
    // On every shard, since the kernel chooses which one a connection comes to.
    for _ in 0..8 {
        Client::is_refused(&server, &old).await;
        Client::is_refused(&server, &without_iat).await;
    }
    let revoked_s = now_s();
    let newer = until("the next second", async || Some(now_s()).filter(|now| *now > revoked_s)).await;
    signed_in(&server, &user_token(json!({ "iat": newer }))).await;
    stays.find("user_offline").await;
    stays.ask_refused("refresh", json!({ "token": old }), 403).await;
    assert_eq!(stays.ask("heartbeat", json!({})).await["code"], 200);
    let again = backend.post("/api/revoke", &json!({"user": 1})).await.ok();
    assert!(again["connections"].as_u64().unwrap() <= 1, "{again}");
}

#[tokio::test]
async fn tokens_are_revoked_by_id_and_by_time_of_issue() {
    let server = guarded().shards(2).start();
    let backend = Backend::of(&server).await;
    let now = now_s();
    let with_id = |id: &str| user_token(json!({"jti": id, "iat": now - 5}));
    let mut first = signed_in(&server, &with_id("first")).await;
    let mut second = signed_in(&server, &with_id("second")).await;
    let mut bob = signed_in(&server, &user_token(json!({"user_id": "bob", "iat": now - 50}))).await;
    let channel = channel_token("a", json!({"jti": "of a channel"}));
    assert_eq!(second.ask("subscribe", json!({"channel": "a", "token": channel})).await["type"], "subscribed");

    assert_eq!(backend.post("/api/revoke", &json!({"token_id": "first"})).await.ok()["connections"], 1);
    cut(&mut first, "token revoked").await;
    Client::is_refused(&server, &with_id("first")).await;
    assert_eq!(backend.post("/api/revoke", &json!({"token_id": "of a channel"})).await.ok()["connections"], 0);
    ended(&mut second, "a", 403).await;
    second.ask_refused("subscribe", json!({"channel": "a", "token": channel}), 403).await;
    second.nothing_pending().await;

    let before = |seconds: i64| (now - seconds) * 1000;
    let none = json!({"user": 1, "issued_before": before(5)});
    assert_eq!(backend.post("/api/revoke", &none).await.ok()["connections"], 0, "issued then, and not before");
    let one = json!({"issued_before": before(20)});
    assert_eq!(backend.post("/api/revoke", &one).await.ok()["connections"], 1);
    cut(&mut bob, "token revoked").await;
    Client::is_refused(&server, &user_token(json!({"user_id": "carol", "iat": now - 21}))).await;
    // Whatever doesn't say when it was issued counts as issued before.
    Client::is_refused(&server, &user_token(json!({"user_id": "carol"}))).await;
    signed_in(&server, &user_token(json!({"user_id": "carol", "iat": now - 20}))).await;
    second.find("user_online").await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_does_not_escape_a_revocation() {
    let server = guarded().env("URINGCAST_AUTH__LEEWAY_S", 60).shards(2).start();
    let backend = Backend::of(&server).await;
    let ahead = user_token(json!({"iat": now_s() + 50}));
    let mut client = signed_in(&server, &ahead).await;
    assert_eq!(backend.post("/api/revoke", &json!({"user": 1})).await.ok()["connections"], 1);
    cut(&mut client, "token revoked").await;
    Client::is_refused(&server, &ahead).await;
    Client::is_refused(&server, &user_token(json!({"iat": now_s() + 1_000_000}))).await;
}

#[tokio::test]
async fn revocations_are_listed_page_by_page_and_lifted_on_every_shard_and_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("revocations");
    let options = guarded().env("URINGCAST_AUTH__REVOCATIONS_FILE", file.to_str().unwrap()).shards(3);
    let server = options.clone().start();
    let backend = Backend::of(&server).await;
    let token = user_token(json!({"jti": "t1", "iat": now_s() - 10}));
    let before = (now_s() - 5) * 1000;
    backend.post("/api/revoke", &json!({"token_id": "t1"})).await.ok();
    let told = backend.post("/api/revoke", &json!({"user": 1, "issued_before": before})).await.ok();
    assert!(told["warning"].as_str().is_some_and(|warning| warning.contains("without iat")), "{told}");
    backend.post("/api/revoke", &json!({ "issued_before": before })).await.ok();
    let shown = |page: &Value| -> Vec<Value> {
        let all = page["revocations"].as_array().unwrap().iter().cloned();
        all.map(|mut one| {
            assert!(one.as_object_mut().unwrap().remove("expires_at").unwrap().as_u64() > Some(before as u64));
            one
        })
        .collect()
    };
    let all = backend.send("GET", "/api/revocations", b"").await.ok();
    let expected =
        [json!({"token_id": "t1"}), json!({"user": "1", "issued_before": before}), json!({ "issued_before": before })];
    assert_eq!((shown(&all).as_slice(), &all["count"], &all["cursor"]), (&expected[..], &json!(3), &Value::Null));
    let (mut pages, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let page = backend.send("GET", &format!("/api/revocations?{query}"), b"").await.ok();
        pages.extend(shown(&page));
        let Some(cursor) = page["cursor"].as_str() else { break };
        query = format!("limit=1&cursor={cursor}");
    }
    assert_eq!(pages, expected);
    backend.send("GET", "/api/revocations?limit=0", b"").await.refused(400);
    backend.send("GET", "/api/revocations?cursor=nonsense", b"").await.refused(400);

    Client::is_refused(&server, &token).await;
    for (request, lifted) in [
        (json!({"token_id": "t1"}), 1),
        (json!({"token_id": "t1"}), 0),
        (json!({"user": 1, "issued_before": before + 1}), 0),
        (json!({"user": "1"}), 1),
        (json!({ "issued_before": before }), 1),
    ] {
        let done = backend.post("/api/unrevoke", &request).await.ok();
        assert_eq!(done, json!({ "lifted": lifted }), "{request}");
    }
    backend.post("/api/unrevoke", &json!({})).await.refused(400);
    for _ in 0..8 {
        signed_in(&server, &token).await;
    }
    assert_eq!(backend.send("GET", "/api/revocations", b"").await.ok()["count"], 0);
    drop(server);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    signed_in(&options.start(), &token).await;
}

#[tokio::test]
async fn a_last_line_without_its_end_is_a_revocation_and_nobody_else_may_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("revocations");
    std::fs::write(&file, r#"{"revoked":{"token_id":"h1"},"until_ms":99999999999999}"#).unwrap();
    let options = guarded().env("URINGCAST_AUTH__REVOCATIONS_FILE", file.to_str().unwrap());
    for _ in 0..2 {
        let server = options.clone().start();
        Client::is_refused(&server, &user_token(json!({"jti": "h1"}))).await;
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// A FIFO would be waited for, a device read for ever.
#[tokio::test]
async fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let fifo = fifo.to_str().unwrap();
    for key in [
        "AUTH__REVOCATIONS_FILE",
        "AUTH__HS256_SECRET_FILE",
        "AUTH__JWKS_FILE",
        "AUTH__PUBLIC_KEY_FILES",
        "HTTP__KEYS_FILE",
    ] {
        for file in [fifo, "/dev/zero", "/dev/full", folder.path().to_str().unwrap()] {
            let options = guarded()
                .without("URINGCAST_AUTH__HS256_SECRET")
                .env("URINGCAST_AUTH__TOKENS", r#"[{"token":"t","user":1}]"#);
            options.env(&format!("URINGCAST_{key}"), file).run().refused(&[file]);
        }
    }
    for file in [fifo, "/dev/zero"] {
        Options::bare(&["serve", "--config", file]).run().refused(&[file, "regular file"]);
        let tls = guarded().env("URINGCAST_TLS__CERT_FILE", file).env("URINGCAST_TLS__KEY_FILE", file);
        tls.run().refused(&[file, "regular file"]);
    }
}

#[tokio::test]
async fn forged_channel_tokens_count_like_any_refused_token() {
    let server = guarded().env("URINGCAST_LIMITS__EXEMPT", "").start();
    let mut client = signed_in(&server, &user_token(json!({}))).await;
    let forged =
        sign_with("another secret, also long enough", &json!({"sub": 1, "channel": "vip", "exp": now_s() + 600}));
    for _ in 0..5 {
        client.send(&json!({"type": "subscribe", "data": {"channel": "vip", "token": forged}})).await;
        assert_eq!(client.find("error").await["code"], 403);
    }
    assert_eq!(client.find("error").await["code"], 429);
    client.closed(4429).await;
    let mut client = Client::open(&server).await;
    let channels: Vec<Value> = (0..20).map(|n| json!({"channel": format!("vip{n}"), "token": forged})).collect();
    client.send(&json!({"type": "auth", "data": {"token": user_token(json!({})), "channels": channels}})).await;
    client.expect("auth_success").await;
    let mut refused = 0;
    while client.find("error").await["code"] == 403 {
        refused += 1;
    }
    assert_eq!(refused, 5, "the others were not looked at");
    client.closed(4429).await;
    let metrics = crate::metrics::Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_tokens_refused_total{reason=\"signature\"}").await, 10);
    assert_eq!(metrics.refusals("auth_attempts").await, 2);
}

#[tokio::test]
async fn forged_channel_tokens_count_for_their_address() {
    let server = guarded()
        .env("URINGCAST_LIMITS__EXEMPT", "")
        .env("URINGCAST_LIMITS__AUTH_ATTEMPTS", 100)
        .env("URINGCAST_LIMITS__AUTH_FAILURES_PER_IP_BURST", 3)
        .env("URINGCAST_LIMITS__AUTH_FAILURES_PER_IP_PER_MINUTE", 1)
        .start();
    let mut client = signed_in(&server, &user_token(json!({}))).await;
    let forged =
        sign_with("another secret, also long enough", &json!({"sub": 1, "channel": "vip", "exp": now_s() + 600}));
    for code in [403, 403, 403, 429, 429] {
        client.send(&json!({"type": "subscribe", "data": {"channel": "vip", "token": forged}})).await;
        assert_eq!(client.find("error").await["code"], code);
    }
    // Who needs no token isn't asked for one.
    client.subscribe("open:a").await;
}

#[tokio::test]
async fn what_is_no_revocation_is_told_so() {
    let server = guarded().env("URINGCAST_LIMITS__REVOCATIONS", 2).start();
    let backend = Backend::of(&server).await;
    for wrong in [
        json!({}),
        json!({"user_id": 1}),
        json!({"user": null}),
        json!({"user": 1.5}),
        json!({"user": ""}),
        json!({"token_id": ""}),
        json!({"token_id": "x".repeat(257)}),
        json!({"token_id": "a", "user": 1}),
        json!({"token_id": "a", "issued_before": 1}),
        json!({"issued_before": "yesterday"}),
        json!({"issued_before": 1}),
        json!({"issued_before": now_s()}),
        json!({"issued_before": now_s() * 1_000_000}),
        json!({"user": 1, "issued_before": now_s()}),
        json!({"user": 1, "expires_at": 1}),
    ] {
        backend.post("/api/revoke", &wrong).await.refused(400);
    }
    let end = (now_s() + 100) * 1000;
    let done = backend.post("/api/revoke", &json!({"user": 1, "expires_at": end})).await.ok();
    assert_shape(&done, &json!({"expires_at": end, "connections": 0, "warning": "<text>"}));
    let default = backend.post("/api/revoke", &json!({"user": 2})).await.ok()["expires_at"].as_i64().unwrap();
    assert!((default / 1000 - now_s() - 30 * 86_400).abs() < 60, "{default}");
    // Full: nothing is forgotten for it, and what needs no room is still taken.
    backend.post("/api/revoke", &json!({"user": 3})).await.refused(507);
    backend.post("/api/revoke", &json!({"user": 1, "expires_at": end})).await.ok();
    Client::is_refused(&server, &user_token(json!({}))).await;
    signed_in(&server, &user_token(json!({"user_id": 3}))).await;
}

#[tokio::test]
async fn revocations_outlive_a_reload_and_with_a_file_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("revoked");
    let with_file = guarded().env("URINGCAST_AUTH__REVOCATIONS_FILE", file.to_str().unwrap());
    let mut server = with_file.clone().start();
    let backend = Backend::of(&server).await;
    let token = user_token(json!({"jti": "stolen", "iat": now_s() - 5}));
    backend.post("/api/revoke", &json!({"token_id": "stolen"})).await.ok();
    Client::is_refused(&server, &token).await;
    server.signal("HUP");
    server.logged("keys read again").await;
    Client::is_refused(&server, &token).await;
    // Not even a goodbye.
    server.signal("KILL");
    server.ended(crate::support::DEADLINE);
    let server = with_file.start();
    Client::is_refused(&server, &token).await;
    let forgetful = guarded().start();
    signed_in(&forgetful, &token).await;
}

#[tokio::test]
async fn a_storm_of_revocations_ends_each_connection_once() {
    let server = guarded().shards(2).start();
    let backend = Backend::of(&server).await;
    let mut clients = Vec::new();
    for user in 0..40 {
        clients.push(signed_in(&server, &user_token(json!({"user_id": user, "iat": now_s() - 5}))).await);
    }
    let revoking = (0..40).map(|user| {
        let backend = backend.clone();
        async move { backend.post("/api/revoke", &json!({"user": user})).await.ok()["connections"].as_u64().unwrap() }
    });
    let counts = futures_util::future::join_all(revoking).await;
    // Walks that overlap each count what ended meanwhile.
    assert!(counts.iter().all(|&count| (1..=40).contains(&count)), "{counts:?}");
    for client in &mut clients {
        loop {
            match client.event().await {
                Event::Close(code, reason) => break assert_eq!((code, reason.as_str()), (4401, "token revoked")),
                Event::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_and_no_others() {
    let server = guarded().env("URINGCAST_HTTP__CORS_ORIGINS", "https://*.example.com").start();
    let backend = Backend::of(&server).await;
    let from = |origin: &str| backend.with(&format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"));
    let ours = from("https://status.example.com");
    let answer = ours.send("GET", "/health", b"").await;
    assert!(answer.head.contains("access-control-allow-origin: https://status.example.com"), "{answer:?}");
    assert_eq!(answer.status, 200);
    let answer = ours.send("OPTIONS", "/api/publish", b"").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.head.contains("access-control-allow-headers: authorization"), "{answer:?}");
    // To be allowed to ask is not to be allowed in.
    ours.post("/api/publish", &json!({"channel": "a", "data": 1})).await.refused(401);
    for origin in ["https://example.com", "https://evil.org", "null", "http://status.example.com"] {
        let answer = from(origin).send("OPTIONS", "/api/publish", b"").await;
        assert!(answer.status == 204 && !answer.head.contains("access-control"), "{origin}: {answer:?}");
        let answer = from(origin).send("GET", "/health", b"").await;
        assert!(answer.status == 200 && !answer.head.contains("access-control"), "{origin}: {answer:?}");
    }
}

#[tokio::test]
async fn demo_tokens_are_for_this_machine_and_for_listed_pages() {
    let server = Options::bare(&["--dev", "--listen", "127.0.0.1:0"])
        .env("URINGCAST_ORIGINS", "http://localhost:5173,https://*.example.com")
        .start();
    let ask = async |method: &str, origin: &str| {
        let request = format!("{method} /token?name=A HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\n\r\n", server.addr);
        http(&server, &request).await.0
    };
    for (method, status) in [("GET", 200), ("OPTIONS", 204)] {
        let response = ask(method, "http://localhost:5173").await;
        assert_eq!(response.status, status, "{method}");
        assert_eq!(response.header("access-control-allow-origin"), Some("http://localhost:5173"), "{method}");
    }
    let response = ask("GET", "http://evil.org").await;
    assert_eq!(response.header("access-control-allow-origin"), None, "a browser keeps it from that page");
    assert_eq!(ask("OPTIONS", "http://evil.org").await.header("access-control-allow-origin"), None);
    for (origin, status) in [
        ("https://a.example.com", 101),
        ("http://localhost:5173", 101),
        ("https://example.com", 403),
        ("https://a.example.com.evil.org", 403),
        ("null", 403),
    ] {
        let mut raw = Raw::connect(&server).await;
        let changes = [("Origin", origin), ("Sec-WebSocket-Protocol", "other, uringcast.v1")];
        raw.write(request(&server, "/ws", &changes).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, status, "{origin}");
        assert_eq!(response.header("sec-websocket-protocol"), (status == 101).then_some("uringcast.v1"), "{origin}");
    }
    // A subprotocol that is not spoken here is not claimed; who offers only such is served all the same.
    let mut raw = Raw::connect(&server).await;
    raw.write(request(&server, "/ws", &[("Sec-WebSocket-Protocol", "graphql-ws, URINGCAST.V1")]).as_bytes()).await;
    let response = raw.response().await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, None));
}

/// Whatever is wrong with what holds them, no secret and no token gets into the log, at its most talkative.
#[tokio::test]
async fn no_secret_is_ever_logged() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "sesame-key-of-a-file-0123456789\n").unwrap();
    let server =
        guarded().env("URINGCAST_LOG__LEVEL", "trace").env("URINGCAST_HTTP__KEYS_FILE", keys.to_str().unwrap()).start();
    let backend = Backend::of(&server).await;
    let good = user_token(json!({"jti": "sesame-id", "iat": now_s() - 9}));
    let forged = format!("{}sesame", &good[..good.len() - 6]);
    let expired = user_token(json!({"exp": now_s() - 9}));
    let channel = channel_token("a", json!({"exp": now_s() - 9}));
    let mut client = signed_in(&server, &good).await;
    for token in [&forged, &expired, &good.replace('.', "sesame")] {
        Client::is_refused(&server, token).await;
        client.ask_refused("refresh", json!({ "token": token }), 403).await;
    }
    client.ask_refused("subscribe", json!({"channel": "a", "token": channel}), 403).await;
    client.ask_refused("subscribe", json!({"channel": "no:such", "token": forged}), 404).await;
    client.send_text(&format!(r#"{{"type":"auth","data":{{"token":"{forged}""#)).await;
    client.refused(400).await;
    for (path, header) in [
        (format!("/ws?token={good}"), ("Authorization", format!("Bearer {good}"))),
        (format!("/{forged}"), ("Cookie", format!("session={good}"))),
        (format!("/ws?{expired}"), ("Sec-WebSocket-Protocol", good.clone())),
        (format!("/ws?{expired}"), ("Origin", format!("http://{expired}"))),
        (format!("/ws?{expired}"), ("Host", format!("{expired} {good}"))),
    ] {
        let mut raw = Raw::connect(&server).await;
        raw.write(request(&server, &path, &[(header.0, &header.1)]).as_bytes()).await;
        raw.response().await;
    }
    for key in ["sesame-key-of-nobody-0123456789", good.as_str()] {
        let bearer = backend.with(&format!("Authorization: Bearer {key}\r\nX-API-Key: {key}\r\n"));
        bearer.send("GET", &format!("/api/presence?channel={key}"), b"").await.refused(401);
    }
    let with_file = backend.with("X-API-Key: sesame-key-of-a-file-0123456789\r\n");
    with_file.send("GET", "/api/presence?channel=open:x&limit=sesame", b"").await.refused(400);
    backend.post("/api/revoke", &json!({"token_id": "sesame-id"})).await.ok();
    cut(&mut client, "token revoked").await;
    std::fs::write(&keys, "sesame key with spaces 0123456789\n").unwrap();
    server.signal("HUP");
    server.logged("the API keys cannot be read").await;
    let log = server.log();
    assert!(log.contains("keys read again"), "{log}");
    let signature = |token: &str| token.rsplit_once('.').map_or(token, |(_, signature)| signature).to_owned();
    let secrets = [
        SECRET.to_owned(),
        crate::api::KEY.to_owned(),
        "sesame".to_owned(),
        signature(&good),
        signature(&expired),
        signature(&channel),
        good[..40].to_owned(),
    ];
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret} is in the log:\n{log}");
    }
}
