//! Delivers a cluster image's rootfs to the hosts of a Clusterfile as `chasi run`
//! does it (connect, copy, stage) and prints one JSON object with the seconds that
//! each took. `scripts/bench` calls it beside `tar | ssh`:
//!
//! ```text
//! cargo bench --bench rootfs -- CLUSTERFILE STORE
//! ```
//!
//! The hosts' stores and generations are not removed: a second call shows what a
//! second copy costs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its result, and panics when it cannot go on"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use chasi::agent::calls::host::StageGeneration;
use chasi::agent::{self, Client, Destination, InstallOptions, distribute};
use chasi::cluster::access::{Environment, targets};
use chasi::event::Context;
use chasi::host::recipe::Recipe;
use chasi::oci::{ClusterImage, Store};
use chasi::spec::clusterfile::Clusterfile;
use futures::future::join_all;
use serde_json::json;

#[tokio::main]
async fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [clusterfile, store] = arguments.as_slice() else {
        println!("rootfs: needs hosts, see scripts/bench; usage: rootfs CLUSTERFILE STORE");
        return;
    };
    let cluster = Clusterfile::read(Path::new(clusterfile), None)
        .unwrap()
        .cluster;
    let environment = Environment {
        variable: &|_| None,
        agent: None,
    };
    let targets = targets(&cluster, &environment).unwrap();
    let store = Store::open(Path::new(store)).unwrap();
    let index = store
        .resolve(&cluster.image.as_str().parse().unwrap())
        .unwrap();
    let image = ClusterImage::open(&store, &index).unwrap();
    let recipe = recipe(&image);
    let context = Context::silent();
    let options = InstallOptions::new("bench", "bench@here", env!("CARGO_BIN_EXE_chasi"))
        .with_lock(Duration::ZERO);

    let begin = Instant::now();
    let clients: Vec<Client> = join_all(
        targets
            .iter()
            .map(|target| agent::connect(&context, target, &options)),
    )
    .await
    .into_iter()
    .map(Result::unwrap)
    .collect();
    let connected = begin.elapsed();
    let destinations: Vec<Destination> = clients
        .iter()
        .zip(&targets)
        .map(|(client, target)| Destination {
            client: client.clone(),
            address: target.address.parse().ok(),
        })
        .collect();
    for sent in distribute(&context, &store, &image.blobs(), &destinations, "rootfs").await {
        sent.unwrap();
    }
    let copied = begin.elapsed();
    join_all(clients.iter().map(|client| async {
        let recipe = recipe.clone();
        client.call(StageGeneration { recipe }).await.unwrap();
    }))
    .await;
    let staged = begin.elapsed();
    for client in clients {
        client.bye().await.unwrap();
    }
    println!(
        "{}",
        json!({
            "connect": connected.as_secs_f64(),
            "copy": (copied - connected).as_secs_f64(),
            "stage": (staged - copied).as_secs_f64(),
            "total": staged.as_secs_f64(),
        })
    );
}

/// A generation of the rootfs and nothing else.
fn recipe(image: &ClusterImage) -> Recipe {
    let rootfs = &image.rootfs[0];
    Recipe {
        image: image.digest,
        platform: rootfs.platform.clone(),
        kubernetes: None,
        layers: rootfs.layers.clone(),
        context: json!({}),
        files: Vec::new(),
        blocks: Vec::new(),
        directories: Vec::new(),
        source: serde_json::Value::Null,
    }
}
