//! What is kept of one event stream: until it begins, what its request is answered with; and, if it has several channels,
//! where each of them stands for the client. Part of `shard`.

use crate::dialect::native::event_stream::StreamRequest;
use crate::fanout::outbox::Outbox;
use crate::fanout::outbox::stamp::StreamPositions;
use crate::model::refusal::RequestError;
use crate::wire::event_stream::{write_head, write_retry};

/// An event stream.
#[derive(Debug)]
pub(super) struct EventStream {
    /// What is asked for, until it is being done.
    request: Option<StreamRequest>,
    /// The origin whose pages may read the response; `None`: only this server's own.
    pub(super) reader: Option<Box<str>>,
    /// Why the request is refused, if it is.
    pub(super) refusal: Option<RequestError>,
    has_begun: bool,
    positions: StreamPositions,
}

impl EventStream {
    /// The stream that is asked for.
    pub(super) fn new(request: StreamRequest, reader: Option<Box<str>>) -> Self {
        let positions = StreamPositions::new(request.channels.iter().cloned());
        Self { request: Some(request), reader, refusal: None, has_begun: false, positions }
    }

    /// What is asked for, for the one who has it done.
    pub(super) fn take_request(&mut self) -> Option<StreamRequest> {
        self.request.take()
    }

    /// What is asked for can't be done yet.
    pub(super) fn put_request_off(&mut self, request: StreamRequest) {
        self.request = Some(request);
    }

    /// Whether the ids of its events hold several positions.
    pub(super) fn has_several_channels(&self) -> bool {
        self.positions.len() > 1
    }

    /// Queues the beginning of the response.
    pub(super) fn begin(&mut self, retry_ms: u64, outbox: &mut Outbox) {
        self.has_begun = true;
        outbox.push_head(|out| {
            write_head(out, self.reader.as_deref());
            write_retry(out, retry_ms);
        });
    }

    /// Whether the response has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Where each channel stands for the client.
    pub(super) fn positions(&mut self) -> &mut StreamPositions {
        &mut self.positions
    }
}
