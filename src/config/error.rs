//! The operator's errors: every one says where the fault is (file and line, variable or flag), which key it
//! is and what would be right. It never holds a secret. Made by `config`, and by `auth` for the files that
//! keys point at; shown by main, which exits.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// No one place: a default, or the combination of several settings.
    Unset,
    /// A line of the configuration file.
    File {
        /// The file as it was named on the command line.
        path: PathBuf,
        /// 1-based; `None` when the file as a whole is meant.
        line: Option<usize>,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag, with its dashes.
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

/// A fault in the configuration, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{problem}", .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct ConfigError {
    /// Where the fault is.
    pub origin: SettingOrigin,
    /// The dotted key at fault, if it is one key.
    pub key: Option<String>,
    /// What is wrong and what to do.
    pub problem: String,
}

impl ConfigError {
    /// A fault of one key whose place is not known any more, as with the content of a file that it names.
    pub fn of_key(key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Unset, key: Some(key.to_owned()), problem: problem.into() }
    }

    /// A fault that is not one key's.
    pub fn general(problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Unset, key: None, problem: problem.into() }
    }

    /// A fault of a command-line flag.
    pub fn of_flag(flag: &'static str, problem: impl Into<String>) -> ConfigError {
        ConfigError { origin: SettingOrigin::Flag(flag), key: None, problem: problem.into() }
    }
}
