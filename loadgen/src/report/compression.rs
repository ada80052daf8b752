//! What a report says of permessage-deflate: what was agreed on, what it saved, and how far messages were checked.
//!
//! Called by `report`.

use serde::Serialize;

use super::{ratio, thousands};
use crate::deflate::Tally;
use crate::work::counted::Checked;

/// How compression went.
#[derive(Serialize)]
pub struct Compression {
    /// What every connection offered.
    pub offered: String,
    /// What was agreed on, by how many.
    pub agreed: Vec<Agreement>,
    /// Connections to which the server answered without an extension.
    pub declined: u64,
    /// Data messages that came compressed.
    pub compressed: u64,
    /// Data messages that came plain on a connection with compression.
    pub plain: u64,
    /// Bytes of a compressed message's payload.
    pub payload_bytes: f64,
    /// Messages that were inflated.
    pub inflated: u64,
    /// Bytes of their content for each byte of their payload.
    pub ratio: f64,
    /// How the subscribers of a fan-out were checked.
    pub checked: Option<Checked>,
}

/// What some connections agreed on.
#[derive(Serialize)]
pub struct Agreement {
    /// As the server would put it in its answer.
    pub parameters: String,
    /// How many.
    pub connections: u64,
}

impl Compression {
    /// What is in `tally`.
    pub fn of(offered: &str, tally: &Tally) -> Self {
        let agreed = tally.agreed.iter();
        let agreed = agreed.map(|(agreed, count)| Agreement { parameters: agreed.to_string(), connections: *count });
        Self {
            offered: offered.to_owned(),
            agreed: agreed.collect(),
            declined: tally.declined,
            compressed: tally.compressed,
            plain: tally.plain,
            payload_bytes: ratio(tally.compressed_bytes, tally.compressed),
            inflated: tally.inflated,
            ratio: ratio(tally.inflated_to_bytes, tally.inflated_from_bytes),
            checked: None,
        }
    }

    /// For the table.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows: Vec<(String, String)> = Vec::new();
        for agreement in &self.agreed {
            let parameters = agreement.parameters.trim_start_matches("permessage-deflate").trim_start_matches("; ");
            let name = if parameters.is_empty() { "agreed: no parameter" } else { &format!("agreed: {parameters}") };
            rows.push((name.to_owned(), thousands(agreement.connections as f64)));
        }
        if self.declined > 0 || self.agreed.is_empty() {
            rows.push(("compression declined".to_owned(), thousands(self.declined as f64)));
        }
        let counts = (thousands(self.compressed as f64), thousands(self.plain as f64));
        rows.push(("compressed / plain messages in".to_owned(), format!("{} / {}", counts.0, counts.1)));
        if self.compressed > 0 {
            rows.push(("payload of a compressed message".to_owned(), format!("{:.0} B", self.payload_bytes)));
            let of = thousands(self.inflated as f64);
            rows.push(("inflated to (messages inflated)".to_owned(), format!("{:.2}× ({of})", self.ratio)));
        }
        if let Some(checked) = &self.checked {
            let Checked { inflated, by_bytes, by_count, unchecked } = checked;
            let value = format!("{inflated} / {by_bytes} / {by_count}");
            rows.push(("checked: inflated / by bytes / by count".to_owned(), value));
            if *unchecked > 0 {
                rows.push(("not checked, as others published".to_owned(), unchecked.to_string()));
            }
        }
        rows
    }
}
