//! The backend: asks the owners through the same door as the API, and is answered exactly once.

use std::collections::BTreeMap;

use uringcast::hub::owner_of;
use uringcast::model::parcel::{Answer, Ask, Refusal};
use uringcast::model::publication::{Content, Publish};
use uringcast::shard::Shard;

use crate::channels::Place;
use crate::client::Verdict;
use crate::dice::Dice;
use crate::plan::CHANNELS;

/// One publication of the backend.
#[derive(Debug)]
struct Asked {
    channel: &'static str,
    once: bool,
    /// When, among all that happened.
    said: u64,
    /// Where it is; `None` within if it was refused.
    answer: Option<Option<Place>>,
    /// It may have been accepted or not.
    is_unknown: bool,
}

/// All that the backend asked for.
#[derive(Debug, Default)]
pub struct Backend {
    asked: Vec<Asked>,
    /// The first number under which each repeated publication was sent.
    tags: BTreeMap<u32, String>,
}

impl Backend {
    /// Publishes something somewhere; sometimes once more under the same key. Returns what it did, and which shard it
    /// asked.
    pub fn ask(&mut self, shards: &mut [Shard], said: u64, dice: &mut Dice) -> (String, usize) {
        let channel = dice.pick(&CHANNELS[..CHANNELS.len() - 1]);
        let number = u32::try_from(self.asked.len()).expect("few");
        let again = self.asked.iter().rposition(|asked| asked.once && asked.channel == channel);
        let again = again.filter(|_| dice.once_in(3)).and_then(|at| self.tags.get(&(at as u32)).cloned());
        let once = again.is_some() || dice.once_in(4);
        let tag = again.unwrap_or_else(|| format!("backend{number}"));
        let publish = Publish {
            channel: channel.into(),
            sender: None,
            content: Content::Json(format!("{{\"tag\":\"{tag}\"}}").into_bytes().into()),
            key: None,
            idempotency_key: once.then(|| tag.as_str().into()),
            epoch: None,
        };
        let owner = owner_of(channel, shards.len()).index();
        shards[owner].ask_for_backend(number, Ask::Publish(Box::new(publish)));
        self.asked.push(Asked { channel, once, said, answer: None, is_unknown: false });
        self.tags.insert(number, tag.clone());
        (format!("the backend publishes {tag} in {channel}, once {once}"), owner)
    }

    pub fn hear(&mut self, answers: Vec<(u32, Answer)>) -> Verdict {
        for (number, answer) in answers {
            let asked = &mut self.asked[number as usize];
            let place = match &answer {
                Answer::Published { placed, duplicate } if asked.once || !duplicate => {
                    Some((placed.epoch.to_string(), placed.offset))
                }
                Answer::Refused(refusal) => {
                    asked.is_unknown = *refusal == Refusal::Unanswered;
                    None
                }
                answer => return Err(format!("the backend's {number} was answered {answer:?}")),
            };
            if asked.answer.replace(place).is_some() {
                return Err(format!("the backend's {number} was answered twice"));
            }
        }
        Ok(())
    }

    /// Somebody heard a publication of the backend's: one that said it was told of that place.
    pub fn published(&self, tag: &str, channel: &str, epoch: &str, offset: u64) -> Verdict {
        let place = Some(Some((epoch.to_owned(), offset)));
        let said =
            self.asked.iter().zip(self.tags.values()).filter(|(asked, said)| *said == tag && asked.channel == channel);
        if said.clone().any(|(asked, _)| asked.answer == place || asked.is_unknown) {
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
        self.tags.values().map(String::as_str).zip(self.asked.iter().map(|asked| asked.said))
    }

    pub fn at_rest(&self) -> Verdict {
        match self.asked.iter().position(|asked| asked.answer.is_none()) {
            Some(number) => Err(format!("the backend's {number} has no answer")),
            None => Ok(()),
        }
    }
}
