//! Merges the sources: flags override the environment, the environment overrides the file, and the file overrides the
//! defaults. An error names the source of the wrong value. Unknown keys and unknown `URINGCAST_` variables are errors
//! that suggest what was probably meant. The caller passes the environment.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{PREFIX, is_our_variable};
use super::error::{ConfigError, SettingOrigin};
use super::files::read_text;
use super::key_set_url::KeySetUrl;
use super::listen::Listeners;
use super::schema::{Auth, Config};
use super::setting::{DescribedItem, Raw, Secret, Section, SettingError};

/// Names that other servers use, with this server's name of the same setting. Their spelling is too different for
/// [`likeness`] to find it.
const MEANT: [(&[&str], &str); 4] = [
    (&["port", "host", "bind", "addr", "address"], "listen"),
    (&["http.port", "http_port", "http.host", "http_host", "api_port", "api.port"], "http.listen"),
    (&["secret", "jwt_secret", "token_secret"], "auth.hs256_secret"),
    (&["api_key", "api_keys", "apikey"], "http.keys"),
];

/// The settings of the command line. They are texts, and are checked by the same rules as variables and lines of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The value of `--listen`.
    pub(crate) listen: Option<String>,
    /// The value of `--shards`.
    pub(crate) shards: Option<String>,
    /// Whether `--echo` was given.
    pub(crate) echo: bool,
    /// Whether this is dev mode: `--dev` was given, or nothing at all is configured.
    pub(crate) dev: bool,
}

impl Config {
    /// Reads `file`, then the environment, then the flags. With `flags.dev` the defaults are those of dev mode, the server
    /// listens on loopback only, and makes a secret if no key is configured.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Config, ConfigError> {
        let mut loader = Loader::new(flags.dev);
        if let Some(path) = file {
            loader.file(path)?;
        }
        loader.variables(env)?;
        loader.flags(flags)?;
        loader.finish()
    }

    /// The configuration of a file at `path` with this text, without the environment and without flags.
    ///
    /// # Errors
    /// As [`Config::load`].
    #[doc(hidden)]
    pub fn of_text(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let mut loader = Loader::new(false);
        loader.toml(&ConfigText { path, text })?;
        loader.finish()
    }

    /// The configuration of dev mode with nothing else configured.
    #[cfg(test)]
    pub(crate) fn dev(flags: &Flags) -> Result<Config, ConfigError> {
        let flags = Flags { dev: true, ..flags.clone() };
        Config::load(None, [], &flags)
    }

    /// Checks that a key is configured; the error lists the ways to give one. There is no default secret outside dev mode,
    /// because every installation would share it.
    pub fn require_key(&self) -> Result<(), ConfigError> {
        if self.auth.has_key() {
            return Ok(());
        }
        Err(ConfigError::general(
            "there is no key to check tokens with, so nobody could sign in. Give one of:\n  \
             1. a shared secret (HS256): auth.hs256_secret_file, auth.hs256_secret, or in the environment\n     \
             URINGCAST_AUTH__HS256_SECRET=\"$(openssl rand -base64 32)\"\n  \
             2. public keys (RS256, ES256, EdDSA): auth.public_key_files, auth.jwks_file or\n     \
             auth.jwks_url\n  \
             3. fixed tokens, for trying things out: [[auth.tokens]] with token, user and name\n\
             Or run `uringcast --dev`, which makes a secret of its own and listens on this machine only.",
        ))
    }
}

/// A configuration that is being put together, with the source of each value.
struct Loader {
    config: Config,
    origins: BTreeMap<String, SettingOrigin>,
}

impl Loader {
    fn new(dev: bool) -> Loader {
        let mut config = Config::default();
        if dev {
            config.dev = true;
            config.listen = Listeners::at((Ipv4Addr::LOCALHOST, 2345));
            config.echo = true;
            config.lobby.escape = false;
        }
        Loader { config, origins: BTreeMap::new() }
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = read_text(path).map_err(|error| ConfigError {
            origin: SettingOrigin::File { path: path.to_owned(), line: None },
            key: None,
            problem: format!("cannot read the configuration file: {error}"),
        })?;
        self.toml(&ConfigText { path, text: &text })
    }

    fn toml(&mut self, source: &ConfigText<'_>) -> Result<(), ConfigError> {
        let table = DeTable::parse(source.text).map_err(|error| ConfigError {
            origin: source.origin(error.span().map(|span| span.start)),
            key: None,
            // Only the message: the library's excerpt of the line might show a secret.
            problem: format!("not valid TOML: {}", error.message()),
        })?;
        self.table(source, &mut Vec::new(), table.into_inner())
    }

    fn table(
        &mut self,
        source: &ConfigText<'_>,
        path: &mut Vec<String>,
        table: DeTable<'_>,
    ) -> Result<(), ConfigError> {
        // The parser sorts by key. The first error of the file should be reported.
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let at = key.span().start;
            path.push(key.into_inner().into_owned());
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            if self.config.is_section(&names) {
                let (span, value) = (value.span(), value.into_inner());
                let DeValue::Table(inner) = value else {
                    return Err(ConfigError {
                        origin: source.origin(Some(span.start)),
                        key: Some(path.join(".")),
                        problem: format!("is a section, not a key: write [{}]", path.join(".")),
                    });
                };
                self.enter(source, &names, at)?;
                self.table(source, path, inner)?;
            } else {
                self.file_key(source, &names, at, value)?;
            }
            path.pop();
        }
        Ok(())
    }

    fn enter(&mut self, source: &ConfigText<'_>, names: &[&str], at: usize) -> Result<(), ConfigError> {
        match self.config.enter(names) {
            Err(SettingError::Invalid { problem, .. }) => {
                Err(ConfigError { origin: source.origin(Some(at)), key: Some(names.join(".")), problem })
            }
            // The caller has checked that it is a section.
            Ok(()) | Err(SettingError::Unknown) => Ok(()),
        }
    }

    fn file_key(
        &mut self,
        source: &ConfigText<'_>,
        names: &[&str],
        at: usize,
        value: Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let key = names.join(".");
        match self.config.set(names, Raw::Toml(value)) {
            Ok(()) => {
                self.origins.insert(key, source.origin(Some(at)));
                Ok(())
            }
            Err(SettingError::Unknown) => Err(ConfigError {
                origin: source.origin(Some(at)),
                problem: self.unknown("unknown key", &key, str::to_owned),
                key: Some(key),
            }),
            Err(SettingError::Invalid { problem, at: narrower }) => {
                Err(ConfigError { origin: source.origin(Some(narrower.unwrap_or(at))), key: Some(key), problem })
            }
        }
    }

    fn variables(&mut self, env: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let mut ours: Vec<_> = env.into_iter().filter(|(name, value)| is_our_variable(name, value)).collect();
        // Of several errors the same one is reported each time.
        ours.sort();
        for (name, value) in ours {
            let key = key_of_variable(&name);
            match key.as_deref() {
                Some(key) => self.text(key, &value, SettingOrigin::Variable(name))?,
                None => {
                    let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
                    return Err(self.unknown_variable(name, &key));
                }
            }
        }
        Ok(())
    }

    fn flags(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        if let Some(listen) = &flags.listen {
            self.text("listen", listen, SettingOrigin::Flag("--listen"))?;
        }
        if let Some(shards) = &flags.shards {
            self.text("shards", shards, SettingOrigin::Flag("--shards"))?;
        }
        if flags.echo {
            self.text("echo", "true", SettingOrigin::Flag("--echo"))?;
        }
        Ok(())
    }

    fn text(&mut self, key: &str, value: &str, origin: SettingOrigin) -> Result<(), ConfigError> {
        let names: Vec<&str> = key.split('.').collect();
        match self.config.set(&names, Raw::Text(value)) {
            Ok(()) => {
                self.origins.insert(key.to_owned(), origin);
                Ok(())
            }
            Err(SettingError::Invalid { problem, .. }) => {
                Err(ConfigError { origin, key: Some(key.to_owned()), problem })
            }
            Err(SettingError::Unknown) => match origin {
                SettingOrigin::Variable(name) => Err(self.unknown_variable(name, key)),
                origin => Err(ConfigError { origin, key: Some(key.to_owned()), problem: "unknown key".to_owned() }),
            },
        }
    }

    /// Checks what involves more than one key, and makes the secret of dev mode.
    fn finish(mut self) -> Result<Config, ConfigError> {
        let Auth { hs256_secret, hs256_secret_file, .. } = &self.config.auth;
        if hs256_secret.is_some() && hs256_secret_file.is_some() {
            let other = self.origin_of("auth.hs256_secret");
            return Err(self.blame(
                "auth.hs256_secret_file",
                format!("auth.hs256_secret is given too ({other}); give only one of the two"),
            ));
        }
        self.check_tls()?;
        if self.config.sse_path == self.config.path {
            let problem = "is the path of the WebSocket endpoint too: one of the two must be another".to_owned();
            return Err(self.blame("sse_path", problem));
        }
        self.check_key_set()?;
        let unmeant = self.config.all_rules().find_map(|(path, rules)| rules.users_fault().map(|fault| (path, fault)));
        if let Some((path, fault)) = unmeant {
            return Err(self.blame(&format!("{path}.users"), fault));
        }
        if self.config.dev {
            let places = [("listen", &self.config.listen), ("tls.listen", &self.config.tls.listen)];
            let open = places
                .into_iter()
                .find_map(|(key, listeners)| Some((key, listeners.0.iter().find(|addr| !addr.is_local())?)));
            if let Some((key, listen)) = open {
                return Err(self.blame(
                    key,
                    format!(
                        "dev mode gives a token to every client that asks, so it may listen on this machine \
                         only: {listen} is not a loopback address. Use 127.0.0.1:{}, or configure \
                         a key and run `uringcast serve` without --dev",
                        listen.tcp().map_or(0, |addr| addr.port())
                    ),
                ));
            }
            if !self.config.auth.has_key() {
                self.config.auth.hs256_secret = Some(Secret::random());
            }
        }
        Ok(self.config)
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let tls = &self.config.tls;
        match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => Err(self.blame("tls.cert_file", "needs tls.key_file too".to_owned())),
            (None, Some(_)) => Err(self.blame("tls.key_file", "needs tls.cert_file too".to_owned())),
            (None, None) if !tls.listen.0.is_empty() => {
                Err(self.blame("tls.listen", "needs a certificate: tls.cert_file and tls.key_file".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn check_key_set(&self) -> Result<(), ConfigError> {
        let auth = &self.config.auth;
        let url = auth.jwks_url.as_deref().map(KeySetUrl::parse).transpose();
        let url = url.map_err(|problem| self.blame("auth.jwks_url", problem))?;
        match url {
            Some(url) if url.is_open_to_others() && !auth.jwks_allow_http => Err(self.blame(
                "auth.jwks_url",
                "over plain http, an attacker on the network could replace the keys: write https://, or set \
                 auth.jwks_allow_http = true if you trust the network"
                    .to_owned(),
            )),
            None if auth.jwks_ca_file.is_some() => {
                Err(self.blame("auth.jwks_ca_file", "needs auth.jwks_url too".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn origin_of(&self, key: &str) -> SettingOrigin {
        self.origins.get(key).cloned().unwrap_or(SettingOrigin::Unset)
    }

    fn blame(&self, key: &str, problem: String) -> ConfigError {
        ConfigError { origin: self.origin_of(key), key: Some(key.to_owned()), problem }
    }

    fn unknown_variable(&self, name: String, key: &str) -> ConfigError {
        let problem = self.unknown("unknown setting", key, variable_of_key);
        ConfigError { origin: SettingOrigin::Variable(name), key: None, problem }
    }

    /// The message about a key that does not exist. It suggests the most similar key that does.
    fn unknown(&self, what: &str, wrong: &str, spell: impl Fn(&str) -> String) -> String {
        let mut items = Vec::new();
        let mut config = self.config.clone();
        // Adds the namespace that `wrong` names, so that its keys are compared too.
        let names: Vec<&str> = wrong.split('.').collect();
        let _ = config.enter(&names[..names.len() - 1]);
        config.walk("", &mut items);
        if let Some((_, meant)) = MEANT.iter().find(|(words, _)| words.contains(&wrong)) {
            return format!("{what}; did you mean {}?", spell(meant));
        }
        let nearest = items
            .into_iter()
            .filter_map(|item| match item {
                DescribedItem::Key { path, .. } => Some((likeness(wrong, &path), path)),
                DescribedItem::Section { .. } => None,
            })
            .min();
        match nearest {
            Some((distance, path)) if distance <= 2 + wrong.len() / 8 => {
                format!("{what}; did you mean {}?", spell(&path))
            }
            _ => format!("{what}; `uringcast config` lists them all"),
        }
    }
}

/// The text of the configuration file, to find the line of an error.
struct ConfigText<'a> {
    path: &'a Path,
    text: &'a str,
}

impl ConfigText<'_> {
    fn origin(&self, at: Option<usize>) -> SettingOrigin {
        let line = at.map(|at| {
            let before = &self.text.as_bytes()[..at.min(self.text.len())];
            1 + before.iter().filter(|byte| **byte == b'\n').count()
        });
        SettingOrigin::File { path: self.path.to_owned(), line }
    }
}

/// The variable of a key: `auth.hs256_secret` becomes `URINGCAST_AUTH__HS256_SECRET`.
pub(super) fn variable_of_key(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The key of a variable; `None` unless the spelling is exact, so that `URINGCAST_listen` is not a second `listen`.
fn key_of_variable(name: &str) -> Option<String> {
    let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
    (variable_of_key(&key) == name).then_some(key)
}

/// The variable that sets a key; `None` if no variable can, because the name of its namespace has capitals or `__`.
pub(super) fn settable_variable(key: &str) -> Option<String> {
    let variable = variable_of_key(key);
    (key_of_variable(&variable).as_deref() == Some(key)).then_some(variable)
}

/// How different two keys are. A missing section, or one `_` in place of the dot, counts as a small difference.
fn likeness(wrong: &str, right: &str) -> usize {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    if last(wrong) == last(right) || wrong.replace('.', "_") == right.replace('.', "_") {
        return usize::from(wrong != right);
    }
    edit_distance(wrong, right).min(1 + edit_distance(wrong, &last(right)))
}

/// The Levenshtein distance of two texts, by bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
