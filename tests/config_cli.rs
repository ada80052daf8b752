//! The command line as far as it needs no server: what counts as dev mode, the flags, `token` and `config`.
//! Also keeps docs/configuration.md in step with the keys (`BLESS=1 cargo test` writes it anew).
#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

use clap::{CommandFactory, Parser};
use uringcast::auth::{UserId, Verifier};
use uringcast::cli::{Cli, CliCommand, config_text};
use uringcast::config::{Config, Flags};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_MS: u64 = 1_800_000_000_000;

fn cli(arguments: &[&str]) -> Cli {
    Cli::try_parse_from(std::iter::once(&"uringcast").chain(arguments)).unwrap()
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn secret_env() -> Vec<(String, String)> {
    env(&[("URINGCAST_AUTH__HS256_SECRET", SECRET)])
}

fn token(arguments: &[&str], env: &[(String, String)]) -> Result<String, String> {
    let cli = Cli::try_parse_from(["uringcast", "token"].iter().chain(arguments)).map_err(|error| error.to_string())?;
    let config = cli.load_config(env).map_err(|error| error.to_string())?;
    let Some(CliCommand::Token(args)) = &cli.command else { panic!("not a token command") };
    args.token(&config, NOW_MS, None).map_err(|error| error.to_string())
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn dev_mode_is_asked_for_or_nothing_at_all() {
    let nothing = env(&[("HOME", "/"), ("URINGCAST_SERVICE_HOST", "10.0.0.1")]);
    assert!(cli(&[]).dev_mode(&nothing));
    assert!(cli(&["--dev"]).dev_mode(&secret_env()));
    assert!(cli(&["serve", "--dev", "--shards", "2"]).dev_mode(&nothing));
    assert!(!cli(&[]).dev_mode(&env(&[("URINGCAST_SHARDS", "1")])));
    for arguments in [
        &["serve"][..],
        &["--echo"],
        &["--listen", "127.0.0.1:0"],
        &["--config", "x"],
        &["config"],
        &["token", "--user", "1"],
    ] {
        assert!(!cli(arguments).dev_mode(&nothing), "{arguments:?}");
    }
}

#[test]
fn the_flags_of_serve_work_without_the_word() {
    for word in [&[][..], &["serve"]] {
        let flags = ["--listen", "127.0.0.1:0", "--shards", "3", "--echo"];
        let arguments = [word, &flags].concat();
        let config = cli(&arguments).load_config(&secret_env()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert!(config.shards == 3 && config.echo && !config.dev && config.lobby.escape);
        config.require_key().unwrap();
    }
    assert!(cli(&["serve"]).load_config(&[]).unwrap().require_key().is_err());
    let dev = cli(&[]).load_config(&[]).unwrap();
    assert!(dev.dev && dev.listen.0.iter().all(|addr| addr.is_local()));
    dev.require_key().unwrap();
}

#[test]
fn a_token_is_taken_by_a_server_of_the_same_configuration() {
    let mut variables = secret_env();
    variables.extend(env(&[("URINGCAST_AUTH__ISSUER", "us"), ("URINGCAST_AUTH__AUDIENCE", "chat")]));
    let arguments = ["--user", "1", "--name", "Alice", "--ttl", "2h", "--channel", "a", "--channel", "b"];
    let jwt = token(&arguments, &variables).unwrap();
    let config = Config::load(None, variables, &Flags::default()).unwrap();
    let identity = Verifier::new(&config.auth).unwrap().verify(&jwt, NOW_MS).unwrap();
    assert!(matches!(identity.id, UserId::Int(1)));
    assert_eq!(identity.name, "Alice");
    assert_eq!(identity.channels.names(), ["a", "b"]);
    assert_eq!(identity.expires_at_ms, Some(NOW_MS + 2 * 3600 * 1000 + config.auth.leeway_s * 1000));
}

#[test]
fn a_channel_token_is_for_one_channel_and_signs_nobody_in() {
    let jwt = token(&["--user", "1", "--for-channel", "chat:room", "--ttl", "1m"], &secret_env()).unwrap();
    let config = Config::load(None, secret_env(), &Flags::default()).unwrap();
    let verifier = Verifier::new(&config.auth).unwrap();
    let grant = verifier.verify_channel(&jwt, NOW_MS).unwrap();
    assert_eq!((grant.user_key.as_str(), grant.channel.as_str()), ("1", "chat:room"));
    assert_eq!(grant.expires_at_ms, NOW_MS + 60 * 1000 + config.auth.leeway_s * 1000);
    assert!(verifier.verify(&jwt, NOW_MS).is_err());
    assert!(
        verifier.verify_channel(&token(&["--user", "1", "--channel", "a"], &secret_env()).unwrap(), NOW_MS).is_err()
    );
    for other in [["--channel", "b"], ["--name", "Alice"]] {
        let arguments = [&["--user", "1", "--for-channel", "a"][..], &other].concat();
        assert!(token(&arguments, &secret_env()).unwrap_err().contains("cannot be used with"));
    }
    assert!(token(&["--user", "1", "--for-channel", ""], &secret_env()).unwrap_err().contains("cannot be a channel"));
}

#[test]
fn users_are_numbers_if_they_look_like_it() {
    let config = Config::load(None, secret_env(), &Flags::default()).unwrap();
    let verifier = Verifier::new(&config.auth).unwrap();
    let user = |arguments: &[&str]| {
        let jwt = token(arguments, &secret_env()).unwrap();
        let identity = verifier.verify(&jwt, NOW_MS).unwrap();
        assert_eq!(identity.name, identity.id.to_string());
        serde_json::to_string(&identity.id).unwrap()
    };
    assert_eq!(user(&["--user", "42"]), "42");
    assert_eq!(user(&["--user", "-7"]), "-7");
    assert_eq!(user(&["--user", "42", "--user-string"]), "\"42\"");
    assert_eq!(user(&["--user", "007"]), "\"007\"");
    assert_eq!(user(&["--user", "u-1"]), "\"u-1\"");
    assert!(token(&["--user", "9007199254740992"], &secret_env()).unwrap_err().contains("--user"));
    assert!(token(&["--user", ""], &secret_env()).unwrap_err().contains("1 to 128 bytes"));
}

#[test]
fn lifetimes() {
    for ttl in ["90s", "30m", "1h", "7d", "3600"] {
        token(&["--user", "1", "--ttl", ttl], &secret_env()).unwrap();
    }
    for ttl in ["", "0", "h", "1w", "-1", "1.5h", "1é", "99999999999d", "36600d"] {
        assert!(token(&["--user", "1", "--ttl", ttl], &secret_env()).is_err(), "{ttl}");
    }
}

#[test]
fn where_the_secret_comes_from() {
    let message = token(&["--user", "1"], &[]).unwrap_err();
    assert!(message.contains("no HS256 secret") && message.contains("--secret-file"), "{message}");
    assert!(message.contains("/token?name=Alice"), "{message}");

    let directory = tempfile::tempdir().unwrap();
    let (secret, config) = (directory.path().join("secret"), directory.path().join("c.toml"));
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::write(&config, format!("[auth]\nhs256_secret_file = {secret:?}\n")).unwrap();
    let expected = token(&["--user", "1"], &secret_env()).unwrap();
    let (secret, config) = (secret.to_str().unwrap(), config.to_str().unwrap());
    assert_eq!(token(&["--user", "1", "--secret-file", secret], &[]).unwrap(), expected);
    assert_eq!(token(&["--user", "1", "--config", config], &[]).unwrap(), expected);
    // The flag wins over the environment.
    let other = env(&[("URINGCAST_AUTH__HS256_SECRET", "another secret of enough bytes")]);
    assert_eq!(token(&["--user", "1", "--secret-file", secret], &other).unwrap(), expected);
}

#[test]
fn config_prints_what_is_in_force() {
    let cli = cli(&["config"]);
    let text = config_text(&cli.load_config(&env(&[("URINGCAST_SHARDS", "7")])).unwrap());
    assert!(text.contains("\n# URINGCAST_SHARDS; default: 0\nshards = 7\n"), "{text}");
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["limits"]["message_bytes"].as_integer(), Some(1 << 20));
}

#[test]
fn config_prints_namespaces_with_their_keys_and_an_example() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    std::fs::write(&file, "[namespaces.chat]\nsubscribe = \"token\"\n").unwrap();
    let cli = cli(&["config", "--config", file.to_str().unwrap()]);
    let text = config_text(&cli.load_config(&env(&[("URINGCAST_NAMESPACES__PRICES__OVERFLOW", "conflate")])).unwrap());
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["namespaces"]["chat"]["subscribe"].as_str(), Some("token"));
    assert_eq!(parsed["namespaces"]["chat"]["history_size"].as_integer(), Some(100));
    assert_eq!(parsed["namespaces"]["prices"]["overflow"].as_str(), Some("conflate"));
    assert!(text.contains("\n# [namespaces.chat]\n# subscribe = \"token\"\n"), "{text}");

    std::fs::write(&file, "[namespaces.chat]\nsubscribe = \"token\"\nhistry_size = 3\n").unwrap();
    let message = cli.load_config(&[]).unwrap_err().to_string();
    let place = format!("{}:3: namespaces.chat.histry_size: unknown key; did you mean", file.display());
    assert!(message.starts_with(&place), "{message}");
}

#[test]
fn the_document_lists_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let document = format!(
        "# Configuration\n\n\
         What `uringcast config` prints: every key with its meaning and default. Write what should differ into\n\
         a file and start the server with `--config FILE`; `uringcast config --config FILE` shows the result.\n\
         An unknown key, a wrong value or an unknown `URINGCAST_` variable keeps the server from starting, and\n\
         the message says where it is. Those that Kubernetes and Docker make for a Service called `uringcast` or\n\
         `uringcast-anything` are passed over.\n\n```toml\n{}```\n",
        config_text(&Config::default())
    );
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        std::fs::write(path, &document).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == document, "docs/configuration.md is out of date: BLESS=1 cargo test writes it");
}
