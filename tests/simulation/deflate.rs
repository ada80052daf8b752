//! The client's end of permessage-deflate (RFC 7692), by an implementation of DEFLATE that the server doesn't use:
//! what it offers, the server's messages inflated as one stream, its own compressed.

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

/// What clients offer; most of them what browsers do.
pub const OFFERS: [&str; 6] = [
    "",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=12; client_no_context_takeover",
];

/// What a message ends with that doesn't go over the wire (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Inflates the messages of one server, in order.
pub struct Inflater {
    state: Box<InflateState>,
    takeover: bool,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Inflater").field("takeover", &self.takeover).finish_non_exhaustive()
    }
}

impl Inflater {
    /// If the answer to the upgrade agrees to it.
    pub fn agreed(head: &str) -> Option<Self> {
        let answer = head.lines().find(|line| line.starts_with("Sec-WebSocket-Extensions: permessage-deflate"))?;
        let takeover = !answer.contains("server_no_context_takeover");
        Some(Self { state: InflateState::new_boxed(DataFormat::Raw), takeover })
    }

    pub fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>, String> {
        if !self.takeover {
            self.state = InflateState::new_boxed(DataFormat::Raw);
        }
        let input = [payload, &TAIL].concat();
        let (mut out, mut room, mut at) = (Vec::new(), [0; 700], 0);
        loop {
            let step = inflate(&mut self.state, &input[at..], &mut room, MZFlush::None);
            at += step.bytes_consumed;
            out.extend_from_slice(&room[..step.bytes_written]);
            match step.status {
                Ok(MZStatus::Ok) if at < input.len() || step.bytes_written == room.len() => {}
                Ok(MZStatus::Ok) | Err(miniz_oxide::MZError::Buf) if at == input.len() => return Ok(out),
                status => return Err(format!("{status:?} after {at} of {}", input.len())),
            }
        }
    }
}

/// A message's payload compressed: as §7.2.3.4 has it, with a block that is the last and an octet behind it.
pub fn compress(content: &[u8]) -> Vec<u8> {
    let mut out = miniz_oxide::deflate::compress_to_vec(content, 6);
    out.push(0);
    out
}
