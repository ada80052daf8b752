//! Keys by an address: an identity provider that changes its keys, the control thread that fetches them, and the errands
//! that shards give it. Errands of several shards are answered late, in any order, with new keys or without, as not done,
//! twice, and never. `Provider` knows by which keys each shard judges tokens, and so which token may be refused for its key.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uringcast::auth::{FetchedKeys, Verifier};
use uringcast::model::errand::{Errand, ErrandOutcome};

use crate::client::Verdict;
use crate::dice::Dice;
use crate::world::{World, shard_id};

/// Signs all tokens: what tells one key from another is its `kid`.
static KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_ed_pem(include_bytes!("../keys/ed.key.pem")).expect("a test key"));

/// Keys are numbered in the order in which the provider makes them. It publishes the newest one and the one before.
pub type KeyNumber = usize;

/// What the control thread tells a shard.
#[derive(Debug)]
enum Told {
    /// Judge by the published keys as they were when this was the newest one.
    Keys(KeyNumber, Arc<Verifier>),
    Done(u32, ErrandOutcome),
}

/// The provider, and the control thread that fetches from it.
#[derive(Debug)]
pub struct Provider {
    /// Knows the keys of the configuration. `None` in lives without an address.
    configured: Option<Arc<Verifier>>,
    newest: KeyNumber,
    /// Errands that were not answered, with their shards.
    orders: Vec<(usize, u32)>,
    /// What each shard has yet to be told, in order.
    commands: Vec<VecDeque<Told>>,
    /// By which keys each shard judges: the newest one among them.
    in_force: Vec<Option<KeyNumber>>,
    /// Errands that shards have given.
    pub given: usize,
}

impl Provider {
    pub fn new(shards: usize, configured: Option<Arc<Verifier>>) -> Self {
        Self {
            configured,
            newest: 0,
            orders: Vec::new(),
            commands: (0..shards).map(|_| VecDeque::new()).collect(),
            in_force: vec![None; shards],
            given: 0,
        }
    }

    /// The newest key that a shard judges by.
    pub fn in_force(&self, shard: usize) -> Option<KeyNumber> {
        self.in_force[shard]
    }

    /// Whether a shard has yet to be told something.
    pub fn is_pending(&self, shard: usize) -> bool {
        !self.commands[shard].is_empty()
    }

    /// A token with these claims, signed by the newest key. Some tokens name no key.
    pub fn sign(&self, claims: &Value, dice: &mut Dice) -> (String, KeyNumber) {
        // Also by a key that is not published yet: a provider's machines do not change at the same moment.
        let number = self.newest + usize::from(dice.once_in(6));
        let header = Header { kid: Some(kid(number)), ..Header::new(Algorithm::EdDSA) };
        (jsonwebtoken::encode(&header, claims, &KEY).expect("signs"), number)
    }

    fn fetch(&mut self) {
        let Some(configured) = &self.configured else { return };
        let numbers = self.newest.saturating_sub(1)..=self.newest;
        let set: Vec<Value> = numbers.map(|number| public(&kid(number))).collect();
        let keys = FetchedKeys::parse(json!({ "keys": set }).to_string().as_bytes()).expect("a key set");
        let verifier = Arc::new(configured.with_fetched(&keys).expect("few keys"));
        for commands in &mut self.commands {
            commands.push_back(Told::Keys(self.newest, Arc::clone(&verifier)));
        }
    }
}

/// Whether tokens by one key are taken where another is the newest.
pub fn is_taken(number: KeyNumber, newest: Option<KeyNumber>) -> bool {
    newest.is_some_and(|newest| (newest.saturating_sub(1)..=newest).contains(&number))
}

fn kid(number: KeyNumber) -> String {
    format!("key {number}")
}

fn public(kid: &str) -> Value {
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&KEY, Algorithm::EdDSA).expect("a public key");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    jwk["kid"] = kid.into();
    jwk
}

impl World {
    /// The provider or the control thread does something.
    pub fn provider_acts(&mut self) -> Verdict {
        let provider = &mut self.law.provider;
        let said = match self.dice.below(12) {
            0 => {
                provider.newest += 1;
                format!("the provider changes to {}", kid(provider.newest))
            }
            1 => {
                provider.fetch();
                "the control thread fetches keys".to_owned()
            }
            _ if provider.orders.is_empty() => return Ok(()),
            what => {
                let (shard, number) = provider.orders.swap_remove(self.dice.below(provider.orders.len()));
                let again_at_ms = self.now.mono_ms + self.dice.pick(&[0, 0, 0, 700, 30_000]);
                let (outcome, times) = match what {
                    2 => (ErrandOutcome::NotDone, 1),
                    3 => (ErrandOutcome::NotDone, 0),
                    4 => (ErrandOutcome::KeysChecked { again_at_ms }, 1),
                    what => {
                        provider.fetch();
                        (ErrandOutcome::KeysChecked { again_at_ms }, if what == 5 { 2 } else { 1 })
                    }
                };
                for _ in 0..times {
                    provider.commands[shard].push_back(Told::Done(number, outcome));
                }
                format!("the control thread answers errand {number} of {shard} {times} times: {outcome:?}")
            }
        };
        self.note(|| said);
        Ok(())
    }

    /// A shard gives an errand.
    pub fn take_errand(&mut self, shard: usize, number: u32, errand: Errand) -> Verdict {
        self.note(|| format!("shard {shard} gives errand {number}: {errand:?}"));
        let provider = &mut self.law.provider;
        if provider.configured.is_none() {
            return Err(format!("{errand:?} where no keys come by an address"));
        }
        if provider.orders.iter().any(|(other, _)| *other == shard) {
            return Err(format!("shard {shard} gives an errand again that is not answered"));
        }
        provider.orders.push((shard, number));
        provider.given += 1;
        Ok(())
    }

    /// Tells a shard what the control thread has for it.
    pub fn tell_of_errands(&mut self, shard: usize) {
        while let Some(told) = self.law.provider.commands[shard].pop_front() {
            self.note(|| match &told {
                Told::Keys(number, _) => format!("{} is told of {}", shard_id(shard).0, kid(*number)),
                Told::Done(number, outcome) => format!("{} is told of errand {number}: {outcome:?}", shard_id(shard).0),
            });
            match told {
                Told::Keys(number, verifier) => {
                    self.shards[shard].set_verifier(verifier);
                    self.law.provider.in_force[shard] = Some(number);
                }
                Told::Done(number, outcome) => self.shards[shard].errand_done(number, outcome),
            }
        }
    }
}
