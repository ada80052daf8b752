//! The end of a run: everything comes to rest, and then what all clients heard has to fit together. The observer's
//! sequence is the truth: a set model of who is online runs along it, and every client's own sequence has to be
//! a stretch of it, beginning where its `auth_success` said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uringcast::model::user::DuplicateLogin;
use uringcast::shard::CLOSE_MS;

use crate::client::{Answer, Asked, Client, Verdict, What, published, tag};
use crate::ledger;
use crate::plan::{OBSERVER, Plan, key_of};
use crate::tokens;
use crate::wire::Reader;
use crate::world::{WATCH, World};

/// Rounds after which a run that has not come to rest never will.
const PATIENCE: usize = 200_000;
/// Between two looks at the clock while everything comes to rest.
const PAUSE_MS: u64 = 64;
/// Pauses after which the turn of a large answer never comes.
const HELD_BACK_PAUSES: u32 = 2_000;
/// Close codes that the server gives of its own accord here.
const CODES: [u16; 7] = [1011, 4401, 4408, 4409, 4429, 4504, 4508];
/// How long no token ends when everything is judged.
const QUIET_MS: u64 = 5_000;
/// What the observer says last.
const LAST_WORDS: &str = "last words";

/// How much a run did: so that nobody takes an empty run for a good one.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub clients: usize,
    pub attached: usize,
    pub published: usize,
    pub kicked: usize,
    pub slow: usize,
    pub refused: usize,
    pub heard: usize,
    pub recovered: usize,
    pub not_recovered: usize,
    pub gaps: usize,
    pub duplicates: usize,
    pub inflated: usize,
    pub refreshed: usize,
    pub turned_away: usize,
    pub cut: usize,
    pub revocations: usize,
    /// What a late engine answered, what it did not answer, and how often it lost publications.
    pub outcomes: usize,
    pub silences: usize,
    pub losses: usize,
    /// Gaps of which the engine was the reason.
    pub engine_gaps: usize,
    pub errands: usize,
    /// Tokens that were taken and whose key the shard did not know when they were shown.
    pub new_keys: usize,
    /// Tokens that were refused for their key.
    pub no_keys: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.attached += other.attached;
        self.published += other.published;
        self.kicked += other.kicked;
        self.slow += other.slow;
        self.refused += other.refused;
        self.heard += other.heard;
        self.recovered += other.recovered;
        self.not_recovered += other.not_recovered;
        self.gaps += other.gaps;
        self.duplicates += other.duplicates;
        self.inflated += other.inflated;
        self.refreshed += other.refreshed;
        self.turned_away += other.turned_away;
        self.cut += other.cut;
        self.revocations += other.revocations;
        self.outcomes += other.outcomes;
        self.silences += other.silences;
        self.losses += other.losses;
        self.engine_gaps += other.engine_gaps;
        self.errands += other.errands;
        self.new_keys += other.new_keys;
        self.no_keys += other.no_keys;
    }
}

/// Brings a world to rest and judges it.
pub fn judge(world: &mut World) -> Verdict<Tally> {
    world.hurry_engine();
    settle(world)?;
    let before = world.lanes.delivered.clone();
    world.say(WATCH, What::Message(LAST_WORDS.into()));
    come_to_rest(world)?;
    deliveries(world, &before)?;
    users(world)?;
    let master = Master::new(world)?;
    for client in &world.clients {
        let blame = |problem: String| format!("client {}: {problem}", client.number);
        sequence(world, &master, client).map_err(blame)?;
        answers(world, &master, client).map_err(blame)?;
        ending(world, client).map_err(blame)?;
    }
    master.publications(world)?;
    world.backend.at_rest()?;
    ledger::judge(world)?;
    world.judge_engine()?;
    tokens::judge(world)?;
    kicks(world)?;
    Ok(tally(world))
}

// ---- coming to rest ----

/// Lets every deadline that could be running pass.
fn settle(world: &mut World) -> Verdict {
    let settings = &world.plan.settings;
    let longest = settings.request_ms.max(1_100) + settings.probe_ms + 2 * CLOSE_MS + settings.handshake_ms.min(1_000);
    come_to_rest(world)?;
    let mut left = longest.div_ceil(PAUSE_MS);
    let mut held_back = HELD_BACK_PAUSES;
    loop {
        // Nobody's token may end while all are judged, or so shortly before that others have yet to be told.
        if world.token_ends_within(QUIET_MS) {
            left = left.max(QUIET_MS / PAUSE_MS);
        }
        // A message that was put off comes to be a request.
        if world.shards.iter().any(uringcast::shard::Shard::awaits_errand) {
            left = left.max(longest.div_ceil(PAUSE_MS));
        }
        // A large answer may wait for its user's rate.
        if world.shards.iter_mut().any(uringcast::shard::Shard::holds_back) {
            left = left.max(1);
            held_back = held_back.checked_sub(1).ok_or("a request is held back for ever")?;
        }
        let Some(fewer) = left.checked_sub(1) else { break };
        left = fewer;
        world.advance(PAUSE_MS)?;
        // Batch windows end in a turn.
        (0..world.shards.len()).try_for_each(|shard| world.turn(shard))?;
        come_to_rest(world)?;
    }
    Ok(())
}

/// Runs everything but the clock until nothing is left to do.
fn come_to_rest(world: &mut World) -> Verdict {
    for round in 0..PATIENCE {
        let mut busy = false;
        if round % 16 == 15 {
            // Who waits for the end of a batch window waits for the clock.
            world.advance(if world.engine.is_some() { PAUSE_MS } else { 8 })?;
            (0..world.shards.len()).try_for_each(|shard| world.turn(shard))?;
        }
        for client in 0..world.clients.len() {
            busy |= pump(world, client)?;
        }
        busy |= world.pump_backend()?;
        for shard in 0..world.shards.len() {
            if !world.shards[shard].is_quiescent() || !world.lanes.is_empty() || world.is_told(shard) {
                world.turn(shard)?;
                busy = true;
            }
        }
        busy |= !world.is_engine_idle();
        world.finish_engine();
        if !busy {
            return Ok(());
        }
    }
    let stuck: Vec<String> = world.shards.iter().map(uringcast::shard::Shard::what_waits).collect();
    Err(format!("does not come to rest: {stuck:?}"))
}

/// Lets one connection do all that it can.
pub fn pump(world: &mut World, client: usize) -> Verdict<bool> {
    let mut busy = false;
    if world.is_readable(client) {
        world.server_read(client, usize::MAX)?;
        busy = true;
    }
    let pipe = &world.net.pipes[client];
    if !pipe.left && (!pipe.down.is_empty() || pipe.is_at_end()) {
        world.client_read(client, usize::MAX)?;
        busy = true;
    }
    if world.is_writable(client) {
        world.writable(client)?;
        busy = true;
    }
    Ok(busy)
}

// ---- what all shards together must agree on ----

/// The clients that were signed in to the end.
pub fn stayed(world: &World) -> impl Iterator<Item = &Client> {
    world
        .clients
        .iter()
        .filter(|client| client.attached.is_some() && !client.is_over() && world.is_there(client.number))
}

/// A publication goes to the shards that have subscribers, and to no other.
fn deliveries(world: &World, before: &[usize]) -> Verdict {
    let home = world.clients[WATCH].shard;
    let wanted: BTreeSet<usize> = stayed(world).map(|client| client.shard).filter(|&shard| shard != home).collect();
    for (shard, count) in world.lanes.delivered.iter().enumerate() {
        let came = count - before[shard];
        if came != usize::from(wanted.contains(&shard)) {
            return Err(format!("shard {shard} was sent {came} deliveries of the last message"));
        }
    }
    for (number, shard) in world.shards.iter().enumerate() {
        let open = |client: &&Client| client.shard == number && world.net.pipes[client.number].reader != Reader::Ended;
        let expected = world.clients.iter().filter(open).count();
        let there = world.clients.iter().filter(open).filter(|client| world.is_there(client.number)).count();
        if shard.connections() != expected || expected != there {
            return Err(format!("shard {number} has {} connections of {expected}, {there}", shard.connections()));
        }
    }
    Ok(())
}

/// The owner's table is exactly the clients that stayed.
fn users(world: &mut World) -> Verdict {
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for client in stayed(world) {
        let account = client.account(&world.plan).expect("attached");
        *expected.entry(account.key.clone()).or_default() += 1;
    }
    let doubled = expected.values().any(|&connections| connections > 1);
    if doubled && world.plan.settings.hub.duplicate_login != DuplicateLogin::Allow {
        return Err(format!("one user on several connections: {expected:?}"));
    }
    if let Some(most) = world.plan.most_connections()
        && expected.values().any(|&connections| connections > most as u64)
    {
        return Err(format!("more than {most} connections of one user: {expected:?}"));
    }
    world.say(WATCH, What::Users);
    let first = world.clients[WATCH].users.take();
    come_to_rest(world)?;
    let page = world.clients[WATCH].users.clone().or(first).ok_or("no page of users")?;
    let members = page["members"].as_array().ok_or("no members")?;
    let limit_reached = page["cursor"].is_string();
    let shown: BTreeMap<String, u64> = members
        .iter()
        .map(|member| (key_of(&member["user"]["id"]), member["connections"].as_u64().unwrap_or(0)))
        .collect();
    let wanted: BTreeMap<_, _> =
        expected.iter().take(members.len()).map(|(key, connections)| (key.clone(), *connections)).collect();
    let whole = page["count"] == expected.len() && (limit_reached || shown.len() == expected.len());
    if shown == wanted && whole { Ok(()) } else { Err(format!("online are {page}, connected {expected:?}")) }
}

// ---- the master sequence ----

/// What happened in the lobby, in the order in which it happened.
struct Master<'a> {
    frames: &'a [String],
    /// Who is online before each frame, and after the last.
    online: Vec<BTreeSet<String>>,
    /// Index of the frame with each offset, from 1.
    messages: Vec<usize>,
    /// The messages' data.
    data: Vec<Value>,
}

impl<'a> Master<'a> {
    /// Runs the model of who is online along what the observer heard.
    fn new(world: &'a World) -> Verdict<Self> {
        let frames = &world.clients[WATCH].lobby;
        let mut set = BTreeSet::from([world.plan.accounts[OBSERVER].key.clone()]);
        let mut master = Self { frames, online: vec![set.clone()], messages: Vec::new(), data: Vec::new() };
        // Of events and of messages: an event doesn't wait for the end of a batch window.
        let mut times = [0, 0];
        for (index, raw) in frames.iter().enumerate() {
            let json: Value = serde_json::from_str(raw).map_err(|error| error.to_string())?;
            let data = &json["data"];
            let key = key_of(&data["user"]["id"]);
            let consistent = match json["type"].as_str() {
                Some("user_online") => set.insert(key) && data["online_count"] == set.len(),
                Some("user_offline") => set.remove(&key) && data["online_count"] == set.len(),
                _ => {
                    master.messages.push(index);
                    master.data.push(data.clone());
                    true
                }
            };
            let at = data["timestamp"].as_u64().ok_or("no timestamp")?;
            let time = &mut times[usize::from(json["type"] == "message")];
            if !consistent || at < *time {
                return Err(format!("{raw} after {time}, with {set:?} online"));
            }
            *time = at;
            master.online.push(set.clone());
        }
        Ok(master)
    }

    /// Where a client may have been attached that was told `offset`.
    fn places(&self, offset: u64) -> Verdict<std::ops::RangeInclusive<usize>> {
        let offset = usize::try_from(offset).map_err(|_| "an absurd offset")?;
        if offset > self.messages.len() {
            return Err(format!("attached at {offset} of {}", self.messages.len()));
        }
        let first = if offset == 0 { 0 } else { self.messages[offset - 1] + 1 };
        let last = self.messages.get(offset).copied().unwrap_or(self.frames.len());
        Ok(first..=last)
    }

    /// Every message came from a client, as its settings say, once and in the order in which the client said them.
    fn publications(&self, world: &World) -> Verdict {
        let mut said: BTreeMap<&str, (&Client, usize)> = BTreeMap::new();
        for client in &world.clients {
            for (request, asked) in client.asked.iter().enumerate() {
                if let What::Message(text) = &asked.what {
                    said.insert(tag(text), (client, request));
                }
            }
        }
        let mut latest: BTreeMap<usize, usize> = BTreeMap::new();
        for data in &self.data {
            let text = data["text"].as_str().ok_or("no text")?;
            let (client, request) = said.remove(tag(text)).ok_or_else(|| format!("{text:?} was said once or never"))?;
            let (asked, escape) = (&client.asked[request], world.plan.settings.hub.namespaces.lobby().escape);
            let What::Message(sent) = &asked.what else { unreachable!("only messages are noted") };
            let sender = &data["sender"]["id"];
            if text != published(sent, escape) || !senders(world, client, request).any(|id| id == sender) {
                return Err(format!("{data} was said as {sent:?} by client {}", client.number));
            }
            if matches!(asked.answer, Some(Answer::Error(code)) if code != 504) {
                return Err(format!("{text:?} was refused and published"));
            }
            if latest.insert(client.number, request).is_some_and(|before| before > request) {
                return Err(format!("{text:?} came before what was said before it"));
            }
        }
        Ok(())
    }
}

/// Who a client may have been at a request: one that doesn't live to hear its `auth_success` can't say.
fn senders<'a>(world: &'a World, client: &'a Client, request: usize) -> impl Iterator<Item = &'a Value> {
    let known = client.attached.as_ref().map(|attached| attached.account);
    let asked = client.asked[..request].iter().filter_map(|asked| asked.what.account());
    let accounts = asked.filter(move |&account| known.is_none_or(|known| known == account));
    accounts.map(|account| &world.plan.accounts[account].id)
}

// ---- what one client heard ----

/// Its lobby frames are a stretch of the master sequence, to its end if it stayed.
fn sequence(world: &World, master: &Master<'_>, client: &Client) -> Verdict {
    let Some(attached) = &client.attached else {
        return if client.lobby.is_empty() { Ok(()) } else { Err("lobby frames without auth_success".into()) };
    };
    let epoch = world.clients[WATCH].attached.as_ref().map(|watch| &watch.epoch);
    if Some(&attached.epoch) != epoch {
        return Err("another epoch".into());
    }
    let key = &world.plan.accounts[attached.account].key;
    let whole = stayed(world).any(|other| other.number == client.number);
    let fits = |start: usize| {
        let online = &master.online[start];
        let rest = &master.frames[start..];
        let heard = if whole { rest == client.lobby } else { rest.starts_with(&client.lobby) };
        online.len() as u64 == attached.online_count && online.contains(key) && heard
    };
    if master.places(attached.offset)?.any(fits) {
        return Ok(());
    }
    let (offset, count) = (attached.offset, attached.online_count);
    Err(format!("attached at {offset} with {count} online, stayed {whole}, it heard {:#?}", client.lobby))
}

/// Requests before the sign-in were refused, those after it weren't for want of it; nothing accepted is missing.
fn answers(world: &World, master: &Master<'_>, client: &Client) -> Verdict {
    let success = client.attached.as_ref().map_or(usize::MAX, |attached| attached.request);
    let stayed = stayed(world).any(|other| other.number == client.number);
    let mut missing = 0;
    for (request, asked) in client.asked.iter().enumerate() {
        let refused = asked.answer == Some(Answer::Error(401));
        let needs_user = asked.what.channel().is_some();
        let answered = asked.answer.is_some();
        if needs_user && answered && refused != (request < success) {
            return Err(format!("q{request} {asked:?}, signed in by q{success}"));
        }
        if stayed && asked.has_id && !answered {
            return Err(format!("q{request} {asked:?} has no answer"));
        }
        if let What::Message(text) = &asked.what {
            let place = master.data.iter().position(|data| data["text"].as_str().map(tag) == Some(tag(text)));
            let acked = if let Some(Answer::Ack(offset)) = asked.answer { Some(offset) } else { None };
            if acked.is_some() && acked != place.map(|place| place as u64 + 1) {
                return Err(format!("q{request} was acknowledged at {acked:?} and is at {place:?}"));
            }
            if place.is_some() && request < success && client.attached.is_some() {
                return Err(format!("q{request} was published before the sign-in"));
            }
            missing += usize::from(!asked.has_id && place.is_none());
        }
    }
    let errors: usize = client.anonymous_errors.values().sum();
    if stayed && missing > errors {
        return Err(format!("{missing} messages vanished, {errors} errors"));
    }
    Ok(())
}

/// It was closed for a reason, and by the code of that reason.
fn ending(world: &World, client: &Client) -> Verdict {
    let settings = &world.plan.settings;
    let policy = settings.hub.duplicate_login;
    let Some(code) = client.closed else {
        if client.expects_close() && world.is_there(client.number) {
            return Err("told that it ends, and never closed".into());
        }
        return Ok(());
    };
    if client.said_close == Some(code) {
        return Ok(());
    }
    let code = code.filter(|code| CODES.contains(code)).ok_or_else(|| format!("closed with {code:?}"))?;
    let lived_ms = world.now.mono_ms - 1_000;
    let rival = |auths: usize| claims(&world.plan, world, client) >= auths;
    let fair = match code {
        1011 => {
            client.asked.iter().any(|asked| asked.what.account().is_some() && asked.answer == Some(Answer::Error(504)))
        }
        // Why, was judged when it was told.
        4401 => client.unauthorized,
        4408 => client.attached.is_none() && lived_ms >= settings.auth_ms,
        // Who was kicked, and by whom, is `kicks`'s matter.
        4409 if client.kicked => true,
        4409 if policy == DuplicateLogin::KickOld => client.attached.is_none() && has_younger_rival(world, client),
        4409 => policy == DuplicateLogin::RejectNew && client.attached.is_none() && rival(2),
        4429 => {
            client.attached.is_none()
                && match (policy, world.plan.most_connections()) {
                    (DuplicateLogin::KickOld, _) => rival(6),
                    (_, most) => most.is_some_and(|most| rival(most + 1)),
                }
        }
        4504 => {
            let silent_ms = world.silent_ms.get(&client.number).copied().unwrap_or(0);
            // A probe is a ping like any other: its answer may be late for either reason.
            let patience_ms = settings.probe_ms.min(settings.pong_timeout_ms);
            let probed = settings.hub.probes && rival(2) && silent_ms >= patience_ms;
            probed || silent_ms >= settings.ping_interval_ms + settings.pong_timeout_ms
        }
        _ => world.slow.contains(&client.number),
    };
    if fair { Ok(()) } else { Err(format!("closed with {code} for no reason")) }
}

/// For each of a user's connections that was kicked there is another sign-in that can have done it.
fn kicks(world: &World) -> Verdict {
    let key = |account: usize| world.plan.accounts[account].key.as_str();
    let mut spare: BTreeMap<&str, isize> = BTreeMap::new();
    for asked in world.clients.iter().flat_map(|client| &client.asked) {
        let may_have_claimed = matches!(asked.answer, None | Some(Answer::Done | Answer::Error(504)));
        if let Some(account) = asked.what.account().filter(|_| may_have_claimed) {
            *spare.entry(key(account)).or_insert(-1) += 1;
        }
    }
    for client in world.clients.iter().filter(|client| client.kicked) {
        let user = client.account(&world.plan).ok_or("kicked before auth_success")?;
        if !has_younger_rival(world, client) {
            return Err(format!("client {} was kicked by a connection that was accepted before it", client.number));
        }
        let left = spare.entry(&user.key).or_default();
        *left -= 1;
        if *left < 0 {
            return Err(format!("client {} was kicked and nobody else signed in as {}", client.number, user.key));
        }
    }
    Ok(())
}

/// Whether a client that was accepted later asked to sign in as a user as whom this one did.
fn has_younger_rival(world: &World, client: &Client) -> bool {
    let keys = |client: &Client| -> BTreeSet<String> {
        let accounts = client.asked.iter().filter_map(|asked| asked.what.account());
        accounts.map(|account| world.plan.accounts[account].key.clone()).collect()
    };
    let own = keys(client);
    world.clients[client.number + 1..].iter().any(|other| !own.is_disjoint(&keys(other)))
}

/// How often anybody asked to sign in as a user as whom `client` did.
fn claims(plan: &Plan, world: &World, client: &Client) -> usize {
    let key = |asked: &Asked| asked.what.account().map(|account| &plan.accounts[account].key);
    let own: BTreeSet<_> = match &client.attached {
        Some(attached) => BTreeSet::from([&plan.accounts[attached.account].key]),
        None => client.asked.iter().filter_map(key).collect(),
    };
    let all = world.clients.iter().flat_map(|client| &client.asked);
    all.filter_map(key).filter(|key| own.contains(key)).count()
}

fn tally(world: &World) -> Tally {
    let count = |fits: fn(&Client) -> bool| world.clients.iter().filter(|client| fits(client)).count();
    let asked = world.clients.iter().flat_map(|client| &client.asked);
    let refreshed = |asked: &&Asked| matches!(asked.what, What::Refresh(_)) && asked.answer == Some(Answer::Done);
    let failed = |asked: &&Asked| matches!(asked.what, What::Auth(_)) && asked.answer == Some(Answer::Failed);
    let all = || world.clients.iter().flat_map(|client| &client.asked);
    let by_new_keys = || world.clients.iter().map(|client| tokens::by_new_keys(world, client));
    let books = || world.clients.iter().map(|client| &client.book);
    Tally {
        clients: world.clients.len(),
        attached: count(|client| client.attached.is_some()),
        published: world.clients[WATCH].lobby.len(),
        kicked: count(|client| client.kicked),
        slow: world.slow.len(),
        refused: asked.filter(|asked| matches!(asked.answer, Some(Answer::Error(503 | 504)))).count(),
        heard: books().map(|book| book.told.len()).sum(),
        recovered: books().map(|book| book.recovered).sum(),
        not_recovered: books().map(|book| book.not_recovered).sum(),
        gaps: books().map(|book| book.gaps).sum(),
        inflated: world.clients.iter().map(Client::inflated).sum(),
        duplicates: books().flat_map(|book| &book.acked).filter(|acked| acked.duplicate).count(),
        refreshed: all().filter(refreshed).count(),
        turned_away: all().filter(failed).count(),
        cut: count(|client| client.attached.is_some() && client.unauthorized),
        revocations: world.law.decrees(),
        outcomes: world.engine.as_ref().map_or(0, |engine| engine.outcomes),
        silences: world.engine.as_ref().map_or(0, |engine| engine.silences),
        losses: world.engine.as_ref().map_or(0, |engine| engine.losses),
        engine_gaps: books().map(|book| book.engine_gaps).sum(),
        errands: world.law.provider.given,
        new_keys: by_new_keys().map(|(taken, _)| taken).sum(),
        no_keys: by_new_keys().map(|(_, refused)| refused).sum(),
    }
}
