//! What is remembered of tokens never lets in what the keys and the clock would not:
//! the bounds, the reload of keys, and tokens that resemble a good one.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::verified::VerifiedTokens;
use super::*;

const SOME: CacheLimits = CacheLimits { tokens: 8, bytes: 64 * 1024 };

fn authenticator(auth: &Auth, cache: CacheLimits) -> Authenticator {
    Authenticator::new(Arc::new(verifier(auth)), cache)
}

fn eddsa(changes: Value) -> String {
    let key = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    signed(Algorithm::EdDSA, None, &key, &claims(changes))
}

fn with_eddsa() -> Auth {
    with_public_key("ed.pub.pem", None)
}

#[test]
fn a_remembered_token_still_begins_and_expires() {
    let mut own = authenticator(&with_eddsa(), SOME);
    let token = eddsa(json!({"nbf": NOW_S - 10}));
    let channel = eddsa(json!({"channel": "news"}));
    for round in 0..3 {
        assert_eq!(own.verify(&token, NOW_MS).unwrap().name, "Alice", "{round}");
        assert_eq!(own.verify(&token, (NOW_S + 3600) * 1000), Err(TokenError::Expired));
        assert_eq!(own.verify(&token, (NOW_S - 11) * 1000), Err(TokenError::NotYet));
        assert_eq!(own.verify_channel(&channel, NOW_MS).unwrap().channel, "news");
        assert_eq!(own.verify_channel(&channel, (NOW_S + 3600) * 1000), Err(TokenError::Expired));
        // Good for one use is not good for the other.
        assert!(own.verify(&channel, NOW_MS).is_err() && own.verify_channel(&token, NOW_MS).is_err());
        assert_eq!(own.remembered().tokens, 2);
    }
}

#[test]
fn other_keys_forget_what_was_found_good() {
    let mut own = authenticator(&with_eddsa(), SOME);
    let token = eddsa(json!({}));
    assert!(own.verify(&token, NOW_MS).is_ok());
    own.set_verifier(Arc::new(verifier(&with_public_key("ec.pub.pem", None))));
    assert_eq!(own.remembered(), CacheLimits::default());
    assert_eq!(own.verify(&token, NOW_MS), Err(TokenError::NoKey));
    own.set_verifier(Arc::new(verifier(&with_eddsa())));
    assert!(own.verify(&token, NOW_MS).is_ok());
    assert_eq!(own.remembered().tokens, 1, "the bound outlives a reload");
    assert!(own.verify(&token, NOW_MS).is_ok());
    assert_eq!(own.looked_up(), (1, 2), "and so do the counts");
}

#[test]
fn only_what_costs_and_is_good_is_remembered() {
    let mut own = authenticator(&Auth { hs256_secret: Some(Secret::new(SECRET)), ..with_eddsa() }, SOME);
    assert!(own.verify(&hs256(&claims(json!({}))), NOW_MS).is_ok());
    let good = eddsa(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = eddsa(json!({"user_id": 2}));
    for wrong in [
        format!("{message}."),
        format!("{message}.AAAA"),
        format!("{}.{signature}", &other[..other.rfind('.').unwrap()]),
    ] {
        for _ in 0..2 {
            assert!(own.verify(&wrong, NOW_MS).is_err(), "{wrong}");
        }
    }
    assert_eq!(own.remembered(), CacheLimits::default());
    // A good one in the cache helps none that resembles it.
    assert!(own.verify(&good, NOW_MS).is_ok());
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(own.verify(&changed, NOW_MS).is_err(), "{at}");
    }
    assert!(own.verify(&good[..good.len() - 1], NOW_MS).is_err());
    assert_eq!(own.remembered().tokens, 1);
}

#[test]
fn none_are_remembered_if_none_may_be() {
    for cache in
        [CacheLimits::default(), CacheLimits { tokens: 8, bytes: 100 }, CacheLimits { tokens: 0, bytes: 1 << 20 }]
    {
        let mut own = authenticator(&with_eddsa(), cache);
        for _ in 0..2 {
            assert!(own.verify(&eddsa(json!({})), NOW_MS).is_ok());
        }
        assert_eq!(own.remembered(), CacheLimits::default());
    }
}

proptest! {
    /// Against a plain set: what is found was put in, the bounds hold after every step, and what was used within
    /// the last half of the bound is there.
    #[test]
    fn the_bounds_hold_and_nothing_is_made_up(
        tokens in 2usize..12,
        bytes in 200usize..2_000,
        steps in prop::collection::vec((0usize..24, any::<bool>(), 0u8..40), 1..400),
    ) {
        let mut cache = VerifiedTokens::new(CacheLimits { tokens, bytes });
        let mut ever = HashSet::new();
        for (number, insert, clear) in steps {
            let token = "x".repeat(number * 7) + &number.to_string();
            if clear == 0 {
                cache.clear();
                ever.clear();
            }
            if insert {
                cache.insert(&token);
                ever.insert(token.clone());
                let fits = token.len() + 48 <= bytes / 2;
                prop_assert_eq!(cache.contains(&token), fits);
            } else {
                prop_assert!(!cache.contains(&token) || ever.contains(&token));
            }
            let size = cache.size();
            prop_assert!(size.tokens <= tokens && size.bytes <= bytes, "{:?}", size);
        }
    }
}

#[test]
fn what_is_used_stays_and_what_is_not_goes() {
    let mut cache = VerifiedTokens::new(CacheLimits { tokens: 8, bytes: 1 << 20 });
    for round in 0..100 {
        cache.insert(&round.to_string());
        assert!(round == 0 || cache.contains("0"), "used in round {round}");
    }
    assert!(!cache.contains("50") && cache.contains("99"));
}
