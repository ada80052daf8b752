//! The server is told to go in the middle of it all: one shard after the other, while clients go on talking and
//! turns take their chances. No clock helps: what was acknowledged has to have come when the goodbye comes.

use std::collections::BTreeMap;

use crate::client::{Answer, Client, Verdict, What};
use crate::oracle::pump;
use crate::wire::Reader;
use crate::world::World;

/// Steps after which shards that have not said goodbye never will.
const PATIENCE: usize = 200_000;
/// No deadline: the shards have to come to their end by what they say to each other.
const FOREVER_MS: u64 = u64::MAX;
/// Going away (RFC 6455 §7.4.1).
const GOING_AWAY: Option<Option<u16>> = Some(Some(1001));

/// How much time passes between two reads of a slow reader: less than a server waits for it.
const SLOW_READ_MS: u64 = uringcast::shard::CLOSE_MS - 500;
const SLOW_ROUNDS: usize = 4;
/// What it reads at a time.
const SLOW_READ_BYTES: usize = 100;

/// Ends a world; returns how many clients were told goodbye.
pub fn judge(world: &mut World) -> Verdict<usize> {
    go_away(world)?;
    read_slowly(world)?;
    empty_pipes(world)?;
    let acked = acked(world);
    let clients: Vec<&Client> = world.clients.iter().filter(|client| client.closed == GOING_AWAY).collect();
    for client in &clients {
        let blame = |problem: String| format!("client {}: {problem}", client.number);
        has_all(client, &acked).map_err(blame)?;
    }
    Ok(clients.len())
}

fn go_away(world: &mut World) -> Verdict {
    world.going = true;
    world.hurry_engine();
    let mut told = 0;
    for _ in 0..PATIENCE {
        if told < world.shards.len() && world.dice.once_in(12) {
            world.shards[told].drain(FOREVER_MS, world.now);
            world.act(told)?;
            world.note(|| format!("shard {told} is told to go"));
            told += 1;
        }
        world.step_out()?;
        if world.shards.iter().all(uringcast::shard::Shard::has_said_goodbye) {
            return Ok(());
        }
    }
    Err("not every shard has said goodbye".into())
}

/// Time passes while some clients read slowly and others nothing. Who takes something is not reset, however long it
/// takes; who takes nothing is, in time.
fn read_slowly(world: &mut World) -> Verdict {
    let has_some = |world: &World, client: usize| {
        let pipe = &world.net.pipes[client];
        world.is_there(client) && !pipe.down.is_empty() && !pipe.reset && pipe.room != usize::MAX
    };
    let waiting: Vec<usize> = (0..world.clients.len()).filter(|&client| has_some(world, client)).collect();
    let (slow, stalled) = waiting.split_at(waiting.len() - waiting.len().div_ceil(8));
    for round in 0..SLOW_ROUNDS {
        for &client in slow {
            if world.net.pipes[client].aborted {
                return Err(format!("client {client} is reset in round {round}, although it reads"));
            }
            world.client_read(client, SLOW_READ_BYTES)?;
            if world.is_readable(client) {
                world.server_read(client, usize::MAX)?;
            }
            // A kernel with room that takes nothing is asked again, and not in a second.
            while world.is_writable(client) {
                world.writable(client)?;
            }
        }
        for shard in 0..world.shards.len() {
            world.finish_turns(shard)?;
        }
        for _ in 0..3 {
            world.advance(SLOW_READ_MS / 3)?;
        }
    }
    let is_left = |client: &&usize| {
        let pipe = &world.net.pipes[**client];
        !pipe.down.is_empty() && !pipe.aborted && pipe.reader != Reader::Ended
    };
    match stalled.iter().find(is_left) {
        Some(client) => Err(format!("client {client} takes nothing and is waited for")),
        None => Ok(()),
    }
}

/// Everybody reads what is there for him.
fn empty_pipes(world: &mut World) -> Verdict {
    for _ in 0..PATIENCE {
        let mut busy = false;
        for client in 0..world.clients.len() {
            busy |= pump(world, client)?;
        }
        busy |= world.pump_backend()?;
        for shard in 0..world.shards.len() {
            busy |= world.shards[shard].has_work() || world.shards[shard].is_stuck();
            world.turn(shard)?;
        }
        world.finish_engine();
        if !busy && world.lanes.is_empty() {
            return Ok(());
        }
    }
    Err("the farewell never ends".into())
}

/// The highest offset that was acknowledged to anyone, of each channel in each of its lives.
fn acked(world: &World) -> BTreeMap<(String, String), u64> {
    let mut acked: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut note = |channel: &str, epoch: &str, offset: u64| {
        let highest = acked.entry((channel.to_owned(), epoch.to_owned())).or_default();
        *highest = offset.max(*highest);
    };
    for client in &world.clients {
        for asked in &client.asked {
            if let (What::Message(_), Some(Answer::Ack(offset)), Some(attached)) =
                (&asked.what, &asked.answer, &client.attached)
            {
                note("lobby", &attached.epoch, *offset);
            }
        }
        for acked in &client.book.acked {
            if let What::Publish(draft) = &client.asked[acked.request].what {
                note(&draft.channel, &acked.place.0, acked.place.1);
            }
        }
    }
    for (channel, (epoch, offset)) in world.backend.accepted() {
        note(channel, epoch, *offset);
    }
    acked
}

fn has_all(client: &Client, acked: &BTreeMap<(String, String), u64>) -> Verdict {
    let due = |channel: &str, epoch: &str| acked.get(&(channel.to_owned(), epoch.to_owned())).copied().unwrap_or(0);
    if let Some(attached) = &client.attached {
        let messages = client.lobby.iter().filter(|frame| frame.contains(r#""type":"message""#)).count();
        let (has, due) = (attached.offset + messages as u64, due("lobby", &attached.epoch));
        if has < due {
            return Err(format!("the lobby's {due} was acknowledged, and it was told goodbye at {has}"));
        }
    }
    for (channel, subscribed) in &client.book.subscribed {
        let due = due(channel, &subscribed.epoch);
        if subscribed.position < due {
            return Err(format!("{due} of {channel} was acknowledged, and it was told goodbye with {subscribed:?}"));
        }
    }
    Ok(())
}
