//! A model of a remote engine, behind one more endpoint of the mesh. It keeps the order within a channel and none
//! between channels; it is late, refuses, answers nothing, and loses what it had. What it did is remembered, for the
//! oracle to compare.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use uringcast::hub::LOBBY;
use uringcast::model::engine::{EngineAsk, EngineNews, EngineOutcome, EnginePublication, KeepTerms, Ticket};
use uringcast::model::parcel::{Parcel, Refusal};
use uringcast::model::position::{Placed, Since};
use uringcast::model::publication::{Content, Publish};

use crate::client::Verdict;
use crate::dice::Dice;
use crate::faults::{Fault, Lanes, Sabotage};
use crate::plan::EnginePlan;
use crate::world::World;

/// One channel as the engine keeps it.
#[derive(Debug)]
struct ModelLog {
    epoch: Arc<str>,
    /// The newest offset.
    top: u64,
    timestamp: u64,
    /// The history: contiguous, its last publication is the newest one, or it is empty.
    kept: VecDeque<(u64, EnginePublication)>,
    terms: KeepTerms,
    /// The owner that follows the channel.
    follower: Option<usize>,
    /// By user and idempotency key: the content and the place.
    keys: BTreeMap<(String, String), (String, Placed)>,
}

/// The model.
#[derive(Debug)]
pub struct ModelEngine {
    plan: EnginePlan,
    /// The endpoint, which is the number of shards.
    own: usize,
    logs: BTreeMap<Arc<str>, ModelLog>,
    /// How many epochs there have been.
    epochs: u64,
    /// What came from each owner, by channel.
    inbox: BTreeMap<Arc<str>, VecDeque<(usize, EngineAsk)>>,
    /// What is to go to each owner, by channel.
    outbox: BTreeMap<Arc<str>, VecDeque<(usize, EngineNews)>>,
    /// Outcomes that an owner took from its lane in its latest turn and the turns before, as long as it has news that
    /// waits for room.
    taken: BTreeMap<usize, Vec<Ticket>>,
    /// Epochs that have ended.
    pub ended: BTreeSet<String>,
    /// Asks that were not answered.
    unanswered: Vec<(usize, EngineAsk)>,
    /// Everything is answered from now on.
    is_prompt: bool,
    sabotage: Sabotage,
    /// What happened, so that no empty run is taken for a good one.
    pub outcomes: usize,
    pub silences: usize,
    pub losses: usize,
}

fn channel_of(ask: &EngineAsk) -> &Arc<str> {
    match ask {
        EngineAsk::Publish { publish, .. } => &publish.channel,
        EngineAsk::Follow { channel, .. } | EngineAsk::Unfollow { channel } | EngineAsk::Page { channel, .. } => {
            channel
        }
    }
}

/// The ask that a parcel answers, if it comes from the engine with an outcome.
pub fn ticket_of(parcel: &Parcel) -> Option<Ticket> {
    let Parcel::FromEngine(news) = parcel else { return None };
    if let EngineNews::Outcome { ticket, .. } = **news { Some(ticket) } else { None }
}

fn text_of(publish: &Publish) -> String {
    let content = match &publish.content {
        Content::Text(text) => format!("text {text}"),
        Content::Json(json) => format!("json {}", String::from_utf8_lossy(json)),
    };
    format!("{content} {:?}", publish.key)
}

impl ModelEngine {
    pub fn new(plan: EnginePlan, own: usize, sabotage: Sabotage) -> Self {
        Self {
            plan,
            own,
            logs: BTreeMap::new(),
            epochs: 0,
            inbox: BTreeMap::new(),
            outbox: BTreeMap::new(),
            taken: BTreeMap::new(),
            ended: BTreeSet::new(),
            unanswered: Vec::new(),
            is_prompt: false,
            sabotage,
            outcomes: 0,
            silences: 0,
            losses: 0,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.inbox.values().all(VecDeque::is_empty) && self.outbox.values().all(VecDeque::is_empty)
    }

    /// From now on the engine answers everything, what it was silent about too.
    fn become_prompt(&mut self) {
        self.is_prompt = true;
        for (owner, ask) in std::mem::take(&mut self.unanswered) {
            let name = Arc::clone(channel_of(&ask));
            match ask {
                EngineAsk::Publish { ticket, .. } => {
                    let outcome = EngineOutcome::Refused(Refusal::Unanswered);
                    self.tell(&name, owner, EngineNews::Outcome { ticket, outcome });
                }
                ask => self.inbox.entry(name).or_default().push_back((owner, ask)),
            }
        }
    }

    /// One random thing: takes what has come, works on one channel, or sends some news of one channel.
    fn step(&mut self, lanes: &mut Lanes, (now_ms, unix_ms): (u64, u64), dice: &mut Dice) {
        match dice.below(3) {
            0 => {
                for from in 0..self.own {
                    for _ in 0..dice.below(4) {
                        self.take(lanes, from);
                    }
                }
            }
            1 => {
                let busy: Vec<_> =
                    self.inbox.iter().filter(|(_, asks)| !asks.is_empty()).map(|(name, _)| name).collect();
                if !busy.is_empty() {
                    let name = Arc::clone(dice.pick(&busy));
                    self.work(&name, (now_ms, unix_ms), dice);
                }
            }
            _ => {
                let busy: Vec<_> =
                    self.outbox.iter().filter(|(_, news)| !news.is_empty()).map(|(name, _)| name).collect();
                if !busy.is_empty() {
                    let name = Arc::clone(dice.pick(&busy));
                    for _ in 0..dice.between(1, 3) {
                        self.send(lanes, &name);
                    }
                }
            }
        }
    }

    /// Does all that there is to do, as far as the lanes have room.
    fn finish(&mut self, lanes: &mut Lanes, at: (u64, u64), dice: &mut Dice) {
        for from in 0..self.own {
            while self.take(lanes, from) {}
        }
        let names: Vec<_> = self.inbox.keys().chain(self.outbox.keys()).cloned().collect();
        for name in names {
            while self.work(&name, at, dice) {}
            while self.send(lanes, &name) {}
        }
    }

    fn take(&mut self, lanes: &mut Lanes, from: usize) -> bool {
        match lanes.pop(from, self.own) {
            None => return false,
            Some(Parcel::ToEngine(ask)) => {
                self.inbox.entry(Arc::clone(channel_of(&ask))).or_default().push_back((from, *ask));
            }
            Some(other) => panic!("the engine gets {other:?}"),
        }
        true
    }

    fn send(&mut self, lanes: &mut Lanes, name: &Arc<str>) -> bool {
        let Some(news) = self.outbox.get_mut(name) else { return false };
        let Some((to, _)) = news.front() else { return false };
        if !lanes.has_room(self.own, *to) {
            return false;
        }
        let (to, news) = news.pop_front().expect("just seen");
        lanes.put(self.own, to, Parcel::FromEngine(Box::new(news)));
        true
    }

    fn tell(&mut self, name: &Arc<str>, owner: usize, news: EngineNews) {
        self.outbox.entry(Arc::clone(name)).or_default().push_back((owner, news));
    }

    fn strikes(&self, odds: usize, dice: &mut Dice) -> bool {
        odds > 0 && !self.is_prompt && dice.once_in(odds)
    }

    /// Does the next ask about a channel.
    fn work(&mut self, name: &Arc<str>, (now_ms, unix_ms): (u64, u64), dice: &mut Dice) -> bool {
        let Some((owner, ask)) = self.inbox.get_mut(name).and_then(VecDeque::pop_front) else { return false };
        self.log(name);
        let is_lobby = **name == *LOBBY;
        if !is_lobby && self.strikes(self.plan.loses, dice) {
            self.lose(name, dice);
        }
        let is_silent = self.strikes(self.plan.keeps_silent, dice);
        let log = self.logs.get_mut(name).expect("just made");
        let age_ms = log.terms.age_ms;
        while log.kept.front().is_some_and(|(at_ms, _)| at_ms.saturating_add(age_ms) <= now_ms) {
            log.kept.pop_front();
        }
        let placed = Placed { channel: Arc::clone(name), epoch: Arc::clone(&log.epoch), offset: log.top };
        match ask {
            EngineAsk::Unfollow { .. } => log.follower = None,
            // The lobby has to be followed, or no client could ever sign in.
            EngineAsk::Follow { .. } if is_silent && !is_lobby => {
                if dice.once_in(2) {
                    log.follower = Some(owner);
                }
                self.silences += 1;
                self.unanswered.push((owner, ask));
            }
            EngineAsk::Follow { ticket, since, .. } => {
                log.follower = Some(owner);
                let publications = log.after(since.as_ref());
                self.tell(name, owner, EngineNews::Following { ticket, placed, publications });
            }
            EngineAsk::Page { .. } if is_silent => {
                self.silences += 1;
                self.unanswered.push((owner, ask));
            }
            EngineAsk::Page { ticket, since: Some(since), .. } if *since.epoch != *log.epoch => {
                self.tell(name, owner, EngineNews::Outcome { ticket, outcome: EngineOutcome::EpochChanged(placed) });
            }
            EngineAsk::Page { ticket, since, limit, reverse, .. } => {
                let publications = log.page(since.as_ref(), limit, reverse);
                self.tell(name, owner, EngineNews::Page { ticket, placed, publications });
            }
            EngineAsk::Publish { ticket, publish, terms } => {
                log.terms = terms;
                let refuses = self.strikes(self.plan.refuses, dice);
                let forgets = self.strikes(self.plan.forgets, dice);
                let outcome = if refuses {
                    EngineOutcome::Refused(Refusal::Busy)
                } else if (is_silent || forgets) && dice.once_in(2) {
                    EngineOutcome::Refused(Refusal::Unanswered)
                } else {
                    let mut outcome = self.accept(name, &publish, now_ms, unix_ms);
                    if matches!(outcome, EngineOutcome::Accepted(_)) && self.sabotage.strikes(Fault::AppendTwice) {
                        outcome = self.append(name, &publish, now_ms, unix_ms);
                    }
                    if forgets { EngineOutcome::Refused(Refusal::Unanswered) } else { outcome }
                };
                if is_silent {
                    self.silences += 1;
                    self.unanswered.push((owner, EngineAsk::Publish { ticket, publish, terms }));
                } else {
                    self.outcomes += 1;
                    self.tell(name, owner, EngineNews::Outcome { ticket, outcome });
                    self.swap_outcomes(name);
                }
            }
        }
        true
    }

    fn log(&mut self, name: &Arc<str>) {
        if !self.logs.contains_key(name) {
            let log = ModelLog {
                epoch: self.new_epoch(),
                top: 0,
                timestamp: 0,
                kept: VecDeque::new(),
                terms: KeepTerms { count: 0, age_ms: u64::MAX },
                follower: None,
                keys: BTreeMap::new(),
            };
            self.logs.insert(Arc::clone(name), log);
        }
    }

    fn new_epoch(&mut self) -> Arc<str> {
        self.epochs += 1;
        format!("{:016x}", 0xe000 + self.epochs).into()
    }

    fn accept(&mut self, name: &Arc<str>, publish: &Arc<Publish>, now_ms: u64, unix_ms: u64) -> EngineOutcome {
        let log = self.logs.get_mut(name).expect("made before");
        let top = Placed { channel: Arc::clone(name), epoch: Arc::clone(&log.epoch), offset: log.top };
        if publish.epoch.as_ref().is_some_and(|epoch| **epoch != *log.epoch) {
            return EngineOutcome::EpochChanged(top);
        }
        let user = publish.sender.as_ref().map_or_else(String::new, |user| user.key().to_string());
        let key = publish.idempotency_key.as_ref().map(|key| (user, key.to_string()));
        if let Some((content, placed)) = key.as_ref().and_then(|key| log.keys.get(key)) {
            return if *content == text_of(publish) {
                EngineOutcome::Duplicate(placed.clone())
            } else {
                EngineOutcome::Refused(Refusal::KeyReused)
            };
        }
        let placed = Placed { offset: log.top + 1, ..top };
        log.keys.extend(key.map(|key| (key, (text_of(publish), placed))));
        self.append(name, publish, now_ms, unix_ms)
    }

    /// The publication gets the next offset, and each owner that follows the channel gets the publication.
    fn append(&mut self, name: &Arc<str>, publish: &Arc<Publish>, now_ms: u64, unix_ms: u64) -> EngineOutcome {
        let log = self.logs.get_mut(name).expect("made before");
        log.top += 1;
        log.timestamp = log.timestamp.max(unix_ms);
        let publication = EnginePublication { offset: log.top, timestamp: log.timestamp, publish: Arc::clone(publish) };
        log.kept.push_back((now_ms, publication.clone()));
        while log.kept.len() > log.terms.count {
            log.kept.pop_front();
        }
        let placed = Placed { channel: Arc::clone(name), epoch: Arc::clone(&log.epoch), offset: log.top };
        if let Some(owner) = log.follower {
            self.tell(name, owner, EngineNews::Publication { placed: placed.clone(), publication });
        }
        EngineOutcome::Accepted(placed)
    }

    /// Some offsets are lost for good, or the epoch ends.
    fn lose(&mut self, name: &Arc<str>, dice: &mut Dice) {
        self.losses += 1;
        let renewed = dice.once_in(3).then(|| self.new_epoch());
        let log = self.logs.get_mut(name).expect("made before");
        let from = if let Some(epoch) = renewed {
            self.ended.insert(std::mem::replace(&mut log.epoch, epoch).to_string());
            log.keys.clear();
            log.top = dice.below(3) as u64;
            1
        } else {
            let from = log.top + 1;
            log.top += dice.between(1, 3) as u64;
            from
        };
        log.kept.clear();
        let placed = Placed { channel: Arc::clone(name), epoch: Arc::clone(&log.epoch), offset: log.top };
        if let Some(owner) = log.follower {
            self.tell(name, owner, EngineNews::Gap { placed, from });
        }
    }

    /// PLANTED: two owners' publications of a channel get each other's outcome.
    fn swap_outcomes(&mut self, name: &Arc<str>) {
        let Some(news) = self.outbox.get_mut(name) else { return };
        let mut outcomes = news.iter_mut().rev().filter_map(|(_, news)| match news {
            EngineNews::Outcome { outcome, .. } => Some(outcome),
            _ => None,
        });
        if let (Some(one), Some(other)) = (outcomes.next(), outcomes.next())
            && self.sabotage.strikes(Fault::SwapOutcomes)
        {
            std::mem::swap(one, other);
        }
    }

    /// Where a channel stands.
    pub fn position(&self, name: &str) -> Option<(String, u64)> {
        self.logs.get(name).map(|log| (log.epoch.to_string(), log.top))
    }
}

impl ModelLog {
    /// What is kept after a position, or all if the position is unknown.
    fn after(&self, since: Option<&Since>) -> Vec<EnginePublication> {
        let since = since.filter(|since| *since.epoch == *self.epoch).map_or(0, |since| since.offset);
        self.kept.iter().map(|(_, one)| one).filter(|one| one.offset > since).cloned().collect()
    }

    fn page(&self, since: Option<&Since>, limit: usize, reverse: bool) -> Vec<EnginePublication> {
        let since = since.map_or(0, |since| since.offset);
        let all = self.kept.iter().map(|(_, one)| one.clone());
        if reverse {
            all.rev().filter(|one| since == 0 || one.offset < since).take(limit).collect()
        } else {
            all.filter(|one| one.offset > since).take(limit).collect()
        }
    }
}

impl World {
    /// One random step of the engine.
    pub fn engine_step(&mut self) -> Verdict {
        let at = (self.now.mono_ms, self.now.unix_ms);
        if let Some(engine) = &mut self.engine {
            engine.step(&mut self.lanes, at, &mut self.dice);
        }
        Ok(())
    }

    /// The engine does all that it has to do.
    pub fn finish_engine(&mut self) {
        let at = (self.now.mono_ms, self.now.unix_ms);
        if let Some(engine) = &mut self.engine {
            engine.finish(&mut self.lanes, at, &mut self.dice);
        }
    }

    /// From now on the engine answers everything.
    pub fn hurry_engine(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.become_prompt();
        }
    }

    /// Whether the engine has nothing to do.
    pub fn is_engine_idle(&self) -> bool {
        self.engine.as_ref().is_none_or(ModelEngine::is_idle)
    }

    /// After a step of a turn: an outcome that a shard has taken is awaited no more.
    pub fn judge_outcomes(&mut self, shard: usize, outcomes: Vec<Ticket>) -> Verdict {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        engine.taken.entry(shard).or_default().extend(outcomes);
        let owner = &self.shards[shard];
        if owner.has_engine_news() {
            return Ok(());
        }
        let taken = engine.taken.remove(&shard).unwrap_or_default();
        match taken.into_iter().find(|ticket| owner.awaits_engine(*ticket)) {
            Some(ticket) => Err(format!("shard {shard} has the outcome of {ticket:?} and waits for it")),
            None => Ok(()),
        }
    }

    /// At rest every owner knows of the channels that it follows what the engine does.
    pub fn judge_engine(&self) -> Verdict {
        let Some(engine) = &self.engine else { return Ok(()) };
        for owned in self.shards.iter().flat_map(|shard| shard.owned()).filter(|owned| owned.subscribers > 0) {
            let position = (owned.epoch.to_string(), owned.offset);
            if engine.position(&owned.name) != Some(position) {
                return Err(format!("{owned:?}, but the engine is at {:?}", engine.position(&owned.name)));
            }
        }
        Ok(())
    }
}
