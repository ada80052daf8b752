//! One connection of the API: the parser of its requests, and the responses that it is owed, in the order of the requests.
//! There may be thousands of idle ones, so an idle connection holds no heap memory besides this. Part of `shard`.

use std::collections::VecDeque;

use crate::api::connection::ApiConnection;
use crate::api::many::ManyPublishes;
use crate::api::reply::ApiReply;
use crate::ids::ShardId;
use crate::limits::{Address, Peer};

/// One connection of the API.
#[derive(Debug)]
pub(super) struct ApiConn {
    /// Takes requests out of the received bytes.
    pub(super) parser: ApiConnection,
    /// Its peer, for the log and for the bounds by address.
    pub(super) peer: Peer,
    /// It has brought a key with a request.
    pub(super) is_known: bool,
    /// It has sent a whole request.
    pub(super) has_asked: bool,
    /// It gives way to another one, and no longer counts.
    pub(super) is_leaving: bool,
    /// Nothing is read behind the request whose response is the last one.
    pub(super) is_last: bool,
    /// The driver was told to read on, and has not done so yet.
    pub(super) awaits_resume: bool,
    /// The parser may hold whole requests that have not been taken.
    pub(super) has_more: bool,
    /// `100 Continue` is to be sent as soon as all responses have been written.
    pub(super) continues: bool,
    /// Bytes of an unfinished request that are charged to its address.
    pub(super) charged: usize,
    responses: Responses,
}

impl ApiConn {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            parser: ApiConnection::default(),
            peer,
            is_known: false,
            has_asked: false,
            is_leaving: false,
            is_last: false,
            awaits_resume: false,
            has_more: false,
            continues: false,
            charged: 0,
            responses: Responses::default(),
        }
    }

    /// What it counts under.
    pub(super) fn address(&self) -> Address {
        Address::of(self.peer)
    }

    /// The responses that it is owed.
    pub(super) fn responses(&mut self) -> &mut Responses {
        &mut self.responses
    }
}

/// A response that is owed.
#[derive(Debug)]
pub(super) struct PendingResponse {
    /// How it is to be written.
    pub(super) reply: ApiReply,
    /// When the request's time is over, in milliseconds of the monotonic clock.
    pub(super) until_ms: u64,
    /// Bytes of the request that are charged to its address.
    pub(super) charged: usize,
    /// What the response waits for.
    pub(super) state: ResponseState,
}

/// What a response waits for.
#[derive(Debug)]
pub(super) enum ResponseState {
    /// The answer of one owner to one ask.
    Owner {
        /// Names in the answer are HTML-escaped.
        escape: bool,
        /// The answer may be large.
        is_large: bool,
    },
    /// The outcomes of several publications.
    Many(Box<ManyInProgress>),
    /// The answer of the control thread.
    Control,
    /// Only the responses before it.
    Written(Vec<u8>),
}

impl ResponseState {
    /// The response is ready, and waits for its turn.
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }

    /// No further request is taken until this response has left: it may be large, or the control thread makes it.
    pub(super) fn holds_up(&self) -> bool {
        matches!(self, Self::Owner { is_large: true, .. } | Self::Control)
    }
}

/// Several publications of one request.
#[derive(Debug)]
pub(super) struct ManyInProgress {
    /// The request, and the outcomes so far.
    pub(super) many: Box<ManyPublishes>,
    /// The publications that owners have been asked for, by owner.
    pub(super) parts: Vec<ManyPart>,
}

/// The publications of one request that one owner was asked for.
#[derive(Debug)]
pub(super) struct ManyPart {
    /// The shard that owns their channels.
    pub(super) owner: ShardId,
    /// Their numbers in the request.
    pub(super) numbers: Vec<usize>,
}

/// The responses of one connection, in the order of the requests. Each has a number, and numbers are consecutive. The
/// first response has a place of its own, so that one request at a time needs no queue.
#[derive(Debug, Default)]
pub(super) struct Responses {
    first: Option<PendingResponse>,
    behind: VecDeque<PendingResponse>,
    /// The number of the first response, or of the next one if there is none.
    first_number: u32,
}

impl Responses {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.behind.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Appends a response. Returns its number.
    pub(super) fn push(&mut self, response: PendingResponse) -> u32 {
        let number = self.first_number.wrapping_add(u32::try_from(self.len()).expect("few requests at a time"));
        if self.first.is_none() {
            self.first = Some(response);
        } else {
            self.behind.push_back(response);
        }
        number
    }

    /// The number of the first response.
    pub(super) fn first_number(&self) -> u32 {
        self.first_number
    }

    /// The response that is sent next.
    pub(super) fn first(&self) -> Option<&PendingResponse> {
        self.first.as_ref()
    }

    /// Takes the first response away.
    pub(super) fn pop(&mut self) -> Option<PendingResponse> {
        let first = self.first.take()?;
        self.first = self.behind.pop_front();
        if self.behind.is_empty() {
            self.behind = VecDeque::new();
        }
        self.first_number = self.first_number.wrapping_add(1);
        Some(first)
    }

    /// The response with this number, if it is still owed.
    pub(super) fn get(&mut self, number: u32) -> Option<&mut PendingResponse> {
        match number.wrapping_sub(self.first_number) as usize {
            0 => self.first.as_mut(),
            place => self.behind.get_mut(place - 1),
        }
    }

    /// All responses, in order, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &PendingResponse)> {
        let numbers = (0u32..).map(|place| self.first_number.wrapping_add(place));
        numbers.zip(self.first.iter().chain(&self.behind))
    }
}
