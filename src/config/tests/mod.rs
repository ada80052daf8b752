//! Each source, each rule of the keys, and that what is printed reads back and shows no secret.
//! Files are temporary ones, and variables are given: the process's own are not read.

mod channels;

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::model::text::Language;
use crate::model::user::DuplicateLogin;

use super::setting::{DescribedItem, Section};
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn from_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(None, env(pairs), &Flags::default())
}

/// Loads `text` as a file; in errors its path reads `FILE`.
fn from_file(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("uringcast.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), [], &Flags::default()).map_err(|mut error| {
        if let SettingOrigin::File { path, .. } = &mut error.origin {
            *path = PathBuf::from("FILE");
        }
        error
    })
}

fn refusal(text: &str) -> String {
    from_file(text).unwrap_err().to_string()
}

fn keys() -> Vec<String> {
    let mut items = Vec::new();
    Config::default().walk("", &mut items);
    items
        .into_iter()
        .filter_map(|item| match item {
            DescribedItem::Key { path, .. } => Some(path),
            DescribedItem::Section { .. } => None,
        })
        .collect()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = from_env(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listen.to_string(), "0.0.0.0:2345");
    assert_eq!(config.path, "/ws");
    assert_eq!((config.shards, config.pin_cpus, config.busy_poll_us, config.echo), (0, true, 0, false));
    assert_eq!(config.language, Language::En);
    assert_eq!(config.auth.duplicate_login, DuplicateLogin::KickOld);
    assert_eq!((config.auth.deadline_ms, config.auth.leeway_s), (10_000, 5));
    assert_eq!(config.limits.message_bytes, 1 << 20);
    assert_eq!(config.limits.frame_limit(), 1 << 20);
    assert!(config.lobby.escape && !config.dev);
    let limits = &config.limits;
    assert_eq!((limits.subscriptions, limits.channels, limits.history_bytes), (128, 1_000_000, 256 << 20));
    assert_eq!((limits.presence_digest_above, limits.presence_list), (200, 100));
    assert_eq!((limits.presence_gather_above, limits.presence_gather_ms), (20, 50));
    assert_eq!(limits.idempotency_keys, 1_000_000);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:2346");
}

/// Outside tools use these names: they never change.
#[test]
fn the_fixed_names_exist() {
    let keys = keys();
    for fixed in [
        "listen",
        "shards",
        "echo",
        "language",
        "auth.hs256_secret",
        "auth.hs256_secret_file",
        "auth.duplicate_login",
        "limits.message_bytes",
        "http.listen",
        "http.keys",
        "http.keys_file",
    ] {
        assert!(keys.iter().any(|key| key == fixed), "{fixed}");
    }
}

#[test]
fn every_source_overrides_the_one_below() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "shards = 1\nlisten = \"127.0.0.1:1\"\nlanguage = \"zh\"\n").unwrap();
    let variables = env(&[("URINGCAST_SHARDS", "2"), ("URINGCAST_LISTEN", "127.0.0.1:2"), ("HOME", "/x")]);
    let flags = Flags { shards: Some("3".to_owned()), ..Flags::default() };
    let config = Config::load(Some(&path), variables, &flags).unwrap();
    assert_eq!(config.shards, 3);
    assert_eq!(config.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.language, Language::Zh);
}

#[test]
fn every_key_can_be_set_from_the_environment() {
    for key in keys() {
        let name = super::load::variable_of_key(&key);
        let wrong = match key.as_str() {
            // Any text will do for these.
            "log.level" => "debug",
            "auth.issuer" | "auth.audience" | "auth.hs256_secret_file" | "http.keys_file" => " ok",
            "auth.jwks_file" | "auth.public_key_files" => "a.pem",
            // It is for an address.
            "auth.jwks_ca_file" => continue,
            _ => "{wrong",
        };
        match from_env(&[(&name, wrong)]) {
            Ok(config) => assert_ne!(config, Config::default(), "{key}"),
            Err(error) => {
                assert_eq!(error.origin, SettingOrigin::Variable(name));
                assert_eq!(error.key, Some(key));
            }
        }
    }
}

#[test]
fn values_from_the_environment() {
    let config = from_env(&[
        ("URINGCAST_AUTH__HS256_SECRET", SECRET),
        ("URINGCAST_ECHO", "1"),
        ("URINGCAST_LIMITS__MESSAGE_BYTES", "4096"),
        ("URINGCAST_ORIGINS", "https://a.example, https://b.example:8443"),
        ("URINGCAST_AUTH__PUBLIC_KEY_FILES", r#"["a.pem",{"file":"b.pem","algorithm":"PS256"}]"#),
        ("URINGCAST_AUTH__TOKENS", r#"[{"token":"t","user":"x"}]"#),
        ("URINGCAST_AUTH__DUPLICATE_LOGIN", "reject_new"),
        ("URINGCAST_LOG__FORMAT", "json"),
    ])
    .unwrap();
    assert_eq!(config.auth.hs256_secret, Some(Secret::new(SECRET)));
    assert!(config.echo);
    assert_eq!(config.limits.frame_limit(), 4096);
    assert_eq!(config.origins, ["https://a.example", "https://b.example:8443"]);
    assert_eq!(config.auth.public_key_files[0].file, PathBuf::from("a.pem"));
    assert_eq!(config.auth.public_key_files[1].algorithm.as_deref(), Some("PS256"));
    assert_eq!(config.auth.tokens[0].user, "x");
    assert_eq!(config.auth.duplicate_login, DuplicateLogin::RejectNew);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn unknown_variables_are_refused_with_a_guess() {
    let message = |name| from_env(&[(name, "1")]).unwrap_err().to_string();
    assert_eq!(
        message("URINGCAST_LISTN"),
        "environment variable URINGCAST_LISTN: unknown setting; did you mean URINGCAST_LISTEN?"
    );
    assert!(message("URINGCAST_AUTH_HS256_SECRET").ends_with("mean URINGCAST_AUTH__HS256_SECRET?"));
    assert!(message("URINGCAST_MESSAGE_BYTES").ends_with("mean URINGCAST_LIMITS__MESSAGE_BYTES?"));
    assert!(message("URINGCAST_listen").ends_with("mean URINGCAST_LISTEN?"));
    assert!(message("URINGCAST_AUTH").contains("unknown setting"));
    assert!(message("URINGCAST_").contains("unknown setting"));
    assert!(message("URINGCAST_ZZZZZZZZZZ").ends_with("`uringcast config` lists them all"));
}

/// Kubernetes puts these variables into the pods beside a Service called uringcast-http. No user wrote them.
#[test]
fn service_variables_of_kubernetes_are_passed_over() {
    let service = [
        ("URINGCAST_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("URINGCAST_HTTP_SERVICE_PORT", "2345"),
        ("URINGCAST_HTTP_SERVICE_PORT_WS", "2345"),
        ("URINGCAST_HTTP_PORT", "tcp://10.0.0.1:2345"),
        ("URINGCAST_HTTP_PORT_2345_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(from_env(&service).unwrap(), Config::default());
    // No key is taken for one of these, whatever its value.
    for name in keys().iter().map(|key| super::load::variable_of_key(key)) {
        for value in ["tcp://10.0.0.1:1", "/a/b", "1"] {
            assert!(is_our_variable(&name, value), "{name}={value}");
        }
    }
}

/// What other servers call it leads to what it is called here.
#[test]
fn words_of_other_servers_are_understood() {
    let message = |name: &str| from_env(&[(name, "8080")]).unwrap_err().to_string();
    assert!(message("URINGCAST_PORT").ends_with("did you mean URINGCAST_LISTEN?"));
    assert!(message("URINGCAST_HTTP_PORT").ends_with("did you mean URINGCAST_HTTP__LISTEN?"));
    assert!(message("URINGCAST_HTTP__PORT").ends_with("did you mean URINGCAST_HTTP__LISTEN?"));
    assert!(message("URINGCAST_JWT_SECRET").ends_with("did you mean URINGCAST_AUTH__HS256_SECRET?"));
    assert_eq!(refusal("port = 8080"), "FILE:1: port: unknown key; did you mean listen?");
}

#[test]
fn unknown_keys_are_refused_with_file_and_line() {
    assert_eq!(
        refusal("shards = 1\n\n[limits]\nmessage_byte = 3\n"),
        "FILE:4: limits.message_byte: unknown key; did you mean limits.message_bytes?"
    );
    assert_eq!(refusal("message_bytes = 3"), "FILE:1: message_bytes: unknown key; did you mean limits.message_bytes?");
    assert!(refusal("[chat]\nx = 1\n").starts_with("FILE:1: chat: unknown key"));
    assert!(refusal("a.b.c = 1\n").starts_with("FILE:1: a: unknown key"));
    assert!(refusal("dev = true\n").contains("unknown key"));
    let nested = refusal("[[auth.tokens]]\ntoken = \"t\"\nuser = 1\nnme = \"x\"\n");
    assert!(nested.starts_with("FILE:4: auth.tokens: unknown field `nme`"), "{nested}");
}

#[test]
fn wrong_values_are_refused_with_file_line_and_key() {
    for (text, expected) in [
        ("\nshards = 257", "FILE:2: shards: must be from 0 to 256, not 257"),
        ("shards = -1", "FILE:1: shards: must be a whole number"),
        ("shards = \"many\"", "FILE:1: shards: must be a whole number"),
        ("listen = \"localhost\"", "FILE:1: listen: must be an address and a port such as"),
        ("language = \"de\"", "FILE:1: language: must be \"en\" or \"zh\""),
        ("echo = \"yes\"", "FILE:1: echo: must be true or false"),
        ("auth = 3", "FILE:1: auth: is a section, not a key: write [auth]"),
        ("[auth]\nhs256_secret = \"short\"", "FILE:2: auth.hs256_secret: is too short"),
        ("[auth]\nhs256_secret = \"\"", "FILE:2: auth.hs256_secret: is too short"),
        ("[limits]\nmessage_bytes = 0", "FILE:2: limits.message_bytes: must be from 1 to"),
        ("[limits]\nframe_bytes = 0", "FILE:2: limits.frame_bytes: must be from 1 to"),
        ("path = \"ws\"", "FILE:1: path: must start with /"),
        ("path = \"/echo\"", "FILE:1: path: must not be /echo"),
        (
            "origins = [\"https://a/\"]",
            "FILE:1: origins: \"https://a/\" matches no page: an origin ends behind the host and its port; write https://a",
        ),
        ("origins = \"*\"", "FILE:1: origins: must be a list"),
        ("shards = 1\nshards = 2", "FILE:2: not valid TOML: duplicate key"),
        ("shards = ", "FILE:1: not valid TOML"),
        ("[auth]\ntokens = [{ token = \"\", user = 1 }]", "FILE:2: auth.tokens: token number 1"),
    ] {
        let message = refusal(text);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_level_or_filter_that_would_log_nothing_is_refused() {
    let level = |level: &str| from_env(&[("URINGCAST_LOG__LEVEL", level)]).map(|config| config.log.level);
    for good in
        ["info", "DEBUG", "off", "warn,uringcast::io::accept=debug", " info , uringcast=trace ", "uringcast::shard"]
    {
        assert_eq!(level(good).unwrap(), good);
    }
    for (wrong, said) in [
        ("verbose", "\"verbose\" is not a level: write one of off, error, warn, info, debug, trace"),
        ("warning", "\"warning\" is not a level"),
        ("3", "\"3\" is not a level"),
        ("", "must not be empty"),
        (" , ", "must not be empty"),
        ("info,verbose", "\"verbose\" is not a level"),
        ("info,uringcast=verbose", "\"verbose\" is not a level"),
        ("info,uringcast::io::accept=", "\"\" is not a level"),
        ("uringcats=debug", "\"uringcats\" is not a module of this server"),
        ("uringcaster=debug", "\"uringcaster\" is not a module"),
        ("uringcast::=debug", "\"uringcast::\" is not a module"),
        ("conn=debug", "\"conn\" is not a module"),
        ("info=uringcast", "\"info\" is not a module"),
        ("uringcast[x]=info", "is not a module"),
    ] {
        let message = level(wrong).unwrap_err().to_string();
        assert!(message.starts_with("environment variable URINGCAST_LOG__LEVEL: log.level: "), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn both_ways_to_give_the_secret_are_one_too_many() {
    let text = format!("[auth]\nhs256_secret = \"{SECRET}\"\nhs256_secret_file = \"s\"\n");
    let message = refusal(&text);
    assert!(message.starts_with("FILE:3: auth.hs256_secret_file: auth.hs256_secret is given too ("));
    assert!(!message.contains(SECRET));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/no/such.toml")), [], &Flags::default()).unwrap_err();
    assert!(error.to_string().starts_with("/no/such.toml: cannot read the configuration file: No such"));
}

#[test]
fn flags_are_checked_like_keys() {
    let flags = Flags { shards: Some("1000".to_owned()), ..Flags::default() };
    let error = Config::load(None, [], &flags).unwrap_err();
    assert_eq!(error.to_string(), "--shards: shards: must be from 0 to 256, not 1000");
}

#[test]
fn dev_mode_has_its_own_defaults() {
    let config = Config::dev(&Flags::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:2345");
    assert!(config.dev && config.echo && !config.lobby.escape);
    let secret = config.auth.hs256_secret.unwrap();
    assert_eq!(secret.expose().len(), 43);
    assert_ne!(Some(secret), Config::dev(&Flags::default()).unwrap().auth.hs256_secret);
}

#[test]
fn dev_mode_keeps_what_is_configured() {
    let flags = Flags { dev: true, listen: Some("[::1]:0".to_owned()), ..Flags::default() };
    let variables = env(&[("URINGCAST_AUTH__HS256_SECRET", SECRET), ("URINGCAST_LOBBY__ESCAPE", "true")]);
    let config = Config::load(None, variables, &flags).unwrap();
    assert_eq!(config.auth.hs256_secret, Some(Secret::new(SECRET)));
    assert!(config.lobby.escape);
}

#[test]
fn dev_mode_is_for_this_machine_only() {
    for listen in ["0.0.0.0:2345", "192.168.0.1:80", "[::]:1"] {
        let flags = Flags { listen: Some(listen.to_owned()), ..Flags::default() };
        let message = Config::dev(&flags).unwrap_err().to_string();
        assert!(message.starts_with("--listen: listen: dev mode"), "{message}");
        assert!(message.contains(listen));
    }
}

#[test]
fn serving_needs_a_key() {
    let message = Config::default().require_key().unwrap_err().to_string();
    for way in ["URINGCAST_AUTH__HS256_SECRET", "auth.public_key_files", "[[auth.tokens]]", "--dev"] {
        assert!(message.contains(way), "{way}");
    }
    let keys = [
        ("URINGCAST_AUTH__HS256_SECRET", SECRET),
        ("URINGCAST_AUTH__HS256_SECRET_FILE", "s"),
        ("URINGCAST_AUTH__PUBLIC_KEY_FILES", "a.pem"),
        ("URINGCAST_AUTH__JWKS_FILE", "a.json"),
        ("URINGCAST_AUTH__TOKENS", r#"[{"token":"t","user":1}]"#),
    ];
    for key in keys {
        from_env(&[key]).unwrap().require_key().unwrap();
    }
}

#[test]
fn the_description_reads_back_and_has_every_key() {
    let text = describe(&Config::default());
    assert_eq!(from_file(&text).unwrap(), Config::default());
    for key in keys() {
        let name = key.rsplit('.').next().unwrap();
        let variable = super::load::variable_of_key(&key);
        assert!(text.contains(&format!("\n# {variable}\n")), "{variable}");
        assert!(text.contains(&format!("\n{name} = ")) || text.contains(&format!("\n# {name} = ")));
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "too wide");
}

#[test]
fn the_description_of_other_values_reads_back_too() {
    let config = from_file(
        "listen = \"[::1]:9\"\nlanguage = \"zh\"\norigins = [\"https://a\\u0062.c\"]\n[limits]\n\
         frame_bytes = 7\n[auth]\njwks_file = \"a b.json\"\n\
         public_key_files = [\"a\", { file = \"b\", algorithm = \"PS256\" }]\n",
    )
    .unwrap();
    let text = describe(&config);
    assert_eq!(from_file(&text).unwrap(), config);
    assert!(text.contains("# URINGCAST_LANGUAGE; default: \"en\"\nlanguage = \"zh\"\n"));
    assert!(text.contains("# URINGCAST_LIMITS__FRAME_BYTES; default: (not set)\nframe_bytes = 7\n"));
}

#[test]
fn secrets_are_never_shown() {
    let config = from_env(&[
        ("URINGCAST_AUTH__HS256_SECRET", SECRET),
        ("URINGCAST_AUTH__TOKENS", r#"[{"token":"hush-hush","user":1,"name":"A"}]"#),
    ])
    .unwrap();
    let description = describe(&config);
    for text in [description.clone(), format!("{config:?}"), format!("{config:#?}")] {
        assert!(!text.contains(SECRET) && !text.contains("hush"), "{text}");
    }
    assert!(description.contains("# hs256_secret = \"…\"\n"));
    assert!(description.contains("# tokens = [{ token = \"…\", user = 1, name = \"A\" }]\n"));
    // Not even in the error for a broken list.
    let error = from_env(&[("URINGCAST_AUTH__TOKENS", r#"[{"token":"hush","user":1}"#)]).unwrap_err();
    assert!(!error.to_string().contains("hush"), "{error}");
    let error = refusal("[auth]\nhs256_secret = \"hush-hush-hush-hush\n");
    assert!(!error.contains("hush"), "{error}");
}

proptest! {
    #[test]
    fn no_file_and_no_variable_panics(text in "\\PC*", name in "[A-Z_0-9]{0,20}", value in ".*") {
        let _ = from_file(&text);
        let _ = from_env(&[(&format!("URINGCAST_{name}"), &value)]);
    }

    #[test]
    fn no_value_of_a_key_panics(index in 0usize..256, value in "[ \\PC]{0,24}") {
        let keys = keys();
        let key = &keys[index % keys.len()];
        let _ = from_env(&[(&super::load::variable_of_key(key), &value)]);
        let _ = from_file(&format!("{key} = {value}"));
    }
}
