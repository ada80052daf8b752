//! The TLS of one connection. Received bytes become plaintext, and plaintext becomes records for the kernel. Between calls a
//! stream keeps an incomplete record and records that the kernel did not take; an idle stream keeps no buffer. It knows
//! neither the socket nor what the plaintext means.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};

/// The most plaintext in one record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// The largest record that may be received, with its header (RFC 5246 §6.2.3; RFC 8446 allows less). A handshake message
/// must fit too, because no more is kept for a peer.
const RECEIVED_MAX: usize = RECORD_BYTES + 2048 + 5;
/// How many records are encrypted before they are offered to the kernel. Those that it does not take wait in the stream.
const BATCH_RECORDS: usize = 2;
/// The bytes of a record beyond its plaintext, with a key update that may precede it.
const RECORD_OVERHEAD: usize = 256;
/// The size of the buffer for records that are encrypted at a time, in bytes.
const BATCH_BYTES: usize = BATCH_RECORDS * (RECORD_BYTES + RECORD_OVERHEAD);

/// Why the TLS of a connection ended.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The peer speaks plain HTTP, not TLS.
    #[error("plain HTTP")]
    PlainHttp,
    /// A handshake message is larger than any legitimate one.
    #[error("a handshake message above {RECEIVED_MAX} bytes")]
    TooLarge,
    /// rustls refused what the peer sent.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Whether more can follow the received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    /// More bytes may follow.
    Open,
    /// The peer has sent close_notify (RFC 8446 §6.1), so nothing follows.
    PeerClosed,
}

/// Buffers that all TLS connections of a shard use in turn. Nothing stays in them between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Small pieces, joined so that they share a record.
    joined: Vec<u8>,
    /// Encrypted records for the kernel.
    sealed: Box<[u8]>,
}

/// The TLS of one connection.
pub(crate) struct Stream {
    session: UnbufferedServerConnection,
    /// The received part of an incomplete record, at most [`RECEIVED_MAX`] bytes.
    held: Vec<u8>,
    /// Records that the kernel did not take, at most [`BATCH_BYTES`] and what the handshake adds.
    unsent: Vec<u8>,
    /// Whether the next byte that is offered has been encrypted already (see [`Stream::send`]).
    owed: bool,
    /// Whether a whole record was received, which proves that the peer speaks TLS.
    begun: bool,
    /// Whether nothing may be encrypted any more: our close_notify was made, or an error ended the stream.
    closed: bool,
}

impl Stream {
    /// A stream that begins with its handshake.
    ///
    /// # Errors
    /// When rustls finds the configuration unusable.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let session = UnbufferedServerConnection::new(config)?;
        Ok(Self { session, held: Vec::new(), unsent: Vec::new(), owed: false, begun: false, closed: false })
    }

    /// Takes received bytes, decrypts them in place and appends the plaintext to `plain`. Records that TLS itself has to
    /// send, including the alert after an error, wait for [`Stream::flush`].
    ///
    /// # Errors
    /// [`TlsError`]; the connection cannot go on then.
    pub(crate) fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> Result<Opened, TlsError> {
        let mut joined = std::mem::take(&mut self.held);
        let continued = !joined.is_empty();
        let incoming = if continued {
            joined.extend_from_slice(received);
            &mut joined[..]
        } else {
            received
        };
        let (used, result) = self.process(incoming, plain);
        let rest = &incoming[used..];
        let result = match result {
            Ok(Opened::Open) if rest.len() > RECEIVED_MAX => Err(TlsError::TooLarge),
            result => result,
        };
        let opened = result.map_err(|fault| {
            self.closed = true;
            match incoming.first() {
                Some(byte) if !self.begun && byte.is_ascii_uppercase() => TlsError::PlainHttp,
                _ => fault,
            }
        })?;
        self.begun |= used > 0;
        if opened == Opened::Open && !rest.is_empty() {
            // Grows in place while a record arrives in small parts; otherwise it is allocated to size.
            self.held = if used == 0 && continued { joined } else { rest.to_vec() };
        }
        Ok(opened)
    }

    /// Gives the bytes to rustls. Returns how many it has consumed.
    fn process(&mut self, incoming: &mut [u8], plain: &mut Vec<u8>) -> (usize, Result<Opened, TlsError>) {
        let mut used = 0;
        let mut opened = Opened::Open;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut incoming[used..]);
            let done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    append(data, &mut self.unsent);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    opened = Opened::PeerClosed;
                    None
                }
                Ok(_) => Some(Ok(opened)),
                Err(error) => {
                    self.collect_alert();
                    Some(Err(error.into()))
                }
            };
            used += discard;
            if let Some(result) = done {
                return (used, result);
            }
        }
    }

    /// Collects the alert that rustls has for the peer after an error.
    fn collect_alert(&mut self) {
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.session.process_tls_records(&mut []).state
        {
            append(data, &mut self.unsent);
        }
    }

    /// Encrypts the pieces and gives the records to `kernel`, which returns how many bytes it took, or `None` if the peer
    /// is gone. Returns how many bytes of the pieces were taken. If that is less than all, no more can be taken now. Small
    /// pieces share a record; a large piece is not copied.
    ///
    /// While records wait for the kernel, one byte of their plaintext counts as not taken, although it is encrypted. The
    /// caller therefore has something left to offer, waits for writability, and does not end the connection too early. The
    /// caller may drop frames that it has not begun to offer. No frame has only one byte, so it never drops the owed byte.
    pub(crate) fn send(
        &mut self,
        pieces: &[IoSlice<'_>],
        scratch: &mut Scratch,
        mut kernel: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Option<usize> {
        if !self.flush(&mut kernel)? {
            return Some(0);
        }
        if self.closed {
            return None;
        }
        if scratch.sealed.is_empty() {
            scratch.sealed = vec![0; BATCH_BYTES].into();
        }
        let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut rest = Pieces { pieces, at: 0 };
        let mut taken = usize::from(std::mem::take(&mut self.owed)).min(offered);
        rest.skip(taken);
        while taken < offered {
            let mut filled = 0;
            for _ in 0..BATCH_RECORDS {
                let part = rest.next_record(&mut scratch.joined);
                taken += part.len();
                if !part.is_empty() {
                    filled += self.seal(part, &mut scratch.sealed[filled..])?;
                }
            }
            let sent = kernel(&scratch.sealed[..filled])?;
            if sent < filled {
                self.unsent = scratch.sealed[sent..filled].to_vec();
                self.owed = true;
                return Some(taken - 1);
            }
        }
        Some(taken)
    }

    /// Encrypts the plaintext of one record into `out` and returns the record's length. `None` if nothing can be encrypted,
    /// because the handshake is not over or the keys are used up.
    fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        self.writing(out, |traffic, out| traffic.encrypt(plain, out).ok())
    }

    /// Lets TLS write what must precede application data, and then calls `write`.
    fn writing(
        &mut self,
        out: &mut [u8],
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let mut filled = 0;
        loop {
            // Includes the partial record, because rustls may remember how far it has read it.
            match self.session.process_tls_records(&mut self.held).state.ok()? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return Some(filled + write(&mut traffic, &mut out[filled..])?);
                }
                ConnectionState::EncodeTlsData(mut data) => filled += data.encode(&mut out[filled..]).ok()?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return None,
            }
        }
    }

    /// Adds close_notify to the unsent records, once, if the handshake is over.
    pub(crate) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let mut alert = [0; RECORD_OVERHEAD];
        if let Some(length) = self.writing(&mut alert, |traffic, out| traffic.queue_close_notify(out).ok()) {
            self.unsent.extend_from_slice(&alert[..length]);
        }
    }

    /// Offers the unsent records to the kernel. Returns whether none is left; `None` if the peer is gone.
    pub(crate) fn flush(&mut self, mut kernel: impl FnMut(&[u8]) -> Option<usize>) -> Option<bool> {
        if self.unsent.is_empty() {
            return Some(true);
        }
        let sent = kernel(&self.unsent)?;
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
        Some(self.unsent.is_empty())
    }

    /// The number of bytes of records that the kernel has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// The bytes kept for the connection: of an incomplete record, and of records that the kernel did not take.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> (usize, usize) {
        (self.held.capacity(), self.unsent.capacity())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (held, unsent) = (self.held.len(), self.unsent.len());
        f.debug_struct("Stream").field("held", &held).field("unsent", &unsent).finish_non_exhaustive()
    }
}

fn append(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let at = out.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        out.resize(at + size.required_size, 0);
        // rustls has just said that this much room is enough.
        let _ = data.encode(&mut out[at..]);
    }
}

/// The pieces that are left to encrypt, which are cut into records.
struct Pieces<'a> {
    pieces: &'a [IoSlice<'a>],
    /// The number of bytes of the first piece that were encrypted.
    at: usize,
}

impl<'a> Pieces<'a> {
    fn skip(&mut self, mut bytes: usize) {
        while let [first, others @ ..] = self.pieces {
            let left = first.len() - self.at;
            if bytes < left {
                self.at += bytes;
                return;
            }
            bytes -= left;
            (self.pieces, self.at) = (others, 0);
        }
    }

    /// The plaintext of the next record; empty at the end. Small pieces are joined in `joined`.
    fn next_record<'b>(&mut self, joined: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        let [first, others @ ..] = self.pieces else { return &[] };
        let first = &first[self.at..];
        if first.len() >= RECORD_BYTES || others.is_empty() {
            let part = &first[..first.len().min(RECORD_BYTES)];
            self.skip(part.len());
            return part;
        }
        joined.clear();
        while let [first, ..] = self.pieces
            && joined.len() < RECORD_BYTES
        {
            let first = &first[self.at..];
            let part = &first[..first.len().min(RECORD_BYTES - joined.len())];
            joined.extend_from_slice(part);
            self.skip(part.len());
        }
        joined
    }
}
