use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::calls::TakeLock;
use crate::agent::calls::blobs::{BlobsMissing, GetBlobs, PutBlobs};
use crate::agent::client::Client;
use crate::agent::handlers;
use crate::event::{Event, Sink};
use crate::oci::{Blob, Store};

macro_rules! call {
    ($name:ident, $text:literal, $effect:ident) => {
        #[derive(Serialize, Deserialize)]
        struct $name {}
        impl Call for $name {
            type Reply = u64;
            const NAME: &'static str = $text;
            const EFFECT: Effect = Effect::$effect;
        }
    };
}

call!(Fail, "fail", Reads);
call!(Panic, "panic", Reads);
call!(Hang, "hang", Reads);
call!(Count, "count", Reads);
call!(Pour, "pour", Reads);
call!(Change, "change", Changes);
call!(Unknown, "unknown", Reads);

/// Lets a test hold a change in its middle.
#[derive(Default)]
struct Gate {
    begun: Notify,
    go_on: Notify,
}

struct Agent {
    root: tempfile::TempDir,
    gate: Arc<Gate>,
    stop: CancellationToken,
}

impl Agent {
    fn new() -> Agent {
        Agent {
            root: tempfile::tempdir().unwrap(),
            gate: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.root.path().join("chasi")
    }

    /// Starts it; the other end of its stream.
    fn serve(&self) -> (DuplexStream, JoinHandle<Result<()>>) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (reader, writer) = tokio::io::split(theirs);
        let (gate, path) = (self.gate.clone(), self.path());
        let router = handlers::router()
            .on(async |_: Scope, _: Fail| -> Result<u64> {
                Err(Error::new(Kind::Integrity, "no")
                    .because("deep")
                    .hint("do it"))
            })
            .on(async |_: Scope, _: Panic| -> Result<u64> { panic!("at the disco") })
            .on(async |_: Scope, _: Hang| std::future::pending().await)
            .on(async |mut scope: Scope, _: Count| {
                let mut count = 0;
                while let Some(chunk) = scope.input.next().await? {
                    count += chunk.len() as u64;
                }
                Ok(count)
            })
            .on(async |mut scope: Scope, _: Pour| {
                scope.context.note("pouring");
                for _ in 0..100 {
                    scope.output.send(Bytes::from(vec![7; 100_000])).await?;
                }
                scope.output.finish().await?;
                Ok(10_000_000)
            })
            .on(move |scope: Scope, _: Change| {
                let (gate, path) = (gate.clone(), path.clone());
                async move {
                    gate.begun.notify_one();
                    gate.go_on.notified().await;
                    assert!(!scope.context.cancel.is_cancelled());
                    std::fs::write(path.join("changed"), "yes").unwrap();
                    Ok(1)
                }
            });
        let server = Server::new(self.path(), router).serve(reader, writer, self.stop.clone());
        (ours, tokio::spawn(server))
    }

    async fn connect(&self) -> (Client, JoinHandle<Result<()>>) {
        self.connect_with(&Context::silent()).await
    }

    async fn connect_with(&self, context: &Context) -> (Client, JoinHandle<Result<()>>) {
        let (stream, served) = self.serve();
        (
            Client::greet(context, "n1", stream, async { None })
                .await
                .unwrap(),
            served,
        )
    }
}

fn lock() -> TakeLock {
    TakeLock {
        run: "r1".into(),
        who: "me@here".into(),
        patience: 0,
    }
}

#[tokio::test]
async fn errors_arrive_whole_with_the_hosts_name() {
    let (client, _) = Agent::new().connect().await;
    let error = client.call(Fail {}).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message(), error.host()),
        (Kind::Integrity, "no", Some("n1"))
    );
    assert_eq!(error.causes().next().unwrap().to_string(), "deep");
    assert_eq!(error.hints(), ["do it"]);
    let error = client.call(Unknown {}).await.unwrap_err();
    assert!(error.message().contains("`unknown`"), "{error}");
}

#[tokio::test]
async fn a_panic_is_an_error_of_one_call() {
    let (client, _) = Agent::new().connect().await;
    let error = client.call(Panic {}).await.unwrap_err();
    assert_eq!(error.causes().next().unwrap().to_string(), "at the disco");
    assert!(client.is_alive());
}

#[tokio::test]
async fn data_flows_both_ways_beyond_the_window() {
    struct Notes(std::sync::Mutex<Vec<String>>);
    impl Sink for Notes {
        fn event(&self, event: Event) {
            self.0
                .lock()
                .unwrap()
                .push(serde_json::to_string(&event).unwrap());
        }
    }
    let agent = Agent::new();
    let notes = Arc::new(Notes(Default::default()));
    let (client, _) = agent.connect_with(&Context::new(notes.clone())).await;
    let up = client.upload(Count {}, |mut sender| async move {
        for _ in 0..100 {
            sender.send(Bytes::from(vec![1; 100_001])).await?;
        }
        sender.finish().await
    });
    let down = client.download(Pour {}, |mut receiver| async move {
        let mut count = 0;
        while let Some(chunk) = receiver.next().await? {
            count += chunk.len() as u64;
        }
        Ok(count)
    });
    let (up, down) = tokio::join!(up, down);
    assert_eq!(up.unwrap(), 10_000_100);
    assert_eq!(down.unwrap(), (10_000_000, 10_000_000));
    let expected = r#"{"event":"note","host":"n1","text":"pouring"}"#;
    assert_eq!(*notes.0.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn data_that_breaks_off_fails_the_call_with_the_senders_reason() {
    let (client, _) = Agent::new().connect().await;
    let error = client
        .upload(Count {}, |mut sender| async move {
            sender.send(Bytes::from_static(b"x")).await?;
            let error = Error::new(Kind::NotFound, "the disk is gone");
            sender.abort(&error).await?;
            Err(error)
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (Kind::NotFound, "the disk is gone")
    );
    assert!(client.is_alive());
}

#[tokio::test]
async fn a_change_needs_the_lock() {
    let agent = Agent::new();
    let (client, _) = agent.connect().await;
    let error = client.call(Change {}).await.unwrap_err();
    assert!(error.message().contains("needs the host's lock"), "{error}");
    client.call(lock()).await.unwrap();
    let (other, _) = agent.connect().await;
    assert_eq!(other.call(lock()).await.unwrap_err().kind(), Kind::Locked);
}

#[tokio::test]
async fn a_change_ends_well_after_the_connection_has_ended() {
    let agent = Agent::new();
    let (client, served) = agent.connect().await;
    client.call(lock()).await.unwrap();
    let (first, second, hanging) = (client.clone(), client.clone(), client.clone());
    let first = tokio::spawn(async move { first.call(Change {}).await });
    agent.gate.begun.notified().await;
    let second = tokio::spawn(async move { second.call(Change {}).await });
    let hanging = tokio::spawn(async move { hanging.call(Hang {}).await });
    for call in [&first, &second, &hanging] {
        call.abort();
    }
    drop((client, first.await, second.await, hanging.await));
    // The agent sees the end, and still holds the lock for the change in hand.
    let (other, _) = agent.connect().await;
    assert_eq!(other.call(lock()).await.unwrap_err().kind(), Kind::Locked);
    assert!(!agent.path().join("changed").exists());
    agent.gate.go_on.notify_one();
    served.await.unwrap().unwrap();
    assert!(agent.path().join("changed").exists());
    // The second one had not begun, and never does.
    other
        .call(TakeLock {
            patience: 60,
            ..lock()
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn being_told_to_stop_is_like_the_end_of_the_connection() {
    let agent = Agent::new();
    let (client, served) = agent.connect().await;
    client.call(lock()).await.unwrap();
    let calling = client.clone();
    let change = tokio::spawn(async move { calling.call(Change {}).await });
    agent.gate.begun.notified().await;
    agent.stop.cancel();
    agent.gate.go_on.notify_one();
    served.await.unwrap().unwrap();
    assert_eq!(change.await.unwrap().unwrap(), 1);
    assert_eq!(client.ended().await.kind(), Kind::Unreachable);
    let error = client.call(Count {}).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.host()),
        (Kind::Unreachable, Some("n1"))
    );
}

#[tokio::test]
async fn a_cancelled_context_ends_calls_at_once() {
    let agent = Agent::new();
    let context = Context::silent();
    let (client, _) = agent.connect_with(&context).await;
    let call = client.call(Hang {});
    context.cancel.cancel();
    assert_eq!(call.await.unwrap_err().kind(), Kind::Interrupted);
}

#[tokio::test]
async fn an_unmanaged_host_is_left_as_it_was() {
    let agent = Agent::new();
    let (client, served) = agent.connect().await;
    client.call(lock()).await.unwrap();
    std::fs::write(agent.path().join("agent/chasi-0123"), "").unwrap();
    client.bye().await.unwrap();
    served.await.unwrap().unwrap();
    assert!(!agent.path().exists());
}

#[tokio::test]
async fn the_last_of_several_agents_cleans_up() {
    let agent = Agent::new();
    let (first, first_served) = agent.connect().await;
    let (second, second_served) = agent.connect().await;
    first.bye().await.unwrap();
    first_served.await.unwrap().unwrap();
    assert!(agent.path().join("agent").exists());
    drop(second);
    second_served.await.unwrap().unwrap();
    assert!(!agent.path().exists());
}

#[tokio::test]
async fn a_managed_host_keeps_the_agent_of_its_units_only() {
    let agent = Agent::new();
    let (client, served) = agent.connect().await;
    let path = agent.path();
    for (name, content) in [
        ("agent/chasi-old", ""),
        ("agent/chasi-units", ""),
        ("agent/.chasi-cut", ""),
        ("agent/other", ""),
    ] {
        std::fs::write(path.join(name), content).unwrap();
    }
    std::fs::create_dir_all(path.join("generations/1")).unwrap();
    std::fs::create_dir(path.join("bin")).unwrap();
    std::os::unix::fs::symlink("../agent/chasi-units", path.join("bin/chasi")).unwrap();
    client.bye().await.unwrap();
    served.await.unwrap().unwrap();
    let mut left: Vec<_> = std::fs::read_dir(path.join("agent"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["chasi-units", "other"]);
}

/// Sends bytes to an agent instead of what a controller would; its last words.
async fn heckle(frames: &[Frame], raw: &[u8]) -> (Result<()>, String) {
    let agent = Agent::new();
    let (mut stream, served) = agent.serve();
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes.extend_from_slice(raw);
    // The agent may hang up before it has heard all.
    let _ = stream.write_all(&bytes).await;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    (
        served.await.unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn a_hostile_controller_gets_an_error_and_the_end() {
    let hello = || {
        Frame::Message(
            0,
            Message::Hello {
                protocol: PROTOCOL,
                version: String::new(),
            },
        )
    };
    let hang = |call| {
        Frame::Message(
            call,
            Message::Request {
                name: Hang::NAME.into(),
                body: serde_json::json!({}),
            },
        )
    };
    let flood: Vec<_> = std::iter::once(hello()).chain((0..100).map(hang)).collect();
    let chunk = Bytes::from(vec![0; 100_000]);
    let beyond_credit: Vec<_> = [hello(), hang(1)]
        .into_iter()
        .chain((0..50).map(|_| Frame::Data(1, chunk.clone())))
        .collect();
    let cases: Vec<(Vec<Frame>, &[u8], &str)> = vec![
        (vec![hang(1)], b"", "no greeting"),
        (
            vec![Frame::Message(
                0,
                Message::Hello {
                    protocol: 99,
                    version: "9".into(),
                },
            )],
            b"",
            "no greeting",
        ),
        (vec![hello(), hello()], b"", "only an agent sends"),
        (vec![hello()], b"\xff\xff\xff\xff", "a frame of"),
        (
            vec![
                hello(),
                Frame::Message(1, Message::Reply { body: Value::Null }),
            ],
            b"",
            "only an agent sends",
        ),
        (vec![hello(), hang(1), hang(1)], b"", "one number"),
        (
            vec![
                hello(),
                hang(1),
                Frame::Message(1, Message::Credit { bytes: usize::MAX }),
            ],
            b"",
            "credit",
        ),
        (flood, b"", "calls at once"),
        (beyond_credit, b"", "more data than"),
    ];
    for (frames, raw, expected) in cases {
        let (result, said) = tokio::time::timeout(Duration::from_secs(60), heckle(&frames, raw))
            .await
            .unwrap();
        let error = result.unwrap_err();
        assert!(
            error.message().contains(expected),
            "{error}, expected {expected}"
        );
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn a_hostile_agent_is_an_error() {
    let hello = || {
        Frame::Message(
            0,
            Message::Hello {
                protocol: PROTOCOL,
                version: String::new(),
            },
        )
    };
    let cases: Vec<(Vec<Frame>, &[u8], &str)> = vec![
        (vec![], b"Welcome to Ubuntu!\n", "a frame of"),
        (vec![Frame::Message(0, Message::Ping)], b"", "no greeting"),
        (
            vec![Frame::Message(
                0,
                Message::Hello {
                    protocol: 2,
                    version: "9.9".into(),
                },
            )],
            b"",
            "speaks protocol 2",
        ),
        (vec![], b"", "did not answer"),
        (
            vec![hello(), Frame::Message(1, Message::Cancel)],
            b"",
            "only a controller sends",
        ),
        (
            vec![
                hello(),
                Frame::Message(
                    1,
                    Message::Reply {
                        body: "text".into(),
                    },
                ),
            ],
            b"",
            "cannot be understood",
        ),
        (
            vec![hello()],
            b"\0\0\0\x05\x0b\0\0\0\0",
            "a frame of kind 11",
        ),
    ];
    for (frames, raw, expected) in cases {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut bytes = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut bytes).unwrap();
        }
        bytes.extend_from_slice(raw);
        let context = Context::silent();
        let (client, ()) =
            tokio::join!(Client::greet(&context, "n1", ours, async { None }), async {
                theirs.write_all(&bytes).await.unwrap();
                if frames.is_empty() {
                    theirs.shutdown().await.unwrap()
                }
            });
        let error = match client {
            Ok(client) => client.call(Fail {}).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(
            error.message().contains(expected),
            "{error}, expected {expected}"
        );
        assert_eq!(error.host(), Some("n1"));
    }
}

/// Puts blobs of which the sender gives only `data`.
async fn put(agent: &Agent, blobs: &[Blob], data: &'static [u8]) -> (Result<()>, Store) {
    let (client, _) = agent.connect().await;
    client
        .call(TakeLock {
            patience: 60,
            ..lock()
        })
        .await
        .unwrap();
    let request = PutBlobs {
        blobs: blobs.to_vec(),
    };
    let result = client
        .upload(request, |mut sender| async move {
            sender.send(Bytes::from_static(data)).await?;
            sender.finish().await
        })
        .await;
    client.bye().await.unwrap();
    (result, Store::open(&agent.path().join("store")).unwrap())
}

#[tokio::test]
async fn blobs_that_are_not_what_they_claim_are_refused_and_whole_ones_kept() {
    let one = Blob::of("text/plain", b"one");
    let two = Blob::of("text/plain", b"two!");
    let cases: [(&[u8], bool); 5] = [
        (b"onetwo!", true),
        (b"onetwo?", false),
        (b"onetwo", false),
        (b"one", false),
        (b"onetwo!and more", true),
    ];
    for (number, (data, second)) in cases.into_iter().enumerate() {
        let agent = Agent::new();
        let (result, store) = put(&agent, &[one.clone(), two.clone()], data).await;
        assert!(store.contains(&one));
        assert_eq!(store.contains(&two), second);
        match result {
            Ok(()) => assert_eq!(number, 0),
            Err(error) => assert_eq!(error.kind(), Kind::Integrity, "{error:?}"),
        }
        let incoming = std::fs::read_dir(store.root().join(".chasi/incoming")).unwrap();
        assert_eq!(incoming.count(), 0);
    }
}

#[tokio::test]
async fn asking_for_blobs_makes_no_store() {
    let agent = Agent::new();
    let (client, _) = agent.connect().await;
    let blobs = vec![Blob::of("text/plain", b"one")];
    assert_eq!(
        client
            .call(BlobsMissing {
                blobs: blobs.clone()
            })
            .await
            .unwrap(),
        blobs
    );
    assert!(!agent.path().join("store").exists());
    let error = client
        .call(GetBlobs {
            blobs: blobs.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}
