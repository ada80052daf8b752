//! `peers`: the servers that uringcast is measured against, one a subcommand, all with one contract: `/fanout` sends
//! every data message unchanged to every connection of `/fanout`, its sender included, in one order for all; `/echo`
//! sends it back. Each says `listening on ws://HOST:PORT` when it is ready and runs until it is killed. Nothing here
//! is shared with uringcast, so that neither flatters the other.

mod bare;
mod fastwebsockets;
mod listener;
mod room;
mod tungstenite;
mod tungstenite_batched;

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use clap::Parser;

// What uringcast uses: a peer must not lose by its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a client may ask for; any other path gets a 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Fanout,
    Echo,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path.split('?').next() {
            Some("/fanout") => Some(Self::Fanout),
            Some("/echo") => Some(Self::Echo),
            _ => None,
        }
    }
}

/// Servers to measure uringcast against.
#[derive(Parser)]
#[command(version)]
enum Peer {
    /// tokio-tungstenite as it is commonly written: a task per connection, a flush per message.
    Tungstenite(Listen),
    /// tokio-tungstenite with batching by hand: one flush for all that is pending for a connection.
    TungsteniteBatched(Listen),
    /// fastwebsockets behind hyper's upgrade.
    Fastwebsockets(Listen),
    /// The floor: one epoll loop and one bare send(2) per socket and window.
    Bare {
        #[command(flatten)]
        listen: Listen,
        /// Messages to wait for before they are sent on as one buffer.
        #[arg(long, default_value = "1")]
        window: NonZeroUsize,
    },
}

#[derive(clap::Args)]
struct Listen {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let peer = Peer::parse();
    listener::raise_file_limit()?;
    match peer {
        Peer::Tungstenite(Listen { listen }) => listener::serve(listen, tungstenite::Server::default()),
        Peer::TungsteniteBatched(Listen { listen }) => listener::serve(listen, tungstenite_batched::Server::default()),
        Peer::Fastwebsockets(Listen { listen }) => listener::serve(listen, fastwebsockets::Server::default()),
        Peer::Bare { listen: Listen { listen }, window } => bare::serve(listen, window),
    }
}
