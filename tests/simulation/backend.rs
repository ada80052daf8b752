//! The backend: requests over connections of the HTTP API, often several at a time without waiting for responses. Each
//! request is answered once and in order, and what an answer says is true. A request whose connection is cut, or that is
//! answered 504, may have been done or not.

use std::collections::VecDeque;

use serde_json::{Value, json};
use uringcast::ids::ConnId;
use uringcast::shard::{Action, Input};

use crate::channels::Place;
use crate::client::Verdict;
use crate::dice::Dice;
use crate::plan::{API_KEY, CHANNELS};
use crate::wire::Reader;
use crate::world::World;

/// Connections of the backend that are open at a time.
const CONNECTIONS: usize = 4;

/// One publication of the backend.
#[derive(Debug)]
struct Asked {
    channel: &'static str,
    tag: String,
    once: bool,
    /// When, among all that happened.
    said: u64,
    /// Where it is; `None` within if it was refused.
    answer: Option<Option<Place>>,
    /// It may have been accepted or not.
    is_unknown: bool,
}

/// What a response is owed to.
#[derive(Debug)]
enum Owed {
    /// One publication, by its number.
    Publish(usize),
    /// Publications with a result each.
    Broadcast(Vec<usize>),
    /// The same, as lines.
    Lines(Vec<usize>),
    /// A page of this channel, or its members.
    Page(&'static str),
    Health,
    /// This status, whatever happens.
    Refused(u16),
}

/// One connection of the backend.
#[derive(Debug)]
struct Peer {
    shard: usize,
    owed: VecDeque<Owed>,
    /// When it was opened, in milliseconds of the monotonic clock.
    since_ms: u64,
    /// Bytes of responses that are not whole.
    bytes: Vec<u8>,
    /// The server has said that it closes the connection.
    is_last: bool,
    /// The backend has ended its direction.
    has_ended: bool,
    is_over: bool,
}

/// All that the backend asked for.
#[derive(Debug, Default)]
pub struct Backend {
    asked: Vec<Asked>,
    /// By the number of their pipe in `Net::api`.
    peers: Vec<Peer>,
}

impl Backend {
    fn number(&mut self, channel: &'static str, tag: &str, once: bool, said: u64) -> usize {
        self.asked.push(Asked { channel, tag: tag.to_owned(), once, said, answer: None, is_unknown: false });
        self.asked.len() - 1
    }

    /// Asks something over one connection: sometimes what was asked before, once more under the same key. Returns the
    /// bytes.
    fn ask(&mut self, peer: usize, said: u64, dice: &mut Dice) -> Vec<u8> {
        let channel = dice.pick(&CHANNELS[..CHANNELS.len() - 1]);
        let fresh = format!("backend{}", self.asked.len());
        let (owed, method, path, body) = match dice.below(10) {
            0 => (Owed::Health, "GET", "/health", String::new()),
            1 => (Owed::Refused(404), "POST", "/api/nothing", "{}".to_owned()),
            2 => (Owed::Page(channel), "POST", "/api/history", json!({"channel": channel}).to_string()),
            3 => {
                let once = dice.once_in(2);
                let channels: Vec<_> = CHANNELS[..CHANNELS.len() - 1].iter().filter(|_| dice.once_in(2)).collect();
                let channels = if channels.is_empty() { vec![&CHANNELS[0]] } else { channels };
                let numbers = channels.iter().map(|channel| self.number(channel, &fresh, once, said)).collect();
                let mut body = json!({"channels": channels, "data": {"tag": fresh}});
                if once {
                    body["idempotency_key"] = json!(fresh);
                }
                (Owed::Broadcast(numbers), "POST", "/api/broadcast", body.to_string())
            }
            4 => {
                let count = dice.between(1, 4);
                let lines = (0..count).map(|_| {
                    let channel = dice.pick(&CHANNELS[..CHANNELS.len() - 1]);
                    let tag = format!("backend{}", self.asked.len());
                    (self.number(channel, &tag, false, said), json!({"channel": channel, "data": {"tag": tag}}))
                });
                let (numbers, lines): (Vec<_>, Vec<_>) = lines.map(|(number, line)| (number, line.to_string())).unzip();
                (Owed::Lines(numbers), "POST", "/api/publish", lines.join("\n"))
            }
            _ => {
                let again = self.asked.iter().rposition(|asked| asked.once && asked.channel == channel);
                let again = again.filter(|_| dice.once_in(3)).map(|at| self.asked[at].tag.clone());
                let once = again.is_some() || dice.once_in(4);
                let tag = again.unwrap_or(fresh);
                let mut body = json!({"channel": channel, "data": {"tag": tag}});
                if once {
                    body["idempotency_key"] = json!(tag);
                }
                (Owed::Publish(self.number(channel, &tag, once, said)), "POST", "/api/publish", body.to_string())
            }
        };
        let kind = if matches!(owed, Owed::Lines(_)) { "x-ndjson" } else { "json" };
        self.peers[peer].owed.push_back(owed);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: sim\r\nX-API-Key: {API_KEY}\r\nContent-Type: application/{kind}\r\n"
        );
        if dice.once_in(6) && !body.is_empty() {
            let (front, back) = body.split_at(body.len() / 2);
            let chunks = [front, back].into_iter().filter(|chunk| !chunk.is_empty());
            let chunks: String = chunks.map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
            return format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").into_bytes();
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// Takes bytes of responses.
    fn hear(&mut self, peer: usize, bytes: &[u8]) -> Verdict {
        self.peers[peer].bytes.extend_from_slice(bytes);
        while let Some((status, head, body)) = take_response(&mut self.peers[peer].bytes)? {
            if self.peers[peer].is_last {
                return Err(format!("backend {peer} hears more after the last response: {body}"));
            }
            self.peers[peer].is_last = head.contains("connection: close");
            let owed =
                self.peers[peer].owed.pop_front().ok_or_else(|| format!("backend {peer} asked nothing: {body}"))?;
            self.answer(&owed, status, &body).map_err(|problem| format!("backend {peer}: {problem}"))?;
        }
        Ok(())
    }

    fn answer(&mut self, owed: &Owed, status: u16, body: &str) -> Verdict {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        match owed {
            // An unfinished request is refused with others.
            _ if status == 408 => {
                owed.numbers().iter().try_for_each(|number| self.conclude(*number, 408, &Value::Null))
            }
            Owed::Publish(number) => self.conclude(*number, status, &value),
            Owed::Broadcast(numbers) | Owed::Lines(numbers) if status != 200 => {
                numbers.iter().try_for_each(|number| self.conclude(*number, status, &Value::Null))
            }
            Owed::Broadcast(numbers) => {
                let results = value["results"].as_array().ok_or_else(|| format!("no results: {body}"))?;
                self.conclude_all(numbers, results)
            }
            Owed::Lines(numbers) => {
                let results: Vec<Value> =
                    body.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
                self.conclude_all(numbers, &results)
            }
            Owed::Page(channel) if status == 200 && value["channel"] != *channel => {
                Err(format!("not {channel}: {body}"))
            }
            Owed::Page(_) if [200, 503, 504].contains(&status) => Ok(()),
            Owed::Health if [200, 503].contains(&status) && value["status"].is_string() => Ok(()),
            Owed::Refused(expected) if status == *expected || status == 503 => Ok(()),
            owed => Err(format!("{owed:?} is answered {status} {body}")),
        }
    }

    fn conclude_all(&mut self, numbers: &[usize], results: &[Value]) -> Verdict {
        if numbers.len() != results.len() {
            return Err(format!("{} results for {} publications: {results:?}", results.len(), numbers.len()));
        }
        numbers.iter().zip(results).try_for_each(|(number, result)| {
            let status = result["error"]["code"].as_u64().unwrap_or(200);
            self.conclude(*number, u16::try_from(status).unwrap_or(0), result)
        })
    }

    fn conclude(&mut self, number: usize, status: u16, result: &Value) -> Verdict {
        let asked = &mut self.asked[number];
        let place = match status {
            200 if result["channel"] == asked.channel && (asked.once || result["duplicate"] != true) => {
                let epoch = result["epoch"].as_str().ok_or("no epoch")?.to_owned();
                Some((epoch, result["offset"].as_u64().ok_or("no offset")?))
            }
            408 | 503 | 504 => {
                asked.is_unknown = status == 504;
                None
            }
            _ => return Err(format!("{asked:?} is answered {status} {result}")),
        };
        match asked.answer.replace(place) {
            Some(_) => Err(format!("{asked:?} is answered twice")),
            None => Ok(()),
        }
    }

    /// The connection has ended, and what became of the rest is unknown.
    fn end(&mut self, peer: usize) {
        self.peers[peer].is_over = true;
        for owed in std::mem::take(&mut self.peers[peer].owed) {
            for number in owed.numbers() {
                let asked = &mut self.asked[number];
                (asked.answer, asked.is_unknown) = (Some(None), true);
            }
        }
    }

    /// Somebody heard a publication of the backend's: one that said it was told of that place.
    pub fn published(&self, tag: &str, channel: &str, epoch: &str, offset: u64) -> Verdict {
        let place = Some(Some((epoch.to_owned(), offset)));
        let said = self.asked.iter().filter(|asked| asked.tag == tag && asked.channel == channel);
        if said.clone().any(|asked| asked.answer == place || asked.is_unknown) {
            return Ok(());
        }
        Err(format!("{tag} is at {epoch} {offset} of {channel} and was answered {:?}", said.collect::<Vec<_>>()))
    }

    /// What it was told to be published, and where.
    pub fn accepted(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.asked.iter().filter_map(|asked| Some((asked.channel, asked.answer.as_ref()?.as_ref()?)))
    }

    /// What was said, by its tag, and when.
    pub fn said(&self) -> impl Iterator<Item = (&str, u64)> {
        self.asked.iter().map(|asked| (&*asked.tag, asked.said))
    }

    pub fn at_rest(&self) -> Verdict {
        if let Some(peer) = self.peers.iter().position(|peer| !peer.owed.is_empty()) {
            return Err(format!("backend {peer} is owed {:?}", self.peers[peer].owed));
        }
        match self.asked.iter().position(|asked| asked.answer.is_none()) {
            Some(number) => Err(format!("the backend's {number} has no answer")),
            None => Ok(()),
        }
    }
}

impl Owed {
    fn numbers(&self) -> Vec<usize> {
        match self {
            Self::Publish(number) => vec![*number],
            Self::Broadcast(numbers) | Self::Lines(numbers) => numbers.clone(),
            Self::Page(_) | Self::Health | Self::Refused(_) => Vec::new(),
        }
    }
}

/// Takes one whole response: its status, its head in lower case and its body.
fn take_response(bytes: &mut Vec<u8>) -> Verdict<Option<(u16, String, String)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| format!("no status: {head}"))?;
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.and_then(|length| length.parse().ok()).ok_or_else(|| format!("no length: {head}"))?;
    if bytes.len() < end + 4 + length {
        return Ok(None);
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
    bytes.drain(..end + 4 + length);
    Ok(Some((status, head, body)))
}

impl World {
    /// The backend asks something, over a new connection or one that is open.
    pub fn backend_asks(&mut self) -> Verdict {
        let open: Vec<usize> = (0..self.backend.peers.len()).filter(|&peer| self.may_ask(peer)).collect();
        let peer = if open.len() < CONNECTIONS && (open.is_empty() || self.dice.once_in(4)) {
            let shard = self.dice.below(self.shards.len());
            let Some(id) = self.shards[shard].open_api(crate::world::HERE.from, self.now) else { return Ok(()) };
            let peer = self.net.connect_api(id, self.plan.room);
            let (owed, bytes) = (VecDeque::new(), Vec::new());
            let (is_last, has_ended, is_over) = (false, false, false);
            let since_ms = self.now.mono_ms;
            self.backend.peers.push(Peer { shard, owed, since_ms, bytes, is_last, has_ended, is_over });
            self.note(|| format!("backend {peer} connects as {id}"));
            peer
        } else {
            self.dice.pick(&open)
        };
        for _ in 0..self.dice.pick(&[1, 1, 2, 6]) {
            let bytes = self.backend.ask(peer, self.law.moment(), &mut self.dice);
            self.note(|| format!("backend {peer} asks {}", String::from_utf8_lossy(&bytes)));
            self.net.api[peer].up.extend(bytes);
        }
        if self.dice.once_in(12) {
            self.backend.peers[peer].has_ended = true;
        }
        Ok(())
    }

    fn may_ask(&self, peer: usize) -> bool {
        let Peer { is_last, has_ended, is_over, .. } = self.backend.peers[peer];
        let pipe = &self.net.api[peer];
        !is_last && !has_ended && !is_over && !pipe.aborted && !pipe.finished && !pipe.closed
    }

    /// Something happens on a connection of the backend.
    pub fn backend_moves(&mut self) -> Verdict {
        let open: Vec<usize> =
            (0..self.backend.peers.len()).filter(|&peer| !self.backend.peers[peer].is_over).collect();
        if open.is_empty() {
            return Ok(());
        }
        let peer = self.dice.pick(&open);
        if self.dice.once_in(150) {
            self.note(|| format!("backend {peer} cuts its connection"));
            let pipe = &mut self.net.api[peer];
            (pipe.left, pipe.reset) = (true, true);
            pipe.up.clear();
            pipe.down.clear();
            self.backend.end(peer);
            return Ok(());
        }
        let most = self.dice.pick(&[1, 7, 100, 1_000, usize::MAX, usize::MAX]);
        match self.dice.below(3) {
            0 => self.api_server_read(peer, most).map(drop),
            1 => self.api_client_read(peer, most).map(drop),
            _ => self.api_writable(peer).map(drop),
        }
    }

    /// Lets each connection of the backend do all that it can. Returns whether any did something.
    pub fn pump_backend(&mut self) -> Verdict<bool> {
        let mut busy = false;
        for peer in 0..self.backend.peers.len() {
            busy |= self.api_server_read(peer, usize::MAX)?;
            busy |= self.api_client_read(peer, usize::MAX)?;
            busy |= self.api_writable(peer)?;
        }
        Ok(busy)
    }

    /// One round of the reading task of a connection of the API.
    fn api_server_read(&mut self, peer: usize, most: usize) -> Verdict<bool> {
        let has_ended = self.backend.peers[peer].has_ended;
        let pipe = &mut self.net.api[peer];
        let (id, shard) = (pipe.id, self.backend.peers[peer].shard);
        let input = match pipe.reader {
            Reader::Paused | Reader::Ended => return Ok(false),
            Reader::Woken => self.shards[shard].resume(id, &mut self.net, self.now),
            Reader::Open if pipe.aborted || pipe.closed || pipe.reset => Input::Ended,
            Reader::Open if pipe.up.is_empty() && !has_ended => return Ok(false),
            Reader::Open if pipe.up.is_empty() => self.shards[shard].hear_out(id, self.now),
            Reader::Open => {
                let count = pipe.up.len().min(most);
                let mut bytes: Vec<u8> = pipe.up.drain(..count).collect();
                self.shards[shard].receive(id, &mut bytes, &mut self.net, self.now)
            }
        };
        self.note(|| format!("backend {peer} is read from: {input:?}"));
        self.net.api[peer].reader = match input {
            Input::Open => Reader::Open,
            Input::Paused => Reader::Paused,
            Input::Ended => {
                self.shards[shard].closed(id, self.now);
                Reader::Ended
            }
        };
        self.act(shard)?;
        Ok(true)
    }

    fn api_client_read(&mut self, peer: usize, most: usize) -> Verdict<bool> {
        if self.backend.peers[peer].is_over {
            return Ok(false);
        }
        let pipe = &mut self.net.api[peer];
        let count = pipe.down.len().min(most);
        let bytes: Vec<u8> = pipe.down.drain(..count).collect();
        let (is_at_end, is_unread) = (pipe.is_at_end(), !pipe.up.is_empty());
        self.backend.hear(peer, &bytes)?;
        if is_at_end {
            let Peer { owed, is_last, since_ms, .. } = &self.backend.peers[peer];
            let settings = &self.plan.settings;
            // The server may have closed it for its silence, while a request was on its way.
            let patience_ms = settings.handshake_ms.min(settings.request_ms).min(settings.api.idle_ms);
            let is_late = since_ms + patience_ms <= self.now.mono_ms;
            // What the server has not read it has not promised to answer.
            if !owed.is_empty() && !is_last && !is_unread && !is_late && !self.net.api[peer].aborted && !self.going {
                return Err(format!("backend {peer} is cut, and is owed {owed:?}"));
            }
            self.note(|| format!("backend {peer} sees the end"));
            self.net.api[peer].left = true;
            self.backend.peers[peer].has_ended = true;
            self.net.api[peer].up.clear();
            self.backend.end(peer);
        }
        Ok(count > 0 || is_at_end)
    }

    fn api_writable(&mut self, peer: usize) -> Verdict<bool> {
        let pipe = &mut self.net.api[peer];
        if !pipe.writer || !(pipe.free() > 0 || pipe.reset || pipe.aborted) || pipe.reader == Reader::Ended {
            return Ok(false);
        }
        pipe.writer = false;
        let (id, shard) = (pipe.id, self.backend.peers[peer].shard);
        self.shards[shard].writable(id, &mut self.net, self.now);
        self.act(shard)?;
        Ok(true)
    }

    /// Does to a socket of the API what the shard asks for.
    pub fn act_on_api(&mut self, peer: usize, action: Action) -> Verdict {
        self.note(|| format!("backend {peer}: {action:?}"));
        let pipe = &mut self.net.api[peer];
        if pipe.reader == Reader::Ended {
            return Ok(());
        }
        match action {
            Action::Resume(_) => {}
            Action::AwaitWritable(_) if pipe.writer => return Err(format!("two writers for backend {peer}")),
            Action::AwaitWritable(_) => {
                pipe.writer = true;
                return Ok(());
            }
            Action::Finish(_) => {
                pipe.finished = true;
                return Ok(());
            }
            Action::End(_) => (pipe.finished, pipe.closed) = (true, true),
            Action::Abort(_) => {
                pipe.aborted = true;
                pipe.down.clear();
                pipe.up.clear();
            }
            action => return Err(format!("{action:?} for backend {peer}")),
        }
        if pipe.reader == Reader::Paused {
            pipe.reader = Reader::Woken;
        }
        Ok(())
    }
}

/// The connection that an action is about, if it is about one.
pub fn conn_of(action: Action) -> Option<ConnId> {
    match action {
        Action::Resume(id)
        | Action::AwaitWritable(id)
        | Action::Finish(id)
        | Action::Abort(id)
        | Action::BoundSilence(id, _)
        | Action::End(id) => Some(id),
        Action::Alarm(_) | Action::Errand(..) => None,
    }
}
