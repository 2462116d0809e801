//! Faults on demand: an SSH server in this process, which can be cut off, fall
//! silent, refuse and ask.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Response};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::error::{Error, Kind};
use crate::event::Context;

const LONG: Duration = Duration::from_secs(60);

/// How the server lets people in.
#[derive(Clone)]
enum Door {
    Password(&'static str),
    /// One question after the other, each with the answer and whether it is shown.
    Questions(&'static [(&'static str, &'static str, bool)]),
}

#[derive(Clone)]
struct Played {
    door: Door,
    /// Cuts all connections.
    cut: CancellationToken,
    asked: usize,
}

impl server::Handler for Played {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, russh::Error> {
        match self.door {
            Door::Password(right) if right == password => Ok(Auth::Accept),
            _ => Ok(Auth::reject()),
        }
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Door::Questions(questions) = self.door else {
            return Ok(Auth::reject());
        };
        if let Some(mut response) = response {
            let answer = response.next().unwrap_or_default();
            if answer != questions[self.asked].1.as_bytes() {
                return Ok(Auth::reject());
            }
            self.asked += 1;
        }
        let Some((question, _, shown)) = questions.get(self.asked) else {
            return Ok(Auth::Accept);
        };
        Ok(Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(""),
            prompts: Cow::Owned(vec![(Cow::Borrowed(*question), *shown)]),
        })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        match command {
            b"refuse" => session.channel_failure(channel)?,
            b"silence" => {}
            b"half" => {
                session.channel_success(channel)?;
                session.data(channel, vec![7; 1000])?;
            }
            b"cut" => self.cut.cancel(),
            _ => {
                session.channel_success(channel)?;
                session.data(channel, command.to_vec())?;
                session.exit_status_request(channel, 0)?;
                session.close(channel)?;
            }
        }
        Ok(())
    }
}

struct Server {
    port: u16,
    fingerprint: String,
    cut: CancellationToken,
}

impl Server {
    async fn start(door: Door) -> Server {
        let key =
            PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let method = match door {
            Door::Password(_) => MethodKind::Password,
            Door::Questions(_) => MethodKind::KeyboardInteractive,
        };
        let config = Arc::new(server::Config {
            keys: vec![key],
            methods: MethodSet::from(&[method][..]),
            auth_rejection_time: Duration::ZERO,
            ..server::Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = CancellationToken::new();
        let played = Played {
            door,
            cut: cut.clone(),
            asked: 0,
        };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (ours, mut theirs) = tokio::io::duplex(1 << 16);
                let (config, played) = (config.clone(), played.clone());
                tokio::spawn(async move {
                    let cut = played.cut.clone();
                    let serve = async {
                        let session = server::run_stream(config, ours, played).await.unwrap();
                        let _ = session.await;
                    };
                    let pass =
                        async { _ = tokio::io::copy_bidirectional(&mut stream, &mut theirs).await };
                    cut.run_until_cancelled(async { tokio::join!(serve, pass) })
                        .await;
                });
            }
        });
        Server {
            port,
            fingerprint,
            cut,
        }
    }

    fn target(&self, credential: Credential) -> Target {
        Target {
            name: "n1".into(),
            address: "127.0.0.1".into(),
            port: self.port,
            user: "op".into(),
            credentials: vec![credential],
            jump: None,
            host_key: HostKeyPolicy::Fingerprint(self.fingerprint.clone()),
            sudo: Sudo::Never,
        }
    }

    async fn connect(&self, password: &str) -> Result<Session, Error> {
        let target = self.target(Credential::Password(Secret::new(password)));
        Session::connect(&Context::silent(), &target).await
    }
}

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_does_not() {
    let server = Server::start(Door::Password("open sesame")).await;
    let session = server.connect("open sesame").await.unwrap();
    let output = session
        .run(&Context::silent(), "hello", b"", LONG)
        .await
        .unwrap();
    assert_eq!(
        (output.stdout, output.exit),
        (b"hello".to_vec(), Exit::Code(0))
    );
    let error = server.connect("open barley").await.err().unwrap();
    assert_eq!((error.kind(), error.host()), (Kind::Check, Some("n1")));
    assert!(!format!("{error:?}").contains("barley"));
    assert_eq!(
        error.causes().next().unwrap().to_string(),
        "password: refused"
    );
}

#[tokio::test]
async fn a_password_is_given_when_it_is_asked_for_as_a_question() {
    let server = Server::start(Door::Questions(&[("Password: ", "secret", false)])).await;
    server.connect("secret").await.unwrap();
    server.connect("wrong").await.err().unwrap();
}

#[tokio::test]
async fn a_password_is_not_given_to_other_questions() {
    let cases: [(Door, &str); 2] = [
        (
            Door::Questions(&[("Your mother's name: ", "secret", true)]),
            "more than a password",
        ),
        (
            Door::Questions(&[("Password: ", "secret", false); 9]),
            "does not stop asking",
        ),
    ];
    for (door, expected) in cases {
        let error = Server::start(door)
            .await
            .connect("secret")
            .await
            .err()
            .unwrap();
        let tried = error.causes().next().unwrap().to_string();
        assert!(tried.contains(expected), "{tried}");
    }
}

#[tokio::test]
async fn a_key_where_only_passwords_are_taken_is_an_error_that_says_so() {
    let server = Server::start(Door::Password("x")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
    std::fs::write(
        &path,
        key.to_openssh(russh::keys::ssh_key::LineEnding::LF)
            .unwrap(),
    )
    .unwrap();
    let target = server.target(Credential::KeyFile {
        path,
        passphrase: None,
    });
    let error = Session::connect(&Context::silent(), &target)
        .await
        .err()
        .unwrap();
    assert!(
        error.hints()[0].contains("the server takes: password"),
        "{:?}",
        error.hints()
    );
}

#[tokio::test]
async fn a_connection_that_is_cut_in_mid_stream_is_noticed() {
    let server = Server::start(Door::Password("x")).await;
    let ctx = Context::silent();
    let session = server.connect("x").await.unwrap();
    let mut process = session.open(&ctx, "half").await.unwrap();
    let mut half = vec![0; 1000];
    process.read_exact(&mut half).await.unwrap();
    server.cut.cancel();
    let mut rest = Vec::new();
    let _ = process.read_to_end(&mut rest).await;
    assert_eq!((rest.len(), process.exit().await), (0, Exit::Lost));
    // Writing ends as well, instead of waiting for credit that never comes.
    process.write_all(&vec![0; 10 << 20]).await.unwrap_err();
    assert!(session.is_closed());
    let error = session.open(&ctx, "hello").await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unreachable);
}

#[tokio::test]
async fn a_connection_that_is_cut_while_a_command_begins_is_an_error() {
    let server = Server::start(Door::Password("x")).await;
    let session = server.connect("x").await.unwrap();
    let error = session.open(&Context::silent(), "cut").await.err().unwrap();
    assert_eq!(
        (error.kind(), error.host()),
        (Kind::Unreachable, Some("n1"))
    );
}

#[tokio::test]
async fn a_server_that_refuses_or_ignores_a_command() {
    let server = Server::start(Door::Password("x")).await;
    let session = server.connect("x").await.unwrap();
    let ctx = Context::silent();
    let error = session.open(&ctx, "refuse").await.err().unwrap();
    assert!(error.message().contains("cannot run a command"), "{error}");
    let error = session
        .run(&ctx, "silence", b"", Duration::from_millis(10))
        .await
        .err()
        .unwrap();
    assert!(error.message().contains("took longer"), "{error}");
    // The connection is none the worse for it.
    session.run(&ctx, "hello", b"", LONG).await.unwrap();
}

#[tokio::test]
async fn what_is_no_ssh_server_is_said_clearly() {
    for banner in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"SSH-2.0-x\r\n\0\0\0\0\0\0",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(banner).await;
            let _ = stream.shutdown().await;
        });
        let fingerprint = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU".to_owned();
        let server = Server {
            port,
            fingerprint,
            cut: CancellationToken::new(),
        };
        let error = server.connect("x").await.err().unwrap();
        assert_eq!(
            (error.kind(), error.host()),
            (Kind::Unreachable, Some("n1"))
        );
        assert!(error.message().contains("does not speak SSH"), "{error}");
    }
}

#[tokio::test]
async fn a_connection_can_be_interrupted_while_it_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fingerprint = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU".to_owned();
    let target = Server {
        port,
        fingerprint,
        cut: CancellationToken::new(),
    }
    .target(Credential::Password(Secret::new("x")));
    let ctx = Context::silent();
    let (error, _) = tokio::join!(Session::connect(&ctx, &target), async {
        // The connection is there, and nobody says a word.
        let accepted = listener.accept().await.unwrap();
        ctx.cancel.cancel();
        accepted
    });
    assert_eq!(error.err().unwrap().kind(), Kind::Interrupted);
}

#[test]
fn quoting_survives_a_shell() {
    for text in ["plain", "two words", "it's", "$HOME `id` \\ \"", ""] {
        let line = format!("printf %s {}", quote(text));
        let output = crate::command::Command::new("sh")
            .args(["-c", &line])
            .run()
            .unwrap();
        assert_eq!(output.stdout, text.as_bytes());
    }
}
