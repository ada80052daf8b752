//! Reads what each `type` of envelope carries: members go in, one [`Command`] comes out.
//! It checks types, sizes and the syntax of channel names. `session` judges everything else.

use simd_json::{Node, StaticNode};

use super::Rejected;
use super::fields::{TapeFields, TapeMember};
use super::source::ParsedText;
use crate::model::channel_name::MAX_CHANNEL_BYTES;
use crate::model::command::{
    Command, MAX_AUTH_CHANNELS, MAX_EPOCH_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_REQUEST_ID_BYTES,
    Request, SubscribeTo,
};
use crate::model::position::SinceRef;
use crate::model::text::Text;

/// The envelope's own fields.
pub(crate) struct RequestEnvelope<'t, 'a> {
    kind: &'a str,
    id: Option<&'a str>,
    data: RequestData<'t, 'a>,
}

impl<'t, 'a> RequestEnvelope<'t, 'a> {
    pub(crate) fn read(source: ParsedText<'t, 'a>) -> Result<Self, Rejected<'a>> {
        let rejected = |id| Rejected { id, text: Text::Malformed };
        let fields = TapeFields::of(source.tape, 0).ok_or(rejected(None))?;
        let (mut kind, mut id, mut data) = (None, None, None);
        for member in fields {
            match member.key {
                "type" => kind = Some(member),
                "id" => id = Some(member),
                "data" => data = Some(member),
                _ => {}
            }
        }
        let id = match id.map(|member| member.node) {
            None | Some(Node::Static(StaticNode::Null)) => None,
            Some(Node::String(id)) if id.len() <= MAX_REQUEST_ID_BYTES => Some(id),
            Some(_) => return Err(rejected(None)),
        };
        let Some(Node::String(kind)) = kind.map(|member| member.node) else { return Err(rejected(id)) };
        let data = match data {
            None | Some(TapeMember { node: Node::Static(StaticNode::Null), .. }) => RequestData::default_of(source),
            Some(member) => {
                let fields = TapeFields::of(source.tape, member.at).ok_or(rejected(id))?;
                RequestData { source, member: Some(member), fields }
            }
        };
        Ok(Self { kind, id, data })
    }

    pub(crate) fn into_request(self) -> Result<Request<'a>, Rejected<'a>> {
        let Self { kind, id, data } = self;
        let command = match kind {
            "auth" => data.auth(),
            "message" => data.message(),
            "heartbeat" => Ok(Command::Heartbeat),
            "users" => data.users(),
            "subscribe" => data.fields.subscribe_to().map(Command::Subscribe),
            "unsubscribe" => data.fields.channel().map(|channel| Command::Unsubscribe { channel }),
            "publish" => data.publish(),
            "history" => data.history(),
            "presence" => data.presence(),
            "refresh" => data.refresh(),
            _ => Err(Text::UnknownType),
        };
        command.map(|command| Request { id, command }).map_err(|text| Rejected { id, text })
    }
}

/// The `data` of an envelope.
struct RequestData<'t, 'a> {
    source: ParsedText<'t, 'a>,
    member: Option<TapeMember<'a>>,
    fields: TapeFields<'t, 'a>,
}

impl<'t, 'a> RequestData<'t, 'a> {
    fn default_of(source: ParsedText<'t, 'a>) -> Self {
        Self { source, member: None, fields: TapeFields::default() }
    }

    fn auth(self) -> Result<Command<'a>, Text> {
        Ok(Command::Auth {
            token: self.fields.optional_str("token")?.filter(|token| !token.is_empty()),
            ping: self.fields.optional_bool("ping")?.unwrap_or_default(),
            lobby: true,
            recover: self.fields.since("recover")?,
            channels: self.fields.objects("channels", MAX_AUTH_CHANNELS, TapeFields::subscribe_to_any)?,
        })
    }

    fn message(self) -> Result<Command<'a>, Text> {
        Ok(Command::Message {
            text: self.fields.optional_str("text")?,
            channel: self.fields.optional_channel("channel")?,
            idempotency_key: self.fields.idempotency_key()?,
        })
    }

    fn users(self) -> Result<Command<'a>, Text> {
        let Self { fields, .. } = self;
        Ok(Command::Users { cursor: fields.optional_str("cursor")?, limit: fields.optional_count("limit")? })
    }

    fn publish(self) -> Result<Command<'a>, Text> {
        let Self { source, member, fields } = self;
        Ok(Command::Publish {
            channel: fields.channel()?,
            data: member
                .zip(fields.find("data"))
                .and_then(|(outer, inner)| source.value_in(&outer, &inner))
                .ok_or(Text::Malformed)?,
            key: fields.optional_str_within("key", 0..=MAX_KEY_BYTES)?,
            idempotency_key: fields.idempotency_key()?,
            epoch: fields.optional_str_within("epoch", 0..=MAX_EPOCH_BYTES)?,
        })
    }

    fn history(self) -> Result<Command<'a>, Text> {
        Ok(Command::History {
            channel: self.fields.channel()?,
            since: self.fields.since("since")?,
            limit: self.fields.optional_count("limit")?,
            reverse: self.fields.optional_bool("reverse")?.unwrap_or_default(),
        })
    }

    fn presence(self) -> Result<Command<'a>, Text> {
        Ok(Command::Presence {
            channel: self.fields.channel()?,
            cursor: self.fields.optional_str("cursor")?,
            limit: self.fields.optional_count("limit")?,
        })
    }

    fn refresh(self) -> Result<Command<'a>, Text> {
        let token = self.fields.optional_str("token")?.filter(|token| !token.is_empty());
        let channel = self.fields.optional_channel("channel")?;
        Ok(Command::Refresh { token: token.ok_or(Text::TokenMissing)?, channel })
    }
}

impl<'a> TapeFields<'_, 'a> {
    fn channel(self) -> Result<&'a str, Text> {
        self.optional_channel("channel")?.ok_or(Text::Malformed)
    }

    fn idempotency_key(self) -> Result<Option<&'a str>, Text> {
        self.optional_str_within("idempotency_key", 1..=MAX_IDEMPOTENCY_KEY_BYTES)
    }

    fn subscribe_to(self) -> Result<SubscribeTo<'a>, Text> {
        let (channel, token) = (self.channel()?, self.optional_str("token")?);
        Ok(SubscribeTo { channel, token, recover: self.since("recover")? })
    }

    /// A channel of `auth`. A malformed name is refused by itself later, not together with the whole sign-in.
    fn subscribe_to_any(self) -> Result<SubscribeTo<'a>, Text> {
        let channel = self.optional_str_within("channel", 0..=MAX_CHANNEL_BYTES)?.ok_or(Text::Malformed)?;
        Ok(SubscribeTo { channel, token: self.optional_str("token")?, recover: self.since("recover")? })
    }

    fn since(self, name: &str) -> Result<Option<SinceRef<'a>>, Text> {
        let Some(since) = self.optional_object(name)? else { return Ok(None) };
        let epoch = since.optional_str_within("epoch", 0..=MAX_EPOCH_BYTES)?.ok_or(Text::Malformed)?;
        let offset = since.optional_u64("offset")?.ok_or(Text::Malformed)?;
        Ok(Some(SinceRef { epoch, offset }))
    }
}
