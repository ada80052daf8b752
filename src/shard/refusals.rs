//! Refusals of one shard: each is counted by its reason and told in the log, with the client's address, its user and its
//! connection. Part of `shard`; which lines the log really has, `RefusalLog` decides.

use std::fmt;

use super::ShardCore;
use crate::auth::RefusedToken;
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::limits::refusals::{RefusalNote, quoted, quoted_place};
use crate::metrics::Count;
use crate::model::command::{Command, SubscribeTo};
use crate::model::parcel;
use crate::model::text::Text;
use crate::time::clock::Now;
use crate::wire::handshake::{HttpRefusal, UpgradeRequest};

impl ShardCore {
    /// Counts what a limit refused to a connection, and tells it in the log.
    pub(super) fn refused(&mut self, id: ConnId, limit: Limit, now: Now, detail: impl FnOnce() -> String) {
        self.metrics.refused(limit);
        self.tell_refusal(id, limit.name(), now, detail);
    }

    /// Tells in the log what was refused to a connection, where something else has counted it. Call it before the
    /// connection leaves: the line names its user.
    pub(super) fn tell_refusal(&mut self, id: ConnId, reason: &'static str, now: Now, detail: impl FnOnce() -> String) {
        let client = self.conns.client(id);
        let user = self.conns.get(id).and_then(|conn| conn.session.claimed()).map(|user| &**user.key());
        let note = RefusalNote { reason, client, conn: Some(id), user };
        self.settings.refusals.tell(&note, now.mono_ms, detail);
    }

    /// Counts a refused token and tells it in the log.
    pub(super) fn tell_token(&mut self, id: ConnId, what: TokenUse<'_>, token: &RefusedToken, now: Now) {
        if matches!(what.kind, "auth" | "refresh") {
            self.metrics.count(Count::SignInsFailed);
        }
        self.metrics.token_refused(token.reason());
        self.tell_refusal(id, token.reason().name(), now, || match what.channel {
            Some(channel) => format!("{} {}: {token}", what.kind, quoted(channel)),
            None => format!("{}: {token}", what.kind),
        });
    }

    /// Counts and tells what the owner of a channel, or of the users, refused to a connection.
    pub(super) fn tell_owner_refusal(&mut self, id: ConnId, refusal: parcel::Refusal, now: Now) {
        if let Some(limit) = limit_of(refusal) {
            return self.refused(id, limit, now, || format!("refused by the owner: {refusal:?}"));
        }
        match refusal {
            parcel::Refusal::AlreadyOnline => {
                self.metrics.refused(Limit::DuplicateLogin);
                self.tell_refusal(id, "already_signed_in", now, || {
                    "closed: the user has a connection and auth.duplicate_login is reject_new (4409)".to_owned()
                });
            }
            parcel::Refusal::SignedInElsewhere => {
                self.metrics.refused(Limit::DuplicateLogin);
                self.tell_refusal(id, "already_signed_in", now, || {
                    "closed: the user has a connection that was accepted later (4409)".to_owned()
                });
            }
            // The client is told, and nobody else can do anything about it.
            _ => {}
        }
    }

    /// Counts and tells what a connection may not do with a channel.
    pub(super) fn tell_local_refusal(&mut self, id: ConnId, channel: &str, text: Text, now: Now) {
        let of_channel = || format!("channel {}", quoted(channel));
        match text {
            Text::TooManySubscriptions => self.refused(id, Limit::Subscriptions, now, of_channel),
            Text::Forbidden => self.tell_refusal(id, "channel_forbidden", now, of_channel),
            Text::UnknownNamespace => self.tell_refusal(id, "unknown_namespace", now, of_channel),
            // A client's own slips.
            _ => {}
        }
    }

    /// What the peer sent is no TLS, or TLS that can't be agreed on: its connection ends.
    pub(super) fn tls_failed(&mut self, id: ConnId, fault: &impl fmt::Display, now: Now) {
        self.tell_refusal(id, "tls", now, || format!("closed: {fault}"));
    }

    /// Answers a request with a refusal, counts it and tells it in the log. Without a request, its head made no sense.
    pub(super) fn refuse_request(
        &mut self,
        id: ConnId,
        method: &str,
        request: Option<&UpgradeRequest<'_>>,
        refusal: HttpRefusal,
        now: Now,
    ) {
        self.metrics.request_refused(refusal.status);
        let reason = request_reason(refusal.status);
        self.tell_refusal(id, reason, now, || match request {
            None => refusal.to_string(),
            Some(request) => {
                let (method, path, host) =
                    (quoted(request.method()), quoted_place(request.path()), quoted_place(request.host()));
                let origin = request.origin().map(|origin| format!(", Origin {}", quoted_place(origin)));
                format!("{refusal}: {method} {path}, Host {host}{}", origin.unwrap_or_default())
            }
        });
        let site = std::sync::Arc::clone(&self.settings.site);
        self.respond(id, now, |out| site.write_refusal(request, method, &refusal, out));
    }
}

/// Where a token was shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenUse<'a> {
    pub(super) kind: &'static str,
    /// Whose channel's token it is to be.
    pub(super) channel: Option<&'a str>,
}

/// Where a command shows a token, if it does: a signature may have to be checked.
pub(super) fn token_use<'a>(command: &Command<'a>) -> Option<TokenUse<'a>> {
    match command {
        Command::Auth { token: Some(_), .. } => Some(TokenUse { kind: "auth", channel: None }),
        Command::Refresh { channel, .. } => Some(TokenUse { kind: "refresh", channel: *channel }),
        Command::Subscribe(SubscribeTo { channel, token: Some(_), .. }) => {
            Some(TokenUse { kind: "subscribe", channel: Some(*channel) })
        }
        _ => None,
    }
}

/// The limit for which an owner refused something, if that is why.
pub(super) fn limit_of(refusal: parcel::Refusal) -> Option<Limit> {
    match refusal {
        parcel::Refusal::TooManyChannels => Some(Limit::Channels),
        parcel::Refusal::Busy | parcel::Refusal::Unanswered => Some(Limit::Requests),
        parcel::Refusal::TooLarge => Some(Limit::PushBytes),
        parcel::Refusal::TooManySignIns => Some(Limit::SignIns),
        parcel::Refusal::TooManyConnections => Some(Limit::ConnectionsPerUser),
        // Counted where they are told, under a reason of their own.
        parcel::Refusal::AlreadyOnline | parcel::Refusal::SignedInElsewhere => None,
        parcel::Refusal::Forbidden | parcel::Refusal::KeyReused => None,
    }
}

/// The log's word for a refused request.
fn request_reason(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        413 => Limit::Header.name(),
        426 => "upgrade_required",
        503 => "going_away",
        _ => "bad_request",
    }
}
