//! The cluster image that a cluster runs: each of its hosts has it whole, and who
//! only adds or removes nodes changes nothing of it.
//!
//! Which one it is, the generation of a control plane says, by its digest; its name is
//! the one in the store there. Nothing of it counts here before its digest was checked.

use super::connect::farewell;
use super::live::{self, Leader};
use super::status::Request;
use crate::agent::calls::blobs::ReadTags;
use crate::agent::{self, Client};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::host::Part;
use crate::oci::store::Hold;
use crate::oci::{Blob, Reference, Store};

/// How deep documents of an image list each other.
const DEPTH: usize = 8;

/// The image that a cluster runs, whole in the controller's store.
pub struct Running {
    /// Its name.
    pub reference: Reference,
    /// Its index.
    pub index: Blob,
    /// It may have no name here: this one is another image's.
    _hold: Hold,
}

/// Finds out which image the cluster runs, and fetches what the controller's store
/// lacks of it from a control plane. `named` is what the Clusterfile calls it.
///
/// # Errors
/// [`Kind::NotFound`] when the host does not know, [`Kind::Unreachable`] when none
/// answers.
pub async fn running(
    context: &Context,
    request: &Request,
    store: &Store,
    named: &Reference,
) -> Result<Running> {
    let leader = live::leader(context, request, &request.visitor.looking(), None).await?;
    let host = leader.client.host().to_owned();
    let found = find(context, &leader, store, named).await;
    farewell([leader.client]).await;
    found.map_err(|error| error.on_host(host))
}

async fn find(
    context: &Context,
    leader: &Leader,
    store: &Store,
    named: &Reference,
) -> Result<Running> {
    let current = leader.host.current(Part::Node);
    let generations = &leader.host.facts.managed.generations;
    let generation = generations.iter().find(|one| Some(one.identity) == current);
    let unknown = || {
        Error::new(Kind::NotFound, "the host does not know which image it runs")
            .hint("`chasi run` brings the cluster to the image that its Clusterfile names")
    };
    let digest = generation.ok_or_else(unknown)?.image;
    let tags = leader.client.call(ReadTags {}).await?;
    let (reference, index) = choose(tags, digest, named).ok_or_else(unknown)?;
    let hold = store.hold()?;
    if is_whole(store, &index)? {
        return Ok(Running {
            reference,
            index,
            _hold: hold,
        });
    }
    let what = format!("fetch `{}` from the host", reference.familiar());
    let work = fetch(context, &leader.client, store, &index);
    context.step(Some(leader.client.host()), what, work).await?;
    // A name that means another image here goes on meaning it.
    if store.resolve(&reference).is_err() {
        hold.tag(&reference, &index)?;
    }
    Ok(Running {
        reference,
        index,
        _hold: hold,
    })
}

/// The name and the index of the image with this digest, by the name that the
/// Clusterfile has for it when there are several.
pub(super) fn choose(
    tags: Vec<(String, Blob)>,
    digest: Digest,
    named: &Reference,
) -> Option<(Reference, Blob)> {
    let mut of_it: Vec<(Reference, Blob)> = tags
        .into_iter()
        .filter(|(_, index)| index.digest == digest)
        .filter_map(|(name, index)| Some((name.parse().ok()?, index)))
        .collect();
    let own = of_it.iter().position(|(name, _)| name == named);
    match of_it.is_empty() {
        true => None,
        false => Some(of_it.swap_remove(own.unwrap_or(0))),
    }
}

fn is_whole(store: &Store, index: &Blob) -> Result<bool> {
    Ok(store.contains(index) && store.reachable(index)?.missing.is_empty())
}

/// Fetches from a host what the controller's store lacks of an image that is known by
/// its digest.
pub(super) async fn bring(
    context: &Context,
    client: &Client,
    store: &Store,
    index: &Blob,
) -> Result<()> {
    if is_whole(store, index)? {
        return Ok(());
    }
    let what = format!("fetch the image {} from the host", index.digest.short());
    let work = fetch(context, client, store, index);
    context.step(Some(client.host()), what, work).await
}

/// Documents first: only they say what else there is.
async fn fetch(context: &Context, client: &Client, store: &Store, index: &Blob) -> Result<()> {
    let mut missing = match store.contains(index) {
        true => store.reachable(index)?.missing,
        false => vec![index.clone()],
    };
    for _ in 0..DEPTH {
        if missing.is_empty() {
            return Ok(());
        }
        agent::fetch_blobs(context, client, store, &missing, "image").await?;
        let (store, root) = (store.clone(), index.clone());
        let looking = tokio::task::spawn_blocking(move || store.reachable(&root));
        let looked = looking
            .await
            .or_err(Kind::Failed, || "the store could not be read")?;
        missing = looked?.missing;
    }
    Err(Error::new(
        Kind::Integrity,
        format!("the image {} lists documents without an end", index.digest),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_found_by_its_digest_and_called_as_the_clusterfile_does() {
        let blob =
            |text: &str| Blob::of("application/vnd.oci.image.index.v1+json", text.as_bytes());
        let named: Reference = "shop/site:2".parse().unwrap();
        let tag = |name: &str, text: &str| (name.to_owned(), blob(text));
        for (tags, expected) in [
            (vec![], None),
            (vec![tag("shop/site:2", "new")], None),
            (vec![tag("no reference!", "old")], None),
            (
                vec![tag("shop/site:2", "new"), tag("shop/site:1", "old")],
                Some("shop/site:1"),
            ),
            (
                vec![tag("shop/site:1", "old"), tag("shop/site:2", "old")],
                Some("shop/site:2"),
            ),
        ] {
            let found = choose(tags, blob("old").digest, &named);
            let expected = expected.map(|name| (name.parse().unwrap(), blob("old")));
            assert_eq!(found, expected);
        }
    }
}
