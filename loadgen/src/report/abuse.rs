//! The report of `loadgen abuse`: what each abuse did to the innocent beside it and to the server's memory.
//!
//! Knows what was measured and not how. Filled in by `commands`, printed and written by `main`.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::check::Faults;
use crate::latency::Percentiles;
use crate::work::abuse::{Abuse, Tally};

/// The innocent in one stretch of time.
#[derive(Clone, Debug, Serialize)]
pub struct Innocent {
    /// From a publication's intended time to its delivery.
    pub latency: Option<Percentiles>,
    /// Deliveries that went wrong.
    pub faults: Faults,
}

/// One abuse, with the time before and after it.
#[derive(Debug, Serialize)]
pub struct Suffered {
    /// Which.
    pub abuse: Abuse,
    /// What the abuser came to.
    pub tally: Tally,
    /// The innocent before, during and after it.
    pub innocent: [Innocent; 3],
    /// The server's anonymous memory before it, at most, and after it, in bytes; 0 without `--pid`.
    pub memory_bytes: [u64; 3],
}

/// All of them.
#[derive(Debug, Serialize)]
pub struct AbuseReport {
    /// Where the server is.
    pub url: String,
    /// How many the innocent are.
    pub connections: u32,
    /// Connections of the abuser at a time.
    pub abusers: usize,
    /// One after the other.
    pub abuses: Vec<Suffered>,
}

impl AbuseReport {
    /// The innocent lost nothing, got nothing twice, and none of them was cut.
    pub fn passed(&self) -> bool {
        self.abuses.iter().all(|abuse| abuse.innocent.iter().all(|innocent| !innocent.faults.any()))
    }

    /// Writes the JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))
    }

    /// Prints a table with a row for each abuse.
    pub fn print(&self) {
        println!("loadgen abuse {} · {} innocent, {} abusers at a time", self.url, self.connections, self.abusers);
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "abuse",
            "p50/p99/max ms before",
            "during",
            "after",
            "MiB before/peak/after",
            "opened/refused/ended",
            "faults",
        ]);
        for row in &self.abuses {
            let latency = |innocent: &Innocent| match &innocent.latency {
                Some(all) => format!("{:.2}/{:.2}/{:.1}", all.p50_us / 1e3, all.p99_us / 1e3, all.max_us / 1e3),
                None => "-".to_owned(),
            };
            let [before, during, after] = &row.innocent;
            let mib = row.memory_bytes.map(|bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
            let faulty = row.innocent.iter().filter(|innocent| innocent.faults.any()).count();
            let cells = [
                latency(before),
                latency(during),
                latency(after),
                mib.join("/"),
                format!("{}/{}/{}", row.tally.opened, row.tally.refused, row.tally.ended),
                if faulty == 0 { "none".to_owned() } else { format!("{:?}", during.faults) },
            ];
            let name = serde_json::to_string(&row.abuse).unwrap_or_default();
            let right = cells.into_iter().map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
            table.add_row([Cell::new(name.trim_matches('"'))].into_iter().chain(right));
        }
        println!("{table}");
    }
}
