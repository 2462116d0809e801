//! Passing bytes between a client and a server until both have finished.
//!
//! An idle connection costs two sockets and about a kilobyte: bytes go through
//! one buffer that all connections share, and only what the other side does not
//! take at once is kept, at most one buffer's worth in each direction.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// The shared buffer, in bytes: two records of TLS.
const BUFFER: usize = 32 << 10;

/// A connection that one side has ended may go on for this long without a byte
/// from the other.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// When the service stops, a connection ends once it has been quiet this long…
const QUIET: Duration = Duration::from_millis(200);

/// …and at the latest after this time.
const DRAIN: Duration = Duration::from_secs(3);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Both sides ended it, or one did and the other has nothing to say.
    Finished,
    /// One side broke it off.
    Broken,
    /// The server is dead.
    Cut,
    /// The service stops.
    Drained,
}

/// Passes bytes until both sides have ended the connection, `cut` closes it, or
/// `stop` is set and it falls quiet.
pub async fn relay(
    client: TcpStream,
    server: TcpStream,
    cut: &CancellationToken,
    stop: &CancellationToken,
) -> End {
    let traffic = Traffic::default();
    let both = async {
        tokio::try_join!(
            pump(&client, &server, &traffic),
            pump(&server, &client, &traffic)
        )
    };
    let end = tokio::select! {
        ended = both => match ended {
            Ok(_) => End::Finished,
            Err(_) => End::Broken,
        },
        () = cut.cancelled() => End::Cut,
        () = traffic.abandoned() => End::Finished,
        () = async { stop.cancelled().await; traffic.quiet().await } => End::Drained,
    };
    if matches!(end, End::Broken | End::Cut) {
        // Both sides shall see that something is missing, not an orderly end. A
        // socket that cannot be told is closed already.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
    end
}

/// What has moved so far.
#[derive(Default)]
struct Traffic {
    moves: AtomicU64,
    half_closed: AtomicBool,
}

impl Traffic {
    fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Returns when one side has ended the connection and the other does nothing.
    async fn abandoned(&self) {
        loop {
            let (closed, before) = (self.half_closed.load(Ordering::Relaxed), self.moves());
            tokio::time::sleep(HALF_CLOSED).await;
            if closed && self.moves() == before {
                return;
            }
        }
    }

    /// Returns when nothing moves, or when it has taken too long.
    async fn quiet(&self) {
        let falls_quiet = async {
            loop {
                let before = self.moves();
                tokio::time::sleep(QUIET).await;
                if self.moves() == before {
                    return;
                }
            }
        };
        // Either way the connection ends now.
        let _ = tokio::time::timeout(DRAIN, falls_quiet).await;
    }
}

/// Passes bytes in one direction until its end, and passes the end on.
async fn pump(from: &TcpStream, to: &TcpStream, traffic: &Traffic) -> io::Result<()> {
    loop {
        from.readable().await?;
        // One busy connection must not hold up the others.
        tokio::task::consume_budget().await;
        match SHARED.with_borrow_mut(|buffer| pass(from, to, buffer)) {
            Ok(Passed::All) => {}
            Ok(Passed::Part(rest)) => write(to, &rest).await?,
            Ok(Passed::End) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        traffic.moves.fetch_add(1, Ordering::Relaxed);
    }
    traffic.half_closed.store(true, Ordering::Relaxed);
    match rustix::net::shutdown(to, Shutdown::Write) {
        // The other side has gone: there is nobody to pass the end on to.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

enum Passed {
    /// Everything that was read has been taken.
    All,
    /// This is still to be written.
    Part(Vec<u8>),
    /// There is no more to read.
    End,
}

/// Reads once and writes as much of it as the other side takes now.
fn pass(from: &TcpStream, to: &TcpStream, buffer: &mut [u8]) -> io::Result<Passed> {
    let count = from.try_read(buffer)?;
    if count == 0 {
        return Ok(Passed::End);
    }
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Passed::Part(rest.to_vec()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Passed::All)
}

async fn write(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
