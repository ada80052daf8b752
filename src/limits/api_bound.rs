//! The bounds of the HTTP API that can be reached (docs/api.md). `shard` counts and tells when one was. Metrics, the log and
//! its page take their names from here.

use super::labelled;

labelled! {
    /// A bound of the API that was reached. The label is that of `uringcast_api_bounds_reached_total`.
    pub(crate) enum ApiBound, log prefix "api_" {
        /// A connection that had brought no key gave way to another one.
        Stranger = "connection_without_key",
        /// A connection that had brought a key, and was owed no response, gave way to another one.
        Idle = "connection_idle",
        /// No place was free, and no connection could give way.
        Places = "connections",
        /// The kernel had no descriptor or memory for a new connection, and another one gave way.
        Descriptors = "descriptors",
        /// A request was refused because its address has its share of the requests already.
        Requests = "requests",
        /// A request was refused because its address has its share of the memory for requests already.
        Bodies = "bodies",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_the_log_has_every_name() {
        let page = include_str!("../../docs/logging.md");
        for bound in ApiBound::ALL {
            assert!(page.contains(&format!("`{}`", bound.name())), "docs/logging.md lacks {}", bound.name());
        }
    }
}
