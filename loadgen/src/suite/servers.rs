//! The servers file: which servers there are, how each is started, what it speaks and which works it can do.
//!
//! Reads and checks, starts nothing. Called by `suite` at the beginning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::Deserialize;

use crate::args::cpu_list;
use crate::deflate::Offer;
use crate::protocol::Template;

/// One server, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// What it is called in reports.
    pub name: String,
    /// Program and arguments; `{window}` and `{pipeline}` are replaced.
    pub command: Vec<String>,
    /// Environment variables beside those of this program.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where the commands run, from the file's folder.
    #[serde(default)]
    pub dir: PathBuf,
    /// What has to succeed once before the first start.
    #[serde(default)]
    pub setup: Vec<String>,
    /// A regular expression for the line that says it listens; its first group is HOST:PORT.
    #[serde(default = "listening")]
    pub ready: String,
    /// "uringcast", or the name of a `[protocol.NAME]`.
    #[serde(default = "uringcast")]
    pub protocol: String,
    /// Names of works, or what stands before a dash in them; empty: all.
    #[serde(default)]
    pub works: Vec<String>,
    /// Make its deliveries as long as uringcast's.
    #[serde(default)]
    pub pad: bool,
    /// It answers whole windows: send one in one write, and wait for all of it.
    #[serde(default)]
    pub lockstep: bool,
    /// Its CPUs, instead of --server-cpu.
    pub cpus: Option<String>,
    /// What is offered to it to compress, as --compress takes it; nothing without.
    pub compress: Option<String>,
    /// Prints its version in one line; run from the file's folder.
    #[serde(default)]
    pub version: Vec<String>,
    /// No server of its own kind but the least that any could do: never the best peer.
    #[serde(default)]
    pub floor: bool,
    /// How large a part of the subscribers of `fanout` and `connect` are event streams, from 0 to 1.
    #[serde(default)]
    pub sse: f64,
}

fn listening() -> String {
    "listening on ws://([^/ ]+)".to_owned()
}

fn uringcast() -> String {
    "uringcast".to_owned()
}

/// The file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// In the file's order.
    #[serde(rename = "server", default)]
    pub all: Vec<Server>,
    /// Protocols by templates.
    #[serde(default)]
    pub protocol: BTreeMap<String, Template>,
}

impl Server {
    /// It speaks uringcast's own protocol.
    pub fn is_uringcast(&self) -> bool {
        self.protocol == "uringcast"
    }

    /// It is able to do `work`.
    pub fn can(&self, work: &str) -> bool {
        let covers = |name: &String| {
            work.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.works.is_empty() || self.works.iter().any(covers)
    }
}

impl Servers {
    /// Reads and checks `path`; folders in it become relative to where this program runs.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let mut servers = Self::parse(&text).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for server in &mut servers.all {
            server.dir = folder.join(&server.dir);
            if server.dir.as_os_str().is_empty() {
                server.dir = PathBuf::from(".");
            }
        }
        Ok(servers)
    }

    fn parse(text: &str) -> Result<Self> {
        let servers: Self = toml::from_str(text)?;
        if servers.all.is_empty() {
            bail!("there is no [[server]]");
        }
        for (name, template) in &servers.protocol {
            template.check().with_context(|| format!("[protocol.{name}]"))?;
        }
        for (i, server) in servers.all.iter().enumerate() {
            server.check(&servers.protocol).with_context(|| format!("server {:?}", server.name))?;
            if servers.all[..i].iter().any(|other| other.name == server.name) {
                bail!("two servers are called {:?}", server.name);
            }
        }
        Ok(servers)
    }
}

impl Server {
    fn check(&self, protocols: &BTreeMap<String, Template>) -> Result<()> {
        if self.command.is_empty() {
            bail!("command is empty");
        }
        let ready = Regex::new(&self.ready).context("ready")?;
        if ready.captures_len() < 2 {
            bail!("ready has no group for HOST:PORT");
        }
        if !self.is_uringcast() && !protocols.contains_key(&self.protocol) {
            bail!("there is no [protocol.{}]", self.protocol);
        }
        if !(0.0..=1.0).contains(&self.sse) || (self.sse > 0.0 && !self.is_uringcast()) {
            bail!("sse: a number from 0 to 1, for a server that speaks uringcast's protocol");
        }
        if let Some(offer) = &self.compress
            && let Err(why) = Offer::parse(offer)
        {
            bail!("compress: {why}");
        }
        self.cpus.as_deref().map_or(Ok(()), |list| cpu_list(list).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_its_order() {
        let servers = Servers::parse(
            "[[server]]\nname='b'\ncommand=['x']\nworks=['fanout','echo-100-p1']\n\
             [[server]]\nname='a'\ncommand=['y']\nprotocol='p'\n[protocol.p]\nbinary=true\n",
        )
        .unwrap();
        let names: Vec<_> = servers.all.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        let b = &servers.all[0];
        assert!(b.can("fanout-100-w1") && b.can("echo-100-p1") && !b.can("echo-100-p16") && !b.can("connect"));
        assert!(b.is_uringcast() && !servers.all[1].is_uringcast() && servers.all[1].can("connect"));
    }

    #[test]
    fn mistakes_are_named() {
        let server = "[[server]]\nname='a'\ncommand=['x']\n";
        for (bad, told) in [
            (String::new(), "no [[server]]"),
            (format!("{server}{server}"), "two servers"),
            (format!("{server}protocol='q'"), "[protocol.q]"),
            (format!("{server}ready='x'"), "no group"),
            (format!("{server}unknown=1"), "unknown"),
            (format!("{server}cpus='x'"), "CPUs x"),
            (format!("{server}compress='permessage-deflate; level=1'"), "level"),
        ] {
            let error = format!("{:#}", Servers::parse(&bad).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
