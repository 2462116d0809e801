//! Looking after one server: asking it again and again whether it is ready, and
//! closing its connections when it is gone for sure.
//!
//! A connection for the question is kept open and used again, so that the question
//! costs the server next to nothing. How long a dead server goes unnoticed: at
//! most until the next question, then two questions without answer, that is
//! [`INTERVAL`] (and a fifth) + 2 × [`ANSWER`] + [`AGAIN`] = 8.1 s, and 6 s on
//! average. New connections do not wait for that: `dial` tries the next server
//! after 0.3 s.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use tokio_util::sync::CancellationToken;

use super::dial;
use super::server::{Finding, Health, PATIENCE, Server};
use super::session::{Failure, Session};
use super::table::Table;
use super::trust::Trust;
use crate::event::Context;

/// The time between two questions to a server.
const INTERVAL: Duration = Duration::from_secs(3);

/// The time for an answer, a new connection included.
const ANSWER: Duration = Duration::from_secs(2);

/// After a question without answer, the next one comes sooner.
const AGAIN: Duration = Duration::from_millis(500);

/// More of an answer is not read, in bytes.
const LONGEST: usize = 64 << 10;

/// What a probe works with.
#[derive(Clone)]
pub struct Probe {
    /// Where to tell of changes.
    pub ctx: Context,
    /// The servers.
    pub table: Arc<Table>,
    /// How to recognise a server of this cluster.
    pub trust: Arc<Trust>,
}

impl Probe {
    /// Looks after `server` as long as it is used, or until `stop`.
    pub async fn watch(self, server: Arc<Server>, stop: CancellationToken) {
        let mut session = None;
        let looks = async {
            while !self.table.forget_unused(&server) {
                let finding = self.look(&server, &mut session).await;
                let pause = self.record(&server, finding);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Several connections that failed together are one reason to look.
                    () = server.look.notified() => tokio::time::sleep(AGAIN.min(pause)).await,
                }
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    async fn look(&self, server: &Server, session: &mut Option<Session>) -> Finding {
        match tokio::time::timeout(ANSWER, self.ask(server, session)).await {
            Ok(finding) => finding,
            Err(_) => {
                *session = None;
                Finding::Unanswered(format!("no answer within {} s", ANSWER.as_secs()))
            }
        }
    }

    async fn ask(&self, server: &Server, session: &mut Option<Session>) -> Finding {
        let tls = match self.trust.anonymous() {
            Ok(Some(tls)) => tls,
            // Before the cluster has a CA here, accepting connections is all that
            // can be asked for.
            Ok(None) => {
                return match dial::connect(server.address).await {
                    Ok(_) => Finding::Ready,
                    Err(error) => failed(&error),
                };
            }
            Err(error) => return Finding::NotReady(error.to_string()),
        };
        // A kept connection may have been closed by the server, which says nothing.
        if let Some(mut kept) = session.take()
            && let Ok(finding) = readyz(&mut kept).await
        {
            *session = Some(kept);
            return finding;
        }
        let asked = async {
            let mut fresh = Session::open(server.address, tls).await?;
            let finding = readyz(&mut fresh).await?;
            *session = Some(fresh);
            Ok(finding)
        };
        asked.await.unwrap_or_else(|failure| match failure {
            Failure::Connection(error) => failed(&error),
            Failure::Stranger(reason) => Finding::Refused(reason),
        })
    }

    /// Notes what was found, acts on it, and returns when to look again.
    fn record(&self, server: &Server, finding: Finding) -> Duration {
        let (health, news) = server.record(finding);
        let mut line = format!("balancer: {} {}", server.address, said(&health));
        // As long as no other server is better, a connection that may come back to
        // life is worth more than none.
        let dead = health.is_dead() && self.table.has_ready_besides(server);
        let closed = if dead && server.connections() > 0 {
            server.cut()
        } else {
            0
        };
        if closed > 0 {
            line.push_str(&format!("; closed {closed} connections to it"));
        }
        match health {
            _ if !news && closed == 0 => {}
            Health::Ready | Health::Unknown => self.ctx.note(line),
            _ => self.ctx.warn(line),
        }
        match health {
            Health::Silent { unanswered, .. } if (1..PATIENCE).contains(&unanswered) => AGAIN,
            _ => jittered(INTERVAL),
        }
    }
}

/// What is said of a server of this health.
fn said(health: &Health) -> String {
    match health {
        Health::Unknown => "is not known yet".to_owned(),
        Health::Ready => "is ready".to_owned(),
        Health::NotReady { reason } => format!("is not ready: {reason}"),
        Health::Silent { reason, .. } => format!("does not serve: {reason}"),
    }
}

/// Asks `/readyz`, which everyone may ask (`system:public-info-viewer`).
async fn readyz(session: &mut Session) -> Result<Finding, Failure> {
    let answer = session.get("/readyz").await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    Ok(match status {
        StatusCode::OK => Finding::Ready,
        // Where anonymous requests are switched off, the refusal is the sign of life.
        StatusCode::UNAUTHORIZED => Finding::Ready,
        StatusCode::FORBIDDEN => Finding::Withheld,
        _ => Finding::NotReady(failing_checks(status, &String::from_utf8_lossy(&body))),
    })
}

/// The names of the failing checks in the answer of `/readyz`, whose lines are like
/// `[-]etcd failed: reason withheld`.
fn failing_checks(status: StatusCode, body: &str) -> String {
    let checks: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .map(|line| line.split(' ').next().unwrap_or(line))
        .take(8)
        .collect();
    if checks.is_empty() {
        return format!("it answers {}", status.as_u16());
    }
    let mut checks = checks.join(", ");
    checks.retain(|letter| !letter.is_control());
    format!("{checks} failed")
}

/// Whether a failed connection says that nothing runs there, or nothing at all.
fn failed(error: &io::Error) -> Finding {
    match error.kind() {
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => Finding::Unanswered(error.to_string()),
        _ => Finding::Refused(error.to_string()),
    }
}

/// Up to a fifth longer or shorter, so that the hosts of a cluster do not ask in
/// step.
fn jittered(interval: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 401;
    interval.mul_f64(0.8 + random as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_failing_checks() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(failing_checks(status, body), "etcd, shutdown failed");
        assert_eq!(failing_checks(status, "oh"), "it answers 500");
        assert_eq!(failing_checks(status, "[-]a\u{1b}[0m x"), "a[0m failed");
    }

    #[test]
    fn a_refusal_is_a_sign_of_life_of_the_host() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(matches!(failed(&refused), Finding::Refused(_)));
        let unreachable = io::Error::from(io::ErrorKind::HostUnreachable);
        assert!(matches!(failed(&unreachable), Finding::Unanswered(_)));
    }

    #[test]
    fn questions_are_spread_in_time() {
        let pauses: Vec<_> = (0..50).map(|_| jittered(INTERVAL)).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| (2400..=3600).contains(&pause.as_millis()))
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
