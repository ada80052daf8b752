//! The engine that lies elsewhere: one more endpoint of the mesh. It answers later, or never. This part numbers the asks
//! and sends them. What the logs hold is a copy: the engine's news says what comes next, and `hub` applies it.

use std::sync::Arc;

use super::logs::{ChannelLogs, LogId};
use super::{EngineSettings, Submitted};
use crate::ids::ShardId;
use crate::mesh::Staging;
use crate::model::engine::{EngineAsk, KeepTerms, Ticket};
use crate::model::parcel::{Parcel, Refusal};
use crate::model::position::{Placed, Since};
use crate::model::publication::Publish;

/// As long as an epoch is: 64 bits in hexadecimal digits.
const WIDEST_EPOCH: &str = "ffffffffffffffff";

/// The owner's side of a remote engine.
#[derive(Debug)]
pub(crate) struct RemoteEngine {
    logs: ChannelLogs,
    /// The engine's place in the mesh.
    endpoint: ShardId,
    /// The latest ticket.
    last: Ticket,
}

impl RemoteEngine {
    /// The engine is at `endpoint` of the mesh.
    pub(crate) fn new(settings: &EngineSettings, endpoint: ShardId) -> Self {
        Self { logs: ChannelLogs::new(settings.history_bytes), endpoint, last: Ticket::default() }
    }

    /// The copies of the channels' logs.
    pub(crate) fn logs(&self) -> &ChannelLogs {
        &self.logs
    }

    /// The copies of the channels' logs.
    pub(crate) fn logs_mut(&mut self) -> &mut ChannelLogs {
        &mut self.logs
    }

    /// How many asks the lane to the engine still takes.
    pub(crate) fn room(&self, out: &Staging<Parcel>) -> usize {
        out.room(self.endpoint)
    }

    /// Sends a publication to the engine. The size is judged for the widest place that the engine could give, because
    /// an accepted publication can't be taken back.
    pub(crate) fn submit(
        &mut self,
        publish: Publish,
        fits: impl FnOnce(&Publish, &Placed) -> bool,
        terms: KeepTerms,
        out: &mut Staging<Parcel>,
    ) -> Submitted {
        let widest = Placed { channel: Arc::clone(&publish.channel), epoch: WIDEST_EPOCH.into(), offset: u64::MAX };
        if !fits(&publish, &widest) {
            return Submitted::Refused(Refusal::TooLarge);
        }
        let ticket = self.ticket();
        self.send(EngineAsk::Publish { ticket, publish: Arc::new(publish), terms }, out);
        Submitted::Pending(ticket)
    }

    /// Asks for a channel's publications. `is_known`: the log has the channel's position.
    pub(crate) fn follow(&mut self, log: LogId, is_known: bool, out: &mut Staging<Parcel>) -> Ticket {
        let Placed { channel, epoch, offset } = self.logs.placed(log, self.logs.top(log));
        let ticket = self.ticket();
        let since = is_known.then(|| Since { epoch: (&*epoch).into(), offset });
        self.send(EngineAsk::Follow { ticket, channel, since }, out);
        ticket
    }

    /// Wants no more publications of a channel. There is at most one such ask for each follow, so it may wait beyond the
    /// lane's bound.
    pub(crate) fn unfollow(&mut self, channel: &Arc<str>, out: &mut Staging<Parcel>) {
        self.send(EngineAsk::Unfollow { channel: Arc::clone(channel) }, out);
    }

    /// Asks for a page of the history of a channel that is not followed.
    pub(crate) fn page(
        &mut self,
        channel: &Arc<str>,
        since: Option<Since>,
        limit: usize,
        reverse: bool,
        out: &mut Staging<Parcel>,
    ) -> Ticket {
        let (ticket, channel) = (self.ticket(), Arc::clone(channel));
        self.send(EngineAsk::Page { ticket, channel, since, limit, reverse }, out);
        ticket
    }

    fn ticket(&mut self) -> Ticket {
        self.last = Ticket(self.last.0 + 1);
        self.last
    }

    fn send(&self, ask: EngineAsk, out: &mut Staging<Parcel>) {
        out.push(self.endpoint, Parcel::ToEngine(Box::new(ask)));
    }
}
