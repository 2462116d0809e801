//! The link between controller and agent breaks off, at each border between two
//! messages and in their middle, in either direction, or is slow. A new connection
//! goes on, and the host becomes what it would have been.
//!
//! Controller and agent are chasi's own, in one process; what carries their bytes is
//! the test's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chasi::agent::calls::TakeLock;
use chasi::agent::{Call, Client, Effect, Router, Scope, Server, router, send_blobs};
use chasi::error::{Kind, Result};
use chasi::event::Context;
use chasi::host::{Part, switch};
use chasi::oci::{Blob, Store};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::support::{Host, Picture, directory};
use crate::work::{Material, Scenario, check_sound, copy, stage};
use crate::{Dice, asked_for, for_all, seed};

/// A step of a run, on the test's host instead of the one that it runs on.
#[derive(Serialize, Deserialize)]
enum Step {
    Stage,
    Switch(Part),
}

impl Call for Step {
    type Reply = ();
    const NAME: &'static str = "step";
    const EFFECT: Effect = Effect::Changes;
}

impl Step {
    fn take(self, host: &Host, material: &Material) -> Result<()> {
        switch::recover(&host.root)?;
        // The generation that is there already is found again.
        let number = stage(host, &material.first, &mut |_| {})?;
        match self {
            Step::Stage => Ok(()),
            Step::Switch(part) => host.switch(part, Some(number)).map(drop),
        }
    }
}

fn routes(files: &Path, directory: &Path) -> Router {
    let places = (files.to_owned(), directory.to_owned());
    router().on(move |_: Scope, step: Step| {
        let (files, directory) = places.clone();
        async move {
            let take = move || step.take(&Host::at(&files), &Material::load(&directory));
            tokio::task::spawn_blocking(take).await.unwrap()
        }
    })
}

/// How bytes are carried.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Breaks off after this many bytes to the agent, or from it.
    until: [usize; 2],
    /// How many bytes at once.
    chunk: usize,
}

const WHOLE: Link = Link {
    until: [usize::MAX; 2],
    chunk: 64 << 10,
};

/// What went to the agent, and what came from it.
type Carried = Arc<Mutex<[Vec<u8>; 2]>>;

/// Carries until one side ends or the link breaks off.
async fn carry(controller: DuplexStream, agent: DuplexStream, link: Link, carried: Carried) {
    let (from_controller, to_controller) = tokio::io::split(controller);
    let (from_agent, to_agent) = tokio::io::split(agent);
    let up = pass(from_controller, to_agent, link, 0, &carried);
    let down = pass(from_agent, to_controller, link, 1, &carried);
    let up = async {
        if !up.await {
            // The controller has said everything; the agent may still answer.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = up => {}
        _ = down => {}
    }
}

/// Whether the link broke off.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Link,
    way: usize,
    carried: &Carried,
) -> bool {
    let mut left = link.until[way];
    let mut buffer = vec![0; link.chunk];
    while left > 0 {
        let room = left.min(buffer.len());
        let count = match from.read(&mut buffer[..room]).await {
            Ok(0) | Err(_) => {
                let _ = to.shutdown().await;
                return false;
            }
            Ok(count) => count,
        };
        carried.lock().unwrap()[way].extend(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return false;
        }
        left -= count;
    }
    true
}

/// One connection and all that a run does over it.
async fn session(host: &Host, directory: &Path, link: Link, carried: Carried) -> Result<()> {
    let (ours, near) = tokio::io::duplex(64 << 10);
    let (far, theirs) = tokio::io::duplex(64 << 10);
    let (reader, writer) = tokio::io::split(theirs);
    let server = Server::new(host.root.state(""), routes(&host.files, directory));
    let served = tokio::spawn(server.serve(reader, writer, CancellationToken::new()));
    let carrying = tokio::spawn(carry(near, far, link, carried));
    let result = run(ours, directory).await;
    carrying.await.unwrap();
    // It ends by itself, whatever became of its link.
    let _ = served.await.unwrap();
    result
}

async fn run(stream: DuplexStream, directory: &Path) -> Result<()> {
    let material = Material::load(directory);
    let context = Context::silent();
    let client = Client::greet(&context, "n1", stream, async { None }).await?;
    let lock = TakeLock {
        run: "test".into(),
        who: "me@here".into(),
        patience: 60,
    };
    client.call(lock).await?;
    let source = Store::open(&material.source.join("var/lib/chasi/store"))?;
    let layers = material.first.layers.iter();
    let blobs: Vec<Blob> = layers.map(|layer| layer.blob.clone()).collect();
    send_blobs(&context, &client, &source, &blobs, "image").await?;
    client.call(Step::Stage).await?;
    for part in Part::ALL {
        client.call(Step::Switch(part)).await?;
    }
    client.bye().await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Without what is the agent's own.
fn picture(host: &Host) -> Picture {
    let mut picture = host.whole_picture();
    let own = ["agent", "lock"].map(|name| format!("var/lib/chasi/{name}"));
    picture
        .0
        .retain(|path, _| !own.iter().any(|own| path.starts_with(own)));
    picture
}

/// Where one message ends and the next begins.
fn borders(bytes: &[u8]) -> Vec<usize> {
    let mut borders = vec![0];
    let mut at = 0;
    while let Some(length) = bytes.get(at..at + 4) {
        at += 4 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        borders.push(at);
    }
    borders
}

#[test]
fn wherever_the_link_breaks_off_a_new_one_goes_on() {
    let directory = directory();
    let material = Material::make(directory.path());
    let start = Scenario::bare(&directory.path().join("start"));
    let undisturbed = copy(&start, &directory.path().join("undisturbed"));
    let carried = Carried::default();
    block_on(session(
        &undisturbed,
        directory.path(),
        WHOLE,
        carried.clone(),
    ))
    .unwrap();
    let end = picture(&undisturbed);
    let carried = std::mem::take(&mut *carried.lock().unwrap());
    drop(material);
    let mut links = Vec::new();
    for (way, bytes) in carried.iter().enumerate() {
        let mut places = borders(bytes);
        assert!(places.len() > 5, "{}", places.len());
        let mut dice = Dice::new(seed() + way as u64);
        let random = asked_for().map_or(20, |count| count / 20);
        places.extend((0..random).map(|_| dice.below(bytes.len())));
        for place in places {
            let mut link = WHOLE;
            link.until[way] = place;
            link.chunk = [64 << 10, 997, 11][dice.below(3)];
            links.push(link);
        }
    }
    let go_on = |link: &Link, place: &Path| {
        let what = format!("{link:?}");
        let host = copy(&start, place);
        let directory: PathBuf = directory.path().to_owned();
        let result = block_on(session(&host, &directory, *link, Carried::default()));
        if let Err(error) = result {
            assert_eq!(error.kind(), Kind::Unreachable, "{what}: {error:?}");
        }
        check_sound(&host, &what);
        let again = block_on(session(&host, &directory, WHOLE, Carried::default()));
        assert!(again.is_ok(), "{what}: {again:?}");
        end.assert_same(&picture(&host), &what);
    };
    for_all("links that break off", &links, directory.path(), go_on);
}
