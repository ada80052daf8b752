//! The API keys of backends, from the configuration and the file that it names. They are checked when they are read;
//! afterwards this file only compares. The control thread uses it.

use super::keys::{of_file, read};
use super::verify::same_bytes;
use crate::config::{ConfigError, Http, Secret};

/// All API keys. If there is none, no key matches.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    keys: Vec<Secret>,
}

impl ApiKeys {
    /// Reads the keys of the configuration and of the file that it names. Checks their form too, because a configuration
    /// can be made without `config::load`.
    pub(crate) fn new(http: &Http) -> Result<ApiKeys, ConfigError> {
        let mut keys = Vec::new();
        for (index, key) in http.keys.iter().enumerate() {
            if let Some(fault) = Http::key_fault(key.expose()) {
                return Err(ConfigError::of_key("http.keys", format!("key number {} {fault}", index + 1)));
            }
            keys.push(key.clone());
        }
        if let Some(file) = &http.keys_file {
            let error = |problem| of_file("http.keys_file", file, problem);
            let text = read("http.keys_file", file)?;
            let from_file = keys_of_text(&text).map_err(error)?;
            if from_file.is_empty() {
                return Err(error("the file has no key".to_owned()));
            }
            keys.extend(from_file);
        }
        if keys.len() > Http::MAX_KEYS {
            let (count, most) = (keys.len(), Http::MAX_KEYS);
            return Err(ConfigError::general(format!("http: {count} API keys are configured; the most is {most}")));
        }
        Ok(ApiKeys { keys })
    }

    /// These keys, whose form is not checked: for tests and simulations, which have no configuration.
    pub fn of(keys: &[&str]) -> Self {
        Self { keys: keys.iter().map(|key| Secret::new(*key)).collect() }
    }

    /// Whether there is no key, so that every request would be refused.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether `key` is one of them. It is compared with all, each in a time that depends on lengths only.
    pub(crate) fn matches(&self, key: &str) -> bool {
        self.keys.iter().fold(false, |found, own| same_bytes(own.expose().as_bytes(), key.as_bytes()) | found)
    }
}

fn keys_of_text(text: &str) -> Result<Vec<Secret>, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, key)| match Http::key_fault(key) {
            None => Ok(Secret::new(key)),
            Some(fault) => Err(format!("the key in line {number} {fault}")),
        })
        .collect()
}
