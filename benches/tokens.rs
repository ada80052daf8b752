//! What it costs to judge a token, by algorithm, without and with the memory of good signatures: the reason why
//! HS256 is never remembered and the others are. `cargo bench --bench tokens` prints a line for each.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use uringcast::auth::{Authenticator, CacheLimits, Verifier};
use uringcast::config::{Auth, PublicKeyFile, Secret};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_MS: u64 = 1_800_000_000_000;
/// How long each is measured.
const SPAN: Duration = Duration::from_millis(300);

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

fn with_key(name: &str) -> Auth {
    let file = PublicKeyFile { file: file(name), algorithm: None };
    Auth { public_key_files: vec![file], ..Auth::default() }
}

/// Nanoseconds of one call, the best of five spans.
fn cost_ns(mut call: impl FnMut()) -> f64 {
    let span = |call: &mut dyn FnMut()| {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < SPAN / 5 {
            (0..16).for_each(|_| call());
            count += 16;
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    };
    (0..5).map(|_| span(&mut call)).fold(f64::INFINITY, f64::min)
}

fn main() -> anyhow::Result<()> {
    let pem = |name| std::fs::read(file(name));
    let kinds = [
        (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes()), {
            Auth { hs256_secret: Some(Secret::new(SECRET)), ..Auth::default() }
        }),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem("rsa.key.pem")?)?, with_key("rsa.pub.pem")),
        (Algorithm::ES256, EncodingKey::from_ec_pem(&pem("ec.key.pem")?)?, with_key("ec.pub.pem")),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem("ed.key.pem")?)?, with_key("ed.pub.pem")),
    ];
    for (algorithm, key, auth) in kinds {
        let claims = serde_json::json!({
            "user_id": 1, "username": "Alice", "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 3600, "jti": "a-token-id",
        });
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)?;
        let verifier = Arc::new(Verifier::new(&auth)?);
        let cost = |cache| {
            let mut own = Authenticator::new(Arc::clone(&verifier), cache);
            cost_ns(|| {
                black_box(own.verify(black_box(&token), NOW_MS)).expect("a good token");
            })
        };
        let uncached = cost(CacheLimits::default());
        let cached = cost(CacheLimits { tokens: 1_000, bytes: 1 << 20 });
        println!("{algorithm:?}: {uncached:8.0} ns uncached, {cached:6.0} ns cached, {:5.1} times", uncached / cached);
    }
    Ok(())
}
