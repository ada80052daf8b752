//! Errors in the configuration. Each names its source (file and line, variable or flag), the key, and what would be right.
//! An error never contains a secret. `config` makes them, and so do `auth` and `tls` for the files that keys name; `main`
//! prints them and exits.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// No single source: a default, or a combination of several settings.
    Unset,
    /// A line of the configuration file.
    File {
        /// The path as it was given on the command line.
        path: PathBuf,
        /// The number of the line, from 1; `None` if the whole file is meant.
        line: Option<usize>,
    },
    /// An environment variable of this name.
    Variable(String),
    /// A command-line flag, with its dashes, such as `--listen`.
    Flag(&'static str),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::Unset => f.write_str("configuration"),
            SettingOrigin::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            SettingOrigin::File { path, line: None } => write!(f, "{}", path.display()),
            SettingOrigin::Variable(name) => write!(f, "environment variable {name}"),
            SettingOrigin::Flag(name) => f.write_str(name),
        }
    }
}

/// An error in the configuration, with a message for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{problem}", .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct ConfigError {
    /// The source of the wrong value.
    pub origin: SettingOrigin,
    /// The key with its section, such as `auth.issuer`; `None` if the error is not about one key.
    pub(crate) key: Option<String>,
    /// What is wrong, and what to do about it.
    pub(crate) problem: String,
}

impl ConfigError {
    /// An error about one key whose source is not known any more, such as the content of a file that the key names.
    pub(crate) fn of_key(key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Unset, key: Some(key.to_owned()), problem: problem.into() }
    }

    /// An error that is not about one key.
    pub(crate) fn general(problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Unset, key: None, problem: problem.into() }
    }

    /// An error about a command-line flag.
    pub(crate) fn of_flag(flag: &'static str, problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Flag(flag), key: None, problem: problem.into() }
    }
}
