//! What a client hears of its channels: subscriptions, publications, gaps, pages and members, each held against
//! every rule that one client can check alone. What it heard is kept, for `ledger` to lay it beside all others'.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uringcast::model::namespace::{Overflow, PresenceMode, PublishRule};

use crate::client::{Answer, Asked, Client, Verdict, What};
use crate::dice::Dice;
use crate::plan::{CHANNELS, Plan, key_of};
use crate::tokens::Token;

/// A position: epoch and offset.
pub type Place = (String, u64);

/// A publication that a client asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub channel: String,
    /// Tells it from every other; the same if it is sent again.
    pub tag: String,
    pub length: usize,
    pub text: bool,
    pub key: Option<String>,
    pub once: Option<String>,
    pub epoch: Option<String>,
}

/// What a client takes with it into its next connection.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub positions: BTreeMap<String, Place>,
    /// Signed tokens that it was given.
    pub tokens: Vec<Token>,
    /// Sent under an idempotency key, and as whom.
    pub keyed: Vec<(String, Draft)>,
}

/// A subscription as the client sees it.
#[derive(Debug)]
pub struct Subscribed {
    pub epoch: String,
    /// The offset that `subscribed` named.
    pub start: u64,
    /// The position: all up to here was sent to the client, or it was told that it is lost.
    pub position: u64,
    /// Epochs of the channel that ended meanwhile.
    ended: Vec<String>,
    /// The newest publication had. A gap may come before answers that are older.
    last: u64,
    /// The gap that has to come before anything else of the channel.
    due: Option<(u64, u64)>,
    /// How many requests there were when it began.
    heard_at: usize,
    pub members: Option<BTreeSet<String>>,
    pub count: Option<u64>,
    timestamp: u64,
}

/// One publication as it was heard.
#[derive(Debug)]
pub struct Told {
    pub channel: String,
    pub place: Place,
    pub data: Value,
}

/// An acknowledgement.
#[derive(Debug)]
pub struct Acked {
    pub request: usize,
    pub place: Place,
    pub duplicate: bool,
}

/// A client's share of the channels.
#[derive(Debug, Default)]
pub struct Book {
    pub known: Known,
    pub subscribed: BTreeMap<String, Subscribed>,
    pub told: Vec<Told>,
    pub acked: Vec<Acked>,
    /// Asked for with `auth`, by request.
    pub with_auth: BTreeMap<usize, Vec<(String, Option<Place>)>>,
    /// Of these, what the sign-in that succeeded asked for and what was not answered yet.
    pub unnamed: Vec<(String, Option<Place>)>,
    /// And what was answered 504: it may have been done.
    pub timed_out: BTreeSet<String>,
    /// The lobby's gap that has to come.
    pub lobby_due: Option<(u64, u64)>,
    pub gaps: usize,
    pub engine_gaps: usize,
    pub recovered: usize,
    pub not_recovered: usize,
}

impl Client {
    /// Something to do with a channel.
    pub fn channel_idea(&self, plan: &Plan, dice: &mut Dice) -> What {
        let channel = dice.pick(&CHANNELS).to_owned();
        let pending = |asked: &&crate::client::Asked| {
            asked.answer.is_none() && matches!(&asked.what, What::Subscribe { channel: c, .. } if *c == channel)
        };
        let waits = self.asked.iter().any(|asked| pending(&asked));
        let here = self.book.subscribed.contains_key(&channel);
        let subscribe = if here { 1 } else { 20 };
        let leave = if waits { 8 } else { 1 };
        match dice.weighted(&[subscribe, leave, 12, 2, 2]) {
            0 => What::Subscribe { since: self.since(&channel, dice), channel },
            1 => What::Unsubscribe { channel },
            2 => What::Publish(Box::new(self.draft(channel, plan, dice))),
            3 => {
                let since = self.since(&channel, dice);
                What::History { channel, since, limit: dice.between(1, 40), reverse: dice.once_in(3) }
            }
            _ => What::Presence { channel },
        }
    }

    /// Where the client was, sometimes wrongly.
    pub fn since(&self, channel: &str, dice: &mut Dice) -> Option<Place> {
        let place = self.book.known.positions.get(channel).cloned();
        match (dice.below(12), place) {
            (0, _) => Some(("another epoch".into(), dice.below(20) as u64)),
            (1, Some((epoch, offset))) => Some((epoch, offset + dice.between(1, 50) as u64)),
            (2, Some((epoch, _))) => Some((epoch, 0)),
            (3, _) | (_, None) => None,
            (_, place) => place,
        }
    }

    fn draft(&self, channel: String, plan: &Plan, dice: &mut Dice) -> Draft {
        let own = self.account(plan).map(|account| account.key.as_str());
        let keyed: Vec<_> = self.book.known.keyed.iter().filter(|(user, _)| Some(user.as_str()) == own).collect();
        let mut draft = Draft {
            tag: format!("c{}m{}", self.number, self.asked.len()),
            length: if dice.once_in(12) { dice.between(100, 900) } else { dice.below(40) },
            text: dice.once_in(4),
            key: None,
            once: None,
            epoch: None,
            channel,
        };
        if !draft.text && dice.once_in(2) {
            draft.key = Some(format!("k{}", dice.below(4)));
        }
        if dice.once_in(12) {
            let epoch = self.book.known.positions.get(&draft.channel).map(|place| place.0.clone());
            draft.epoch = (!draft.text).then(|| epoch.unwrap_or_else(|| "stale".into()));
        }
        if dice.once_in(4) {
            draft.once = Some(format!("once {}", draft.tag));
        }
        if !keyed.is_empty() && dice.once_in(4) {
            let again = dice.pick(&keyed).1.clone();
            if !dice.once_in(6) {
                return again;
            }
            (draft.channel, draft.once) = (again.channel, again.once);
        }
        draft
    }

    /// `subscribed`, in answer to a request or to a channel that came with `auth`.
    pub fn read_subscribed(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let data = &json["data"];
        let channel = data["channel"].as_str().ok_or("no channel")?.to_owned();
        let since = if json["id"].is_null() {
            self.take_unnamed(&channel)?
        } else {
            let fits = |what: &What| matches!(what, What::Subscribe { channel: c, .. } if *c == channel);
            let request = self.answered(json, Answer::Done, fits)?;
            let What::Subscribe { since, .. } = &self.asked[request].what else { unreachable!("just matched") };
            since.clone()
        };
        let namespace = plan.settings.hub.namespaces.of(&channel).ok_or("no such namespace")?;
        if data["overflow"] != namespace.overflow.as_str() || !self.may(plan, &channel).any(|may| may) {
            return Err(format!("{json} is not what the namespace allows"));
        }
        let (epoch, offset) = place_of(data)?;
        let due = self.read_recovery(data, &channel, since.as_ref(), plan)?;
        // What is lost counts when the client is told.
        let position = due.map_or(offset, |(from, _)| from - 1);
        let fresh = Subscribed {
            epoch: epoch.clone(),
            ended: Vec::new(),
            start: offset,
            position,
            last: offset,
            due,
            heard_at: self.asked.len(),
            members: None,
            count: None,
            timestamp: 0,
        };
        self.book.known.positions.insert(channel.clone(), (epoch, position));
        if self.book.subscribed.insert(channel, fresh).is_some() {
            return Err(format!("{json} and it was subscribed already"));
        }
        Ok(())
    }

    fn take_unnamed(&mut self, channel: &str) -> Verdict<Option<Place>> {
        let at = self.book.unnamed.iter().position(|(name, _)| name == channel);
        let at = at.ok_or_else(|| format!("an answer about {channel}, for which nobody asked"))?;
        Ok(self.book.unnamed.remove(at).1)
    }

    /// What was recovered, or the gap that has to follow.
    pub fn read_recovery(
        &mut self,
        data: &Value,
        channel: &str,
        since: Option<&Place>,
        plan: &Plan,
    ) -> Verdict<Option<(u64, u64)>> {
        let (epoch, top) = place_of(data)?;
        let Some(since) = since else {
            return if data["recovered"].is_null() { Ok(None) } else { Err(format!("unasked: {data}")) };
        };
        let elements = data["publications"].as_array().ok_or_else(|| format!("no publications in {data}"))?;
        let same = since.0 == epoch;
        if data["recovered"] == true {
            let offsets: Vec<u64> = elements.iter().filter_map(|element| element["offset"].as_u64()).collect();
            if !same || since.1 > top || offsets != (since.1 + 1..=top).collect::<Vec<_>>() {
                return Err(format!("after {since:?} not all and not only what was missed: {data}"));
            }
            self.note_all(channel, &epoch, elements);
            self.book.recovered += 1;
            return Ok(None);
        }
        self.book.not_recovered += 1;
        let possible = same && (since.1 == top || since.1 < top && plan.keeps_all(channel));
        if data["recovered"] != false || !elements.is_empty() || possible {
            return Err(format!("after {since:?} that could be recovered: {data}"));
        }
        let from = if same { since.1 + 1 } else { 1 };
        Ok((from <= top).then_some((from, top)))
    }

    fn note_all(&mut self, channel: &str, epoch: &str, elements: &[Value]) {
        for element in elements {
            let mut data = element.clone();
            data.as_object_mut().map(|fields| fields.remove("type"));
            self.note(channel, epoch, data);
        }
    }

    pub fn note(&mut self, channel: &str, epoch: &str, data: Value) {
        let offset = data["offset"].as_u64().unwrap_or_default();
        self.book.told.push(Told { channel: channel.into(), place: (epoch.into(), offset), data });
    }

    pub fn read_unsubscribed(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let channel = json["data"]["channel"].as_str().ok_or("no channel")?.to_owned();
        if json["id"].is_null() {
            // A newer token grants less.
            let fair = json["code"] == 403 && self.may(plan, &channel).any(|may| !may);
            return conclude(fair && self.book.subscribed.remove(&channel).is_some(), json);
        }
        self.answered(json, Answer::Done, |what| *what == What::Unsubscribe { channel: channel.clone() })?;
        // A subscribe that was cancelled leaves nothing to remove.
        self.book.subscribed.remove(&channel);
        Ok(())
    }

    fn subscription(&mut self, json: &Value) -> Verdict<(String, &mut Subscribed)> {
        let channel = json["data"]["channel"].as_str().ok_or("no channel")?;
        let subscribed = self.book.subscribed.get_mut(channel);
        let subscribed = subscribed.ok_or_else(|| format!("{json}, and {channel} is not subscribed"))?;
        let due = subscribed.due.is_some() && json["type"] != "gap";
        if due { Err(format!("{json} before the gap")) } else { Ok((channel.to_owned(), subscribed)) }
    }

    /// Whether a subscribe timed out: the owner may have taken what was asked behind it for a subscriber's.
    fn is_in_doubt(&self, channel: &str) -> bool {
        let timed_out = |asked: &Asked| {
            asked.answer == Some(Answer::Error(504))
                && matches!(&asked.what, What::Subscribe { channel: name, .. } if name == channel)
        };
        let doubtful = self.book.timed_out.contains(channel) || self.asked.iter().any(timed_out);
        !self.book.subscribed.contains_key(channel) && doubtful
    }

    pub fn read_publication(&mut self, json: &Value) -> Verdict {
        let offset = json["data"]["offset"].as_u64().ok_or("no offset")?;
        let timestamp = json["data"]["timestamp"].as_u64().ok_or("no timestamp")?;
        let (channel, subscribed) = self.subscription(json)?;
        if offset != subscribed.position + 1 {
            return Err(format!("{json} with {subscribed:?}"));
        }
        if timestamp < std::mem::replace(&mut subscribed.timestamp, timestamp) {
            return Err(format!("time goes back in {json}"));
        }
        (subscribed.position, subscribed.last) = (offset, offset);
        let place = (subscribed.epoch.clone(), offset);
        self.note(&channel, &place.0.clone(), json["data"].clone());
        self.book.known.positions.insert(channel, place);
        Ok(())
    }

    pub fn read_gap(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let data = &json["data"];
        let (Some(from), Some(to)) = (data["from"].as_u64(), data["to"].as_u64()) else {
            return Err(format!("{json} has no range"));
        };
        let reason = data["reason"].as_str().unwrap_or_default();
        self.book.gaps += 1;
        self.book.engine_gaps += usize::from(reason == "engine");
        if data["channel"] == "lobby" {
            let due = self.book.lobby_due.take();
            return if due == Some((from, to)) { Ok(()) } else { Err(format!("{json}, due is {due:?}")) };
        }
        let (channel, subscribed) = self.subscription(json)?;
        let overflow = plan.settings.hub.namespaces.of(&channel).map(|namespace| namespace.overflow);
        let fair = match (subscribed.due.take(), reason) {
            (Some(due), reason) => reason == "history_lost" && due == (from, to),
            (None, "engine") => plan.engine.is_some_and(|engine| engine.loses > 0),
            (None, "slow_consumer") => overflow != Some(Overflow::Disconnect),
            (None, "conflated") => overflow == Some(Overflow::Conflate),
            (None, _) => false,
        };
        let same = data["epoch"] == subscribed.epoch;
        let renews = reason == "engine" && !same && from == 1;
        if renews {
            let renewed = data["epoch"].as_str().ok_or("no epoch")?.to_owned();
            subscribed.ended.push(std::mem::replace(&mut subscribed.epoch, renewed));
            (subscribed.start, subscribed.last) = (0, 0);
        }
        let next = renews || same && from == subscribed.position + 1 && from <= to;
        subscribed.position = to;
        let place = (subscribed.epoch.clone(), to);
        self.book.known.positions.insert(channel, place);
        conclude(fair && next, json)
    }

    pub fn read_presence_push(&mut self, json: &Value) -> Verdict {
        let data = &json["data"];
        let (_, subscribed) = self.subscription(json)?;
        subscribed.count = data["count"].as_u64();
        let keys = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().map(|user| key_of(&user["id"])).collect()
        };
        let (came, went) = match json["type"].as_str() {
            Some("join") => (vec![key_of(&data["user"]["id"])], Vec::new()),
            Some("leave") => (Vec::new(), vec![key_of(&data["user"]["id"])]),
            _ => (keys(&data["joined"]), keys(&data["left"])),
        };
        if data["truncated"] == true || data["reset"] == true {
            subscribed.members = None;
        }
        if let Some(members) = &mut subscribed.members {
            members.extend(came);
            members.retain(|user| !went.contains(user));
        }
        Ok(())
    }

    pub fn read_members(&mut self, json: &Value) -> Verdict {
        let channel = json["data"]["channel"].as_str().ok_or("no channel")?.to_owned();
        self.answered(json, Answer::Done, |what| *what == What::Presence { channel: channel.clone() })?;
        let members = json["data"]["members"].as_array().ok_or("no members")?;
        let members: BTreeSet<String> = members.iter().map(|member| key_of(&member["user"]["id"])).collect();
        let whole = json["data"]["count"] == members.len();
        if !self.is_in_doubt(&channel) {
            self.subscription(json)?.1.members = Some(members);
        }
        conclude(whole, json)
    }

    pub fn read_history(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let request = self.answered(json, Answer::Done, |what| matches!(what, What::History { .. }))?;
        let What::History { channel, since, limit, reverse } = self.asked[request].what.clone() else {
            unreachable!("just matched")
        };
        let (epoch, top) = place_of(&json["data"])?;
        let elements = json["data"]["publications"].as_array().ok_or("no publications")?;
        let offsets: Vec<u64> = elements.iter().filter_map(|element| element["offset"].as_u64()).collect();
        let step = |pair: &[u64]| if reverse { pair[0] == pair[1] + 1 } else { pair[0] + 1 == pair[1] };
        let from = since.as_ref().map_or(0, |since| since.1);
        let side = |offset: &u64| from == 0 || if reverse { *offset < from } else { *offset > from };
        let whole = offsets.windows(2).all(step) && offsets.iter().all(|offset| side(offset) && *offset <= top);
        let here = json["data"]["channel"] == channel && since.as_ref().is_none_or(|since| since.0 == epoch);
        let missed = offsets.is_empty() && !reverse && from < top && plan.keeps_all(&channel);
        self.note_all(&channel, &epoch, elements);
        let behind = !self.is_in_doubt(&channel) && top < self.subscription(json)?.1.last;
        conclude(whole && here && !missed && !behind && offsets.len() <= limit, json)
    }

    pub fn read_channel_ack(&mut self, json: &Value) -> Verdict {
        let place = place_of(&json["data"])?;
        let channel = json["data"]["channel"].as_str().ok_or("no channel")?.to_owned();
        let fits = |what: &What| matches!(what, What::Publish(draft) if draft.channel == channel);
        let request = self.answered(json, Answer::Ack(place.1), fits)?;
        let duplicate = json["data"]["duplicate"] == true;
        if self.is_in_doubt(&channel) {
            self.book.acked.push(Acked { request, place, duplicate });
            return Ok(());
        }
        let (_, subscribed) = self.subscription(json)?;
        let had = place.1 <= subscribed.position;
        let fresh = duplicate || place.1 > subscribed.start;
        let fair = had && fresh && place.0 == subscribed.epoch || subscribed.ended.contains(&place.0);
        self.book.acked.push(Acked { request, place, duplicate });
        conclude(fair, json)
    }

    /// Whether a refusal of a request about a channel is fair.
    pub fn may_refuse(&self, request: usize, code: u64, plan: &Plan) -> bool {
        let what = &self.asked[request].what;
        let Some(channel) = what.channel() else { return false };
        let namespace = plan.settings.hub.namespaces.of(channel);
        let unsubscribes = |what: &What| matches!(what, What::Unsubscribe { channel: c } if c == channel);
        let was_here = self.book.subscribed.get(channel).is_some_and(|subscribed| {
            let between = self.asked.get(subscribed.heard_at..request);
            between.is_some_and(|between| !between.iter().any(|asked| unsubscribes(&asked.what)))
        });
        match (what, code) {
            (What::Subscribe { .. }, 404) => namespace.is_none(),
            (What::Subscribe { .. }, 403) => namespace.is_some() && self.may(plan, channel).any(|may| !may),
            (What::Subscribe { .. }, 409) => {
                let others = self.asked.iter().enumerate().filter(|(at, _)| *at != request).map(|(_, asked)| asked);
                self.book.subscribed.contains_key(channel)
                    || others.into_iter().any(|asked| asked.what.channel() == Some(channel))
                    || !self.book.with_auth.is_empty()
            }
            (What::Unsubscribe { .. }, 404) => !self.book.subscribed.contains_key(channel),
            (What::Publish(_), 403) if namespace.is_some_and(|n| n.publish == PublishRule::Backend) => true,
            (What::Presence { .. }, 403) if namespace.is_some_and(|n| n.presence == PresenceMode::Off) => true,
            (What::Publish(_) | What::History { .. } | What::Presence { .. }, 403) => !was_here,
            (What::Publish(draft), 409) => draft.epoch.is_some() || draft.once.is_some(),
            (What::Publish(draft), 413) => draft.length + 400 > plan.settings.hub.push_bytes,
            (What::History { since, .. }, 409) => since.is_some(),
            (What::Subscribe { .. } | What::Publish(_) | What::History { .. } | What::Presence { .. }, 503 | 504) => {
                true
            }
            _ => false,
        }
    }

    /// A refusal of a channel that came with `auth`.
    pub fn read_unnamed_error(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let channel = json["data"]["channel"].as_str().ok_or("no channel")?.to_owned();
        self.take_unnamed(&channel)?;
        if json["code"] == 504 {
            self.book.timed_out.insert(channel.clone());
        }
        let namespace = plan.settings.hub.namespaces.of(&channel);
        let fair = match json["code"].as_u64() {
            Some(404) => namespace.is_none(),
            Some(403) => self.may(plan, &channel).any(|may| !may),
            // Asked for twice, or cancelled.
            Some(409 | 503 | 504) => true,
            _ => false,
        };
        conclude(fair, json)
    }
}

fn conclude(fair: bool, json: &Value) -> Verdict {
    if fair { Ok(()) } else { Err(format!("not as it should be: {json}")) }
}

pub fn place_of(data: &Value) -> Verdict<Place> {
    let epoch = data["epoch"].as_str().ok_or_else(|| format!("no epoch in {data}"))?;
    Ok((epoch.to_owned(), data["offset"].as_u64().ok_or_else(|| format!("no offset in {data}"))?))
}
