//! Tokens that end: what clients sign in with and refresh, and what the backend revokes. `Law` knows the clock and all
//! revocations, and so which token counts no more; it is written after docs/protocol.md and docs/api.md, without a look
//! at the server's tables. At the end it is judged whether the server kept to it: who had to be cut, who had to be
//! turned away, and that nobody whose tokens were revoked heard what was said after the backend was told so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::json;
use uringcast::auth::{NewToken, Revocation, Revoked, UserId, issue, user_id_from_json};
use uringcast::config::Secret;
use uringcast::model::parcel::Answer as Told;

use crate::client::{Answer, Client, Verdict, What, tag};
use crate::dice::Dice;
use crate::errands::{KeyNumber, Provider, is_taken};
use crate::ledger::tag_of;
use crate::oracle::stayed;
use crate::plan::{OBSERVER, Plan};
use crate::world::{World, shard_id};

/// Signs the tokens of a life.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// When a life begins, in Unix milliseconds.
pub const START_MS: u64 = 1_800_000_000_000;
/// The observer's token is issued so late that no revocation of what came before is about it.
pub const OBSERVER_FROM_MS: u64 = START_MS + 10_000_000_000;
/// How long before its end a client is told of it.
const NOTICE_MS: u64 = 30_000;
/// A token that has less left than this is told of at once.
const AT_ONCE_MS: u64 = 256;
/// How long a connection may outlive its token: a tick, and some that a busy shard leaves out.
const GRACE_MS: u64 = 1_500;
/// Numbers of revocations begin here.
const FIRST: u32 = 1 << 31;

/// What a client shows to sign in, and what it knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub account: usize,
    pub text: String,
    pub expires_at_ms: Option<u64>,
    /// To the second.
    issued_at_ms: Option<u64>,
    id: Option<String>,
    /// The key that signed it, if that comes by an address.
    pub key: Option<KeyNumber>,
}

/// The observer's, and what its token says.
pub fn observers(id: &UserId, name: &str) -> String {
    let new = NewToken { user: id, name, ttl_s: 1, channels: &[], issuer: None, audience: None, token_id: None };
    issue(&Secret::new(SECRET), &new, OBSERVER_FROM_MS).expect("signs")
}

/// One revocation.
#[derive(Debug)]
struct Decree {
    revocation: Revocation,
    /// How many shards have yet to answer.
    waiting: usize,
    /// At which moment the last of them did.
    acknowledged: Option<u64>,
}

impl Decree {
    fn hits(&self, token: &Token, plan: &Plan) -> bool {
        let before = |ms: u64| token.issued_at_ms.is_none_or(|at_ms| at_ms < ms);
        match &self.revocation.revoked {
            Revoked::TokenId(id) => token.id.as_deref() == Some(id),
            Revoked::User { key, issued_before_ms } => {
                *plan.accounts[token.account].key == **key && before(*issued_before_ms)
            }
            Revoked::IssuedBefore(before_ms) => before(*before_ms),
        }
    }
}

/// Which tokens count, and when.
#[derive(Debug)]
pub struct Law {
    /// The wall clock.
    pub now_ms: u64,
    /// Numbers what happens.
    moment: u64,
    issued: usize,
    decrees: Vec<Decree>,
    /// What each shard has yet to be told.
    commands: Vec<VecDeque<u32>>,
    /// The keys that come by an address.
    pub provider: Provider,
}

impl Law {
    pub fn new(plan: &Plan) -> Self {
        let shards = plan.settings.hub.shards;
        let commands = (0..shards).map(|_| VecDeque::new()).collect();
        let provider = Provider::new(shards, plan.by_address.then(|| Arc::clone(&plan.verifier)));
        Self { now_ms: START_MS, moment: 0, issued: 0, decrees: Vec::new(), commands, provider }
    }

    /// A moment later than all before it.
    pub fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A token for an account: one from the configuration, one that was used before, or a new one.
    pub fn token(&mut self, account: usize, known: &mut Vec<Token>, plan: &Plan, dice: &mut Dice) -> Token {
        let shown = &plan.accounts[account];
        if account == OBSERVER || dice.below(100) >= plan.token_share {
            let issued_at_ms = (account == OBSERVER).then_some(OBSERVER_FROM_MS);
            let expires_at_ms = issued_at_ms.map(|at_ms| at_ms + 1_000);
            return Token { account, text: shown.token.clone(), expires_at_ms, issued_at_ms, id: None, key: None };
        }
        let old: Vec<_> = known.iter().filter(|token| token.account == account).collect();
        if !old.is_empty() && !dice.once_in(3) {
            return dice.pick(&old).clone();
        }
        self.issued += 1;
        let ttl_s = dice.pick(&[2, 20, 100, 100_000, 100_000]);
        let id = dice.once_in(2).then(|| format!("token {}", self.issued));
        let user = user_id_from_json(&shown.id).expect("an id");
        let (name, channels) = (shown.name, &shown.channels[..]);
        let new =
            NewToken { user: &user, name, ttl_s, channels, issuer: None, audience: None, token_id: id.as_deref() };
        let issued_at_ms = self.now_ms / 1000 * 1000;
        let expires_at_ms = Some(issued_at_ms + ttl_s * 1000);
        let (text, key) = if plan.by_address && !dice.once_in(4) {
            let (issued_at_s, id) = (issued_at_ms / 1000, id.as_deref());
            let claims = json!({
                "user_id": user, "username": name, "iat": issued_at_s, "exp": issued_at_s + ttl_s, "channels": channels,
                "jti": id,
            });
            let (text, key) = self.provider.sign(&claims, dice);
            (text, Some(key))
        } else {
            (issue(&Secret::new(SECRET), &new, self.now_ms).expect("signs"), None)
        };
        let token = Token { account, text, expires_at_ms, issued_at_ms: Some(issued_at_ms), id, key };
        known.push(token.clone());
        token
    }

    /// Whether the token counts no more: its time has passed, or the backend has begun to revoke it.
    pub fn is_over(&self, token: &Token, plan: &Plan) -> bool {
        self.has_expired(token, self.now_ms) || self.decrees.iter().any(|decree| decree.hits(token, plan))
    }

    /// Whether a shard may refuse the token for its key: it did not have the key when the token was shown, or it has not
    /// now. `newest` was the shard's newest key when the token was shown.
    pub fn may_lack_key(&self, token: &Token, newest: Option<KeyNumber>, shard: usize) -> bool {
        let lacks = |key: KeyNumber| !is_taken(key, newest) || !is_taken(key, self.provider.in_force(shard));
        token.key.is_some_and(lacks)
    }

    fn has_expired(&self, token: &Token, at_ms: u64) -> bool {
        token.expires_at_ms.is_some_and(|end_ms| end_ms <= at_ms)
    }

    /// Whether a client may be told now that the token is about to end, which it showed at a time: half a minute ahead,
    /// or half of what was left then.
    pub fn is_ending(&self, token: &Token, said_ms: u64) -> bool {
        let half_ms = |end_ms: u64| end_ms.saturating_sub(said_ms) / 2;
        token.expires_at_ms.is_some_and(|end_ms| end_ms <= self.now_ms + NOTICE_MS.min(half_ms(end_ms)).max(AT_ONCE_MS))
    }

    /// Whether it ends within so long.
    pub fn ends_within(&self, token: &Token, ms: u64) -> bool {
        token.expires_at_ms.is_some_and(|end_ms| (self.now_ms..self.now_ms + ms).contains(&end_ms))
    }

    /// The backend revokes something; every shard is to be told.
    pub fn decree(&mut self, plan: &Plan, clients: &[Client], dice: &mut Dice) -> String {
        let all = || clients.iter().flat_map(|client| client.tokens.values());
        let ids: Vec<_> = all().filter_map(|token| token.id.as_deref()).collect();
        let before_ms = self.now_ms - dice.pick(&[0, 0, 1, 5_000, 60_000]);
        let revoked = match dice.below(10) {
            0 => Revoked::IssuedBefore(before_ms),
            1..5 => {
                let account = dice.between(1, plan.accounts.len() - 1);
                Revoked::User { key: plan.accounts[account].key.as_str().into(), issued_before_ms: before_ms }
            }
            _ if ids.is_empty() => Revoked::TokenId("nobody's".into()),
            _ => Revoked::TokenId(dice.pick(&ids).into()),
        };
        let number = FIRST + u32::try_from(self.decrees.len()).expect("few");
        let said = format!("the backend revokes {revoked:?}");
        let revocation = Revocation { revoked, until_ms: u64::MAX };
        self.decrees.push(Decree { revocation, waiting: self.commands.len(), acknowledged: None });
        self.commands.iter_mut().for_each(|commands| commands.push_back(number));
        said
    }

    /// What a shard is told next.
    pub fn next_for(&mut self, shard: usize) -> Option<(u32, Revocation)> {
        let number = self.commands[shard].pop_front()?;
        Some((number, self.decrees[(number - FIRST) as usize].revocation.clone()))
    }

    /// Whether a shard has yet to be told something.
    pub fn is_pending(&self, shard: usize) -> bool {
        !self.commands[shard].is_empty()
    }

    /// A shard has answered.
    pub fn hear(&mut self, answers: Vec<(u32, Told)>) -> Verdict {
        for (number, answer) in answers {
            if !matches!(answer, Told::Revoked { .. }) {
                return Err(format!("a revocation was answered {answer:?}"));
            }
            self.acknowledged(number)?;
        }
        Ok(())
    }

    /// One more shard is done with a revocation.
    pub fn acknowledged(&mut self, number: u32) -> Verdict {
        let moment = self.moment();
        let decree = &mut self.decrees[(number - FIRST) as usize];
        decree.waiting = decree.waiting.checked_sub(1).ok_or("a revocation was answered once too often")?;
        if decree.waiting == 0 {
            decree.acknowledged = Some(moment);
        }
        Ok(())
    }

    pub fn decrees(&self) -> usize {
        self.decrees.len()
    }
}

impl World {
    /// Tells a shard what it has yet to be told.
    pub fn tell(&mut self, shard: usize) -> Verdict {
        while let Some((number, revocation)) = self.law.next_for(shard) {
            self.note(|| format!("{} is told of {revocation:?}", shard_id(shard).0));
            if self.lanes.sabotage.strikes(crate::faults::Fault::ForgetRevocation) {
                self.law.acknowledged(number)?;
            } else {
                self.shards[shard].revoke(number, &revocation, self.now);
            }
        }
        Ok(())
    }

    /// Whether a client that is there has a token that ends within so long.
    pub fn token_ends_within(&self, ms: u64) -> bool {
        stayed(self).filter_map(Client::token).any(|token| self.law.ends_within(token, ms))
    }
}

/// Of the tokens that a client showed: how many were taken whose key its shard did not know then, and how many were
/// refused for their key.
pub fn by_new_keys(world: &World, client: &Client) -> (usize, usize) {
    let shown = client.tokens.iter().map(|(request, token)| (&client.asked[*request], token));
    let unknown = shown.filter(|(asked, token)| token.key.is_some_and(|key| !is_taken(key, asked.newest_key)));
    let (mut taken, mut refused) = (0, 0);
    for (asked, token) in unknown {
        match asked.answer {
            Some(Answer::Done) => taken += 1,
            Some(Answer::Failed | Answer::Error(403)) if !world.law.is_over(token, &world.plan) => refused += 1,
            _ => {}
        }
    }
    (taken, refused)
}

/// Whether the server kept to the law.
pub fn judge(world: &World) -> Verdict {
    if world.law.decrees.iter().any(|decree| decree.acknowledged.is_none()) {
        return Err("a revocation was never acknowledged".into());
    }
    let said = said(world);
    for client in &world.clients {
        let blame = |problem: String| format!("client {}: {problem}", client.number);
        taken(world, client).map_err(blame)?;
        heard(world, client, &said).map_err(blame)?;
    }
    for client in stayed(world) {
        let token = client.token().ok_or_else(|| format!("client {} has no token", client.number))?;
        let outlived = world.law.has_expired(token, world.law.now_ms.saturating_sub(GRACE_MS));
        if outlived || world.law.decrees.iter().any(|decree| decree.hits(token, &world.plan)) {
            return Err(format!("client {} is still there with {token:?}", client.number));
        }
        let may = |channel: &&String| world.plan.may(channel, Some(&world.plan.accounts[token.account]));
        if let Some(channel) = client.book.subscribed.keys().find(|channel| !may(channel)) {
            return Err(format!("client {} is still on {channel} with {token:?}", client.number));
        }
    }
    Ok(())
}

/// When what can be told by its tag was said first.
fn said(world: &World) -> BTreeMap<&str, u64> {
    let mut first = BTreeMap::new();
    let asked = world.clients.iter().flat_map(|client| &client.asked);
    let by_clients = asked.filter_map(|asked| match &asked.what {
        What::Message(text) => Some((tag(text), asked.said)),
        What::Publish(draft) => Some((&*draft.tag, asked.said)),
        _ => None,
    });
    for (tag, moment) in by_clients.chain(world.backend.said()) {
        let known = first.entry(tag).or_insert(moment);
        *known = moment.min(*known);
    }
    first
}

/// The tokens that a client's requests were granted for, or may have been.
fn granted(client: &Client) -> impl Iterator<Item = (usize, &Token)> {
    client.tokens.iter().map(|(request, token)| (*request, token)).filter(|(request, _)| {
        let asked = &client.asked[*request];
        let refresh = matches!(asked.what, What::Refresh(_)) && matches!(asked.answer, None | Some(Answer::Done));
        refresh || client.attached.as_ref().is_some_and(|attached| attached.request == *request)
    })
}

/// No token was taken that was shown after its end.
fn taken(world: &World, client: &Client) -> Verdict {
    for (request, token) in granted(client).filter(|(request, _)| client.asked[*request].answer.is_some()) {
        let asked = &client.asked[request];
        let ended = |decree: &Decree| {
            decree.hits(token, &world.plan) && decree.acknowledged.is_some_and(|moment| moment < asked.said)
        };
        // The key was gone before the token was shown.
        let is_withdrawn = token.key.zip(asked.newest_key).is_some_and(|(key, newest)| key + 1 < newest);
        if is_withdrawn || world.law.has_expired(token, asked.said_ms) || world.law.decrees.iter().any(ended) {
            return Err(format!("q{request} was granted for {token:?}"));
        }
    }
    Ok(())
}

/// Whose tokens were all revoked hears nothing that was said after the backend was told so.
fn heard(world: &World, client: &Client, said: &BTreeMap<&str, u64>) -> Verdict {
    if client.attached.is_none() {
        return Ok(());
    }
    for decree in &world.law.decrees {
        let Some(done) = decree.acknowledged else { continue };
        if !granted(client).all(|(_, token)| decree.hits(token, &world.plan)) {
            continue;
        }
        let late = |tag: &str| said.get(tag).is_some_and(|moment| *moment > done);
        if let Some(told) = client.book.told.iter().find(|told| tag_of(&told.data).is_some_and(late)) {
            return Err(format!("{told:?} was said after {decree:?}"));
        }
    }
    Ok(())
}
