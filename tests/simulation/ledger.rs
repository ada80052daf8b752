//! What all clients heard of the channels, laid side by side: one content per place, each publication in one place
//! and as it was asked for, acknowledgements that name it, and at rest the owners' tables and the clients' the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uringcast::model::namespace::{Overflow, PresenceMode};

use crate::channels::{Draft, Told};
use crate::client::{Answer, Client, Verdict, What};
use crate::oracle::stayed;
use crate::plan::key_of;
use crate::world::World;

/// Channel, epoch, offset.
type Where<'a> = (&'a str, &'a str, u64);
/// One life shorter than idempotency keys are kept.
const KEPT_MS: u64 = 300_000;

/// Everything that was heard.
#[derive(Default)]
struct Ledger<'a> {
    contents: BTreeMap<Where<'a>, &'a Value>,
    /// Where each tag was published.
    places: BTreeMap<String, BTreeSet<Where<'a>>>,
}

pub fn judge(world: &World) -> Verdict {
    let ledger = Ledger::new(world)?;
    let drafts = drafts(world);
    publications(world, &ledger, &drafts)?;
    acks(world, &ledger)?;
    keys(world, &ledger, &drafts)?;
    for client in stayed(world) {
        at_rest(world, &ledger, client).map_err(|problem| format!("client {}: {problem}", client.number))?;
    }
    owners(world)
}

fn place(told: &Told) -> Where<'_> {
    (&told.channel, &told.place.0, told.place.1)
}

/// What a publication can be told by: the drafts put it first in the text, or beside the padding.
pub fn tag_of(data: &Value) -> Option<&str> {
    data["data"]["tag"].as_str().or_else(|| data["text"].as_str().and_then(|text| text.split(' ').next()))
}

impl<'a> Ledger<'a> {
    fn new(world: &'a World) -> Verdict<Self> {
        let mut ledger = Self::default();
        let mut epochs: BTreeMap<&str, &str> = BTreeMap::new();
        for told in world.clients.iter().flat_map(|client| &client.book.told) {
            let known = ledger.contents.insert(place(told), &told.data);
            if known.is_some_and(|known| *known != told.data) || told.data["channel"] != told.channel {
                return Err(format!("one place, two publications: {} and {known:?}", told.data));
            }
            if *epochs.entry(&told.place.0).or_insert(&told.channel) != told.channel {
                return Err(format!("two channels in epoch {}", told.place.0));
            }
            if told.channel != "lobby" {
                let tag = tag_of(&told.data).ok_or("a publication that nobody can have sent")?;
                ledger.places.entry(tag.to_owned()).or_default().insert(place(told));
            }
        }
        Ok(ledger)
    }
}

/// Who asked for what, by tag; a draft that is sent again is there again.
fn drafts(world: &World) -> BTreeMap<&str, Vec<(&Client, usize, &Draft)>> {
    let mut drafts: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for client in &world.clients {
        for (request, asked) in client.asked.iter().enumerate() {
            if let What::Publish(draft) = &asked.what {
                drafts.entry(&draft.tag).or_default().push((client, request, &**draft));
            }
        }
    }
    drafts
}

/// Each publication was asked for, not refused, stands once, and is what was sent.
fn publications(world: &World, ledger: &Ledger<'_>, drafts: &BTreeMap<&str, Vec<(&Client, usize, &Draft)>>) -> Verdict {
    let mut latest: BTreeMap<(usize, &str, &str), (u64, usize)> = BTreeMap::new();
    // By channel, epoch and offset, so that a sender's come in order.
    for (&(channel, epoch, offset), data) in ledger.contents.iter().filter(|((channel, ..), _)| *channel != "lobby") {
        let tag = tag_of(data).unwrap_or_default();
        if tag.starts_with("backend") {
            world.backend.published(tag, channel, epoch, offset)?;
            continue;
        }
        let asked = drafts.get(tag).ok_or_else(|| format!("nobody said {data}"))?;
        let refused = |(client, request, _): &(&Client, usize, &Draft)| matches!(client.asked[*request].answer, Some(Answer::Error(code)) if code != 504);
        let (client, request, draft) = asked[0];
        let sender = |account: usize| world.plan.accounts[account].id == data["sender"]["id"];
        let known = asked.iter().any(|(client, ..)| client.asked.iter().filter_map(|a| a.what.account()).any(sender));
        let same = draft.channel == channel && draft.key.as_deref() == data["key"].as_str() && known;
        if asked.iter().all(refused) || !same {
            return Err(format!("{data} at {channel} {epoch} {offset} came of {asked:?}"));
        }
        if asked.len() == 1
            && let Some(before) = latest.insert((client.number, channel, epoch), (offset, request))
            && before.1 > request
        {
            return Err(format!("{data} came before what was said before it"));
        }
    }
    for (tag, places) in &ledger.places {
        let epochs: BTreeSet<&str> = places.iter().map(|place| place.1).collect();
        let once = drafts.get(tag.as_str()).is_some_and(|asked| asked.len() == 1);
        if places.len() > 1 && once || places.len() > epochs.len() && is_short(world) {
            return Err(format!("{tag} was published more than once: {places:?}"));
        }
    }
    Ok(())
}

fn is_short(world: &World) -> bool {
    world.now.mono_ms < KEPT_MS
}

/// An acknowledgement names the place of what was sent, and only one is not a duplicate.
fn acks(world: &World, ledger: &Ledger<'_>) -> Verdict {
    let mut fresh = BTreeSet::new();
    for client in &world.clients {
        for acked in &client.book.acked {
            let What::Publish(draft) = &client.asked[acked.request].what else { continue };
            let place = (draft.channel.as_str(), acked.place.0.as_str(), acked.place.1);
            let there = ledger.contents.get(&place).and_then(|data| tag_of(data));
            let unique = acked.duplicate || fresh.insert(place);
            if there.is_some_and(|tag| tag != draft.tag) || !unique || acked.duplicate && draft.once.is_none() {
                return Err(format!("client {}: {acked:?} of {draft:?}, where there is {there:?}", client.number));
            }
        }
    }
    Ok(())
}

/// One user's key stands for one content in an epoch; a key is refused only if it was used otherwise.
fn keys(world: &World, ledger: &Ledger<'_>, drafts: &BTreeMap<&str, Vec<(&Client, usize, &Draft)>>) -> Verdict {
    let mut used: BTreeMap<(String, &str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (&(channel, epoch, _), data) in &ledger.contents {
        let Some((tag, asked)) = tag_of(data).and_then(|tag| drafts.get_key_value(tag)) else { continue };
        let Some(once) = &asked[0].2.once else { continue };
        used.entry((key_of(&data["sender"]["id"]), channel, epoch, once)).or_default().insert(tag);
    }
    match used.iter().find(|(_, tags)| tags.len() > 1 && is_short(world)) {
        Some(found) => Err(format!("two contents under one key: {found:?}")),
        None => Ok(()),
    }
}

/// At rest a client has, or knows that it hasn't, everything; and its copy of the members is right.
fn at_rest(world: &World, ledger: &Ledger<'_>, client: &Client) -> Verdict {
    if !client.book.unnamed.is_empty() {
        return Err(format!("no answer about {:?}", client.book.unnamed));
    }
    for (channel, subscribed) in &client.book.subscribed {
        let owned = world.shards.iter().flat_map(|shard| shard.owned()).find(|owned| *owned.name == **channel);
        let owned = owned.ok_or_else(|| format!("{channel} is gone while subscribed"))?;
        if *owned.epoch != *subscribed.epoch || subscribed.position != owned.offset {
            return Err(format!("{channel} stands at {} of {}, here {subscribed:?}", owned.offset, owned.epoch));
        }
        let namespace = world.plan.settings.hub.namespaces.of(channel).ok_or("no namespace")?;
        let members = members(world, channel);
        let wrong_list = subscribed.members.as_ref().is_some_and(|known| *known != members);
        let wrong_count = subscribed.count.is_some_and(|count| count != members.len() as u64);
        let replayable = matches!(namespace.presence, PresenceMode::Events | PresenceMode::Digest);
        if wrong_list && replayable || wrong_count {
            return Err(format!("in {channel} are {members:?}, here {subscribed:?}"));
        }
        if namespace.overflow == Overflow::Conflate {
            newest_of_each_key(ledger, channel, client)?;
        }
    }
    Ok(())
}

/// Whoever conflates has the newest publication of each key.
fn newest_of_each_key(ledger: &Ledger<'_>, channel: &str, client: &Client) -> Verdict {
    let subscribed = &client.book.subscribed[channel];
    let range = (channel, subscribed.epoch.as_str(), subscribed.start + 1)..=(channel, &subscribed.epoch, u64::MAX);
    let mut newest = BTreeMap::new();
    for (place, data) in ledger.contents.range(range) {
        if let Some(key) = data["key"].as_str() {
            newest.insert(key, place.2);
        }
    }
    let had = |offset: u64| client.book.told.iter().any(|told| place(told) == (channel, &subscribed.epoch, offset));
    match newest.into_iter().find(|(_, offset)| !had(*offset)) {
        Some(found) => Err(format!("{found:?} of {channel} was left out")),
        None => Ok(()),
    }
}

fn members(world: &World, channel: &str) -> BTreeSet<String> {
    let here = stayed(world).filter(|client| client.book.subscribed.contains_key(channel));
    here.filter_map(|client| client.account(&world.plan)).map(|account| account.key.clone()).collect()
}

/// The owners know of the subscriptions that there are, and of no other.
fn owners(world: &World) -> Verdict {
    for owned in world.shards.iter().flat_map(|shard| shard.owned()).filter(|owned| *owned.name != *"lobby") {
        let here = stayed(world).filter(|client| client.book.subscribed.contains_key(&*owned.name)).count();
        let namespace = world.plan.settings.hub.namespaces.of(&owned.name).ok_or("no namespace")?;
        let off = namespace.presence == PresenceMode::Off;
        let members = if off { 0 } else { members(world, &owned.name).len() as u64 };
        if owned.subscribers != here || owned.members != members {
            return Err(format!("{owned:?}, but {here} subscribe, {members} members"));
        }
    }
    Ok(())
}
