//! The short way of the echo endpoint: whole messages go from the receive buffer into one send, without a queue between.
//! Part of `shard`. Everything else that a client of the endpoint sends goes the way of `receive`, which does the same for
//! these messages, too.

use std::io::IoSlice;

use super::conns::Stage;
use super::{REPLY_BYTES, ShardCore};
use crate::ids::ConnId;
use crate::limits::Address;
use crate::metrics::Count;
use crate::shard::{Sent, Wire};

/// The buffer that replies are put together in. It serves all connections of the shard, and is empty between two calls. It
/// grows to what one receive brings.
#[derive(Debug, Default)]
pub(super) struct EchoBuffer(Vec<u8>);

impl ShardCore {
    /// Sends back the whole messages that `bytes` begins with, if nothing has to be sent before them. Returns how many
    /// bytes it took.
    pub(super) fn echo(
        &mut self,
        id: ConnId,
        bytes: &[u8],
        EchoBuffer(out): &mut EchoBuffer,
        wire: &mut impl Wire,
    ) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.echoes_at_once(id) {
            let limits = self.settings.messages;
            let echoed = self.conns.at(id.slot).decoder.echo(&bytes[taken..], &limits, REPLY_BYTES, out);
            if echoed.messages == 0 {
                break;
            }
            taken += echoed.bytes;
            self.metrics.add(Count::Replies, echoed.messages);
            self.send_echo(id, out, wire);
            out.clear();
        }
        taken
    }

    /// Whether a message of this connection is sent back by the short way.
    fn echoes_at_once(&mut self, id: ConnId) -> bool {
        let has_rates = self.settings.guard.settings().connection.is_limited();
        let is_measured = has_rates && *self.conns.address(id.slot) != Address::NONE;
        let conn = self.conns.at(id.slot);
        let is_clear = conn.outbox.is_empty() && !conn.send_state.is_blocked() && !conn.send_state.is_dirty();
        conn.stage == Stage::Echo && is_clear && !is_measured && !conn.paused && self.is_open(id)
    }

    fn send_echo(&mut self, id: ConnId, frames: &[u8], wire: &mut impl Wire) {
        let sent = wire.send(id, &[IoSlice::new(frames)]);
        self.metrics.count(Count::Sends);
        let Sent::Bytes(count) = sent else { return self.gone(id.slot) };
        self.metrics.add(Count::BytesOut, count);
        if count < frames.len() {
            let outbox = &mut self.conns.at(id.slot).outbox;
            outbox.push_private(|out| out.extend_from_slice(frames));
            outbox.advance(count);
            self.block(id.slot);
        }
    }
}
