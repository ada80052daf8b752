//! Requests with many publications: a broadcast of one publication to many channels, and lines of JSON with a publication
//! each. Each publication has a result of its own, in the order of the request. Publications are made one at a time, so
//! that a request takes no more memory than its body and its results.

use std::sync::Arc;

use super::error::ApiError;
use super::input::{self, PublicationInput};
use super::rules::ApiRules;
use crate::dialect::native::encode::{ObjectWriter, write_position};
use crate::model::parcel::Answer;
use crate::model::position::Placed;
use crate::model::publication::Publish;

/// The most lines of one request.
pub(crate) const MAX_LINES: usize = 10_000;

/// The publications of one request, and what has come of them.
#[derive(Debug)]
pub struct ManyPublishes {
    source: ManySource,
    /// One for each publication that has been made, in their order.
    entries: Vec<ManyEntry>,
}

#[derive(Debug)]
enum ManySource {
    Broadcast { channels: std::vec::IntoIter<Arc<str>>, publication: PublicationInput },
    Lines(LinesLeft),
}

/// The lines that are not read yet.
#[derive(Debug)]
struct LinesLeft {
    body: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// The number of lines before it.
    number: u32,
}

#[derive(Debug)]
struct ManyEntry {
    /// `None` if a line does not even name a channel.
    channel: Option<Arc<str>>,
    /// The number of its line, from 1 up; 0 in a broadcast.
    line: u32,
    /// `None` while the channel's owner has not answered.
    result: Option<Result<(Placed, bool), ApiError>>,
}

/// What an owner's answer to a publication means: its place and whether it is a duplicate, or an error.
pub(crate) fn publish_result(answer: Answer) -> Result<(Placed, bool), ApiError> {
    match answer {
        Answer::Published { placed, duplicate } => Ok((placed, duplicate)),
        other => Err(ApiError::from_answer(other)),
    }
}

impl ManyPublishes {
    /// One publication to many channels.
    pub(super) fn of_broadcast(channels: Vec<Arc<str>>, publication: PublicationInput) -> Self {
        let entries = Vec::with_capacity(channels.len());
        Self { source: ManySource::Broadcast { channels: channels.into_iter(), publication }, entries }
    }

    /// Lines with a publication each.
    ///
    /// # Errors
    /// There are none, or too many.
    pub(super) fn of_lines(body: Vec<u8>) -> Result<Self, ApiError> {
        let ends = memchr::memchr_iter(b'\n', &body).count();
        let lines = ends + usize::from(!body.is_empty() && !body.ends_with(b"\n"));
        if lines > MAX_LINES {
            let message = format!("the body has {lines} lines and may have {MAX_LINES}; none of them was done");
            return Err(ApiError::new(413, message));
        }
        let left = LinesLeft { body, at: 0, number: 0 };
        if left.next_line().is_none() {
            return Err(ApiError::malformed("the body must have a JSON object in each line, and has none"));
        }
        Ok(Self { source: ManySource::Lines(left), entries: Vec::with_capacity(lines) })
    }

    /// The next publication, and its number for [`ManyPublishes::put`]. What is malformed, or for no channel, gets its
    /// result at once and is passed over. `None` if there are no more.
    pub fn next(&mut self, rules: &ApiRules) -> Option<(usize, Box<Publish>)> {
        loop {
            let MadePublication { channel, line, made } = match &mut self.source {
                ManySource::Broadcast { channels, publication } => {
                    let channel = channels.next()?;
                    let made = rules.check_channel(&channel).map(|_| publication.to(Arc::clone(&channel)));
                    MadePublication { channel: Some(channel), line: 0, made }
                }
                ManySource::Lines(left) => left.take(rules)?,
            };
            let index = self.entries.len();
            let (result, publish) = match made {
                Ok(publish) => (None, Some(publish)),
                Err(error) => (Some(Err(error)), None),
            };
            self.entries.push(ManyEntry { channel, line, result });
            if let Some(publish) = publish {
                return Some((index, publish));
            }
        }
    }

    /// Gives a publication its result. Each has one.
    pub fn put(&mut self, index: usize, result: Result<(Placed, bool), ApiError>) {
        let before = self.entries[index].result.replace(result);
        debug_assert!(before.is_none(), "publication {index} has two results");
    }

    /// Gives every publication that has no result this one. Those that were never made are refused as `unasked`.
    pub(crate) fn give_up(&mut self, rules: &ApiRules, error: &ApiError, unasked: &ApiError) {
        for entry in self.entries.iter_mut().filter(|entry| entry.result.is_none()) {
            entry.result = Some(Err(error.clone()));
        }
        while let Some((index, _)) = self.next(rules) {
            self.put(index, Err(unasked.clone()));
        }
    }

    /// The bytes that it holds on the heap, about.
    pub(crate) fn held_bytes(&self) -> usize {
        let source = match &self.source {
            ManySource::Broadcast { publication, .. } => publication.held_bytes(),
            ManySource::Lines(left) => left.body.capacity(),
        };
        source + self.entries.capacity() * size_of::<ManyEntry>()
    }

    /// The type of the response's body.
    pub(super) fn content_type(&self) -> &'static str {
        match &self.source {
            ManySource::Broadcast { .. } => "application/json",
            ManySource::Lines(_) => "application/x-ndjson",
        }
    }

    /// Writes the body of the response. All publications must have their result.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match &self.source {
            ManySource::Broadcast { .. } => {
                let mut object = ObjectWriter::begin(out);
                object.list("results", &self.entries, |out, entry| entry.write(out));
                object.end();
            }
            ManySource::Lines(_) => {
                for entry in &self.entries {
                    entry.write(out);
                    out.push(b'\n');
                }
            }
        }
    }
}

impl LinesLeft {
    /// Where the next line that is not blank begins and ends, and the number of lines up to it.
    fn next_line(&self) -> Option<(std::ops::Range<usize>, u32)> {
        let (mut at, mut number) = (self.at, self.number);
        while at < self.body.len() {
            let end = memchr::memchr(b'\n', &self.body[at..]).map_or(self.body.len(), |length| at + length);
            number += 1;
            if !self.body[at..end].trim_ascii().is_empty() {
                return Some((at..end, number));
            }
            at = end + 1;
        }
        None
    }

    /// Reads the next line that is not blank.
    fn take(&mut self, rules: &ApiRules) -> Option<MadePublication> {
        let (range, number) = self.next_line()?;
        (self.at, self.number) = (range.end + 1, number);
        let made = match input::publish_line(&self.body[range]) {
            Ok(publish) => {
                let channel = Arc::clone(&publish.channel);
                let made = rules.check_channel(&channel).map(|_| publish);
                MadePublication { channel: Some(channel), line: number, made }
            }
            Err(error) => MadePublication { channel: None, line: number, made: Err(error) },
        };
        Some(made)
    }
}

/// One publication as it was read from the request.
struct MadePublication {
    /// The channel, if the request names one.
    channel: Option<Arc<str>>,
    /// The number of its line; 0 in a broadcast.
    line: u32,
    made: Result<Box<Publish>, ApiError>,
}

impl ManyEntry {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::begin(out);
        match &self.result {
            Some(Ok((placed, duplicate))) => {
                write_position(&mut object, placed.position());
                object.flag_if_set("duplicate", *duplicate);
            }
            Some(Err(error)) => {
                if self.line > 0 {
                    object.number("line", u64::from(self.line));
                }
                object.optional_text("channel", self.channel.as_deref());
                error.write(&mut object);
            }
            None => unreachable!("a response is written when all results are there"),
        }
        object.end();
    }
}

#[cfg(test)]
mod tests;
