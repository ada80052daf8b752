//! The lobby's rules, the default ones and the namespaces, from each source; and the listener for backends.
//! Each refusal names the file and the line, or the variable.

use super::*;
use crate::model::namespace::{Compress, Namespaces, Overflow, PresenceMode, PublishRule, SubscribeRule};

fn namespaces(text: &str) -> Namespaces {
    from_file(text).unwrap().channel_namespaces()
}

#[test]
fn the_rules_have_their_documented_defaults() {
    let namespaces = Config::default().channel_namespaces();
    let lobby = namespaces.lobby();
    assert_eq!(
        (lobby.name.as_str(), lobby.subscribe, lobby.publish),
        ("lobby", SubscribeRule::SignedIn, PublishRule::Members)
    );
    assert_eq!((lobby.presence, lobby.overflow, lobby.escape), (PresenceMode::Events, Overflow::Disconnect, true));
    assert_eq!((lobby.history_size, lobby.history_age_ms, lobby.batch_window_ms), (100, 300_000, 0));
    let default = namespaces.of("news").unwrap();
    assert_eq!(
        (default.name.as_str(), default.subscribe, default.publish),
        ("", SubscribeRule::SignedIn, PublishRule::Backend)
    );
    assert_eq!((default.presence, default.overflow, default.escape), (PresenceMode::Off, Overflow::Disconnect, true));
    assert_eq!((default.history_size, default.history_age_ms, default.batch_window_ms), (100, 300_000, 0));
    assert_eq!(default.presence_window_ms, 1_000);
    assert!(default.users.is_empty());
    assert_eq!(super::super::channels::MAX_ID_BYTES, crate::auth::MAX_ID_BYTES);
    assert!(namespaces.of("chat:room").is_none());

    let dev = Config::dev(&Flags::default()).unwrap().channel_namespaces();
    assert!(!dev.lobby().escape && dev.of("news").unwrap().escape);
}

#[test]
fn every_key_of_a_namespace_gets_through() {
    let all = namespaces(
        "[namespaces.chat]\nsubscribe = \"named\"\nusers = [\"1\", \"bob\"]\npublish = \"members\"\nhistory_size = 1\n\
         history_age_ms = 2\npresence = \"digest\"\npresence_window_ms = 30\nescape = false\n\
         overflow = \"conflate\"\nbatch_window_ms = 4\ncompress = \"off\"\n",
    );
    let expected = crate::model::namespace::Namespace {
        name: "chat".to_owned(),
        subscribe: SubscribeRule::Named,
        users: ["1".to_owned(), "bob".to_owned()].into(),
        publish: PublishRule::Members,
        history_size: 1,
        history_age_ms: 2,
        presence: PresenceMode::Digest,
        escape: false,
        overflow: Overflow::Conflate,
        batch_window_ms: 4,
        presence_window_ms: 30,
        compress: Compress::Off,
    };
    assert_eq!(**all.of("chat:room").unwrap(), expected);
}

#[test]
fn a_namespace_takes_the_built_in_defaults() {
    assert_eq!(**namespaces("[namespaces.a]\n").of("a:x").unwrap(), crate::model::namespace::Namespace::plain("a"));
    let all = namespaces("[channels]\nhistory_size = 7\n\n[namespaces.a]\n\n[namespaces.B-2]\nescape = false\n");
    assert_eq!(all.of("x").unwrap().history_size, 7);
    assert_eq!(all.of("a:x").unwrap().history_size, 100);
    assert!(!all.of("B-2:x").unwrap().escape);
    assert!(all.of("b-2:x").is_none());
    // The other ways of TOML to say the same.
    for text in ["namespaces.a.history_size = 7\n", "[namespaces]\na = { history_size = 7 }\n"] {
        assert_eq!(namespaces(text).of("a:x").unwrap().history_size, 7);
    }
    assert_eq!(from_file("[namespaces]\n").unwrap(), Config::default());
}

#[test]
fn namespaces_from_the_environment_have_small_letters() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "[namespaces.chat]\nhistory_size = 1\nescape = false\n").unwrap();
    let variables = env(&[
        ("URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE", "2"),
        ("URINGCAST_NAMESPACES__A_B__SUBSCRIBE", "named"),
        ("URINGCAST_NAMESPACES__A_B__USERS", "1, bob"),
        ("URINGCAST_LOBBY__BATCH_WINDOW_MS", "5"),
        ("URINGCAST_CHANNELS__PRESENCE", "count"),
    ]);
    let all = Config::load(Some(&path), variables, &Flags::default()).unwrap().channel_namespaces();
    let chat = all.of("chat:x").unwrap();
    assert!(chat.history_size == 2 && !chat.escape);
    assert!(all.of("a_b:x").unwrap().users.iter().eq(["1", "bob"]));
    assert_eq!(all.lobby().batch_window_ms, 5);
    assert_eq!(all.of("x").unwrap().presence, PresenceMode::Count);
}

#[test]
fn faults_of_namespaces_are_told_where_they_are() {
    for (text, expected) in [
        (
            "[namespaces.chat]\nhistory_siz = 1",
            "FILE:2: namespaces.chat.history_siz: unknown key; did you mean namespaces.chat.history_size?",
        ),
        ("[namespaces.chat.room]\n", "FILE:1: namespaces.chat.room: unknown key"),
        ("\nnamespaces = 1", "FILE:2: namespaces: is a section, not a key: write [namespaces]"),
        ("[namespaces]\nchat = 1", "FILE:2: namespaces.chat: is a section, not a key: write [namespaces.chat]"),
        ("[[namespaces.chat]]\n", "FILE:1: namespaces.chat: is a section"),
        ("\n[namespaces.\"a b\"]\n", "FILE:2: namespaces.a b: a namespace's name has 1 to 64 of"),
        ("[namespaces.\"a.history_size\"]\n", "FILE:1: namespaces.a.history_size: a namespace's name has"),
        ("[namespaces.\"\"]\n", "FILE:1: namespaces.: a namespace's name has"),
        ("[namespaces.lobby]\n", "FILE:1: namespaces.lobby: the lobby's section is [lobby]"),
        (
            "[namespaces.a]\noverflow = \"drop\"",
            "FILE:2: namespaces.a.overflow: must be \"disconnect\", \"drop_oldest\" or \"conflate\"",
        ),
        (
            "[channels]\nsubscribe = \"any\"",
            "FILE:2: channels.subscribe: must be \"signed_in\", \"token\" or \"named\"",
        ),
        ("[lobby]\nhistory_size = 1000001", "FILE:2: lobby.history_size: must be from 0 to 1000000"),
        ("[lobby]\npresence_window_ms = 0", "FILE:2: lobby.presence_window_ms: must be from 10 to"),
        (
            "[channels]\nsubscribe = \"named\"\nusers = [\"a\", \"\"]",
            "FILE:3: channels.users: id number 2 must have 1 to 128",
        ),
        ("[channels]\nusers = [1]", "FILE:2: channels.users: must be a list of texts"),
        (
            "[namespaces.a]\nusers = [\"1\"]\nsubscribe = \"token\"",
            "FILE:2: namespaces.a.users: has no effect without subscribe",
        ),
        ("[lobby]\nusers = [\"1\"]", "FILE:2: lobby.users: has no effect without subscribe"),
    ] {
        let message = refusal(text);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn faults_of_variables_of_namespaces_are_told() {
    let message = |name| from_env(&[(name, "1")]).unwrap_err().to_string();
    assert!(
        message("URINGCAST_NAMESPACES__CHAT__HISTRY_SIZE").ends_with("mean URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE?")
    );
    assert!(
        message("URINGCAST_NAMESPACES__chat__HISTORY_SIZE").ends_with("mean URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE?")
    );
    assert!(message("URINGCAST_NAMESPACES__CHAT").contains("unknown setting"));
    assert!(message("URINGCAST_NAMESPACES").contains("unknown setting"));
    assert!(message("URINGCAST_NAMESPACES__LOBBY__ESCAPE").contains("the lobby's section is [lobby]"));
    assert!(message("URINGCAST_NAMESPACES____ESCAPE").contains("name has 1 to 64"));
}

#[test]
fn namespaces_are_described_and_read_back() {
    let text = "[namespaces.Chat]\nhistory_size = 5\n[namespaces.empty]\n[namespaces.a__b]\n[lobby]\nescape = false\n";
    let config = from_file(text).unwrap();
    let text = describe(&config);
    assert_eq!(from_file(&text).unwrap(), config);
    assert!(text.contains("\n[namespaces.empty]\n") && text.contains("\n[namespaces.Chat]\n"));
    assert!(text.contains("\n# URINGCAST_NAMESPACES__EMPTY__HISTORY_SIZE\nhistory_size = 100\n"));
    // Variables that would mean another namespace are not offered.
    assert!(text.contains("lower-cased); default: 100\nhistory_size = 5\n"), "{text}");
    assert!(!text.contains("NAMESPACES__CHAT__ESCAPE") && !text.contains("A__B"));
    assert!(text.contains("# URINGCAST_LOBBY__ESCAPE; default: true\nescape = false\n"));
    // The example of a namespace is no namespace, and without its comment signs it is one.
    let text = describe(&Config::default());
    assert!(from_file(&text).unwrap().namespaces.is_empty());
    let example: Vec<_> = text.lines().skip_while(|line| *line != "# [namespaces.chat]").take(5).collect();
    let example: String = example.iter().map(|line| format!("{}\n", &line[2..])).collect();
    assert_eq!(namespaces(&example).of("chat:room").unwrap().history_size, 500, "{example}");
}

#[test]
fn the_listener_for_backends_needs_a_key() {
    let listener = |text: &str| from_file(text).unwrap().http.listener().map(|addr| addr.to_string());
    assert_eq!(listener(""), None);
    assert_eq!(listener("[http]\nlisten = \"127.0.0.1:9\""), None);
    let key = "keys = [\"0123456789abcdef\"]";
    assert_eq!(listener(&format!("[http]\n{key}")).as_deref(), Some("127.0.0.1:2346"));
    assert_eq!(listener("[http]\nkeys_file = \"k\"").as_deref(), Some("127.0.0.1:2346"));
    assert_eq!(listener(&format!("[http]\n{key}\nlisten = \"[::1]:0\"")).as_deref(), Some("[::1]:0"));
    assert_eq!(listener(&format!("[http]\n{key}\nlisten = \"\"")), None);
    for (value, expected) in [("127.0.0.1:7", Some("127.0.0.1:7")), ("", None), (" ", None)] {
        let config = from_env(&[("URINGCAST_HTTP__LISTEN", value)]).unwrap();
        assert_eq!(config.http.listen.0.first().map(ToString::to_string).as_deref(), expected);
    }
    let text = describe(&from_file("[http]\nlisten = \"\"").unwrap());
    assert!(text.contains("default: \"127.0.0.1:2346\"\nlisten = \"\"\n"), "{text}");
    assert_eq!(from_file(&text).unwrap().http.listen, Listeners(Vec::new()));
    for wrong in ["listen = \"localhost\"", "listen = 2346", "listen = \"2346\""] {
        assert!(
            refusal(&format!("[http]\n{wrong}")).starts_with("FILE:2: http.listen: must be an address and a port such")
        );
    }
}

#[test]
fn api_keys_are_checked_and_never_shown() {
    let config = from_env(&[("URINGCAST_HTTP__KEYS", "hush-hush-hush-hush, hush/hush/hush/hush")]).unwrap();
    assert_eq!(config.http.keys.len(), 2);
    assert_eq!(config.http.keys[1], Secret::new("hush/hush/hush/hush"));
    let text = describe(&config);
    assert!(text.contains("# keys = [\"…\", \"…\"]\n"), "{text}");
    assert!(!text.contains("hush") && !format!("{config:?}").contains("hush"));
    for (keys, expected) in [
        ("[\"0123456789abcdef\", \"hush-hush\"]", "key number 2 has 9 bytes and needs 16 to 512"),
        ("[\"\"]", "key number 1 has 0 bytes"),
        ("[\"hush hush hush hush\"]", "key number 1 has a character"),
        ("\"hush-hush-hush-hush\"", "must be a list of texts"),
        ("[1]", "must be a list of texts"),
    ] {
        let message = refusal(&format!("[http]\nkeys = {keys}"));
        assert!(message.starts_with("FILE:2: http.keys: ") && message.contains(expected), "{message}");
        assert!(!message.contains("hush"), "{message}");
    }
    let error = from_env(&[("URINGCAST_HTTP__KEYS", r#"["hush-hush-hush-hush""#)]).unwrap_err().to_string();
    assert!(error.contains("the JSON is wrong") && !error.contains("hush"), "{error}");
}

proptest! {
    #[test]
    fn no_namespace_panics_and_what_is_taken_reads_back(name in "[a-zA-Z0-9_\\-:. \"é]{0,6}", size in 0usize..10) {
        let quoted = toml::Value::String(name.clone());
        if let Ok(config) = from_file(&format!("[namespaces.{quoted}]\nhistory_size = {size}\n")) {
            prop_assert!(crate::model::namespace::is_name(&name));
            prop_assert_eq!(from_file(&describe(&config)).unwrap(), config);
        }
    }
}
