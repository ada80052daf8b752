//! Sockets without a kernel: a pipe of bytes in each direction per connection, the server's with a bound, so that
//! sends go short and block. Also the server's reader as `src/io/tasks.rs` has it: reading on, paused, or woken.

use std::collections::VecDeque;
use std::io::IoSlice;

use uringcast::ids::ConnId;
use uringcast::shard::{Sent, Wire};

use crate::dice::Dice;
use crate::faults::{Fault, Sabotage};

/// What the server's reading task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It waits for bytes.
    Open,
    /// It must not read.
    Paused,
    /// It was paused and may go on: it has to resume first.
    Woken,
    /// It has ended; the shard was told, and the server has let go of the socket.
    Ended,
}

/// One connection's socket, seen from both ends.
#[derive(Debug)]
pub struct Pipe {
    pub id: ConnId,
    /// From the client to the server.
    pub up: VecDeque<u8>,
    /// From the server to the client.
    pub down: VecDeque<u8>,
    /// How much fits into `down`.
    pub room: usize,
    /// The client has ended its side.
    pub left: bool,
    /// The client's end was abrupt: what is sent to it fails.
    pub reset: bool,
    /// The server has ended its direction.
    pub finished: bool,
    /// The server has reset the connection.
    pub aborted: bool,
    /// The server has closed the connection; what is in `down` still arrives.
    pub closed: bool,
    pub reader: Reader,
    /// The server waits for `down` to have room.
    pub writer: bool,
}

impl Pipe {
    fn new(id: ConnId, room: usize) -> Self {
        Self {
            id,
            up: VecDeque::new(),
            down: VecDeque::new(),
            room,
            left: false,
            reset: false,
            finished: false,
            aborted: false,
            closed: false,
            reader: Reader::Open,
            writer: false,
        }
    }

    pub fn free(&self) -> usize {
        self.room.saturating_sub(self.down.len())
    }

    /// Nothing more comes from the server.
    pub fn is_at_end(&self) -> bool {
        self.aborted || (self.down.is_empty() && (self.finished || self.reader == Reader::Ended))
    }
}

/// All sockets of all shards; one pipe per client, under the client's number.
#[derive(Debug)]
pub struct Net {
    pub pipes: Vec<Pipe>,
    /// The sockets of the API: one for each connection of the backend.
    pub api: Vec<Pipe>,
    /// By shard and slot. Sockets of the API are counted from [`API`] up.
    places: Vec<Vec<usize>>,
    dice: Dice,
    pub sabotage: Sabotage,
}

const NOBODY: usize = usize::MAX;
const API: usize = usize::MAX / 2;

impl Net {
    pub fn new(shards: usize, dice: Dice, sabotage: Sabotage) -> Self {
        Self { pipes: Vec::new(), api: Vec::new(), places: vec![Vec::new(); shards], dice, sabotage }
    }

    /// Adds a socket; returns its client's number.
    pub fn connect(&mut self, id: ConnId, room: usize) -> usize {
        let number = self.pipes.len();
        self.pipes.push(Pipe::new(id, room));
        self.place(id, number);
        number
    }

    /// Adds a socket of the API; returns its number.
    pub fn connect_api(&mut self, id: ConnId, room: usize) -> usize {
        let number = self.api.len();
        self.api.push(Pipe::new(id, room));
        self.place(id, API + number);
        number
    }

    fn place(&mut self, id: ConnId, number: usize) {
        let slots = &mut self.places[id.shard.index()];
        let slot = id.slot as usize;
        slots.resize(slots.len().max(slot + 1), NOBODY);
        slots[slot] = number;
    }

    fn placed(&self, id: ConnId) -> usize {
        self.places[id.shard.index()].get(id.slot as usize).copied().unwrap_or(NOBODY)
    }

    /// The socket of the API that has this connection.
    pub fn api_peer(&self, id: ConnId) -> Option<usize> {
        let number = self.placed(id).checked_sub(API)?;
        (number < self.api.len() && self.api[number].id == id).then_some(number)
    }

    fn pipe(&mut self, id: ConnId) -> &mut Pipe {
        match (self.client(id), self.api_peer(id)) {
            (Some(client), _) => &mut self.pipes[client],
            (_, Some(peer)) => &mut self.api[peer],
            _ => panic!("the shard names connections that it has"),
        }
    }

    /// The client whose connection this is.
    pub fn client(&self, id: ConnId) -> Option<usize> {
        let number = self.placed(id);
        (number < self.pipes.len() && self.pipes[number].id == id).then_some(number)
    }
}

impl Wire for Net {
    fn send(&mut self, conn: ConnId, pieces: &[IoSlice<'_>]) -> Sent {
        let pipe = self.pipe(conn);
        assert!(pipe.reader != Reader::Ended, "a send to {conn} after its end");
        if pipe.reset || pipe.aborted {
            return Sent::Gone;
        }
        assert!(!pipe.finished, "a send to {conn} after its direction was ended");
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        assert!(!bytes.is_empty(), "an empty send to {conn}");
        let (mut count, is_bounded) = (bytes.len().min(pipe.free()), pipe.room != usize::MAX);
        if is_bounded && self.dice.once_in(16) {
            // The kernel may take less than would fit.
            count = self.dice.below(count + 1);
        }
        let mut taken = bytes[..count].to_vec();
        if count > 0 && count < bytes.len() && self.sabotage.strikes(Fault::LoseByte) {
            taken.pop();
        }
        self.pipe(conn).down.extend(taken);
        Sent::Bytes(count)
    }

    fn unacknowledged(&mut self, conn: ConnId) -> usize {
        self.pipe(conn).down.len()
    }
}
