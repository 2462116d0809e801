//! Frames and messages: what travels between controller and agent, see
//! [`agent`](super) for the format.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::codec::Decoder;

use crate::error::{Error, Kind, Result, ResultExt, Snippet};
use crate::event::Event;

/// The version of the protocol. A change that an older peer does not understand
/// is a new number.
pub const PROTOCOL: u32 = 1;

/// The largest frame, without its length field.
pub const LARGEST_FRAME: usize = 1 << 20;
/// The largest message, put together from its parts.
pub const LARGEST_MESSAGE: usize = 16 << 20;
/// How much data one call may send in one direction before the other side has
/// taken it. Each chunk counts [`CHUNK_COST`] more than its length.
pub const WINDOW: usize = 4 << 20;
/// What a chunk costs beside its bytes, so that tiny chunks cannot pile up.
pub const CHUNK_COST: usize = 64;
/// How large chunks of data are made.
pub const CHUNK: usize = 128 << 10;
/// The largest text in an error that travels; longer ones are cut.
const LARGEST_TEXT: usize = 64 << 10;
/// How many causes and hints of an error travel.
const MOST_CAUSES: usize = 32;

const HEADER: usize = 4 + 1 + 4;
const KIND_MESSAGE: u8 = 0;
const KIND_PART: u8 = 1;
const KIND_DATA: u8 = 2;

/// A message. What belongs to a call has the call's number in its frame; for the
/// others that number is 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Message {
    /// The first message in either direction.
    Hello {
        /// [`PROTOCOL`] of the sender.
        protocol: u32,
        /// The sender's version, for messages to people.
        version: String,
    },
    /// Controller to agent: a call begins.
    Request {
        /// [`Call::NAME`](super::Call::NAME).
        name: String,
        /// The request.
        body: Value,
    },
    /// Agent to controller: a call has ended well.
    Reply {
        /// The reply.
        body: Value,
    },
    /// Agent to controller: a call has failed.
    Failed {
        /// Why.
        error: WireError,
    },
    /// Controller to agent: the reply is no longer wanted.
    Cancel,
    /// No more data of this call in this direction.
    End,
    /// The rest of this call's data cannot be had.
    Abort {
        /// Why.
        error: WireError,
    },
    /// This much more data may be sent.
    Credit {
        /// In bytes, including [`CHUNK_COST`].
        bytes: usize,
    },
    /// Agent to controller: something happened.
    Event {
        /// What.
        event: Event,
    },
    /// Are you there? Answered by `Pong`.
    Ping,
    /// Yes.
    Pong,
}

/// What a frame, or several parts put together, says.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A message of a call.
    Message(u32, Message),
    /// Data of a call.
    Data(u32, Bytes),
}

impl Frame {
    /// Appends the frame as bytes. Fails when a message is too large.
    pub fn encode(&self, buffer: &mut BytesMut) -> Result<()> {
        match self {
            Frame::Data(call, data) => {
                for chunk in data.chunks(CHUNK) {
                    put(buffer, KIND_DATA, *call, chunk);
                }
            }
            Frame::Message(call, message) => {
                let json = serde_json::to_vec(message)
                    .or_err(Kind::Failed, || "a message cannot be written as JSON")?;
                if json.len() > LARGEST_MESSAGE {
                    return Err(Error::new(
                        Kind::Failed,
                        format!("a message of {} bytes is too large to send", json.len()),
                    ));
                }
                let mut parts = json.chunks(LARGEST_FRAME / 2).peekable();
                while let Some(part) = parts.next() {
                    let kind = if parts.peek().is_some() {
                        KIND_PART
                    } else {
                        KIND_MESSAGE
                    };
                    put(buffer, kind, *call, part);
                }
            }
        }
        Ok(())
    }
}

fn put(buffer: &mut BytesMut, kind: u8, call: u32, payload: &[u8]) {
    buffer.reserve(HEADER + payload.len());
    // Never truncated: payloads are cut to less than a frame before.
    buffer.put_u32((payload.len() + HEADER - 4) as u32);
    buffer.put_u8(kind);
    buffer.put_u32(call);
    buffer.put_slice(payload);
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What came is not a frame.
    #[error(transparent)]
    Broken(Error),
}

/// Frames from bytes. Any bytes: what is not a frame is an error.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    parts: Vec<u8>,
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = DecodeError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        loop {
            let Some(length) = buffer.first_chunk::<4>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes(*length) as usize;
            if !(HEADER - 4..=LARGEST_FRAME).contains(&length) {
                return Err(DecodeError::Broken(broken(format!(
                    "a frame of {length} bytes"
                ))));
            }
            if buffer.len() < 4 + length {
                buffer.reserve(4 + length - buffer.len());
                return Ok(None);
            }
            buffer.advance(4);
            let mut payload = buffer.split_to(length);
            let (kind, call) = (payload.get_u8(), payload.get_u32());
            match self.accept(kind, call, payload.freeze()) {
                Ok(None) => {}
                Ok(frame) => return Ok(frame),
                Err(error) => return Err(DecodeError::Broken(error)),
            }
        }
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        match self.decode(buffer)? {
            Some(frame) => Ok(Some(frame)),
            None if buffer.is_empty() && self.parts.is_empty() => Ok(None),
            None => Err(DecodeError::Io(std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl FrameDecoder {
    fn accept(&mut self, kind: u8, call: u32, payload: Bytes) -> Result<Option<Frame>> {
        match kind {
            KIND_MESSAGE if self.parts.is_empty() => {
                Ok(Some(Frame::Message(call, parse(&payload)?)))
            }
            KIND_MESSAGE | KIND_PART => {
                if self.parts.len() + payload.len() > LARGEST_MESSAGE {
                    return Err(broken("a message of more than 16 MiB"));
                }
                if payload.is_empty() {
                    return Err(broken("an empty part of a message"));
                }
                self.parts.extend_from_slice(&payload);
                if kind == KIND_PART {
                    return Ok(None);
                }
                Ok(Some(Frame::Message(
                    call,
                    parse(&std::mem::take(&mut self.parts))?,
                )))
            }
            KIND_DATA if payload.is_empty() => Err(broken("an empty chunk of data")),
            KIND_DATA if self.parts.is_empty() => Ok(Some(Frame::Data(call, payload))),
            KIND_DATA => Err(broken("data in the middle of a message")),
            other => Err(broken(format!("a frame of kind {other}"))),
        }
    }
}

fn parse(json: &[u8]) -> Result<Message> {
    serde_json::from_slice(json)
        .map_err(|cause| broken("a message that cannot be understood").because(cause))
}

/// The error of a peer that does not keep to the protocol.
pub(super) fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Failed,
        format!("the other side breaks the agent's protocol: it sent {what}"),
    )
}

/// An [`Error`] on its way: nothing a person needs is lost, and nothing is
/// unbounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireError {
    kind: Kind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    path: String,
    text: String,
    start: usize,
    end: usize,
    label: String,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        WireError {
            kind: error.kind(),
            message: cut(error.message()),
            host: error.host().map(cut),
            causes: error
                .causes()
                .take(MOST_CAUSES)
                .map(|cause| cut(&cause.to_string()))
                .collect(),
            hints: error
                .hints()
                .iter()
                .take(MOST_CAUSES)
                .map(|hint| cut(hint))
                .collect(),
            // A text that was cut would no longer fit its span.
            place: error
                .snippet()
                .filter(|snippet| snippet.text.len() <= LARGEST_TEXT)
                .map(|snippet| Place {
                    path: cut(&snippet.path),
                    text: snippet.text.clone(),
                    start: snippet.span.start,
                    end: snippet.span.end,
                    label: cut(&snippet.label),
                }),
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        let mut error = Error::new(wire.kind, wire.message);
        if let Some(host) = wire.host {
            error = error.on_host(host);
        }
        for hint in wire.hints {
            error = error.hint(hint);
        }
        if let Some(Place {
            path,
            text,
            start,
            end,
            label,
        }) = wire.place
        {
            error = error.at(Snippet {
                path,
                text,
                span: start..end,
                label,
            });
        }
        let chain = wire
            .causes
            .into_iter()
            .rev()
            .fold(None, |next, text| Some(Arc::new(Cause { text, next })));
        match chain {
            Some(cause) => error.because(cause),
            None => error,
        }
    }
}

/// A cause that happened on the other side, of which the text is left.
#[derive(Debug)]
struct Cause {
    text: String,
    next: Option<Arc<Cause>>,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|next| next as _)
    }
}

/// The first part of a text, whole characters.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LARGEST_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, DecodeError> {
        let mut decoder = FrameDecoder::default();
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
        match decoder.decode_eof(&mut buffer)? {
            None => Ok(frames),
            Some(_) => unreachable!("decode has taken all"),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let mut bytes = BytesMut::new();
        Frame::Message(
            0,
            Message::Hello {
                protocol: 1,
                version: "0.1.0".into(),
            },
        )
        .encode(&mut bytes)
        .unwrap();
        Frame::Data(7, Bytes::from_static(b"abc"))
            .encode(&mut bytes)
            .unwrap();
        let mut expected = b"\0\0\0\x38\0\0\0\0\0".to_vec();
        expected.extend(br#"{"type":"hello","protocol":1,"version":"0.1.0"}"#);
        expected.extend(b"\0\0\0\x08\x02\0\0\0\x07abc");
        expected[3] = (5 + 47) as u8;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_large_message_travels_in_parts() {
        let body = Value::String("x".repeat(3 << 20));
        let mut bytes = BytesMut::new();
        Frame::Message(3, Message::Reply { body: body.clone() })
            .encode(&mut bytes)
            .unwrap();
        let frames = decode(&bytes).unwrap();
        assert!(
            matches!(&frames[..], [Frame::Message(3, Message::Reply { body: got })] if *got == body)
        );
        let too_large = Value::String("x".repeat(LARGEST_MESSAGE));
        assert!(
            Frame::Message(3, Message::Reply { body: too_large })
                .encode(&mut bytes)
                .is_err()
        );
    }

    #[test]
    fn what_is_not_a_frame_is_an_error() {
        for bytes in [
            &b"\xff\xff\xff\xff\0\0\0\0\0"[..],                    // too large
            b"\0\0\0\x04\0\0\0\0",                                 // too small
            b"\0\0\0\x05\x09\0\0\0\0",                             // unknown kind
            b"\0\0\0\x05\x02\0\0\0\x01",                           // empty data
            b"\0\0\0\x05\x01\0\0\0\x01",                           // empty part
            b"\0\0\0\x07\0\0\0\0\x01{}",                           // no message
            b"\0\0\0\x06\x01\0\0\0\x01{\0\0\0\x06\x02\0\0\0\x01a", // data within a message
            b"\0\0\0\x06\x01\0\0\0\x01{",                          // ends within a message
            b"\0\0\0\x08\x02\0\0\0\x01a",                          // ends within a frame
            b"SSH-2.0-OpenSSH_9.2",
        ] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn parts_cannot_fill_the_memory() {
        let mut decoder = FrameDecoder::default();
        let part = vec![b'['; LARGEST_FRAME - 5];
        let refused = (0..20).find_map(|_| {
            let mut buffer = BytesMut::new();
            put(&mut buffer, KIND_PART, 1, &part);
            decoder.decode(&mut buffer).err()
        });
        assert!(refused.is_some());
        assert!(decoder.parts.len() <= LARGEST_MESSAGE);
    }

    #[test]
    fn deep_json_is_an_error() {
        let mut bytes = BytesMut::new();
        let json = format!(r#"{{"type":"reply","body":{}"#, "[".repeat(100_000));
        put(&mut bytes, KIND_MESSAGE, 1, json.as_bytes());
        assert!(decode(&bytes).is_err());
    }

    #[test]
    fn an_error_arrives_whole() {
        let snippet = Snippet {
            path: "etc/x.j2".into(),
            text: "a {{ b".into(),
            span: 2..6,
            label: "here".into(),
        };
        let error = Error::new(Kind::Integrity, "top")
            .because(Error::new(Kind::System, "middle").because(std::io::Error::other("bottom")))
            .hint("one")
            .hint("two")
            .on_host("n1")
            .at(snippet.clone());
        let json = serde_json::to_string(&WireError::from(&error)).unwrap();
        let back = Error::from(serde_json::from_str::<WireError>(&json).unwrap());
        assert_eq!(
            (back.kind(), back.message(), back.host()),
            (Kind::Integrity, "top", Some("n1"))
        );
        assert_eq!(back.hints(), ["one", "two"]);
        assert_eq!(back.snippet(), Some(&snippet));
        let causes: Vec<_> = back.causes().map(ToString::to_string).collect();
        assert_eq!(causes, ["middle", "bottom"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = decode(&bytes);
        }
    }
}
