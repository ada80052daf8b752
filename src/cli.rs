//! The command line: its commands and flags, and the two commands that need no server, `token` and `config`, as functions
//! that return the text to print. This file prints nothing, reads no clock and starts nothing; `main` does.
//!
//! Without a command the server serves, so the flags of `serve` may be given with or without the word.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::auth::{self, NewChannelToken, NewToken, UserId};
use crate::config::{self, Config, ConfigError, Flags, Secret};
use crate::doctor::DoctorArgs;

/// A WebSocket push server.
#[derive(Clone, Debug, Parser)]
#[command(name = "uringcast", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command, a flag or a URINGCAST_ variable it runs in dev mode, as with --dev.")]
pub struct Cli {
    /// The command; `None` serves.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
    /// The flags of `serve` if it is not named.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// The commands of the program.
#[derive(Clone, Debug, Subcommand)]
pub enum CliCommand {
    /// Serve (the default without a command)
    Serve(ServeArgs),
    /// Print a token, signed with the configured HS256 secret
    Token(TokenArgs),
    /// Print every configuration key with its meaning and value, as a configuration file
    Config(ConfigArgs),
    /// Check whether this machine is set up for the server, and say which file of tuning/ helps where it is not
    #[command(after_help = "Exit status: 0 if nothing stops the server, 1 if something does, 2 if the checks failed.")]
    Doctor(DoctorArgs),
}

/// The flags of `serve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); `uringcast config` prints one to start from
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address to listen on, instead of the configured one; port 0 takes a free port. Several with commas
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    pub(crate) listen: Option<String>,
    /// Number of shards; 0 means one per usable CPU
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<String>,
    /// Dev mode: listens on this machine only, makes a secret, and serves a demo page that signs anyone in
    #[arg(long)]
    pub(crate) dev: bool,
    /// Serve /echo, which sends every message back
    #[arg(long)]
    pub(crate) echo: bool,
}

/// The flags of `token`.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// The user's id; a text that looks like an integer becomes one
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user: String,
    /// Keep the id as a text even if it looks like an integer
    #[arg(long)]
    pub(crate) user_string: bool,
    /// The user's name for display [default: the id]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// How long the token is valid: 90s, 30m, 1h, 7d, or a number of seconds
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    pub(crate) ttl: u64,
    /// A channel that the user may subscribe to, beyond the namespace's rule (repeatable)
    #[arg(long = "channel", value_name = "X")]
    pub(crate) channels: Vec<String>,
    /// Make a channel token: it lets the user subscribe to this one channel, and signs nobody in
    #[arg(long, value_name = "X", conflicts_with_all = ["channels", "name"])]
    pub(crate) for_channel: Option<String>,
    /// Configuration file (TOML) that holds or names the secret
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// File with the secret, instead of the configured secret
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

/// The flags of `config`.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML) whose values are printed instead of the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Cli {
    /// The flags of `serve`, named or not; `None` for another command.
    pub(crate) fn serve_args(&self) -> Option<&ServeArgs> {
        match &self.command {
            None => Some(&self.serve),
            Some(CliCommand::Serve(args)) => Some(args),
            Some(CliCommand::Token(_) | CliCommand::Config(_) | CliCommand::Doctor(_)) => None,
        }
    }

    /// Whether to serve in dev mode: `--dev` was given, or neither a flag nor a variable at all.
    pub fn dev_mode<'a>(&self, env: impl IntoIterator<Item = &'a (String, String)>) -> bool {
        let Some(args) = self.serve_args() else {
            return false;
        };
        let nothing_said = self.command.is_none()
            && *args == ServeArgs::default()
            && !env.into_iter().any(|(name, value)| config::is_our_variable(name, value));
        args.dev || nothing_said
    }

    /// The configuration file of any command; `None` if none is named.
    pub(crate) fn config_file(&self) -> Option<&PathBuf> {
        match &self.command {
            None => self.serve.config.as_ref(),
            Some(CliCommand::Serve(args)) => args.config.as_ref(),
            Some(CliCommand::Token(args)) => args.config.as_ref(),
            Some(CliCommand::Config(args)) => args.config.as_ref(),
            Some(CliCommand::Doctor(args)) => args.config.as_ref(),
        }
    }

    /// The configuration from the file, the environment and this command line.
    pub fn load_config(&self, env: &[(String, String)]) -> Result<Config, ConfigError> {
        let args = self.serve_args().cloned().unwrap_or_default();
        let flags = Flags { listen: args.listen, shards: args.shards, echo: args.echo, dev: self.dev_mode(env) };
        Config::load(self.config_file().map(PathBuf::as_path), env.iter().cloned(), &flags)
    }
}

impl TokenArgs {
    /// The token to print. `token_id` makes it unique; the caller makes it of random bits.
    pub fn token(&self, config: &Config, now_ms: u64, token_id: Option<&str>) -> Result<String, ConfigError> {
        let secret = self.secret(config)?;
        let (user, ttl_s) = (&self.user_id()?, self.ttl);
        let (issuer, audience) = (config.auth.issuer.as_deref(), config.auth.audience.as_deref());
        let token = match &self.for_channel {
            Some(channel) => {
                let token = NewChannelToken { user, channel, ttl_s, issuer, audience, token_id };
                auth::issue_channel(&secret, &token, now_ms)
            }
            None => {
                let (name, channels) = (&self.name, &self.channels);
                let token = NewToken { user, name, ttl_s, channels, issuer, audience, token_id };
                auth::issue(&secret, &token, now_ms)
            }
        };
        token.map_err(|error| ConfigError::general(error.to_string()))
    }

    fn secret(&self, config: &Config) -> Result<Secret, ConfigError> {
        let mut auth = config.auth.clone();
        if self.secret_file.is_some() {
            auth.hs256_secret = None;
            auth.hs256_secret_file.clone_from(&self.secret_file);
        }
        auth::hs256_secret(&auth)?.ok_or_else(|| {
            ConfigError::general(
                "there is no HS256 secret to sign with. Give the server's: --secret-file FILE, --config FILE \
                 with auth.hs256_secret or auth.hs256_secret_file in it, or the environment variable \
                 URINGCAST_AUTH__HS256_SECRET. (A server in dev mode makes a secret of its own, and \
                 gives tokens away: curl 'http://127.0.0.1:2345/token?name=Alice'. A server with public keys gets \
                 tokens from whoever has the private one.)",
            )
        })
    }

    fn user_id(&self) -> Result<UserId, ConfigError> {
        let integer = match self.user_string {
            true => None,
            // Only texts that an integer is printed as: "007" and "+1" stay texts.
            false => self.user.parse().ok().filter(|number: &i64| number.to_string() == self.user),
        };
        match integer {
            Some(number) => UserId::int(number).ok_or_else(|| {
                ConfigError::of_flag("--user", "must be within ±(2^53−1); with --user-string it becomes a text")
            }),
            None => UserId::text(&self.user).ok_or_else(|| ConfigError::of_flag("--user", "must have 1 to 128 bytes")),
        }
    }
}

/// The text that `uringcast config` prints.
pub fn config_text(config: &Config) -> String {
    config::describe(config)
}

/// The longest life of a token, in seconds: ten years. A longer one is a mistake.
const MAX_TTL_S: u64 = 10 * 366 * 24 * 60 * 60;

fn parse_ttl(text: &str) -> Result<u64, String> {
    let (number, unit_s) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 60 * 60),
        Some(b'd') => (&text[..text.len() - 1], 24 * 60 * 60),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s));
    match seconds {
        Some(seconds) if (1..=MAX_TTL_S).contains(&seconds) => Ok(seconds),
        Some(_) => Err("must be from 1s to ten years".to_owned()),
        None => Err("write it like 90s, 30m, 1h or 7d".to_owned()),
    }
}
