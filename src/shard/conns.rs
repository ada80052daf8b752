//! The connections of one shard: a table by slot, with generations, so that a `ConnId` of a connection that has
//! gone finds nothing. Knows what a connection's state is, not what is done with it.

use std::io::IoSlice;
use std::num::NonZeroU32;

use super::deadlines::FiledTick;
use super::pacing::Pacing;
use super::send_state::SendState;
use super::stream_state::EventStream;
use crate::dialect::native::event_stream::StreamRequest;
use crate::fanout::outbox::Outbox;
use crate::fanout::{KeptFrames, Subscriptions};
use crate::ids::{ConnId, ShardId};
use crate::limits::{Address, Limit, Meters, Peer};
use crate::model::parcel::Ask;
use crate::model::refusal::RequestError;
use crate::model::voice::Voice;
use crate::session::Session;
use crate::wire::deflate::Deflate;
use crate::wire::websocket::Decoder;

/// One connection, from accept to the end. There may be a million: what is empty most of the time is behind a
/// pointer, and the whole fits two cache lines.
#[derive(Debug, Default)]
pub(crate) struct Conn {
    // What sending looks at comes first.
    pub(super) outbox: Outbox,
    pub(super) subscriptions: Subscriptions,
    pub(super) send_state: SendState,
    /// Reading has stopped until something is done; [`Action::Resume`](super::Action) is due then.
    pub(super) paused: bool,
    /// It is only there to be told that it was over this limit when it came.
    pub(super) refused: Option<Limit>,
    /// Tokens of it that were refused.
    pub(super) failures: u8,
    pub(super) stage: Stage,
    pub(super) framing: Framing,
    pub(super) decoder: Decoder,
    pub(super) session: Session,
    held: Option<Box<Held>>,
    /// What it has sent of late, if that is measured and matters yet.
    pub(super) meters: Option<Box<Meters>>,
    /// When its stage began, in milliseconds of the monotonic clock.
    pub(super) since_ms: u64,
    /// When the peer last showed that it lives.
    pub(super) seen_ms: u64,
    /// How long after that it was pinged, if the pong is awaited.
    pinged_after_ms: Option<NonZeroU32>,
    pub(super) filed: FiledTick,
}

/// How the messages to a connection are framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// As WebSocket frames, with what was agreed on about compression.
    WebSocket(Option<Deflate>),
    /// As server-sent events.
    EventStream,
}

impl Default for Framing {
    fn default() -> Self {
        Self::WebSocket(None)
    }
}

impl Framing {
    /// In which form the connection is spoken to.
    pub(super) fn voice(self) -> Voice {
        match self {
            Self::WebSocket(_) => Voice::NativeText,
            Self::EventStream => Voice::EventStream,
        }
    }

    /// What was agreed on about compression.
    pub(super) fn deflate(self) -> Option<Deflate> {
        match self {
            Self::WebSocket(deflate) => deflate,
            Self::EventStream => None,
        }
    }
}

/// What is kept of a connection that has to wait.
#[derive(Debug, Default)]
struct Held {
    /// Received and not yet taken: a request head that is incomplete, or what came behind a frame that has to
    /// wait. At most one receive's bytes, plus a head.
    input: Vec<u8>,
    /// Asks that found no credit, in order; nothing is read meanwhile.
    parked: Vec<Parked>,
    /// The trusted proxy whose request is to say where it came from.
    proxy: Option<Peer>,
    pacing: Pacing,
    /// Bytes of an unfinished message that the limits' guard counts for this connection.
    unfinished: usize,
    /// A message that waits for an errand; nothing is read meanwhile.
    put_off: Option<PutOff>,
    /// What the peer of a closing connection has yet to take.
    last_words: Option<LastWords>,
    /// What is kept of an event stream.
    stream: Option<EventStream>,
    /// The peer has ended its direction, and is owed something.
    heard_out: bool,
    /// The connection was reset or lost: nothing is owed any more.
    lost: bool,
}

/// A message that is taken when an errand is done.
#[derive(Debug)]
struct PutOff {
    text: Box<[u8]>,
    /// The wait has ended.
    is_ready: bool,
}

/// What was said last, as far as the peer has not taken it yet.
#[derive(Clone, Copy, Debug)]
struct LastWords {
    left: usize,
    /// When it was last seen to get less, in milliseconds of the monotonic clock.
    moved_ms: u64,
}

impl Held {
    fn is_empty(&self) -> bool {
        let Self { input, parked, proxy, pacing, unfinished, put_off, last_words, stream, heard_out, lost } = self;
        let waits = !input.is_empty() || !parked.is_empty() || !pacing.is_empty() || put_off.is_some();
        let is_stream = stream.is_some();
        !waits && !is_stream && proxy.is_none() && *unfinished == 0 && last_words.is_none() && !heard_out && !lost
    }
}

/// An ask that found no credit.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) owner: ShardId,
    pub(super) request: u32,
    pub(super) ask: Ask,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// Reading the HTTP request.
    #[default]
    Handshake,
    /// The connection speaks the native protocol.
    Native,
    /// The connection is on the echo endpoint.
    Echo,
    /// The connection is one of the HTTP API: `api` has its state.
    Api,
    /// Something is to be said yet, and then it ends: the peer has [`CLOSE_MS`](super::CLOSE_MS) from the last byte that
    /// it took.
    Closing(Ending),
}

/// How a closing connection comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// We sent Close; the peer's Close is awaited (RFC 6455 §7.1.1).
    AwaitClose,
    /// All is said: end our direction as soon as the outbox is empty, then await the peer's end.
    Finish,
    /// Our direction has been ended.
    Finished,
}

impl Conn {
    pub(super) fn new(refused: Option<Limit>, now_ms: u64) -> Self {
        Self { refused, since_ms: now_ms, seen_ms: now_ms, ..Self::default() }
    }

    /// When it was pinged, in milliseconds of the monotonic clock, if the pong is awaited.
    pub(super) fn pinged_ms(&self) -> Option<u64> {
        Some(self.seen_ms + u64::from(self.pinged_after_ms?.get()))
    }

    /// It is being pinged.
    pub(super) fn ping(&mut self, now_ms: u64) {
        let after_ms = u32::try_from(now_ms - self.seen_ms).unwrap_or(u32::MAX);
        self.pinged_after_ms = NonZeroU32::new(after_ms.max(1));
    }

    /// It shows that it lives. Returns whether a pong was awaited.
    pub(super) fn seen(&mut self, now_ms: u64) -> bool {
        self.seen_ms = now_ms;
        self.pinged_after_ms.take().is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing(_))
    }

    /// Moves on to a stage.
    pub(super) fn enter(&mut self, stage: Stage, now_ms: u64) {
        self.stage = stage;
        self.since_ms = now_ms;
    }

    /// Notes how much of what was said last the peer has yet to take. Returns since when it has taken nothing, in
    /// milliseconds of the monotonic clock.
    pub(super) fn note_last_words(&mut self, left: usize, now_ms: u64) -> u64 {
        let known = self.held.as_ref().and_then(|held| held.last_words);
        let moved_ms = match known {
            None if left == 0 => return self.since_ms,
            // How much it has taken before this first look is not known.
            None => now_ms,
            Some(known) if left < known.left => now_ms,
            Some(known) => known.moved_ms,
        };
        self.held.get_or_insert_default().last_words = Some(LastWords { left, moved_ms });
        moved_ms
    }

    /// From now on it is another matter what the peer has taken.
    pub(super) fn forget_last_words(&mut self) {
        self.change_held(|held| held.last_words = None);
    }

    /// The peer has ended its direction. Returns whether it is owed something yet.
    pub(super) fn hear_out(&mut self) -> bool {
        let owes = self.owes();
        if owes {
            self.held.get_or_insert_default().heard_out = true;
        }
        owes
    }

    /// The peer has ended its direction, and is owed something.
    pub(super) fn set_heard_out(&mut self) {
        self.held.get_or_insert_default().heard_out = true;
    }

    pub(super) fn is_heard_out(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.heard_out)
    }

    /// The connection was reset or lost.
    pub(super) fn owe_nothing(&mut self) {
        self.held.get_or_insert_default().lost = true;
    }

    /// Whether answers are still to come or to be sent.
    pub(super) fn owes(&self) -> bool {
        let is_lost = self.held.as_ref().is_some_and(|held| held.lost);
        let is_serving = self.stage != Stage::Handshake;
        let is_put_off = self.put_off_bytes() > 0;
        let waits = is_put_off || self.session.deadline_ms().is_some() || self.pacing().is_some_and(Pacing::holds_back);
        !is_lost && is_serving && (waits || !self.outbox.is_empty())
    }

    /// It is an event stream from here on, whose request is still to be answered.
    pub(super) fn begin_stream(&mut self, stream: EventStream) {
        self.framing = Framing::EventStream;
        self.held.get_or_insert_default().stream = Some(stream);
    }

    /// What an event stream asks for, for the one who has it done.
    pub(super) fn take_stream_request(&mut self) -> Option<StreamRequest> {
        self.held.as_mut()?.stream.as_mut()?.take_request()
    }

    /// What an event stream asks for can't be done yet.
    pub(super) fn put_stream_request_off(&mut self, request: StreamRequest) {
        if let Some(stream) = self.held.as_mut().and_then(|held| held.stream.as_mut()) {
            stream.put_request_off(request);
        }
    }

    /// Answers the request of an event stream: it begins.
    pub(super) fn open_stream(&mut self, retry_ms: u64) {
        let Some(mut stream) = self.take_stream() else { return };
        stream.begin(retry_ms, &mut self.outbox);
        if stream.has_several_channels() {
            self.held.get_or_insert_default().stream = Some(stream);
        }
    }

    /// It is an event stream of several channels: each event gets their positions as its id right before it is sent.
    pub(super) fn stamps(&self) -> bool {
        self.framing.voice() == Voice::EventStream && self.held.as_ref().is_some_and(|held| held.stream.is_some())
    }

    /// What stays a frame of its channel in the outbox.
    pub(super) fn kept_frames(&self) -> KeptFrames {
        match self.send_state.is_blocked() {
            _ if self.stamps() => KeptFrames::All,
            true => KeptFrames::Droppable,
            false => KeptFrames::None,
        }
    }

    /// The response to the request of an event stream has begun.
    pub(super) fn has_begun_stream(&self) -> bool {
        self.held.as_ref().and_then(|held| held.stream.as_ref()).is_none_or(EventStream::has_begun)
    }

    /// Notes why the request of an event stream is refused.
    pub(super) fn note_stream_refusal(&mut self, error: RequestError) {
        self.change_held(|held| {
            if let Some(stream) = &mut held.stream {
                stream.refusal = Some(error);
            }
        });
    }

    /// What was kept of an event stream.
    pub(super) fn take_stream(&mut self) -> Option<EventStream> {
        self.change_held(|held| held.stream.take())
    }

    /// Makes what is next in the outbox ready to be sent.
    pub(super) fn settle(&mut self) {
        match self.held.as_mut().and_then(|held| held.stream.as_mut()) {
            Some(stream) => self.outbox.stamp(stream.positions()),
            _ => self.outbox.settle(self.framing.voice()),
        }
    }

    /// The next pieces to send, of what [`Self::settle`] made ready.
    pub(super) fn pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        if self.stamps() { self.outbox.stamped_pieces(pieces) } else { self.outbox.pieces(pieces) }
    }

    /// Keeps received bytes until they can be taken.
    pub(super) fn hold_input(&mut self, bytes: &[u8]) {
        self.held.get_or_insert_default().input.extend_from_slice(bytes);
    }

    /// Whether received bytes are kept.
    pub(super) fn holds_input(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.input.is_empty())
    }

    /// What was kept, with nothing kept any more.
    pub(super) fn take_input(&mut self) -> Vec<u8> {
        self.change_held(|held| std::mem::take(&mut held.input))
    }

    /// Remembers the trusted proxy whose request is to say where it came from.
    pub(super) fn came_through(&mut self, proxy: Peer) {
        self.held.get_or_insert_default().proxy = Some(proxy);
    }

    /// That proxy, once.
    pub(super) fn take_proxy(&mut self) -> Option<Peer> {
        self.change_held(|held| held.proxy.take())
    }

    /// Keeps an ask that found no credit.
    pub(super) fn park(&mut self, parked: Parked) {
        self.held.get_or_insert_default().parked.push(parked);
    }

    /// An ask waits for a credit or for the turn of its answer, or a message for an errand.
    pub(super) fn is_waiting(&self) -> bool {
        let waits = |held: &Held| !held.parked.is_empty() || held.pacing.holds_back() || held.put_off.is_some();
        self.held.as_deref().is_some_and(waits)
    }

    /// Keeps a message until an errand is done.
    pub(super) fn put_off(&mut self, text: &[u8]) {
        self.held.get_or_insert_default().put_off = Some(PutOff { text: text.into(), is_ready: false });
    }

    /// The message that was put off can be taken now.
    pub(super) fn end_wait(&mut self) {
        if let Some(put_off) = self.held.as_mut().and_then(|held| held.put_off.as_mut()) {
            put_off.is_ready = true;
        }
    }

    /// Whether there is a message that was put off and can be taken now.
    pub(super) fn is_put_off_ready(&self) -> bool {
        self.held.as_ref().and_then(|held| held.put_off.as_ref()).is_some_and(|put_off| put_off.is_ready)
    }

    /// Bytes of the message that was put off; 0 if there is none.
    pub(super) fn put_off_bytes(&self) -> usize {
        self.held.as_ref().and_then(|held| held.put_off.as_ref()).map_or(0, |put_off| put_off.text.len())
    }

    /// The message that was put off, if it can be taken now.
    pub(super) fn take_put_off(&mut self) -> Option<Box<[u8]>> {
        self.change_held(|held| held.put_off.take_if(|put_off| put_off.is_ready)).map(|put_off| put_off.text)
    }

    /// Drops the message that was put off.
    pub(super) fn forget_put_off(&mut self) {
        self.change_held(|held| held.put_off = None);
    }

    /// The first parked ask for the owner, which has a credit for it now.
    pub(super) fn unpark(&mut self, owner: ShardId) -> Option<Parked> {
        self.change_held(|held| {
            let at = held.parked.iter().position(|parked| parked.owner == owner)?;
            Some(held.parked.remove(at))
        })
    }

    /// Forgets the parked asks that `gone` names.
    pub(super) fn forget_parked(&mut self, gone: impl Fn(&Parked) -> bool) {
        self.change_held(|held| held.parked.retain(|parked| !gone(parked)));
    }

    /// Bytes of an unfinished message that the limits' guard counts for this connection.
    pub(super) fn unfinished(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.unfinished)
    }

    /// The guard counts so many bytes from now on.
    pub(super) fn set_unfinished(&mut self, bytes: usize) {
        self.held.get_or_insert_default();
        self.change_held(|held| held.unfinished = bytes);
    }

    /// Its large answers, if one is under way or asked for.
    pub(super) fn pacing(&self) -> Option<&Pacing> {
        self.held.as_ref().map(|held| &held.pacing).filter(|pacing| !pacing.is_empty())
    }

    /// Changes the state of its large answers.
    pub(super) fn change_pacing<R: Default>(&mut self, change: impl FnOnce(&mut Pacing) -> R) -> R {
        self.held.get_or_insert_default();
        self.change_held(|held| change(&mut held.pacing))
    }

    fn change_held<R: Default>(&mut self, change: impl FnOnce(&mut Held) -> R) -> R {
        let Some(held) = &mut self.held else { return R::default() };
        let result = change(held);
        if held.is_empty() {
            self.held = None;
        }
        result
    }
}

#[derive(Debug)]
struct ConnEntry {
    generation: u32,
    /// When the connection was accepted, see [`Arrival`](super::Arrival).
    accepted_ns: u64,
    /// The client as far as it is known, for the log.
    client: Peer,
    /// What it counts under at the limits' guard, whether it was let in or is being refused.
    address: Address,
    conn: Option<Box<Conn>>,
}

/// A shard's connections.
#[derive(Debug)]
pub(crate) struct Conns {
    shard: ShardId,
    entries: Vec<ConnEntry>,
    free: Vec<u32>,
    count: usize,
}

impl Conns {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, entries: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, conn: Conn, client: Peer) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            let entry = ConnEntry { generation: 0, accepted_ns: 0, client, address: Address::NONE, conn: None };
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("descriptors run out long before")
        });
        let entry = &mut self.entries[slot as usize];
        (entry.client, entry.address) = (client, Address::NONE);
        entry.conn = Some(Box::new(conn));
        self.count += 1;
        ConnId { shard: self.shard, slot, generation: entry.generation }
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Conn>> {
        self.get(id)?;
        let entry = &mut self.entries[id.slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.count -= 1;
        entry.conn.take()
    }

    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        if entry.generation == id.generation { entry.conn.as_deref_mut() } else { None }
    }

    /// The connection that a subscription, or a list kept in step with the table, refers to.
    pub(super) fn at(&mut self, slot: u32) -> &mut Conn {
        self.entries[slot as usize].conn.as_deref_mut().expect("what refers to a slot goes when its connection goes")
    }

    /// What the connection in a slot counts under: [`Address::NONE`] if it is exempt, or its address isn't known yet. Of
    /// a connection that is being refused: what its refusal counts under, if it does.
    pub(super) fn address(&mut self, slot: u32) -> &mut Address {
        &mut self.entries[slot as usize].address
    }

    /// When the connection in a slot was accepted.
    pub(super) fn accepted_ns(&self, slot: u32) -> u64 {
        self.entries[slot as usize].accepted_ns
    }

    pub(super) fn set_accepted(&mut self, slot: u32, accepted_ns: u64) {
        self.entries[slot as usize].accepted_ns = accepted_ns;
    }

    /// Where the connection comes from, if it is there.
    pub(super) fn client(&self, id: ConnId) -> Option<Peer> {
        let entry = self.entries.get(id.slot as usize)?;
        (entry.generation == id.generation).then_some(entry.client)
    }

    /// A trusted proxy has said where the connection comes from.
    pub(super) fn set_client(&mut self, slot: u32, client: Peer) {
        self.entries[slot as usize].client = client;
    }

    /// The connection in a slot, if there is one now.
    pub(super) fn get_slot(&mut self, slot: u32) -> Option<&mut Conn> {
        self.entries.get_mut(slot as usize)?.conn.as_deref_mut()
    }

    /// How many slots there are, empty ones included.
    pub(super) fn slots(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn id(&self, slot: u32) -> ConnId {
        ConnId { shard: self.shard, slot, generation: self.entries[slot as usize].generation }
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        (0u32..).zip(&self.entries).filter(|(_, entry)| entry.conn.is_some()).map(|(slot, _)| self.id(slot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_two_cache_lines() {
        assert_eq!(size_of::<Conn>(), 128);
    }
}
