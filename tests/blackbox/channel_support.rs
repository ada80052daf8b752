//! What the tests of channels share: a server whose channels take publications from their members, and a client's
//! requests on them.

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::support::{Client, Event, Options, SECRET, Server};

/// Members of a channel without a namespace may publish.
pub fn members_publish() -> Options {
    Options::new().env("URINGCAST_CHANNELS__PUBLISH", "members")
}

/// A channel token as the command line makes it.
pub fn channel_token(user: &str, channel: &str) -> String {
    let command = Options::bare(&["token", "--user", user, "--for-channel", channel]);
    let finished = command.env("URINGCAST_AUTH__HS256_SECRET", SECRET).run();
    assert!(finished.status.success(), "{}", finished.all());
    finished.stdout.trim().to_owned()
}

/// The number in a message's `data.offset`.
pub fn offset(value: &Value) -> u64 {
    value["data"]["offset"].as_u64().unwrap_or_else(|| panic!("no offset: {value}"))
}

/// The offsets of the elements of `publications`.
pub fn listed(value: &Value) -> Vec<u64> {
    let list = value["data"]["publications"].as_array().unwrap_or_else(|| panic!("no publications: {value}"));
    list.iter().map(|element| element["offset"].as_u64().expect("an offset")).collect()
}

/// A position to recover from.
pub fn since(epoch: &Value, offset: u64) -> Value {
    json!({"epoch": epoch, "offset": offset})
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A request, and the answer that bears its id; what comes before that is passed over.
    pub async fn ask(&mut self, kind: &str, data: Value) -> Value {
        self.send(&json!({"type": kind, "id": "ask", "data": data})).await;
        loop {
            let value = self.next().await;
            if value["id"] == "ask" {
                return value;
            }
        }
    }

    /// The same, and the answer has to be the next thing that comes.
    pub async fn ask_next(&mut self, kind: &str, data: Value) -> Value {
        self.send(&json!({"type": kind, "id": "ask", "data": data})).await;
        let value = self.next().await;
        assert_eq!(value["id"], "ask", "{value}");
        value
    }

    /// A request that has to be refused with this code.
    pub async fn ask_refused(&mut self, kind: &str, data: Value, code: u16) -> Value {
        let value = self.ask(kind, data).await;
        assert!(value["type"] == "error" && value["code"] == code, "{kind}: {value} is not error {code}");
        value
    }

    /// Subscribes; returns `subscribed`.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        let value = self.ask("subscribe", json!({"channel": channel})).await;
        assert_eq!(value["type"], "subscribed", "{value}");
        value
    }

    /// Subscribes from a position on; returns `subscribed`.
    pub async fn subscribe_from(&mut self, channel: &str, recover: Value) -> Value {
        let value = self.ask("subscribe", json!({"channel": channel, "recover": recover})).await;
        assert_eq!(value["type"], "subscribed", "{value}");
        value
    }

    /// Publishes and returns the acknowledgement.
    pub async fn publish(&mut self, channel: &str, data: Value) -> Value {
        let value = self.ask("publish", json!({"channel": channel, "data": data})).await;
        assert_eq!(value["type"], "ack", "{value}");
        value
    }

    /// The next message as it came, byte for byte.
    pub async fn next_text(&mut self) -> String {
        match self.event().await {
            Event::Text(text) => text,
            other => panic!("a message was due, not {other:?}"),
        }
    }

    /// The next `count` messages of this type; others are passed over.
    pub async fn collect(&mut self, kind: &str, count: usize) -> Vec<Value> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.find(kind).await);
        }
        all
    }
}

/// A user who is signed in and subscribed.
pub async fn member(server: &Server, user: &str, channel: &str) -> Client {
    let (mut client, _) = Client::join(server, user, user).await;
    client.subscribe(channel).await;
    client
}
