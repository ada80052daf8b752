//! The keys that a backend shows to the HTTP API: from the configuration and the file that it names. Strict at
//! boot, like `keys`; afterwards it only compares. Knows nothing of requests. Called by the control thread.

use super::keys::{of_file, read};
use super::verify::same_bytes;
use crate::config::{ConfigError, Http, Secret};

/// All API keys. It may have none, and then nothing matches.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    keys: Vec<Secret>,
}

impl ApiKeys {
    /// Reads the keys that the configuration holds and names. Their form is checked here too, since not every
    /// configuration comes from a file.
    pub fn new(http: &Http) -> Result<ApiKeys, ConfigError> {
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
                return Err(error("there is no key in it".to_owned()));
            }
            keys.extend(from_file);
        }
        if keys.len() > Http::MAX_KEYS {
            let (count, most) = (keys.len(), Http::MAX_KEYS);
            return Err(ConfigError::general(format!("http: {count} API keys are configured; the most is {most}")));
        }
        Ok(ApiKeys { keys })
    }

    /// Whether there is none, so that no request could be let in.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether `key` is one of them. All are compared, each in a time that depends on lengths alone.
    pub fn matches(&self, key: &str) -> bool {
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
