//! The owner's side: the channels that this shard owns and, on the lobby's owner, the users. An ask comes in,
//! answers and deliveries go out through the staging lanes; there is no I/O and no waiting in here.
//! One owner per channel makes one order. `shard` calls it for every parcel addressed to an owner.

mod channel;
pub mod users;

use std::collections::VecDeque;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::clock::Now;
use crate::ids::{ConnId, ShardId};
use crate::mesh::Staging;
use crate::parcel::{Answer, Ask, Parcel, Refusal};
use crate::proto::encode::{Message, Position, PresenceChange};
use crate::proto::text::{Language, escape_html};
use crate::user::User;
use channel::Channel;
use users::{Claimed, DuplicateLogin, Released, Users};

/// The channel that every signed-in connection is on.
pub const LOBBY: &str = crate::namespace::LOBBY;

/// Which shard owns a channel: the same on every shard and run (FNV-1a, so that it can be told from outside).
pub fn owner_of(channel: &str, shards: usize) -> ShardId {
    let hash = channel
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ShardId(u16::try_from(hash % shards as u64).expect("at most 256 shards"))
}

/// What the hub needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// How many shards there are.
    pub shards: usize,
    /// Of the presence pushes.
    pub language: Language,
    /// Message texts are HTML-escaped in the lobby.
    pub escape: bool,
    /// What a second sign-in of a user does.
    pub duplicate_login: DuplicateLogin,
    /// Largest encoded push, in bytes.
    pub push_bytes: usize,
    /// How long an ask may wait for room in the lanes before it is refused.
    pub patience_ms: u64,
}

/// One shard's channels, and the users if it owns the lobby.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    /// Here if this shard owns it.
    lobby: Option<Channel>,
    users: Users,
    /// Asks that found a lane full. In order, and bounded by the credits of all shards.
    waiting: VecDeque<Waiting>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    request: u32,
    ask: Ask,
    until_ms: u64,
}

impl Hub {
    /// The hub of shard `own`. `seed` makes the epochs: random in a server, given in a simulation.
    pub fn new(own: ShardId, settings: HubSettings, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let lobby =
            (owner_of(LOBBY, settings.shards) == own).then(|| Channel::new(LOBBY.into(), settings.shards, &mut random));
        Self { settings, lobby, users: Users::default(), waiting: VecDeque::new(), scratch: Vec::new() }
    }

    /// Takes an ask; it is answered now or, when a lane is full, in a later turn.
    pub fn ask(&mut self, conn: ConnId, request: u32, ask: Ask, now: Now, out: &mut Staging<Parcel>) {
        // One that waits holds up all that come after it: answers keep the order of the asks.
        if !self.waiting.is_empty() || (needs_room(&ask) && !self.has_room(out)) {
            let until_ms = now.mono_ms + self.settings.patience_ms;
            self.waiting.push_back(Waiting { conn, request, ask, until_ms });
        } else {
            self.execute(conn, request, ask, now, out);
        }
    }

    /// Whether asks wait for room.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Goes on with asks that wait for room; called once a turn.
    pub fn retry(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some(until_ms) = self.waiting.front().map(|first| first.until_ms) {
            let late = until_ms <= now.mono_ms;
            if !late && !self.has_room(out) {
                return;
            }
            let Some(Waiting { conn, request, ask, .. }) = self.waiting.pop_front() else { break };
            if late {
                answer(out, conn, request, Answer::Refused(Refusal::Busy));
            } else {
                self.execute(conn, request, ask, now, out);
            }
        }
    }

    /// A connection is gone. Never refused: what it takes is bounded by the connections there are.
    pub fn release(&mut self, conn: ConnId, user: &User, now: Now, out: &mut Staging<Parcel>) {
        // Its own claim may still be waiting for room; then it never came.
        if let Some(at) = self.waiting.iter().position(|w| w.conn == conn && matches!(w.ask, Ask::Claim { .. })) {
            let claim = self.waiting.remove(at).expect("just found");
            answer(out, conn, claim.request, Answer::Refused(Refusal::Busy));
            return;
        }
        match self.users.release(conn, user.key()) {
            Released::Nothing => {}
            Released::Still => self.lobby().detach(conn.shard),
            Released::Last(user) => {
                self.lobby().detach(conn.shard);
                self.announce(&user, false, now, out);
            }
        }
    }

    fn execute(&mut self, conn: ConnId, request: u32, ask: Ask, now: Now, out: &mut Staging<Parcel>) {
        let outcome = match ask {
            Ask::Claim { user } => self.claim(conn, &user, now, out),
            Ask::Publish { channel, sender, text } => self.publish(conn, &channel, &sender, &text, now, out),
            Ask::Users { cursor, limit } => Ok(Answer::Users(Box::new(self.users.page(cursor.as_deref(), limit)))),
        };
        answer(out, conn, request, outcome.unwrap_or_else(Answer::Refused));
    }

    /// One step: the event goes to those attached so far, then the newcomer is attached and told the count in
    /// the same lane, so that nobody has to be excepted.
    fn claim(
        &mut self,
        conn: ConnId,
        user: &Arc<User>,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Result<Answer, Refusal> {
        match self.users.claim(conn, user, self.settings.duplicate_login, now.mono_ms)? {
            Claimed::First => self.announce(user, true, now, out),
            Claimed::Another => {}
            Claimed::Instead(old) => {
                self.lobby().detach(old.shard);
                out.push(old.shard, Parcel::Kick { conn: old });
            }
        }
        let online_count = self.users.count();
        let lobby = self.lobby();
        lobby.attach(conn.shard);
        Ok(Answer::Claimed { lobby: lobby.position(), online_count })
    }

    fn publish(
        &mut self,
        conn: ConnId,
        channel: &str,
        sender: &User,
        text: &str,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Result<Answer, Refusal> {
        if channel != LOBBY || !self.users.holds(conn, sender.key()) {
            return Err(Refusal::Forbidden);
        }
        let escaped = if self.settings.escape { escape_html(text) } else { text.into() };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        let lobby = self.lobby();
        let next = lobby.position().offset + 1;
        let timestamp = lobby.timestamp(now.unix_ms);
        let position = Position { channel: lobby.name(), epoch: &lobby.position().epoch, offset: next };
        Message { position, sender: sender.json(), text: &escaped, timestamp }.encode(&mut frame);
        let accepted = frame.len() <= self.settings.push_bytes;
        let outcome = if accepted {
            let placed = self.lobby().advance();
            self.deliver(&frame, out);
            Ok(Answer::Published(placed))
        } else {
            Err(Refusal::TooLarge)
        };
        self.keep_scratch(frame);
        outcome
    }

    fn announce(&mut self, user: &User, online: bool, now: Now, out: &mut Staging<Parcel>) {
        let online_count = self.users.count();
        let timestamp = self.lobby().timestamp(now.unix_ms);
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        PresenceChange { online, user: user.json(), online_count, timestamp }
            .encode(&mut frame, self.settings.language);
        self.deliver(&frame, out);
        self.keep_scratch(frame);
    }

    fn deliver(&mut self, frame: &[u8], out: &mut Staging<Parcel>) {
        let lobby = self.lobby();
        let mut shared: Option<Arc<[u8]>> = None;
        for shard in lobby.interested() {
            let frame = Arc::clone(shared.get_or_insert_with(|| frame.into()));
            out.push(shard, Parcel::Deliver { channel: Arc::clone(lobby.name()), frame });
        }
    }

    /// Whether every shard with subscribers can take one more delivery.
    fn has_room(&mut self, out: &Staging<Parcel>) -> bool {
        self.lobby().interested().all(|shard| out.room(shard) > 0)
    }

    fn lobby(&mut self) -> &mut Channel {
        self.lobby.as_mut().expect("asks about the lobby go to its owner")
    }

    fn keep_scratch(&mut self, scratch: Vec<u8>) {
        if scratch.capacity() <= 64 * 1024 {
            self.scratch = scratch;
        }
    }
}

fn needs_room(ask: &Ask) -> bool {
    match ask {
        Ask::Claim { .. } | Ask::Publish { .. } => true,
        Ask::Users { .. } => false,
    }
}

fn answer(out: &mut Staging<Parcel>, conn: ConnId, request: u32, answer: Answer) {
    out.push(conn.shard, Parcel::Answer { conn, request, answer });
}
