//! The owner's side of a remote engine: which asks wait for it and until when, and what its news changes in the
//! channels. Part of `hub`. With the engine that is this process alone nothing here is ever used.
//!
//! A channel is *followed* once the engine has said where it stands. Its publications then come one by one. One that is
//! not the next means that some are missing: the channel is *behind*, the hub drops what comes and follows the channel
//! once more, and the engine sends what was missed or says that it is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Hub;
use super::engine::Engine;
use super::key::ChannelKey;
use super::publish::place;
use crate::mesh::Staging;
use crate::model::engine::{EngineNews, EngineOutcome, EnginePublication, Ticket};
use crate::model::parcel::{Answer, Ask, HistoryPage, Parcel, Refusal};
use crate::model::position::{Placed, Since};
use crate::model::publication::Publish;
use crate::planted::Fault;
use crate::time::clock::Now;

/// Most news that wait for room in the lanes. When there are more, channels fall behind and are followed once more.
pub(crate) const NEWS_MAX: usize = 1_024;

/// What waits for the engine, and what the engine has sent.
#[derive(Debug, Default)]
pub(crate) struct AtEngine {
    /// By ticket, and so in the order of the deadlines: all asks have the same time.
    tickets: BTreeMap<Ticket, UnderWay>,
    /// News that waits for room in the lanes.
    news: VecDeque<EngineNews>,
    /// Channels that miss publications and have not been followed again yet.
    behind: BTreeSet<Arc<str>>,
}

/// An ask that the engine has not answered.
#[derive(Debug)]
struct UnderWay {
    until_ms: u64,
    channel: Arc<str>,
    is_follow: bool,
}

impl Hub {
    /// Takes news from the engine; applied now or, when a lane is full, in a later turn.
    pub(crate) fn hear_engine(&mut self, news: EngineNews, now: Now, out: &mut Staging<Parcel>) {
        let is_full = self.at_engine.news.len() >= NEWS_MAX;
        match &news {
            EngineNews::Publication { placed, .. } | EngineNews::Gap { placed, .. } if is_full => {
                self.fall_behind(&placed.channel);
            }
            // Applying it would change nothing. What is awaited is bounded by the asks that are under way.
            EngineNews::Outcome { ticket, .. } | EngineNews::Page { ticket, .. } if !self.awaits(*ticket) => {}
            _ => self.at_engine.news.push_back(news),
        }
        self.apply_news(now, out);
    }

    /// Whether an ask waits for the engine, or news for room.
    pub(crate) fn is_at_engine(&self) -> bool {
        !self.at_engine.tickets.is_empty() || !self.at_engine.news.is_empty() || !self.at_engine.behind.is_empty()
    }

    /// Whether news waits for room in the lanes.
    pub(crate) fn has_news(&self) -> bool {
        !self.at_engine.news.is_empty()
    }

    /// Whether the outcome of this ask is awaited.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.at_engine.tickets.contains_key(&ticket)
    }

    /// The engine's part of a turn: deadlines, news that waits for room, and channels that are behind.
    pub(super) fn engine_turn(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some(first) = self.at_engine.tickets.first_entry()
            && first.get().until_ms <= now.mono_ms
        {
            let (ticket, UnderWay { channel, is_follow, .. }) = first.remove_entry();
            if is_follow {
                self.give_up_follow(&channel, ticket, now, out);
            } else {
                self.complete(&channel, ticket, Answer::Refused(Refusal::Unanswered), now, out);
            }
        }
        self.apply_news(now, out);
        if self.at_engine.news.is_empty() {
            for name in std::mem::take(&mut self.at_engine.behind) {
                self.follow_again(&name, now, out);
            }
        }
    }

    /// Notes an ask that was sent to the engine.
    pub(super) fn await_engine(&mut self, ticket: Ticket, channel: Arc<str>, is_follow: bool, now: Now) {
        let until_ms = now.mono_ms + self.settings.patience_ms;
        let under_way = UnderWay { until_ms, channel, is_follow };
        self.at_engine.tickets.insert(ticket, under_way);
    }

    /// Whether the engine has to be asked where the channel stands before this ask can be answered: nothing is known of
    /// the channel, or the client comes from a place that this owner has not heard of. `is_late`: the ask has waited
    /// for that already. Returns the follow to wait for.
    pub(super) fn follow_first(
        &mut self,
        key: ChannelKey,
        ask: &Ask,
        is_late: bool,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Option<Ticket> {
        let Self { engine: Engine::Remote(remote), channels, .. } = self else { return None };
        let since = match ask {
            Ask::Subscribe { recover, .. } => recover.as_deref(),
            Ask::Claim(claim) if claim.lobby => claim.recover.as_deref(),
            _ => return None,
        };
        let channel = channels.get_mut(key).expect("made before");
        let is_known = channel.follow().is_known();
        let (epoch, top) = (remote.logs().epoch(channel.log), remote.logs().top(channel.log));
        let is_news = |since: &Since| *since.epoch != **epoch || since.offset > top;
        if is_known && (is_late || !since.is_some_and(is_news)) {
            return None;
        }
        if !is_known && channel.follow().is_asking() {
            return Some(channel.follow().asked());
        }
        let ticket = remote.follow(channel.log, is_known, out);
        channel.waits_mut().follow.sent(ticket);
        let name = Arc::clone(channel.name());
        self.await_engine(ticket, name, true, now);
        Some(ticket)
    }

    fn follow_again(&mut self, name: &Arc<str>, now: Now, out: &mut Staging<Parcel>) {
        let Self { engine: Engine::Remote(remote), channels, .. } = self else { return };
        let Some(channel) = channels.find(name).and_then(|key| channels.get_mut(key)) else { return };
        let ticket = remote.follow(channel.log, channel.follow().is_known(), out);
        channel.waits_mut().follow.sent_for_missing(ticket);
        self.await_engine(ticket, Arc::clone(name), true, now);
    }

    /// The engine has not answered a follow in time. What waited for it has certainly not been done.
    fn give_up_follow(&mut self, name: &Arc<str>, ticket: Ticket, now: Now, out: &mut Staging<Parcel>) {
        let Some(key) = self.channels.find(name) else { return };
        let Some(channel) = self.channels.get_mut(key) else { return };
        let waits = channel.waits_mut();
        let is_behind = waits.follow.give_up(ticket);
        waits.queue.refuse_follow(ticket, || Answer::Refused(Refusal::Busy));
        if is_behind {
            self.fall_behind(name);
        }
        self.drain(key, now, out);
    }

    /// Publications of the channel are missing here.
    fn fall_behind(&mut self, name: &Arc<str>) {
        let Some(key) = self.channels.find(name) else { return };
        if let Some(channel) = self.channels.get_mut(key).filter(|channel| channel.follow().is_known()) {
            channel.waits_mut().follow.fall_behind();
            self.at_engine.behind.insert(Arc::clone(name));
        }
    }

    fn apply_news(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some(first) = self.at_engine.news.front() {
            let has_room = match first {
                EngineNews::Publication { placed, .. }
                | EngineNews::Gap { placed, .. }
                | EngineNews::Following { placed, .. } => {
                    self.lanes_have_room(self.channels.find(&placed.channel), out)
                }
                EngineNews::Outcome { .. } | EngineNews::Page { .. } => true,
            };
            if !has_room {
                return;
            }
            let Some(news) = self.at_engine.news.pop_front() else { return };
            self.apply(news, now, out);
        }
    }

    fn apply(&mut self, news: EngineNews, now: Now, out: &mut Staging<Parcel>) {
        match news {
            EngineNews::Outcome { ticket, .. } if Fault::LostCompletion.is_planted() && ticket.0.is_multiple_of(8) => {} // PLANTED
            EngineNews::Outcome { ticket, outcome } => {
                let Some(UnderWay { channel, .. }) = self.at_engine.tickets.remove(&ticket) else { return };
                let answer = match outcome {
                    EngineOutcome::Accepted(placed) => {
                        self.publications += 1;
                        Answer::Published { placed, duplicate: false }
                    }
                    EngineOutcome::Duplicate(placed) => Answer::Published { placed, duplicate: true },
                    EngineOutcome::EpochChanged(placed) => Answer::EpochChanged(placed),
                    EngineOutcome::Refused(refusal) => Answer::Refused(refusal),
                };
                self.complete(&channel, ticket, answer, now, out);
            }
            EngineNews::Page { ticket, placed, publications } => {
                let Some(UnderWay { channel: name, .. }) = self.at_engine.tickets.remove(&ticket) else { return };
                let Some(channel) = self.channels.find(&name).and_then(|key| self.channels.get(key)) else { return };
                let mut page = HistoryPage { placed, publications: Vec::new() };
                let mut bytes = 0;
                for EnginePublication { offset, timestamp, publish } in publications {
                    let placed = Placed { offset, ..page.placed.clone() };
                    let publish = Publish::clone(&publish);
                    let publication = Arc::new(place(&self.settings, channel, placed, timestamp, publish));
                    bytes += publication.frame_bytes;
                    if bytes > self.settings.recover_bytes && !page.publications.is_empty() {
                        break;
                    }
                    page.publications.push(publication);
                }
                self.complete(&name, ticket, Answer::History(Box::new(page)), now, out);
            }
            EngineNews::Following { ticket, placed, publications } => {
                self.at_engine.tickets.remove(&ticket);
                self.following(ticket, &placed, publications, now, out);
            }
            EngineNews::Publication { placed, publication } => self.published_elsewhere(&placed, publication, now, out),
            EngineNews::Gap { placed, from } => self.gap_elsewhere(&placed, from, now, out),
        }
    }
}

impl Hub {
    /// The outcome of an ask is known.
    fn complete(&mut self, name: &str, ticket: Ticket, answer: Answer, now: Now, out: &mut Staging<Parcel>) {
        let Some(key) = self.channels.find(name) else { return };
        let Some(channel) = self.channels.get_mut(key) else { return };
        channel.waits_mut().queue.complete(ticket, answer);
        self.drain(key, now, out);
    }

    /// The engine has said where a channel stands, and what was missed of it.
    fn following(
        &mut self,
        ticket: Ticket,
        placed: &Placed,
        publications: Vec<EnginePublication>,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        let Some(key) = self.channels.find(&placed.channel) else { return };
        // A channel that is gone is not followed any more: that has been said.
        let Some(channel) = self.channels.get_mut(key).filter(|channel| channel.follow().is_own(ticket)) else {
            return;
        };
        let (log, was_known) = (channel.log, channel.follow().is_known());
        channel.waits_mut().follow.answered(ticket);
        // The last offset that can't be had any more.
        let gone = publications.first().map_or(placed.offset, |first| first.offset - 1);
        let logs = self.engine.logs_mut();
        if !was_known {
            // No subscriber is there yet.
            logs.restart(log, &placed.epoch, gone);
        } else {
            let is_same = *logs.epoch(log) == placed.epoch;
            let next = if is_same { logs.top(log) + 1 } else { 1 };
            if !is_same || gone >= next {
                self.lost_elsewhere(key, &Placed { offset: gone, ..placed.clone() }, next, now, out);
            }
        }
        // They leave together.
        self.end_batch(key, now, out);
        for publication in publications {
            let offset = publication.offset;
            if offset == self.engine.logs().top(log) + 1 {
                self.take_in(key, &Placed { offset, ..placed.clone() }, publication, Leaves::Together, now, out);
            }
        }
        self.end_batch(key, now, out);
        self.drain(key, now, out);
    }

    /// The next publication of a followed channel, from whichever node.
    fn published_elsewhere(
        &mut self,
        placed: &Placed,
        publication: EnginePublication,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        let Some(key) = self.channels.find(&placed.channel) else { return };
        let Some(channel) = self.channels.get(key) else { return };
        if !channel.follow().is_known() || channel.follow().is_behind() {
            return;
        }
        let (logs, log) = (self.engine.logs(), channel.log);
        let (is_same, next) = (*logs.epoch(log) == placed.epoch, logs.top(log) + 1);
        if !is_same || placed.offset > next {
            return self.fall_behind(&placed.channel);
        }
        if placed.offset == next {
            self.take_in(key, placed, publication, Leaves::InItsTurn, now, out);
            self.drain(key, now, out);
        }
    }

    /// Publications of a followed channel are lost. If others are missing here too, the follow that is to come says so.
    fn gap_elsewhere(&mut self, placed: &Placed, from: u64, now: Now, out: &mut Staging<Parcel>) {
        let Some(key) = self.channels.find(&placed.channel) else { return };
        let Some(channel) = self.channels.get(key) else { return };
        if !channel.follow().is_known() || channel.follow().is_behind() {
            return;
        }
        let (logs, log) = (self.engine.logs(), channel.log);
        if *logs.epoch(log) == placed.epoch && from != logs.top(log) + 1 {
            return self.fall_behind(&placed.channel);
        }
        self.lost_elsewhere(key, placed, from, now, out);
    }

    /// Encodes the next publication of a channel, keeps it, and sends it or puts it into the batch window.
    fn take_in(
        &mut self,
        key: ChannelKey,
        placed: &Placed,
        publication: EnginePublication,
        leaves: Leaves,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        let Self { settings, channels, engine, publisher, batches, .. } = self;
        let Some(channel) = channels.get_mut(key) else { return };
        let EnginePublication { timestamp, publish, .. } = publication;
        // The time is the engine's, so that every node shows the same. Events that come later are not earlier than it.
        channel.timestamp(timestamp);
        let publish = Publish::clone(&publish);
        let publication = Arc::new(place(settings, channel, placed.clone(), timestamp, publish));
        engine.logs_mut().advance(channel.log);
        engine.logs_mut().keep(channel.log, channel.history_bounds(), &publication, now.mono_ms);
        let window_ms = match leaves {
            Leaves::InItsTurn => channel.namespace.batch_window_ms,
            Leaves::Together => u64::MAX,
        };
        if Fault::DoubledCompletion.is_planted() && placed.offset.is_multiple_of(8) {
            publisher.hand_on(channel, Arc::clone(&publication), 0, now, out); // PLANTED
        }
        publisher.hand_on(channel, publication, window_ms, now, out);
        batches.extend(channel.new_window());
        self.cut_batches(key, now, out);
    }

    /// Publications are lost for good, and perhaps the epoch has ended: all who subscribe are told.
    fn lost_elsewhere(&mut self, key: ChannelKey, placed: &Placed, from: u64, now: Now, out: &mut Staging<Parcel>) {
        self.end_batch(key, now, out);
        let Self { channels, engine, .. } = self;
        let Some(channel) = channels.get_mut(key).filter(|channel| channel.follow().is_known()) else {
            return;
        };
        engine.logs_mut().restart(channel.log, &placed.epoch, placed.offset);
        for shard in channel.interested() {
            out.push(shard, Parcel::Gap { placed: placed.clone(), from });
        }
        self.drain(key, now, out);
    }
}

/// When a publication of the engine leaves for the subscribers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// At once, or at the end of the channel's batch window.
    InItsTurn,
    /// With others that were missed, when the caller ends the window.
    Together,
}
