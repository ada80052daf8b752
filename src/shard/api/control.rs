//! Calls that the control thread answers: revocations and metrics. They leave the shard with the driver's next look, and
//! come back once each. A connection has one at a time, so the number of connections bounds them. Part of `shard`.

use hashbrown::HashMap;

use super::conn::ResponseState;
use crate::api::answers::ApiAnswer;
use crate::api::calls::{SlowAnswer, SlowCall};
use crate::api::error::ApiError;
use crate::ids::ConnId;
use crate::limits::Peer;
use crate::shard::ShardCore;
use crate::time::clock::Now;

/// A call on its way to the control thread.
#[derive(Debug)]
pub(crate) struct ControlCall {
    /// The shard's number for it.
    pub(crate) number: u32,
    /// Who asks, for the log.
    pub(crate) peer: Peer,
    /// What the control thread is to do.
    pub(crate) call: SlowCall,
}

/// The calls of one shard.
#[derive(Debug, Default)]
pub(super) struct ControlCalls {
    next_number: u32,
    /// Calls that the driver has not taken yet.
    outgoing: Vec<ControlCall>,
    /// The connection and the response of each call that is not answered.
    awaited: HashMap<u32, (ConnId, u32), foldhash::fast::RandomState>,
}

impl ControlCalls {
    /// Hands a call to the control thread. The answer is for this response.
    pub(super) fn give(&mut self, conn: ConnId, response: u32, peer: Peer, call: SlowCall) {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.awaited.insert(number, (conn, response));
        self.outgoing.push(ControlCall { number, peer, call });
    }
}

impl ShardCore {
    /// Takes the calls for the control thread.
    pub(in crate::shard) fn take_control_calls(&mut self) -> Vec<ControlCall> {
        std::mem::take(&mut self.api.control.outgoing)
    }

    /// The control thread has answered a call, or could not take it.
    pub(in crate::shard) fn control_answered(&mut self, number: u32, answer: Result<SlowAnswer, ApiError>, now: Now) {
        let Some((id, response)) = self.api.control.awaited.remove(&number) else { return };
        if self.conns.get(id).is_none() {
            return;
        }
        let waits = self
            .api_conn(id)
            .and_then(|conn| conn.responses().get(response))
            .is_some_and(|pending| matches!(pending.state, ResponseState::Control));
        if waits {
            match answer {
                Ok(answer) => self.api_respond(id, response, ApiAnswer::Slow(answer), now),
                Err(error) => self.api_respond(id, response, ApiAnswer::Refused(error), now),
            }
        }
    }
}
