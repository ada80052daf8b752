//! A configuration file. Input: its text.

use std::path::Path;

use uringcast::config::{Config, SettingOrigin, describe};

use crate::dice::Dice;

/// A file is refused with its own name and a line that it has, and never with a secret; one that is taken is shown as
/// a file that says the same.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("/etc/uringcast.toml");
    match Config::of_text(path, text) {
        Ok(config) => {
            let shown = describe(&config);
            if let Some(secret) = &config.auth.hs256_secret {
                assert!(secret.expose().len() < 16 || !shown.contains(secret.expose()), "a secret is shown");
            }
            // Secrets are left out, and with them what they stand for.
            if config.auth.has_key() || !config.http.keys.is_empty() {
                return;
            }
            let again = Config::of_text(path, &shown).unwrap_or_else(|error| panic!("{error}:\n{shown}"));
            assert_eq!(again, config, "{shown}");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty());
            if let SettingOrigin::File { line: Some(line), .. } = error.origin {
                assert!((1..=1 + text.matches('\n').count()).contains(&line), "{message}");
            }
        }
    }
}

/// Keys with values that mostly fit them.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let whole = describe(&Config::default());
    let mut lines: Vec<&str> = whole.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()).collect();
    for _ in 0..dice.below(60) {
        let at = dice.below(lines.len());
        lines.remove(at);
    }
    let more = [
        "[namespaces.chat]",
        "subscribe = \"token\"",
        "history_size = 500",
        "[namespaces.\"a.b\"]",
        "[limits]",
        "[auth]",
        "shards = 256",
        "shards = 257",
        "origins = [\"https://a.example\", 7]",
        "path = \"/\"",
        "listen = \":0\"",
        "public_key_files = [{ file = \"a.pem\", algorithm = \"PS256\" }]",
        "hs256_secret = \"0123456789abcdef\"",
        "x = 1979-05-27T07:32:00Z",
        "level = '''a\nb'''",
        "overflow = \"conflate\"",
        "users = [\"a\", \"b\"]",
    ];
    for _ in 0..dice.below(6) {
        let at = dice.below(lines.len() + 1);
        lines.insert(at, dice.pick(&more));
    }
    lines.join("\n").into_bytes()
}
