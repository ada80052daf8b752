//! One simulated client: what it says, what it hears, and every rule of the protocol that a single client can
//! check as it goes. What takes more than one client to see is checked at the end, by `oracle`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uringcast::model::text::Text;
use uringcast::model::user::DuplicateLogin;

use crate::channels::{Book, Draft, Known, Place};
use crate::codec::{self, Ear, Heard};
use crate::dice::Dice;
use crate::errands::KeyNumber;
use crate::plan::{Account, CHANNELS, Plan, key_of};
use crate::tokens::{Law, Token};

/// A channel that nobody subscribes to.
const ELSEWHERE: &str = "elsewhere";

pub type Verdict<T = ()> = Result<T, String>;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Auth(usize),
    /// To stay signed in by a newer token, of this account.
    Refresh(usize),
    BadToken,
    NoToken,
    /// The text as it was sent.
    Message(String),
    /// Only white space: 400 once signed in.
    Empty,
    /// To a channel that is not subscribed: 403 once signed in.
    Elsewhere,
    Users,
    Heartbeat,
    /// 400 whoever sends it.
    Malformed,
    Subscribe {
        channel: String,
        since: Option<Place>,
    },
    Unsubscribe {
        channel: String,
    },
    Publish(Box<Draft>),
    History {
        channel: String,
        since: Option<Place>,
        limit: usize,
        reverse: bool,
    },
    Presence {
        channel: String,
    },
}

impl What {
    /// The account that it asks to sign in.
    pub fn account(&self) -> Option<usize> {
        if let Self::Auth(account) = self { Some(*account) } else { None }
    }

    /// The channel whose other answers the answer must not overtake.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Self::Message(_) | Self::Empty | Self::Users => Some("lobby"),
            Self::Elsewhere => Some(ELSEWHERE),
            Self::Publish(draft) => Some(&draft.channel),
            Self::Subscribe { channel, .. }
            | Self::Unsubscribe { channel }
            | Self::History { channel, .. }
            | Self::Presence { channel } => Some(channel),
            Self::Auth(_) | Self::Refresh(_) | Self::BadToken | Self::NoToken | Self::Heartbeat | Self::Malformed => {
                None
            }
        }
    }
}

/// One request and what became of it.
#[derive(Debug)]
pub struct Asked {
    pub what: What,
    /// Only then can its answer be told from others.
    pub has_id: bool,
    /// When, among all that happened, and by the wall clock.
    pub said: u64,
    pub said_ms: u64,
    /// By which keys its shard judged tokens then.
    pub newest_key: Option<KeyNumber>,
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    /// With the offset.
    Ack(u64),
    Error(u64),
    /// The token was not taken.
    Failed,
}

/// What `auth_success` said.
#[derive(Debug)]
pub struct Attached {
    /// Index of the request that did it.
    pub request: usize,
    pub account: usize,
    pub epoch: String,
    pub offset: u64,
    pub online_count: u64,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    pub number: usize,
    pub shard: usize,
    ear: Ear,
    pub asked: Vec<Asked>,
    pub connection_id: Option<String>,
    pub attached: Option<Attached>,
    /// What it signed in with or refreshed, by request.
    pub tokens: BTreeMap<usize, Token>,
    /// The request whose token counts.
    held: Option<usize>,
    /// Told that the token ends.
    warned: bool,
    /// Told that its token is none, or none any more.
    pub unauthorized: bool,
    /// Raw payloads of lobby frames, in order.
    pub lobby: Vec<String>,
    /// Texts of the messages among them: the first has the offset after the one attached at.
    texts: Vec<String>,
    pub kicked: bool,
    pub closed: Option<Option<u16>>,
    /// What has to be the next thing heard.
    expect_close: Option<u16>,
    /// The Close that this client sent first.
    pub said_close: Option<Option<u16>>,
    /// Errors that name no request, by code.
    pub anonymous_errors: BTreeMap<u64, usize>,
    /// Answers pings and Close.
    pub polite: bool,
    /// The last page of users.
    pub users: Option<Value>,
    /// The latest request about each channel that was answered: answers keep the order of requests per channel.
    latest: BTreeMap<String, usize>,
    /// Its channels.
    pub book: Book,
}

impl Client {
    pub fn new(number: usize, shard: usize, polite: bool, known: Known) -> Self {
        Self {
            number,
            shard,
            ear: Ear::default(),
            asked: Vec::new(),
            connection_id: None,
            attached: None,
            tokens: BTreeMap::new(),
            held: None,
            warned: false,
            unauthorized: false,
            lobby: Vec::new(),
            texts: Vec::new(),
            kicked: false,
            closed: None,
            expect_close: None,
            said_close: None,
            anonymous_errors: BTreeMap::new(),
            polite,
            users: None,
            latest: BTreeMap::new(),
            book: Book { known, ..Book::default() },
        }
    }

    /// Messages that came compressed.
    pub fn inflated(&self) -> usize {
        self.ear.inflated
    }

    pub fn is_upgraded(&self) -> bool {
        self.ear.is_upgraded()
    }

    /// Whether the client has heard or said that it is over.
    pub fn is_over(&self) -> bool {
        self.closed.is_some() || self.said_close.is_some()
    }

    /// Whether nothing but a Close may follow.
    pub fn expects_close(&self) -> bool {
        self.expect_close.is_some()
    }

    /// The token by which it is signed in.
    pub fn token(&self) -> Option<&Token> {
        self.tokens.get(&self.held?)
    }

    /// Whether it may subscribe, by each of the tokens that it signed in with or stays by.
    pub fn may(&self, plan: &Plan, channel: &str) -> impl Iterator<Item = bool> {
        let taken = self.tokens.iter().filter(|(request, _)| {
            let signed_in = self.attached.as_ref().is_some_and(|attached| attached.request == **request);
            signed_in
                || self.asked[**request].what.account().is_none() && self.asked[**request].answer == Some(Answer::Done)
        });
        taken.map(move |(_, token)| plan.may(channel, Some(&plan.accounts[token.account])))
    }

    pub fn account<'a>(&self, plan: &'a Plan) -> Option<&'a Account> {
        self.attached.as_ref().map(|attached| &plan.accounts[attached.account])
    }

    /// What a client may come up with.
    pub fn idea(&self, plan: &Plan, dice: &mut Dice) -> What {
        if self.attached.is_none() && dice.once_in(2) {
            return What::Auth(dice.between(1, plan.accounts.len() - 1));
        }
        if dice.below(100) < plan.channel_share {
            return self.channel_idea(plan, dice);
        }
        match dice.weighted(&plan.topics) {
            0 if self.attached.is_none() || dice.once_in(8) => What::Auth(dice.between(1, plan.accounts.len() - 1)),
            0 | 1 => What::Message(self.text(dice)),
            2 => What::Heartbeat,
            3 => What::Users,
            4 => What::Empty,
            5 => What::Elsewhere,
            6 => What::Malformed,
            8 => match &self.attached {
                Some(attached) if !dice.once_in(6) => What::Refresh(attached.account),
                _ => What::Refresh(dice.between(1, plan.accounts.len() - 1)),
            },
            _ if dice.once_in(4) => What::BadToken,
            _ => What::NoToken,
        }
    }

    /// A text that nobody else sends and that this client sends once.
    fn text(&self, dice: &mut Dice) -> String {
        let tag = format!("c{}m{}", self.number, self.asked.len());
        match dice.below(8) {
            0 => format!(" \u{3000}\0 {tag} <i title=\"x\">&'</i>\t\n"),
            1 => format!("{tag} \u{1f600} 张三 \\ \u{7}"),
            2 => format!("{tag} {}", "long ".repeat(dice.between(1, 250))),
            3 if dice.once_in(4) => format!("{tag} {}", "<very long>".repeat(dice.between(300, 900))),
            _ => tag,
        }
    }

    /// The bytes of a request, noted as asked.
    pub fn ask(&mut self, what: What, plan: &Plan, law: &mut Law, dice: &mut Dice) -> Vec<u8> {
        let id = format!("q{}", self.asked.len());
        let has_id = match what {
            What::Message(_) | What::Empty => dice.once_in(2),
            What::Malformed => false,
            _ => true,
        };
        let (kind, data) = match &what {
            What::Auth(account) => {
                let token = self.show(*account, plan, law, dice);
                ("auth", self.auth(&token, plan, dice))
            }
            What::Refresh(account) => ("refresh", json!({ "token": self.show(*account, plan, law, dice) })),
            What::BadToken => ("auth", json!({ "token": "no such token" })),
            What::NoToken => ("auth", json!({})),
            What::Message(text) => ("message", json!({ "text": text })),
            What::Empty => ("message", json!({ "text": dice.pick(&["", " \t", "\0\u{3000}"]) })),
            What::Elsewhere => ("message", json!({ "text": "x", "channel": ELSEWHERE })),
            What::Subscribe { channel, since } => {
                ("subscribe", with_since(json!({ "channel": channel }), "recover", since))
            }
            What::Unsubscribe { channel } => ("unsubscribe", json!({ "channel": channel })),
            What::Publish(draft) => self.publish(draft, plan),
            What::History { channel, since, limit, reverse } => {
                let data = json!({ "channel": channel, "limit": limit, "reverse": reverse });
                ("history", with_since(data, "since", since))
            }
            What::Presence { channel } => ("presence", json!({ "channel": channel, "limit": 100 })),
            What::Users => ("users", json!({ "limit": dice.between(1, 9) })),
            What::Heartbeat => ("heartbeat", Value::Null),
            What::Malformed => (dice.pick(&["nonsense", "message"]), json!({ "text": 5 })),
        };
        let mut envelope = json!({ "type": kind, "data": data });
        if has_id {
            envelope["id"] = id.into();
        }
        let (said, said_ms, newest_key) = (law.moment(), law.now_ms, law.provider.in_force(self.shard));
        self.asked.push(Asked { what, has_id, said, said_ms, newest_key, answer: None });
        codec::message(&envelope.to_string(), self.ear.deflates(), dice)
    }

    /// A token, noted as what the next request shows.
    fn show(&mut self, account: usize, plan: &Plan, law: &mut Law, dice: &mut Dice) -> String {
        let token = law.token(account, &mut self.book.known.tokens, plan, dice);
        let text = token.text.clone();
        self.tokens.insert(self.asked.len(), token);
        text
    }

    /// Signs in, sometimes with channels and where it was in the lobby.
    fn auth(&mut self, token: &str, plan: &Plan, dice: &mut Dice) -> Value {
        let mut data = json!({ "token": token, "ping": dice.once_in(4) });
        let mut wanted = Vec::new();
        if plan.channel_share > 0 && self.number > 0 && dice.once_in(2) {
            for _ in 0..dice.below(4) {
                let channel = dice.pick(&CHANNELS);
                if wanted.iter().all(|(name, _)| name != channel) {
                    wanted.push((channel.to_owned(), self.since(channel, dice)));
                }
            }
            let list =
                wanted.iter().map(|(channel, since)| with_since(json!({ "channel": channel }), "recover", since));
            data["channels"] = list.collect();
            let lobby = self.since("lobby", dice);
            data = with_since(data, "recover", &lobby);
            wanted.push(("lobby".into(), lobby));
        }
        self.book.with_auth.insert(self.asked.len(), wanted);
        data
    }

    fn publish(&mut self, draft: &Draft, plan: &Plan) -> (&'static str, Value) {
        let pad = "x".repeat(draft.length);
        let mut data = json!({ "channel": draft.channel });
        if draft.text {
            data["text"] = format!("{} {pad}", draft.tag).into();
        } else {
            data["data"] = json!({ "tag": draft.tag, "pad": pad });
        }
        let optional = [("key", &draft.key), ("idempotency_key", &draft.once), ("epoch", &draft.epoch)];
        for (name, value) in optional {
            if let Some(value) = value {
                data[name] = value.as_str().into();
            }
        }
        if let (Some(_), Some(account)) = (&draft.once, self.account(plan)) {
            let user = account.key.clone();
            self.book.known.keyed.push((user, draft.clone()));
        }
        (if draft.text { "message" } else { "publish" }, data)
    }

    /// Takes bytes from the socket; returns what the client says to them at once.
    pub fn hear(&mut self, bytes: &[u8], plan: &Plan, law: &Law, dice: &mut Dice) -> Verdict<Vec<u8>> {
        self.ear.feed(bytes);
        let mut answer = Vec::new();
        while let Some(heard) = self.ear.next()? {
            if let Some(code) = self.expect_close
                && heard != Heard::Close(Some(code))
            {
                return Err(format!("{heard:?} where Close {code} has to come"));
            }
            match heard {
                Heard::Text(text) => self.read(text, plan, law)?,
                Heard::Pong => {}
                Heard::Ping(payload) if self.polite && !self.is_over() => {
                    answer.extend(codec::frame(codec::PONG, true, &payload, dice));
                }
                Heard::Ping(_) => {}
                Heard::Close(code) => {
                    self.closed = Some(code);
                    if self.polite && self.said_close.is_none() {
                        answer.extend(codec::close(code, dice));
                    }
                }
            }
        }
        Ok(answer)
    }

    /// The server's direction has ended in order: something must have been said before.
    pub fn at_end(&self, reset: bool) -> Verdict {
        if !reset && self.closed.is_none() {
            return Err("the stream ended without Close".into());
        }
        if !reset && !self.ear.is_at_boundary() {
            return Err("the stream ended within a frame".into());
        }
        Ok(())
    }

    fn read(&mut self, raw: String, plan: &Plan, law: &Law) -> Verdict {
        let json: Value = serde_json::from_str(&raw).map_err(|error| format!("{error} in {raw}"))?;
        let kind = json["type"].as_str().ok_or_else(|| format!("no type in {raw}"))?;
        if self.connection_id.is_none() != (kind == "system") {
            return Err(format!("the greeting comes first and once, not {raw}"));
        }
        match kind {
            "system" => self.connection_id = json["data"]["connection_id"].as_str().map(str::to_owned),
            "message" if json["data"]["channel"] != "lobby" => self.read_publication(&json)?,
            "publication" => self.read_publication(&json)?,
            "gap" => self.read_gap(&json, plan)?,
            "join" | "leave" | "presence_digest" => self.read_presence_push(&json)?,
            "subscribed" => self.read_subscribed(&json, plan)?,
            "unsubscribed" => self.read_unsubscribed(&json, plan)?,
            "history" => self.read_history(&json, plan)?,
            "presence" => self.read_members(&json)?,
            "message" => {
                self.read_message(&json)?;
                self.lobby.push(raw);
            }
            "user_online" | "user_offline" => {
                self.read_presence(&json, plan)?;
                self.lobby.push(raw);
            }
            "auth_success" => self.read_success(&json, plan)?,
            "auth_failed" => self.read_auth_failed(&json, plan, law)?,
            "refreshed" => self.read_refreshed(&json, plan)?,
            "token_expiring" => self.read_token_expiring(&json, law)?,
            "kicked" => {
                if plan.settings.hub.duplicate_login != DuplicateLogin::KickOld || self.attached.is_none() {
                    return Err("kicked without having held".into());
                }
                self.kicked = true;
                self.expect_close = Some(4409);
            }
            "heartbeat" => drop(self.answered(&json, Answer::Done, |what| *what == What::Heartbeat)?),
            "users" => {
                self.answered(&json, Answer::Done, |what| *what == What::Users)?;
                self.users = Some(json["data"].clone());
            }
            "ack" if json["data"]["channel"] != "lobby" => self.read_channel_ack(&json)?,
            "ack" => self.read_ack(&json)?,
            "error" => self.read_error(&json, plan, law)?,
            "ping" | "draining" => {}
            other => return Err(format!("an unknown type {other}")),
        }
        Ok(())
    }

    fn read_success(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let request = self.answered(json, Answer::Done, |what| matches!(what, What::Auth(_)))?;
        let What::Auth(account) = self.asked[request].what else { unreachable!("just matched") };
        if self.attached.is_some() {
            return Err("signed in twice".into());
        }
        let shown = &plan.accounts[account];
        let name = if plan.settings.hub.namespaces.lobby().escape { escaped(shown.name) } else { shown.name.into() };
        let data = &json["data"];
        if data["user"] != json!({ "id": shown.id, "username": name }) {
            return Err(format!("the wrong user: {}", data["user"]));
        }
        if json["message"] != Text::Authenticated.in_language(plan.settings.language) {
            return Err(format!("the wrong words: {}", json["message"]));
        }
        let end = self.tokens[&request].expires_at_ms;
        if json["data"]["expires_at"].as_u64() != end {
            return Err(format!("{json} for a token that ends at {end:?}"));
        }
        let mut wanted = self.book.with_auth.get(&request).cloned().unwrap_or_default();
        let since = wanted.pop().and_then(|(_, since)| since);
        self.book.unnamed = wanted;
        self.book.lobby_due = self.read_recovery(&data["lobby"], "lobby", since.as_ref(), plan)?;
        self.held = Some(request);
        self.attached = Some(Attached {
            request,
            account,
            epoch: data["lobby"]["epoch"].as_str().ok_or("no epoch")?.to_owned(),
            offset: data["lobby"]["offset"].as_u64().ok_or("no offset")?,
            online_count: data["online_count"].as_u64().ok_or("no count")?,
        });
        Ok(())
    }

    /// In answer to a sign-in; or, unasked, the token by which it is signed in, or is about to be, counts no more.
    fn read_auth_failed(&mut self, json: &Value, plan: &Plan, law: &Law) -> Verdict {
        let is_over = |token: &Token| law.is_over(token, plan);
        let fair = if json["id"].is_null() {
            self.token().map_or_else(|| self.tokens.values().any(is_over), is_over)
        } else {
            let fits = |what: &What| matches!(what, What::BadToken | What::Auth(_));
            let request = self.answered(json, Answer::Failed, fits)?;
            let lacks_key = |token: &Token| law.may_lack_key(token, self.asked[request].newest_key, self.shard);
            self.attached.is_none() && self.tokens.get(&request).is_none_or(|token| is_over(token) || lacks_key(token))
        };
        self.unauthorized = true;
        self.expect_close = Some(4401);
        if fair { Ok(()) } else { Err(format!("{json} to one with {:?}", self.tokens)) }
    }

    fn read_refreshed(&mut self, json: &Value, plan: &Plan) -> Verdict {
        let request = self.answered(json, Answer::Done, |what| matches!(what, What::Refresh(_)))?;
        let token = &self.tokens[&request];
        let own = self.account(plan).is_some_and(|account| account.key == plan.accounts[token.account].key);
        let end = token.expires_at_ms.is_none_or(|end_ms| json["data"]["expires_at"] == end_ms);
        (self.held, self.warned) = (Some(request), false);
        if own && end { Ok(()) } else { Err(format!("{json} for {token:?}")) }
    }

    /// Once for each token, some time ahead.
    fn read_token_expiring(&mut self, json: &Value, law: &Law) -> Verdict {
        let again = std::mem::replace(&mut self.warned, true);
        let token = self.token().ok_or("a token's end before auth_success")?;
        let said_ms = self.held.map_or(0, |request| self.asked[request].said_ms);
        let fair = token.expires_at_ms.is_some_and(|end_ms| json["data"]["expires_at"] == end_ms);
        if fair && !again && law.is_ending(token, said_ms) { Ok(()) } else { Err(format!("{json} of {token:?}")) }
    }

    fn read_message(&mut self, json: &Value) -> Verdict {
        let attached = self.attached.as_ref().ok_or("a message before auth_success")?;
        if self.book.lobby_due.is_some() {
            return Err(format!("{json} before the gap"));
        }
        let data = &json["data"];
        let next = attached.offset + self.texts.len() as u64 + 1;
        if data["offset"] != next || data["id"] != format!("{}-{next}", attached.epoch) {
            return Err(format!("offset {} ({}) where {next} has to come", data["offset"], data["id"]));
        }
        self.texts.push(data["text"].as_str().ok_or("no text")?.to_owned());
        let epoch = attached.epoch.clone();
        self.note("lobby", &epoch, data.clone());
        self.book.known.positions.insert("lobby".into(), (epoch, next));
        Ok(())
    }

    fn read_presence(&self, json: &Value, plan: &Plan) -> Verdict {
        let own = self.account(plan).ok_or("a user's coming or going before auth_success")?;
        if key_of(&json["data"]["user"]["id"]) == own.key {
            return Err(format!("an event about itself: {json}"));
        }
        Ok(())
    }

    fn read_ack(&mut self, json: &Value) -> Verdict {
        let offset = json["data"]["offset"].as_u64().ok_or("no offset")?;
        let request = self.answered(json, Answer::Ack(offset), |what| matches!(what, What::Message(_)))?;
        let attached = self.attached.as_ref().ok_or("an ack before auth_success")?;
        let What::Message(text) = &self.asked[request].what else { unreachable!("just matched") };
        let tag = tag(text);
        let copy = offset.checked_sub(attached.offset + 1).and_then(|at| self.texts.get(at as usize));
        match copy {
            Some(copy) if crate::client::tag(copy) == tag && json["data"]["epoch"] == attached.epoch => Ok(()),
            copy => Err(format!("an ack of {tag} at {offset} where the client has {copy:?}")),
        }
    }

    fn read_error(&mut self, json: &Value, plan: &Plan, law: &Law) -> Verdict {
        let code = json["code"].as_u64().ok_or("no code")?;
        if json["id"].is_null() && json["data"]["channel"].is_string() && json["data"]["channel"] != "lobby" {
            return self.read_unnamed_error(json, plan);
        }
        if json["id"].is_null() {
            *self.anonymous_errors.entry(code).or_default() += 1;
            return if matches!(code, 400 | 401 | 413 | 503 | 504) {
                Ok(())
            } else {
                Err(format!("{json} for nothing"))
            };
        }
        let request = self.answered(json, Answer::Error(code), |_| true)?;
        let policy = plan.settings.hub.duplicate_login;
        let attached = self.attached.is_some();
        self.expect_close = match (&self.asked[request].what, code) {
            (What::Auth(_) | What::BadToken | What::NoToken, 409) if attached => None,
            (What::Auth(_), 409) if policy != DuplicateLogin::Allow => Some(4409),
            (What::Auth(_), 429) if policy == DuplicateLogin::KickOld || plan.most_connections().is_some() => {
                Some(4429)
            }
            (What::Auth(_), 504) if !attached => Some(1011),
            (What::Auth(_), 503) | (What::NoToken, 400) if !attached => None,
            (what, 401) if !attached && (what.channel().is_some() || matches!(what, What::Refresh(_))) => None,
            (What::Refresh(_), 403) if attached && self.may_not_refresh(request, plan, law) => None,
            (What::Message(_) | What::Users, 503 | 504) | (What::Empty, 400) | (What::Elsewhere, 403) if attached => {
                None
            }
            (What::Message(text), 413) if attached && text.len() * 6 + 400 > plan.settings.hub.push_bytes => None,
            (_, code) if attached && self.may_refuse(request, code, plan) => None,
            (what, _) => return Err(format!("{json} in answer to {what:?}")),
        };
        Ok(())
    }

    /// The token is another user's, or counts no more.
    fn may_not_refresh(&self, request: usize, plan: &Plan, law: &Law) -> bool {
        let token = &self.tokens[&request];
        let key = &plan.accounts[token.account].key;
        let lacks_key = law.may_lack_key(token, self.asked[request].newest_key, self.shard);
        lacks_key || law.is_over(token, plan) || self.account(plan).is_some_and(|own| own.key != *key)
    }

    /// Notes the answer to the request that it names; each is answered once.
    pub fn answered(&mut self, json: &Value, answer: Answer, fits: impl Fn(&What) -> bool) -> Verdict<usize> {
        let index = json["id"].as_str().and_then(|id| id.strip_prefix('q')).and_then(|id| id.parse::<usize>().ok());
        let index = index.ok_or_else(|| format!("{json} names no request"))?;
        match self.asked.get_mut(index) {
            Some(asked) if asked.has_id && asked.answer.is_none() && fits(&asked.what) => {
                asked.answer = Some(answer);
                if let Some(channel) = asked.what.channel()
                    && self.latest.insert(channel.to_owned(), index).is_some_and(|latest| latest > index)
                {
                    return Err(format!("{json} after the answer to a later request"));
                }
                Ok(index)
            }
            asked => Err(format!("{json} can't answer {asked:?}")),
        }
    }
}

fn with_since(mut data: Value, name: &str, since: &Option<Place>) -> Value {
    if let Some((epoch, offset)) = since {
        data[name] = json!({ "epoch": epoch, "offset": offset });
    }
    data
}

/// What makes a text unique.
pub fn tag(text: &str) -> &str {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
    text.split(' ').next().unwrap_or_default()
}

/// What a text should look like when it comes back.
pub fn published(text: &str, escape: bool) -> String {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    if escape { escaped(text) } else { text.into() }
}

fn escaped(text: &str) -> String {
    // The ampersand first: what the others become has one.
    let pairs = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#039;")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
