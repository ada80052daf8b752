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
    let Some(control) = control.filter(|control| control.api_addr().is_some()) else { return };
    match ApiKeys::new(&config.http) {
        Ok(keys) => {
            control.set_keys(keys);
            tracing::info!("API keys read again");
        }
        Err(error) => tracing::error!(%error, "the API keys cannot be read; the old ones stay in use"),
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
