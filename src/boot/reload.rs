//! What a reload signal does: reads the keys for tokens and for the HTTP API again and passes them on. Keys that cannot
//! be read leave the old ones in force. The keys of `auth.jwks_url` are fetched again. The certificate's own thread
//! reloads the certificate.

use std::sync::Arc;

use crate::auth::{ApiKeys, Verifier};
use crate::boot::settings;
use crate::boot::threads::ShardThread;
use crate::config::{Config, ConfigError};
use crate::control::{ConfiguredKeys, Control, KeySetSource};
use crate::io::commands::ShardCommand;

pub(super) fn keys(config: &Config, shards: &[ShardThread], control: Option<&Control>) {
    match token_keys(config) {
        Ok((verifier, source)) => {
            pass_on(verifier, source, shards, control);
            tracing::info!("keys read again");
        }
        Err(error) => tracing::error!(%error, "the keys cannot be read; the old ones stay in use"),
    }
    if config.http.listener().is_none() {
        return;
    }
    match ApiKeys::new(&config.http) {
        Ok(keys) => {
            set_api_keys(&Arc::new(keys), shards);
            tracing::info!("API keys read again");
        }
        Err(error) => tracing::error!(%error, "the API keys cannot be read; the old ones stay in use"),
    }
}

/// Replaces the keys of the API. On return every shard has them.
fn set_api_keys(keys: &Arc<ApiKeys>, shards: &[ShardThread]) {
    let tell = |shard: &ShardThread| {
        let (done, is_done) = flume::bounded(1);
        shard.tell(ShardCommand::ApiKeys(Arc::clone(keys), done));
        is_done
    };
    let told: Vec<_> = shards.iter().map(tell).collect();
    for is_done in told {
        // A shard that has ended needs no keys.
        let _ = is_done.recv();
    }
}

fn token_keys(config: &Config) -> Result<(Verifier, Option<KeySetSource>), ConfigError> {
    Ok((settings::verifier(config)?, KeySetSource::of_keys(&config.auth)?))
}

/// The control thread puts the fetched keys beside the configured ones; without an address the shards are told here.
fn pass_on(verifier: Verifier, source: Option<KeySetSource>, shards: &[ShardThread], control: Option<&Control>) {
    match (source, control) {
        (Some(source), Some(control)) => control.configure_keys(ConfiguredKeys { source, verifier }),
        _ => {
            let verifier = Arc::new(verifier);
            shards.iter().for_each(|shard| shard.tell(ShardCommand::Keys(Arc::clone(&verifier))));
        }
    }
}
