//! Revocations against the plainest oracle there is: a list of all that was ever said, searched from end to end.
//! Whatever is merged, replaced or pruned, the answer about a token has to be the list's.

use super::*;

fn revocation() -> impl Strategy<Value = Revocation> {
    let revoked = prop_oneof![
        (0u8..4).prop_map(|id| Revoked::TokenId(id.to_string().into())),
        (0u8..3, 0u64..20)
            .prop_map(|(user, s)| Revoked::User { key: user.to_string().into(), issued_before_ms: s * 500 }),
        (0u64..20).prop_map(|s| Revoked::IssuedBefore(s * 500)),
    ];
    (revoked, 1u64..60).prop_map(|(revoked, until_ms)| Revocation { revoked, until_ms })
}

fn says(revocation: &Revocation, token: TokenMark<'_>, now_ms: u64) -> bool {
    let before = |cut_ms: u64| token.issued_at_ms.is_none_or(|ms| ms / 1000 * 1000 < cut_ms);
    now_ms < revocation.until_ms
        && match &revocation.revoked {
            Revoked::TokenId(id) => token.token_id == Some(&**id),
            Revoked::User { key, issued_before_ms } => token.user_key == &**key && before(*issued_before_ms),
            Revoked::IssuedBefore(before_ms) => before(*before_ms),
        }
}

proptest! {
    #[test]
    fn the_table_says_what_the_list_says(
        steps in prop::collection::vec((revocation(), 0u64..3, any::<bool>()), 1..60),
        users in prop::collection::vec((0u8..3, prop::option::of(0u64..10_000), prop::option::of(0u8..4)), 20),
    ) {
        let (mut table, mut list, mut now_ms) = (Revocations::default(), Vec::new(), 0);
        for (revocation, pause_ms, prune) in steps {
            now_ms += pause_ms;
            let (had, needs_none) = (table.count(), table.has_room_within(&revocation));
            table.insert(&revocation);
            prop_assert!(!needs_none || table.count() <= had);
            prop_assert!(table.count() <= had + 1);
            list.push(revocation);
            if prune {
                table.prune(now_ms);
            }
            prop_assert_eq!(table.iter().count(), table.count());
            let mut copy = Revocations::default();
            for one in table.iter() {
                copy.insert(&one);
            }
            for (user, issued_at_ms, id) in &users {
                let (user, id) = (user.to_string(), id.map(|id| id.to_string()));
                let token = TokenMark { user_key: &user, issued_at_ms: *issued_at_ms, token_id: id.as_deref() };
                let expected = list.iter().any(|one| says(one, token, now_ms));
                prop_assert_eq!(table.revokes(token, now_ms), expected, "{:?} at {}", token, now_ms);
                prop_assert_eq!(copy.revokes(token, now_ms), expected, "a copy");
            }
        }
        table.prune(u64::MAX);
        prop_assert_eq!(table.count(), 0);
    }
}

#[test]
fn who_does_not_say_when_was_before_any_time() {
    let mut table = Revocations::default();
    table.insert(&Revocation { revoked: Revoked::IssuedBefore(0), until_ms: 10 });
    let token = |issued_at_ms| TokenMark { user_key: "1", issued_at_ms, token_id: None };
    assert!(table.revokes(token(None), 9) && !table.revokes(token(Some(0)), 9) && !table.revokes(token(None), 10));
}

#[test]
fn a_remembered_token_is_still_revoked() {
    let key = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    let token = signed(Algorithm::EdDSA, None, &key, &claims(json!({"jti": "a"})));
    let keys = || std::sync::Arc::new(verifier(&with_public_key("ed.pub.pem", None)));
    let mut own = Authenticator::new(keys(), CacheLimits { tokens: 8, bytes: 1 << 16 });
    assert!(own.verify(&token, NOW_MS).is_ok());
    own.revoke(&Revocation { revoked: Revoked::TokenId("a".into()), until_ms: NOW_MS + 5 }, NOW_MS);
    assert_eq!(own.verify(&token, NOW_MS), Err(TokenError::Revoked));
    own.set_verifier(keys());
    assert_eq!(own.verify(&token, NOW_MS), Err(TokenError::Revoked), "keys read anew pardon nobody");
}
