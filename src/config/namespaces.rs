//! The rules of all channels, out of the whole configuration: as the shards take them, and with the path of each section
//! for the checks in `load`.

use crate::model::namespace::{LOBBY, Namespaces};

use super::channels::ChannelRules;
use super::schema::Config;

impl Config {
    /// The rules of all channels, as the shards take them.
    pub fn channel_namespaces(&self) -> Namespaces {
        let named = self.namespaces.iter().map(|(name, rules)| rules.namespace(name));
        Namespaces::new(self.lobby.namespace(LOBBY), self.channels.namespace(""), named)
    }

    /// Each section of rules, with its path in the configuration.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = (String, &ChannelRules)> {
        let named = self.namespaces.iter().map(|(name, rules)| (format!("namespaces.{name}"), rules));
        [("lobby".to_owned(), &self.lobby), ("channels".to_owned(), &self.channels)].into_iter().chain(named)
    }
}
