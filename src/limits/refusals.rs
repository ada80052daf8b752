//! The log of refusals. One line at info says what was refused, why, and to which client. Repeats are counted and not
//! written, so a flood of refusals costs one look-up each and does not flood the log. All threads share one
//! [`RefusalLog`]. docs/logging.md lists the reasons.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::ids::ConnId;
use crate::limits::{Address, Gcra, Peer, Rate, labelled};

/// How many lines about one reason and one address may come at once. It is more than one, so that a person who tries
/// something out sees every refusal.
const REPEATS_AT_ONCE: u64 = 3;
/// How many lines a minute about one reason and one address may come over time.
const REPEATS_PER_MINUTE: u64 = 1;
/// How many lines about one reason may come at once, over all addresses.
const LINES_AT_ONCE: u64 = 20;
/// How many lines a second about one reason may come over time. Each reason has a budget of its own, so a flood of one
/// reason does not hide another.
const LINES_PER_S: u64 = 1;
/// The most pairs of a reason and an address that are remembered. Further ones are counted for the reason alone.
const REPEATS_MAX: usize = 4_096;
/// How often the counts of refusals without a line of their own are written, in milliseconds.
const SWEEP_MS: u64 = 10_000;

labelled! {
    /// Why a token was refused: the label `reason` of `uringcast_tokens_refused_total`.
    pub(crate) enum TokenReason, log prefix "token_" {
        /// The token cannot be decoded.
        Malformed = "malformed",
        /// No key fits the token's `alg` and `kid`.
        NoKey = "no_key",
        /// The signature does not verify.
        Signature = "signature",
        /// The token has expired (`exp`).
        Expired = "expired",
        /// The token is not valid yet (`nbf` or `iat`).
        NotYet = "not_yet",
        /// The backend has revoked the token.
        Revoked = "revoked",
        /// A claim is missing or wrong.
        Claim = "claim",
        /// The token is valid, but for another user than the connection's.
        OtherUser = "other_user",
        /// The token is valid, but for another channel.
        OtherChannel = "other_channel",
    }
}

/// One refusal, as it is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusalNote<'a> {
    /// The reason as one word: [`Limit::name`](crate::limits::Limit::name), [`TokenReason::name`] or another of docs/logging.md.
    pub(crate) reason: &'static str,
    /// The peer of a client's connection, or of the API's.
    pub(crate) client: Option<Peer>,
    /// The connection; `None` before it has an id.
    pub(crate) conn: Option<ConnId>,
    /// The user's key; `None` before the client has signed in.
    pub(crate) user: Option<&'a str>,
}

/// Decides which refusals get a line in the log, and counts the others.
#[derive(Debug)]
pub struct RefusalLog {
    tally: Mutex<Tally>,
    /// When the next sweep is due, in milliseconds of the monotonic clock.
    sweep_at_ms: AtomicU64,
}

#[derive(Debug)]
struct Tally {
    /// By reason and address. `None` stands for a refusal without a known address.
    repeats: HashMap<(&'static str, Option<Address>), RepeatedRefusal, RandomState>,
    /// By reason. There are as many as the source has names.
    reasons: HashMap<&'static str, RefusedForReason, RandomState>,
    same: Rate,
    all: Rate,
}

#[derive(Debug, Default)]
struct RepeatedRefusal {
    lines: Gcra,
    /// The number of refusals since the last line.
    left_out: u64,
}

#[derive(Debug, Default)]
struct RefusedForReason {
    lines: Gcra,
    /// The number of refusals that found the budget empty or the table full, since the last sweep.
    left_out: u64,
}

/// A number of refusals that had no line of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LeftOut {
    reason: &'static str,
    /// `None` if the refusals were of various addresses.
    client: Option<Address>,
    count: u64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        let same = Rate::per_minute(REPEATS_PER_MINUTE, REPEATS_AT_ONCE).expect("not 0");
        let all = Rate::per_s(LINES_PER_S, LINES_AT_ONCE).expect("not 0");
        let tally = Tally { repeats: HashMap::default(), reasons: HashMap::default(), same, all };
        Self { tally: Mutex::new(tally), sweep_at_ms: AtomicU64::new(SWEEP_MS) }
    }
}

impl RefusalLog {
    /// Writes a line about a refusal, or counts it. `detail` is called only if a line is written. It must quote a client's
    /// text with [`quoted`], and must not contain a token.
    pub(crate) fn tell(&self, note: &RefusalNote<'_>, now_ms: u64, detail: impl FnOnce() -> String) {
        let admitted = self.with_tally(|tally| tally.admit(note.reason, note.client.map(Address::of), now_ms));
        let Some(left_out) = admitted else { return };
        let RefusalNote { reason, client, conn, user } = *note;
        let client = client.map(tracing::field::display);
        let conn = conn.map(tracing::field::display);
        let (user, detail) = (user.map(quoted), detail());
        let left_out = (left_out > 0).then_some(left_out);
        tracing::info!(reason, client, conn, user, detail, left_out, "refused");
    }

    /// Writes how many refusals had no line of their own, if the last such report is some seconds old.
    pub(crate) fn tick(&self, now_ms: u64) {
        let due_ms = self.sweep_at_ms.load(Ordering::Relaxed);
        let taken = due_ms <= now_ms
            && self
                .sweep_at_ms
                .compare_exchange(due_ms, now_ms + SWEEP_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if taken {
            tell_left_out(self.with_tally(|tally| tally.sweep(now_ms)));
        }
    }

    /// Writes everything that is counted and not written yet, because the process ends.
    pub(crate) fn finish(&self) {
        tell_left_out(self.with_tally(Tally::take_all));
    }

    fn with_tally<R>(&self, work: impl FnOnce(&mut Tally) -> R) -> R {
        // A poisoned mutex is fine: a panic in `work` leaves whole numbers behind.
        work(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn tell_left_out(all: Vec<LeftOut>) {
    for LeftOut { reason, client, count } in all {
        match client {
            Some(client) => {
                tracing::info!(reason, %client, left_out = count, "refused again; further refusals were only counted")
            }
            None => tracing::info!(reason, left_out = count, "refused; further refusals were only counted"),
        }
    }
}

impl Tally {
    /// Counts a refusal. Returns `Some` if it gets a line, with the number of equal refusals since the last line.
    fn admit(&mut self, reason: &'static str, client: Option<Address>, now_ms: u64) -> Option<u64> {
        let key = (reason, client);
        if let Some(repeat) = self.repeats.get_mut(&key)
            && repeat.lines.take(&self.same, 1, now_ms).is_err()
        {
            repeat.left_out += 1;
            return None;
        }
        let for_reason = self.reasons.entry(reason).or_default();
        let is_full = self.repeats.len() >= REPEATS_MAX && !self.repeats.contains_key(&key);
        if is_full || for_reason.lines.take(&self.all, 1, now_ms).is_err() {
            for_reason.left_out += 1;
            return None;
        }
        let repeat = self.repeats.entry(key).or_insert_with(|| {
            let mut lines = Gcra::default();
            lines.charge(&self.same, 1, now_ms);
            RepeatedRefusal { lines, left_out: 0 }
        });
        Some(std::mem::take(&mut repeat.left_out))
    }

    /// Takes out the counts that may be written now, and forgets pairs that would get their first lines again.
    fn sweep(&mut self, now_ms: u64) -> Vec<LeftOut> {
        let mut told = Vec::new();
        let Self { repeats, reasons, same, all } = self;
        repeats.retain(|(reason, client), repeat| {
            if repeat.left_out == 0 {
                return !repeat.lines.is_full(now_ms);
            }
            let budget = &mut reasons.entry(reason).or_default().lines;
            if repeat.lines.take(same, 1, now_ms).is_ok() && budget.take(all, 1, now_ms).is_ok() {
                let count = std::mem::take(&mut repeat.left_out);
                told.push(LeftOut { reason, client: *client, count });
            }
            true
        });
        for (reason, for_reason) in reasons {
            if for_reason.left_out > 0 {
                // Each sweep writes one line even if the budget is empty, as it is while a flood lasts.
                for_reason.lines.charge(all, 1, now_ms);
                let count = std::mem::take(&mut for_reason.left_out);
                told.push(LeftOut { reason, client: None, count });
            }
        }
        told
    }

    /// Takes out everything that was not told, by reason alone: the addresses could be thousands.
    fn take_all(&mut self) -> Vec<LeftOut> {
        for ((reason, _), repeat) in self.repeats.drain() {
            self.reasons.entry(reason).or_default().left_out += repeat.left_out;
        }
        let told = self.reasons.drain().filter(|(_, for_reason)| for_reason.left_out > 0);
        told.map(|(reason, for_reason)| LeftOut { reason, client: None, count: for_reason.left_out }).collect()
    }
}

/// How many characters of a client's text the log shows.
const QUOTED_CHARS: usize = 64;

/// A client's text as the log may show it: in quotes, with control characters escaped, and cut.
pub(crate) fn quoted(text: &str) -> String {
    quoted_up_to(QUOTED_CHARS, text)
}

/// As [`quoted`], cut after `chars` characters.
pub(crate) fn quoted_up_to(chars: usize, text: &str) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A word of base64url with at least this many characters may be a token's signature (HS256 has 43).
const SECRET_CHARS: usize = 40;

/// A path, a host or an origin as the log may show it. A client may have put a token there, so a word that may be part of
/// one is cut: a long word, or one that begins as JSON does in base64.
pub(crate) fn quoted_place(place: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut shown = String::new();
    for piece in place.split_inclusive(|c| !is_of_word(c)) {
        let word = piece.trim_end_matches(|c| !is_of_word(c));
        if word.len() >= SECRET_CHARS || word.starts_with("eyJ") {
            shown.extend([&word[..4.min(word.len())], "…", &piece[word.len()..]]);
        } else {
            shown.push_str(piece);
        }
    }
    quoted(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        RefusalLog::default().tally.into_inner().unwrap()
    }

    fn address(number: u32) -> Option<Address> {
        Some(Address::of(Peer::Ip(core::net::IpAddr::V4(number.into()))))
    }

    #[test]
    fn the_first_lines_come_at_once_and_then_one_a_minute_with_the_count_of_the_others() {
        let mut tally = tally();
        let mut lines = |now_ms, refusals: u64| -> Vec<u64> {
            (0..refusals).filter_map(|_| tally.admit("a", address(1), now_ms)).collect()
        };
        assert_eq!(lines(0, 100), [0, 0, 0]);
        assert!(lines(59_999, 1).is_empty());
        assert_eq!(lines(60_000, 5), [98]);
        assert_eq!(lines(120_000, 1), [4]);
    }

    #[test]
    fn what_has_no_line_is_told_later_although_nothing_more_happens() {
        let mut tally = tally();
        (0..10).for_each(|_| assert!(tally.admit("a", address(1), 0).is_none_or(|left_out| left_out == 0)));
        assert_eq!(tally.sweep(10_000), []);
        assert_eq!(tally.sweep(60_000), [LeftOut { reason: "a", client: address(1), count: 7 }]);
        assert_eq!(tally.sweep(600_000), []);
        assert!(tally.repeats.is_empty(), "what would have its first lines again is forgotten");
    }

    #[test]
    fn a_flood_from_many_addresses_has_few_lines_and_hides_no_other_reason() {
        let mut tally = tally();
        let (mut lines, mut told) = (0, 0);
        for n in 0..1_000_000 {
            let now_ms = u64::from(n) / 100;
            lines += usize::from(tally.admit("flood", address(n), now_ms).is_some());
            if n % 100_000 == 0 {
                let left_out = tally.sweep(now_ms);
                lines += left_out.len();
                told += left_out.iter().map(|left_out| left_out.count).sum::<u64>();
            }
        }
        assert_eq!(tally.admit("other", address(7), 10_000), Some(0));
        told += tally.take_all().iter().map(|left_out| left_out.count).sum::<u64>();
        // Ten seconds, and one line at each of ten sweeps.
        assert!((20..=45).contains(&lines), "{lines} lines");
        assert!(told > 999_900, "{told} were told");
    }

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../docs/logging.md");
        let limits = crate::limits::Limit::ALL.iter().map(|limit| limit.name());
        for name in limits.chain(TokenReason::ALL.iter().map(|reason| reason.name())) {
            assert!(page.contains(&format!("`{name}`")), "docs/logging.md lacks {name}");
        }
    }

    #[test]
    fn the_table_has_a_bound() {
        let mut tally = tally();
        for n in 0..100_000 {
            // As slowly as the budget lets each have its line.
            tally.admit("a", address(n), u64::from(n) * 10);
            tally.repeats.iter_mut().for_each(|(_, repeat)| repeat.left_out = 1);
        }
        assert!(tally.repeats.len() <= REPEATS_MAX, "{}", tally.repeats.len());
    }

    #[test]
    fn a_clients_text_can_not_forge_a_line() {
        assert_eq!(quoted("a\n\u{1b}[31m\"b"), r#""a\n\u{1b}[31m\"b""#);
        assert_eq!(
            quoted_place("https://a-long-name.of.a.host.example:80"),
            r#""https://a-long-name.of.a.host.example:80""#
        );
        let signature = "s".repeat(43);
        let token = format!("/ws/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{signature}/ж/");
        assert_eq!(quoted_place(&token), r#""/ws/eyJh….eyJz….ssss…/ж/""#);
        let cut = quoted(&"ж".repeat(1_000));
        assert_eq!(cut.chars().count(), QUOTED_CHARS + 3, "{cut}");
    }
}
