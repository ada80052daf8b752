//! The report of all findings, as text for people and as JSON for programs.
//! This file judges nothing and prints nothing; `main` prints.

use std::fmt;

use serde::Serialize;

use super::{Finding, Severity, grouped};

/// All findings about a machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The number of connections that the machine was checked for.
    pub(crate) connections: u64,
    /// The number of shards that the machine was checked for.
    pub(crate) shards: u64,
    /// The result of each check.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Whether a finding keeps the server from starting, or from having its connections.
    pub fn stops(&self) -> bool {
        self.count(Severity::Stops) > 0
    }

    /// The report as one line of JSON.
    ///
    /// # Errors
    /// None in practice: the report has texts and numbers only.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            stops: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        serde_json::to_string(&Shown { stops: self.stops(), report: self })
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "For {} connections on {} shards:", grouped(self.connections), self.shards)?;
        for (severity, word) in [(Severity::Stops, "STOPS"), (Severity::Costs, "costs"), (Severity::Note, "note")] {
            for finding in self.of(severity) {
                writeln!(f, "\n{word:5}  {}: {}", finding.check, finding.read)?;
                writeln!(f, "       should be: {}", finding.wanted)?;
                writeln!(f, "       because: {}", finding.why)?;
                if let Some(file) = finding.mend {
                    writeln!(f, "       mended by: {file}")?;
                }
            }
        }
        writeln!(f)?;
        for finding in self.of(Severity::NotKnown) {
            writeln!(f, "not known: {} ({})", finding.check, finding.read)?;
        }
        for finding in self.of(Severity::Fine) {
            writeln!(f, "in order: {} ({})", finding.check, finding.read)?;
        }
        let [stops, costs, notes] = [Severity::Stops, Severity::Costs, Severity::Note].map(|kind| self.count(kind));
        writeln!(f, "\nstops: {stops}, costs: {costs}, notes: {notes}")
    }
}
