//! What a seed decides before the first step: the settings, the users and how likely each action is. Every seed
//! leans towards other actions, so that between them they reach states that an even mix never would.

use std::sync::Arc;

use serde_json::{Value, json};
use uringcast::api::ApiSettings;
use uringcast::auth::{CacheLimits, Verifier, user_id_from_json};
use uringcast::config::{Auth, Config, Secret, StaticToken};
use uringcast::dialect::native::encode::publication_frame_len;
use uringcast::hub::HubSettings;
use uringcast::hub::engine::{EngineKind, EngineSettings};
use uringcast::limits::{Guard, GuardSettings, Rate};
use uringcast::metrics::Metrics;
use uringcast::model::namespace::{
    Compress, Namespace, Namespaces, Overflow, PresenceMode, PublishRule, SubscribeRule,
};
use uringcast::model::text::Language;
use uringcast::model::user::DuplicateLogin;
use uringcast::shard::{ApiServing, Compression, Settings};
use uringcast::site::Site;
use uringcast::wire::deflate::Mode;
use uringcast::wire::handshake::Policy;
use uringcast::wire::http;
use uringcast::wire::websocket;

use crate::dice::Dice;
use crate::tokens;

/// One token and whom it stands for.
#[derive(Debug)]
pub struct Account {
    pub token: String,
    /// What makes two accounts the same user.
    pub key: String,
    pub id: Value,
    pub name: &'static str,
    /// What its token grants.
    pub channels: Vec<String>,
}

/// The account of the observer; nobody else uses it.
pub const OBSERVER: usize = 0;

/// The key of the backend.
pub const API_KEY: &str = "the-key-of-the-backend";

/// The channels of a life, over several owners and namespaces; the last one's namespace is not configured.
pub const CHANNELS: [&str; 7] = ["news", "plain/2", "d:one", "d:two", "q:one", "t:one", "none:x"];

/// What a seed decides.
#[derive(Debug)]
pub struct Plan {
    pub settings: Arc<Settings>,
    pub verifier: Arc<Verifier>,
    pub accounts: Vec<Account>,
    pub steps: usize,
    /// How many clients may be connected at a time.
    pub crowd: usize,
    /// Bytes that fit into a client's socket.
    pub room: usize,
    /// Parcels taken from one lane in a turn, at most.
    pub lane_budget: usize,
    /// Sends in one step of a flush, at most.
    pub flush_budget: usize,
    /// A late engine, or none: then the owners' memory orders and keeps publications.
    pub engine: Option<EnginePlan>,
    /// How likely each action is, in the order of `world::ACTIONS`.
    pub weights: [usize; 14],
    /// How likely each thing to say is, in the order of `Client::idea`.
    pub topics: [usize; 9],
    /// Of 100 things to say, how many are about channels.
    pub channel_share: usize,
    /// Signed tokens are mostly signed by keys that come by an address.
    pub by_address: bool,
    /// Of 100 tokens, how many are signed and end, and are not those of the configuration.
    pub token_share: usize,
}

/// What a seed decides about the engine. Each number is "once in so many"; 0 is never.
#[derive(Debug, Clone, Copy)]
pub struct EnginePlan {
    /// The engine says that it did not accept a publication.
    pub refuses: usize,
    /// The engine does not know whether it accepted a publication.
    pub forgets: usize,
    /// The engine answers nothing.
    pub keeps_silent: usize,
    /// The engine loses the newest publications, or begins a new epoch.
    pub loses: usize,
}

impl EnginePlan {
    pub fn new(dice: &mut Dice) -> Self {
        let mut odds = |often| dice.pick(&[0, 0, 40, often]);
        Self { refuses: odds(10), forgets: odds(10), keeps_silent: odds(10), loses: odds(3) }
    }
}

impl Plan {
    pub fn new(dice: &mut Dice) -> Self {
        let engine = dice.once_in(4).then(|| EnginePlan::new(dice));
        Self::with(engine, dice)
    }

    /// With a late engine, or none.
    pub fn with(engine: Option<EnginePlan>, dice: &mut Dice) -> Self {
        let mut accounts = accounts(dice.between(1, 6));
        for account in &mut accounts {
            account.channels = CHANNELS.iter().filter(|_| dice.once_in(2)).map(|&name| name.to_owned()).collect();
        }
        let channel_share = dice.pick(&[0, 20, 50, 90]);
        let token_share = dice.pick(&[0, 0, 50, 95]);
        let by_address = token_share > 0 && dice.once_in(2);
        let shards = if dice.once_in(16) { 16 } else { dice.pick(&[1, 2, 2, 3, 3, 4, 5]) };
        let kind = if engine.is_some() { EngineKind::Remote } else { EngineKind::Memory };
        Self {
            settings: Arc::new(settings(shards, kind, dice)),
            verifier: Arc::new(verifier(&accounts, by_address)),
            steps: dice.pick(&[300, 1_000, 3_000, 8_000]),
            crowd: dice.between(2, 14),
            room: dice.pick(&[300, 1_500, 6_000, 65_536]),
            lane_budget: dice.pick(&[1, 2, 5, 256]),
            flush_budget: dice.pick(&[1, 2, 4, 192]),
            weights: weights(channel_share, token_share, by_address, engine.is_some(), dice),
            engine,
            topics: [dice.between(2, 8), dice.between(4, 40), 3, 2, 2, 1, 1, 1, token_share / 40],
            channel_share,
            by_address,
            token_share,
            accounts,
        }
    }

    /// Whether an account may subscribe.
    pub fn may(&self, channel: &str, account: Option<&Account>) -> bool {
        let (Some(namespace), Some(account)) = (self.settings.hub.namespaces.of(channel), account) else {
            return false;
        };
        namespace.may_subscribe(&account.key, account.channels.iter().any(|granted| granted == channel))
    }

    /// Most connections that a user may have, if there is such a bound.
    pub fn most_connections(&self) -> Option<usize> {
        let hub = &self.settings.hub;
        let bounded = hub.duplicate_login == DuplicateLogin::Allow && self.settings.guard.settings().exempt.is_empty();
        (bounded && hub.connections_per_user > 0).then_some(hub.connections_per_user)
    }

    /// Whether nothing that the channel's life brings leaves its history.
    pub fn keeps_all(&self, channel: &str) -> bool {
        let keeps = |namespace: &std::sync::Arc<Namespace>| {
            namespace.history_size >= 100_000 && namespace.history_age_ms > 10_000_000
        };
        let hub = &self.settings.hub;
        let loses = self.engine.is_some_and(|engine| engine.loses > 0);
        !loses
            && hub.recover_bytes >= 1 << 19
            && hub.engine.history_bytes > 1 << 28
            && hub.namespaces.of(channel).is_some_and(keeps)
    }
}

fn weights(
    channel_share: usize,
    token_share: usize,
    by_address: bool,
    has_engine: bool,
    dice: &mut Dice,
) -> [usize; 14] {
    let revoke = usize::from(token_share > 0 && dice.once_in(2));
    let mut lean = |base: usize| (base * dice.pick(&[1, 2, 4, 8])).div_ceil(4);
    let clients = [lean(6), lean(40), lean(60), lean(60), lean(30), lean(1), lean(1)];
    let engine = if has_engine { lean(100) } else { 0 };
    let provider = if by_address { 12 } else { 0 };
    let backend = channel_share / 8;
    let server = [lean(100), lean(10), backend, backend * lean(8), revoke, engine, provider];
    [&clients[..], &server].concat().try_into().expect("as many as there are actions")
}

fn accounts(users: usize) -> Vec<Account> {
    let names = ["Ann", "<b>Bo</b>", "张三", "D'Arcy & \"Co\"", "eve", "Zoë"];
    let mut all = vec![account(OBSERVER, json!("observer"), "Observer")];
    let id = user_id_from_json(&all[OBSERVER].id).expect("an id");
    all[OBSERVER].token = tokens::observers(&id, all[OBSERVER].name);
    for (user, name) in names.into_iter().enumerate().take(users) {
        let id = if user % 2 == 0 { json!(user) } else { json!(format!("user-{user}")) };
        all.push(account(all.len(), id, name));
    }
    // The number 0 and the text "0" are the same user, shown as the current token has it.
    all.push(account(all.len(), json!("0"), "Ann as text"));
    all
}

fn account(number: usize, id: Value, name: &'static str) -> Account {
    Account { token: format!("token number {number}"), key: key_of(&id), id, name, channels: Vec::new() }
}

/// The text by which a user is told from others.
pub fn key_of(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

fn verifier(accounts: &[Account], by_address: bool) -> Verifier {
    let fixed = accounts[OBSERVER + 1..].iter().map(|account| StaticToken {
        token: Secret::new(account.token.as_str()),
        user: account.id.clone(),
        name: Some(account.name.to_owned()),
        channels: account.channels.clone(),
    });
    let secret = Some(Secret::new(tokens::SECRET));
    let jwks_url = by_address.then(|| "https://id.example/keys".to_owned());
    let auth = Auth { tokens: fixed.collect(), hs256_secret: secret, leeway_s: 0, jwks_url, ..Auth::default() };
    Verifier::new(&auth).expect("neither needs a file")
}

fn namespaces(escape: bool, dice: &mut Dice) -> Arc<Namespaces> {
    let mut config = Config::default();
    config.lobby.escape = escape;
    config.lobby.batch_window_ms = if dice.once_in(3) { dice.between(5, 50) as u64 } else { 0 };
    let lobby = config.channel_namespaces().lobby().as_ref().clone();
    let mut some = |name: &str| namespace(name, dice);
    Arc::new(Namespaces::new(lobby, some(""), [some("d"), some("q"), some("t")]))
}

fn namespace(name: &str, dice: &mut Dice) -> Namespace {
    let rules = [SubscribeRule::SignedIn, SubscribeRule::SignedIn, SubscribeRule::Token, SubscribeRule::Named];
    let modes = [PresenceMode::Events, PresenceMode::Digest, PresenceMode::Count, PresenceMode::Off];
    Namespace {
        name: name.to_owned(),
        subscribe: dice.pick(&rules),
        users: ["0".to_owned(), "user-1".to_owned()].into(),
        publish: if dice.once_in(5) { PublishRule::Backend } else { PublishRule::Members },
        history_size: dice.pick(&[0, 1, 5, 30, 1 << 20]),
        history_age_ms: dice.pick(&[100, 3_000, 1 << 30]),
        presence: dice.pick(&modes),
        escape: dice.once_in(2),
        overflow: dice.pick(&[Overflow::Disconnect, Overflow::DropOldest, Overflow::Conflate]),
        batch_window_ms: if dice.once_in(2) { 0 } else { dice.between(5, 50) as u64 },
        presence_window_ms: dice.pick(&[50, 300, 1_000]),
        compress: if dice.once_in(5) { Compress::Off } else { Compress::Auto },
    }
}

/// Limits by address and rates have tests of their own. Here the connections of a user and large answers are measured, in
/// lives where nobody is exempt: answers come later for it, and nothing else may change.
fn rules(outbox_bytes: u64, dice: &mut Dice) -> GuardSettings {
    let admission =
        GuardSettings { addresses: 1 << 20, connections: usize::MAX, refusals: 64, ..GuardSettings::default() };
    if dice.once_in(2) {
        return GuardSettings { exempt: vec!["127.0.0.0/8".parse().expect("a network")], ..admission };
    }
    // Room for one of the largest, which is half of the bound, and compressed costs three times that.
    let answers = Rate::per_s(outbox_bytes * dice.pick(&[10, 100, 1_000]), 2 * outbox_bytes);
    let unread_answers = outbox_bytes * dice.pick(&[0, 1, 4]);
    GuardSettings { answers, unread_answers, users: 10_000, ..admission }
}

fn settings(shards: usize, kind: EngineKind, dice: &mut Dice) -> Settings {
    let request_ms = dice.pick(&[150, 1_000, 10_000, 10_000]);
    let probe_ms = dice.pick(&[0, 100, 700, 2_000]);
    let outbox_bytes = dice.pick(&[4_096, 8_192, 20_000, 1 << 20]);
    let guard = Arc::new(Guard::new(rules(outbox_bytes as u64, dice)));
    let language = dice.pick(&[Language::En, Language::Zh]);
    let namespaces = namespaces(dice.once_in(2), dice);
    let push_bytes = dice.pick(&[1_024, 1 << 20]);
    Settings {
        hub: HubSettings {
            shards,
            namespaces: Arc::clone(&namespaces),
            duplicate_login: dice.pick(&[DuplicateLogin::KickOld, DuplicateLogin::RejectNew, DuplicateLogin::Allow]),
            connections_per_user: dice.pick(&[0, 1, 2, 3]),
            probes: probe_ms > 0,
            guard: Arc::clone(&guard),
            frame_len: publication_frame_len,
            push_bytes,
            recover_bytes: outbox_bytes / 2,
            patience_ms: request_ms / 2,
            channels: 1_000,
            engine: EngineSettings {
                kind,
                history_bytes: dice.pick(&[2_000, 1 << 29, 1 << 29]),
                idempotency_keys: 1_000,
            },
            presence_digest_above: 1_000,
            presence_list: 100,
        },
        presence_gather_ms: dice.pick(&[0, 20, 50, 500]),
        presence_gather_above: dice.pick(&[0, 0, 3]),
        language,
        guard,
        metrics: Metrics::new(shards),
        refusals: Arc::default(),
        lane_parcels: dice.pick(&[5, 6, 8, 16, 64, 1_024]),
        site: Arc::new(Site {
            path: "/ws".into(),
            event_stream_path: "/sse".into(),
            echo: false,
            policy: Policy { compression: Mode::On, ..Policy::default() },
            dev: None,
        }),
        head: http::HeadLimits::default(),
        messages: websocket::MessageLimits { message_bytes: 1 << 20, frame_bytes: 1 << 20, fragment_overhead: 64 },
        auth_message_bytes: 1 << 20,
        outbox_bytes,
        subscriptions: 128,
        requests_per_connection: dice.pick(&[1, 2, 4, 32]),
        request_ms,
        api: ApiServing {
            rules: Some(ApiSettings::of_keys(&[API_KEY], namespaces, push_bytes)),
            connections: 64,
            requests: dice.pick(&[4, 64]),
            body_bytes: dice.pick(&[600, 1 << 20]),
            idle_ms: dice.pick(&[500, 600_000]),
        },
        handshake_ms: dice.pick(&[400, 10_000, 10_000]),
        token_cache: CacheLimits::default(),
        auth_ms: dice.pick(&[600, 10_000, 10_000]),
        probe_ms,
        ping_interval_ms: dice.pick(&[400, 25_000]),
        pong_timeout_ms: dice.pick(&[300, 10_000]),
        compression: Compression {
            level: 1,
            min_bytes: dice.pick(&[0, 60, 256]),
            slice_bytes: dice.pick(&[50, 400, 1 << 16]),
        },
        stopwatch: || 0,
        give_back: || (),
        boot_id: dice.throw(),
    }
}
