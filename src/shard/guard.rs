//! What a connection may send and try: its rates and its user's, and how many tokens it may have refused. What is
//! over is told with `error` 429, and who goes on is closed with 4429. Part of `shard`; the arithmetic is `limits`'.

use super::refusals::TokenUse;
use super::{ShardCore, Stage};
use crate::auth::RefusedToken;
use crate::hub::LOBBY;
use crate::ids::ConnId;
use crate::limits::{Address, Limit};
use crate::model::command::Command;
use crate::model::text::{Text, escape_growth};
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::websocket::Event;

/// Less than this of an unfinished message is not counted, so that a frame's header that was cut costs nothing.
const UNFINISHED_MIN_BYTES: usize = 4 * 1024;

impl ShardCore {
    /// Counts bytes that a client has sent.
    pub(super) fn measure(&mut self, id: ConnId, bytes: usize, now: Now) {
        let rates = self.settings.guard.settings().connection;
        if rates.bytes.is_none() || *self.conns.address(id.slot) == Address::NONE {
            return;
        }
        let conn = self.conns.at(id.slot);
        if matches!(conn.stage, Stage::Native | Stage::Echo) {
            conn.meters.get_or_insert_default().received(&rates, bytes, now.mono_ms);
        }
    }

    /// Takes a message out of its sender's rates.
    pub(super) fn take_message(&mut self, id: ConnId, bytes: usize, now: Now) -> Result<(), Limit> {
        if *self.conns.address(id.slot) == Address::NONE {
            return Ok(());
        }
        let rates = self.settings.guard.settings().connection;
        let conn = self.conns.at(id.slot);
        if rates.is_limited() {
            conn.meters.get_or_insert_default().message(&rates, now.mono_ms)?;
        }
        match conn.session.user() {
            Some(user) => self.settings.guard.user_message(user.key(), bytes, now.mono_ms),
            None => Ok(()),
        }
    }

    /// Charges the sender of a text for the bytes that escaping adds to it: they are kept, and sent to everyone.
    pub(super) fn charge_escaping(&mut self, id: ConnId, command: &Command<'_>, now: Now) {
        let Command::Message { text: Some(text), channel, .. } = command else { return };
        let namespace = self.settings.hub.namespaces.of(channel.unwrap_or(LOBBY));
        let growth = if namespace.is_some_and(|namespace| namespace.escape) { escape_growth(text) } else { 0 };
        if growth == 0 || *self.conns.address(id.slot) == Address::NONE {
            return;
        }
        if let Some(user) = self.conns.at(id.slot).session.user() {
            self.settings.guard.charge_user_bytes(user.key(), growth, now.mono_ms);
        }
    }

    /// Counts what is kept of a message that is not whole, for the client's address and for all. The client whose message
    /// finds no room is closed.
    pub(super) fn count_unfinished(&mut self, id: ConnId, now: Now) {
        let conn = self.conns.at(id.slot);
        let (before, kept) = (conn.unfinished(), conn.decoder.heap_bytes() + conn.put_off_bytes());
        let kept = if kept < UNFINISHED_MIN_BYTES { 0 } else { kept };
        if kept == before {
            return;
        }
        let address = *self.conns.address(id.slot);
        if self.settings.guard.unfinished(address, before, kept, now.mono_ms) {
            self.conns.at(id.slot).set_unfinished(kept);
            self.large_memory.note_if(before > 0);
        } else {
            self.refused(id, Limit::UnfinishedBytes, now, || {
                format!("closed: no room for {kept} bytes of an unfinished message (4503)")
            });
            self.close(id, close::DRAINING, "too many unfinished messages", now);
        }
    }

    /// Nothing of a message is kept any more.
    pub(super) fn release_unfinished(&mut self, id: ConnId, now: Now) {
        let before = self.conns.at(id.slot).unfinished();
        if before > 0 {
            let address = *self.conns.address(id.slot);
            self.settings.guard.unfinished(address, before, 0, now.mono_ms);
            self.conns.at(id.slot).set_unfinished(0);
        }
    }

    /// Takes what is no text of the native protocol, which `message` sees to. Over a rate it is passed over.
    pub(super) fn is_over_rate(&mut self, id: ConnId, event: &Event<'_>, now: Now) -> bool {
        let conn = self.conns.at(id.slot);
        let bytes = match event {
            Event::Text(_) if conn.stage == Stage::Native => return false,
            // One that was asked for need not be remembered.
            Event::Pong(_) if conn.meters.is_none() => return false,
            Event::Text(bytes) | Event::Binary(bytes) => bytes.len(),
            Event::Ping(payload) | Event::Pong(payload) => payload.len(),
            Event::Close { .. } => return false,
        };
        match self.take_message(id, bytes, now) {
            Ok(()) => false,
            Err(limit) => {
                self.too_many_messages(id, None, limit, now);
                true
            }
        }
    }

    /// A message over a rate: told at first, and closed when it goes on.
    pub(super) fn too_many_messages(&mut self, id: ConnId, mark: Option<&str>, limit: Limit, now: Now) {
        let conn = self.conns.at(id.slot);
        if conn.is_closing() {
            self.metrics.refused(limit);
            return;
        }
        let goes_on = conn.meters.get_or_insert_default().refused(now.mono_ms);
        self.refused(id, limit, now, || "a message was not done (429)".to_owned());
        if goes_on {
            // A reason of its own: the lines about the limit are used up by now.
            self.tell_refusal(id, "rate_limited", now, || {
                format!("closed: over {} again and again (4429)", limit.name())
            });
        }
        let conn = self.conns.at(id.slot);
        if conn.stage == Stage::Native {
            self.error(id, mark, 429, Text::TooManyMessages);
        }
        if goes_on {
            self.close(id, close::RATE_LIMITED, "too many messages", now);
        }
    }

    /// Whether a token from where this connection comes from is looked at.
    pub(super) fn may_sign_in(&mut self, id: ConnId, now: Now) -> bool {
        let address = *self.conns.address(id.slot);
        self.settings.guard.may_sign_in(address, now.mono_ms)
    }

    /// A token was refused, and the client has been told.
    pub(super) fn token_refused(
        &mut self,
        id: ConnId,
        mark: Option<&str>,
        shown: TokenUse<'_>,
        token: &RefusedToken,
        now: Now,
    ) {
        self.tell_token(id, shown, token, now);
        let address = *self.conns.address(id.slot);
        self.settings.guard.sign_in_failed(address, now.mono_ms);
        let conn = self.conns.at(id.slot);
        conn.failures = conn.failures.saturating_add(1);
        let most = self.settings.guard.settings().auth_attempts;
        if !conn.is_closing() && most > 0 && conn.failures >= most {
            self.too_many_attempts(id, mark, Limit::AuthAttempts, now);
        }
    }

    pub(super) fn too_many_attempts(&mut self, id: ConnId, mark: Option<&str>, limit: Limit, now: Now) {
        self.refused(id, limit, now, || "closed: too many refused tokens (4429)".to_owned());
        self.error(id, mark, 429, Text::TooManyAttempts);
        self.close(id, close::RATE_LIMITED, "too many failed sign-ins", now);
    }
}

/// Whether this does nothing without a token whose signature is good.
pub(super) fn shows_token(command: &Command<'_>) -> bool {
    matches!(command, Command::Auth { token: Some(_), .. } | Command::Refresh { .. })
}
