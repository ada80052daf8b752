//! What a reload signal does: reads the keys for tokens and for the HTTP API again and passes them on. Keys that cannot
//! be read leave the old ones in force. The certificate's own thread reloads the certificate.

use std::sync::Arc;

use crate::auth::ApiKeys;
use crate::boot::settings;
use crate::boot::threads::ShardThread;
use crate::config::Config;
use crate::control::Control;
use crate::io::reactor::Command;

pub(super) fn keys(config: &Config, shards: &[ShardThread], control: Option<&Control>) {
    match settings::verifier(config) {
        Ok(verifier) => {
            let verifier = Arc::new(verifier);
            shards.iter().for_each(|shard| shard.tell(Command::Keys(Arc::clone(&verifier))));
            tracing::info!("keys read anew");
        }
        Err(error) => tracing::error!(%error, "the keys can't be read: the old ones stay in force"),
    }
    let Some(control) = control else { return };
    match ApiKeys::new(&config.http) {
        Ok(keys) => {
            control.set_keys(keys);
            tracing::info!("API keys read anew");
        }
        Err(error) => tracing::error!(%error, "the API keys can't be read: the old ones stay in force"),
    }
}
