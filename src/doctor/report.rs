//! What was found, for people and for programs.
//! Pure: judges nothing and prints nothing; main does.

use std::fmt;

use serde::Serialize;

use super::{Finding, Severity, grouped};

/// All findings about a machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// For how many connections it was judged.
    pub connections: u64,
    /// With how many shards.
    pub shards: u64,
    /// What each check says.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether anything keeps the server from starting, or from holding its connections.
    pub fn stops(&self) -> bool {
        self.count(Severity::Stops) > 0
    }

    /// As JSON, one line.
    ///
    /// # Errors
    /// None that is known: all of it is text and numbers.
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
