//! Pulling: a container image for some platforms, or a whole cluster image.

use futures::{StreamExt, TryStreamExt};
use oci_spec::image::Descriptor;

use super::Client;
use super::session::{Access, Session};
use super::transfer::{self, Meter};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::image;
use crate::oci::layer::Limits;
use crate::oci::store::Hold;
use crate::oci::{Blob, ClusterImage, Platform, Reference, media};

/// A list in an index is followed, a list in that is not.
const MAX_DEPTH: usize = 2;
/// What may wait for a place at once.
const WAITING: usize = 16;

/// A container image that was pulled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PulledImage {
    /// What the reference stands for.
    pub root: Blob,
    /// The root and everything of the wanted platforms that it leads to, each
    /// once, the root first.
    pub blobs: Vec<Blob>,
}

impl Client {
    /// What a reference stands for: its index or manifest. A reference with a
    /// digest is first looked for in the store.
    pub async fn resolve(&self, ctx: &Context, hold: &Hold, reference: &Reference) -> Result<Blob> {
        let session = Session::open(self, ctx, reference, Access::Pull).await?;
        session.root(ctx, hold, reference).await
    }

    /// Pulls a container image into the store. Of an index or a list, only the
    /// manifests for `platforms` are fetched; the index itself is kept as it is.
    /// The store's hold must live until something refers to the blobs.
    pub async fn pull_container_image(
        &self,
        ctx: &Context,
        hold: &Hold,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<PulledImage> {
        let session = Session::open(self, ctx, reference, Access::Pull).await?;
        let root = session.root(ctx, hold, reference).await?;
        let mut blobs = vec![root.clone()];
        session
            .children(ctx, hold, &root, platforms, 0, &mut blobs)
            .await?;
        let mut seen = std::collections::HashSet::new();
        blobs.retain(|blob| seen.insert(blob.digest));
        let meter = Meter::new(ctx, &session.name);
        session.fetch_all(ctx, hold, &blobs, &meter).await?;
        check_platform(hold, &root, platforms, &session.name)?;
        Ok(PulledImage { root, blobs })
    }

    /// Pulls a cluster image whole, checks all of it, and gives it its name in the
    /// store. What the store has is not fetched again.
    pub async fn pull(
        &self,
        ctx: &Context,
        hold: &Hold,
        reference: &Reference,
    ) -> Result<ClusterImage> {
        let session = Session::open(self, ctx, reference, Access::Pull).await?;
        let root = session.root(ctx, hold, reference).await?;
        image::check_type(hold, &root)?;
        let documents = hold.children(&root)?.documents;
        for document in &documents {
            session.document(ctx, hold, document).await?;
        }
        let meter = Meter::new(ctx, &session.name);
        let contents = documents
            .iter()
            .map(|document| Ok(hold.children(document)?.contents));
        let contents: Vec<Blob> = contents.collect::<Result<Vec<_>>>()?.concat();
        // What says what the image is comes first: a wrong image is refused early.
        let (small, large): (Vec<_>, Vec<_>) = contents
            .into_iter()
            .partition(|blob| blob.size <= MAX_DOCUMENT && blob.media_type.ends_with("json"));
        session.fetch_all(ctx, hold, &small, &meter).await?;
        let image = ClusterImage::open(hold, &root)?;
        session.fetch_all(ctx, hold, &large, &meter).await?;
        let (hold, name, ctx) = (hold.clone(), reference.clone(), ctx.clone());
        tokio::task::spawn_blocking(move || {
            // What has a name was checked when it got it.
            let is_known = hold.tags()?.iter().any(|(_, known)| *known == image.index);
            if !is_known {
                image.check_layers(&ctx, &hold, &Limits::default())?;
            }
            if name.tag().is_some() {
                hold.tag(&name, &image.index)?;
            }
            Ok(image)
        })
        .await
        .or_err(Kind::Failed, || {
            format!("cannot pull `{}`", reference.familiar())
        })?
    }
}

impl Session<'_> {
    async fn root(&self, ctx: &Context, hold: &Hold, reference: &Reference) -> Result<Blob> {
        let Some(digest) = reference.digest() else {
            // A reference always has a tag or a digest.
            let (blob, content) = self
                .manifest(ctx, reference.tag().unwrap_or("latest"))
                .await?;
            transfer::put(hold, blob.clone(), content).await?;
            return Ok(blob);
        };
        if let Some(blob) = hold.find_document(&digest)? {
            return Ok(blob);
        }
        let (blob, content) = self.manifest(ctx, &digest.to_string()).await?;
        transfer::put(hold, blob.clone(), content).await?;
        Ok(blob)
    }

    /// Makes sure that the store has a document that another one lists.
    async fn document(&self, ctx: &Context, hold: &Hold, listed: &Blob) -> Result<()> {
        if listed.size > MAX_DOCUMENT {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "cannot pull `{}`: the {} {} has {} bytes, more than {MAX_DOCUMENT}",
                    self.name, listed.media_type, listed.digest, listed.size
                ),
            ));
        }
        if hold.contains(listed) {
            return Ok(());
        }
        let (blob, content) = self.manifest(ctx, &listed.digest.to_string()).await?;
        if !blob.agrees(listed) {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "cannot pull `{}`: {} is described as a `{}` with {} bytes",
                    self.name, listed.digest, listed.media_type, listed.size
                ),
            ));
        }
        transfer::put(hold, blob, content).await
    }

    /// Adds what a document lists: of an index only the wanted manifests.
    async fn children(
        &self,
        ctx: &Context,
        hold: &Hold,
        document: &Blob,
        platforms: &[Platform],
        depth: usize,
        blobs: &mut Vec<Blob>,
    ) -> Result<()> {
        if !media::is_index(&document.media_type) {
            blobs.extend(hold.children(document)?.contents);
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "cannot pull `{}`: its indexes are nested too deeply",
                    self.name
                ),
            ));
        }
        let index =
            document::parse_index(&hold.read_verified(document, MAX_DOCUMENT)?, &self.name)?;
        let wanted = select(index.manifests(), platforms);
        if wanted.is_empty() {
            let there: Vec<_> = index
                .manifests()
                .iter()
                .filter_map(platform_of)
                .map(|platform| platform.to_string())
                .collect();
            let wanted = platforms
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("`, `");
            return Err(Error::new(
                Kind::NotFound,
                format!("`{}` is not made for `{wanted}`", self.name),
            )
            .hint(format!("it is made for {}", there.join(", "))));
        }
        for descriptor in wanted {
            let child = document::blob(descriptor)?;
            if blobs.iter().any(|blob| blob.digest == child.digest) {
                continue;
            }
            self.document(ctx, hold, &child).await?;
            blobs.push(child.clone());
            Box::pin(self.children(ctx, hold, &child, platforms, depth + 1, blobs)).await?;
        }
        Ok(())
    }

    async fn fetch_all(
        &self,
        ctx: &Context,
        hold: &Hold,
        blobs: &[Blob],
        meter: &Meter,
    ) -> Result<()> {
        meter.expect(blobs.iter().map(|blob| blob.size).sum());
        futures::stream::iter(blobs)
            .map(|blob| self.fetch(ctx, hold, blob, meter))
            .buffer_unordered(WAITING)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }
}

/// The manifests for the wanted platforms. An index that lists a manifest without
/// a platform means it for all.
fn select<'a>(manifests: &'a [Descriptor], platforms: &[Platform]) -> Vec<&'a Descriptor> {
    let mut selected: Vec<&Descriptor> = Vec::new();
    for wanted in platforms {
        let for_it = |descriptor: &&Descriptor| match platform_of(descriptor) {
            Some(platform) => platform == *wanted,
            None => descriptor.platform().is_none(),
        };
        // As docker: of several, the first.
        if let Some(found) = manifests.iter().find(for_it)
            && !selected
                .iter()
                .any(|descriptor| std::ptr::eq(*descriptor, found))
        {
            selected.push(found);
        }
    }
    selected
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let platform = descriptor.platform().as_ref()?;
    Platform::new(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    )
    .ok()
    .filter(|platform| platform.os() != "unknown")
}

/// An image that is a single manifest says in its configuration what it is for.
fn check_platform(hold: &Hold, root: &Blob, platforms: &[Platform], name: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Configuration {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
    }
    if media::is_index(&root.media_type) {
        return Ok(());
    }
    let Some(config) = hold.children(root)?.contents.into_iter().next() else {
        return Ok(());
    };
    if config.size > MAX_DOCUMENT {
        return Ok(());
    }
    let content = hold.read_verified(&config, MAX_DOCUMENT)?;
    // An artifact has a configuration of another form, and no platform.
    let Ok(Configuration { os, architecture }) = serde_json::from_slice(&content) else {
        return Ok(());
    };
    let fits = |platform: &Platform| platform.os() == os && platform.architecture() == architecture;
    if os.is_empty() || architecture.is_empty() || platforms.iter().any(fits) {
        return Ok(());
    }
    let wanted = platforms
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("`, `");
    Err(Error::new(
        Kind::NotFound,
        format!("`{name}` is not made for `{wanted}`"),
    )
    .hint(format!(
        "it is made for {}/{}",
        os.escape_debug(),
        architecture.escape_debug()
    )))
}
