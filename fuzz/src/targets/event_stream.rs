//! The request for an event stream: its query, its headers and the id that holds positions.
//! Input: three lines: the query, the Authorization header, the Last-Event-ID header. An empty line is no header.

use uringcast::dialect::native::event_stream::{
    EventId, MAX_STREAM_CHANNELS, StreamRequest, StreamRequestError, closed_id, write_positions,
};

use crate::dice::Dice;

/// What is taken makes sense, and an id has one spelling: what is read of it is written as it was.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let query = lines.next().unwrap_or_default();
    let mut header = || lines.next().filter(|line| !line.is_empty());
    let (authorization, id) = (header(), header());
    if let Some(id) = id {
        match EventId::parse(id) {
            Ok(EventId::Positions(positions)) => {
                let mut written = String::new();
                write_positions(&positions, &mut written);
                assert_eq!(written, id);
                assert!((1..=MAX_STREAM_CHANNELS).contains(&positions.len()));
            }
            Ok(EventId::Closed(code)) => assert_eq!(closed_id(code), id),
            Err(_) => {}
        }
    }
    match StreamRequest::parse(query, authorization, id) {
        Ok(request) => {
            assert!(!request.token.is_empty());
            assert!((1..=MAX_STREAM_CHANNELS).contains(&request.channels.len()));
            for (index, (channel, _)) in request.channels.iter().enumerate() {
                assert!(!channel.is_empty() && channel.len() <= 200 && channel.is_ascii());
                assert!(
                    request.channels[..index].iter().all(|(other, _)| other != channel),
                    "{channel} is there twice"
                );
            }
            let positions: Vec<_> = request.channels.into_iter().map(|(_, position)| position).collect();
            if let Some(id) = id {
                assert_eq!(EventId::parse(id).ok(), Some(EventId::Positions(positions)));
            }
        }
        Err(StreamRequestError::Over) => {
            let is_closed = |id: &str| matches!(EventId::parse(id), Ok(EventId::Closed(_)));
            assert!(id.is_some_and(is_closed) || (id.is_none() && query.contains("last_event_id=")));
        }
        Err(StreamRequestError::NoToken | StreamRequestError::Malformed(_)) => {}
    }
}

/// Some channels, a token somewhere, and an id that is mostly of as many channels.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let count = dice.pick(&[0, 1, 1, 2, 3, 32, 33]);
    let names = ["a", "news", "chat%3Aroom", "chat:room", "b%20c", "", "a+b", "%E5%BC%A0", "%zz"];
    let mut query: Vec<String> = (0..count)
        .map(|n| if dice.once_in(6) { format!("channel={}", dice.pick(&names)) } else { format!("channel=c{n}") })
        .collect();
    if dice.once_in(2) {
        query.push("token=t.o.k".to_owned());
    }
    if dice.once_in(4) {
        query.push(format!("last_event_id={}", dice.pick(&["!4401", "0123456789abcdef.7", "-", ""])));
    }
    let authorization = dice.pick(&["", "Bearer t", "bearer  t ", "Basic dDp0", "Bearer", "Bearer "]);
    let spellings = ["0123456789abcdef.0", "e.18446744073709551615", "-", "e.18446744073709551616", "e.01", "e", ".1"];
    let positions: Vec<&str> =
        (0..count).map(|_| if dice.once_in(12) { dice.pick(&spellings) } else { dice.pick(&spellings[..3]) }).collect();
    let id = if dice.once_in(8) {
        dice.pick(&["", "!4401", "!04401", "!", "_", "é.1"]).to_owned()
    } else {
        positions.join("_")
    };
    format!("{}\n{authorization}\n{id}", query.join("&")).into_bytes()
}
