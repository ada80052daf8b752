//! One connection's TLS: received bytes become plaintext, pieces of plaintext become records that are handed to the
//! kernel. Between calls it keeps a partial record and what the kernel did not take, and no buffer while there is
//! neither. Knows neither sockets nor what the plaintext means; `conn` owns it.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};

/// The most plaintext in one record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// The largest record that may be received, its header included (RFC 5246 §6.2.3; RFC 8446 allows less). A message
/// of the handshake has to fit as well: nothing more is kept for a peer.
const RECEIVED_MAX: usize = RECORD_BYTES + 2048 + 5;
/// Records that are encrypted before the kernel is asked: what it doesn't take of them waits here.
const BATCH_RECORDS: usize = 2;
/// What a record, with a key update that may go before it, has beyond its plaintext.
const RECORD_OVERHEAD: usize = 256;
/// What is encrypted at a time has room in so much.
const BATCH_BYTES: usize = BATCH_RECORDS * (RECORD_BYTES + RECORD_OVERHEAD);

/// Why a connection's TLS came to its end.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum TlsError {
    /// It is no TLS at all: somebody speaks HTTP.
    #[error("plain HTTP")]
    PlainHttp,
    /// A handshake message is larger than any that is meant well.
    #[error("a handshake message above {RECEIVED_MAX} bytes")]
    TooLarge,
    /// What rustls says.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// What became of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// More may follow.
    Open,
    /// The peer said that nothing follows (close_notify, RFC 8446 §6.1).
    PeerClosed,
}

/// What all TLS connections of a shard work in. Nothing stays in it.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Pieces that share a record.
    joined: Vec<u8>,
    /// Records on their way to the kernel.
    sealed: Box<[u8]>,
}

/// One connection's TLS.
pub struct Stream {
    session: UnbufferedServerConnection,
    /// A record that is incomplete, at most [`RECEIVED_MAX`] bytes.
    held: Vec<u8>,
    /// Records that the kernel didn't take, at most [`BATCH_BYTES`] and what the handshake adds.
    unsent: Vec<u8>,
    /// The next byte that is offered has been encrypted already: see [`Stream::send`].
    owed: bool,
    /// A whole record has come, so the peer speaks TLS.
    begun: bool,
    /// Nothing may be encrypted any more: our close_notify has left or waits in `unsent`, or a fault ended all.
    closed: bool,
}

impl Stream {
    /// A connection whose handshake is still to come.
    ///
    /// # Errors
    /// When rustls finds the configuration unusable.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let session = UnbufferedServerConnection::new(config)?;
        Ok(Self { session, held: Vec::new(), unsent: Vec::new(), owed: false, begun: false, closed: false })
    }

    /// Takes what was received, which is decrypted in place, and appends the plaintext to `plain`. What TLS itself
    /// has to answer waits for [`Stream::flush`], the alert that goes with a fault included.
    ///
    /// # Errors
    /// [`TlsError`]: the connection can't go on.
    pub fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> Result<Opened, TlsError> {
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
            // Grown in place while a record comes in small parts; cut to size otherwise.
            self.held = if used == 0 && continued { joined } else { rest.to_vec() };
        }
        Ok(opened)
    }

    /// Lets rustls have the bytes; returns how many it is done with.
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

    /// After an error: what rustls tells the peer of it.
    fn collect_alert(&mut self) {
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.session.process_tls_records(&mut []).state
        {
            append(data, &mut self.unsent);
        }
    }

    /// Encrypts the pieces and hands the records to `kernel`, which says how many bytes it took, or `None` if the
    /// peer is gone. Returns how much of the pieces has been taken; less than all means that nothing more is taken
    /// now. Pieces share records where that saves some; a large one goes into them as it lies.
    ///
    /// While records wait for the kernel one byte of what they hold counts as not taken, though it is encrypted.
    /// So the caller has something left to offer, asks to be told of writability, and ends nothing too early. The
    /// caller may drop what it has not begun to offer, but no frame has one byte only: the owed one comes first.
    pub fn send(
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

    /// Encrypts one record's plaintext; returns the length of what is in `out` then. `None` if nothing can be
    /// encrypted: the handshake isn't over, or the keys are used up.
    fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        self.writing(out, |traffic, out| traffic.encrypt(plain, out).ok())
    }

    /// What has to leave before, and then what `write` adds.
    fn writing(
        &mut self,
        out: &mut [u8],
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let mut filled = 0;
        loop {
            // With the partial record, since rustls may remember how far it has looked at it.
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

    /// Adds close_notify to what waits for the kernel, once, if there is anyone to understand it.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let mut alert = [0; RECORD_OVERHEAD];
        if let Some(length) = self.writing(&mut alert, |traffic, out| traffic.queue_close_notify(out).ok()) {
            self.unsent.extend_from_slice(&alert[..length]);
        }
    }

    /// Offers the kernel what it has not taken yet. Returns whether nothing is left; `None` if the peer is gone.
    pub fn flush(&mut self, mut kernel: impl FnMut(&[u8]) -> Option<usize>) -> Option<bool> {
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

    /// Bytes of records that the kernel has not taken.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Bytes kept for the connection: of a record that is incomplete, and of records that the kernel didn't take.
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
        // It has just said that so much is enough.
        let _ = data.encode(&mut out[at..]);
    }
}

/// Pieces as they are cut into records.
struct Pieces<'a> {
    pieces: &'a [IoSlice<'a>],
    /// Bytes of the first piece that are done with.
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

    /// The next record's plaintext; empty at the end. `joined` is where pieces come together, if they have to.
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
