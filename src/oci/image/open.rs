//! Reading a cluster image.

use std::collections::{BTreeMap, HashMap, HashSet};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::{ClusterImage, ContainerImage, Layer, Platform, Rootfs};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::{Blob, Reference, Store, annotation, media};

/// An index in a list in an index is refused.
const MAX_DEPTH: usize = 3;

impl ClusterImage {
    /// Reads and checks the cluster image whose index is `index`. All its
    /// documents must be in the store; layers need not be.
    pub fn open(store: &Store, index: &Blob) -> Result<Self> {
        open(store, index).map_err(|cause| of_image(index, cause))
    }
}

/// The inner error names the part; this one names the image.
fn of_image(index: &Blob, cause: Error) -> Error {
    let hints = cause.hints().to_vec();
    let message = format!("the cluster image {} cannot be used", index.digest);
    let error = Error::new(cause.kind(), message).because(cause);
    hints.into_iter().fold(error, Error::hint)
}

/// Fails with a remedy unless `root` is the index of a cluster image.
pub(crate) fn check_type(store: &Store, root: &Blob) -> Result<()> {
    read_index(store, root)
        .map(|_| ())
        .map_err(|cause| of_image(root, cause))
}

fn read_index(store: &Store, root: &Blob) -> Result<ImageIndex> {
    let no_cluster_image = || {
        Error::new(
            Kind::Input,
            format!("it is a `{}`, not a cluster image", root.media_type),
        )
        .hint("`chasi build` makes cluster images; container images belong into one by `IMAGE`")
    };
    if root.media_type != media::INDEX {
        return Err(no_cluster_image());
    }
    let index = document::parse_index(&store.read_verified(root, MAX_DOCUMENT)?, "its index")?;
    if index.artifact_type().as_ref().map(AsRef::as_ref) != Some(media::CLUSTER) {
        return Err(no_cluster_image());
    }
    Ok(index)
}

fn open(store: &Store, root: &Blob) -> Result<ClusterImage> {
    let index = read_index(store, root)?;
    let mut image = ClusterImage {
        digest: root.digest,
        index: root.clone(),
        rootfs: Vec::new(),
        images: Vec::new(),
    };
    for descriptor in index.manifests() {
        let blob = document::blob(descriptor)?;
        if blob.media_type != media::MANIFEST {
            return Err(wrong(format!("its index lists a `{}`", blob.media_type)));
        }
        match annotation(descriptor.annotations(), annotation::IMAGE_REFERENCE) {
            Some(name) => image.images.push(container_image(store, name, blob)?),
            None => image.rootfs.push(rootfs(store, descriptor, blob)?),
        }
    }
    image.rootfs.sort_by(|a, b| a.platform.cmp(&b.platform));
    image.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    check_unique(&image)?;
    Ok(image)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Integrity, message)
}

fn check_unique(image: &ClusterImage) -> Result<()> {
    if image.rootfs.is_empty() {
        return Err(wrong("it has no rootfs for any platform"));
    }
    let mut platforms = HashSet::new();
    for rootfs in &image.rootfs {
        if !platforms.insert(&rootfs.platform) {
            return Err(wrong(format!(
                "it has two rootfs for `{}`",
                rootfs.platform
            )));
        }
    }
    let mut references = HashSet::new();
    for container in &image.images {
        if !references.insert(&container.reference) {
            return Err(wrong(format!(
                "it has two container images `{}`",
                container.reference
            )));
        }
    }
    Ok(())
}

fn rootfs(store: &Store, descriptor: &Descriptor, manifest: Blob) -> Result<Rootfs> {
    let platform = descriptor
        .platform()
        .as_ref()
        .ok_or_else(|| wrong(format!("the rootfs {} has no platform", manifest.digest)))?;
    let platform = Platform::new(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    )?;
    let what = format!("the rootfs manifest for `{platform}`");
    let document = document::parse_manifest(&store.read_verified(&manifest, MAX_DOCUMENT)?, &what)?;
    let config = document::blob(document.config())?;
    if config.media_type != media::CONFIG {
        return Err(wrong(format!(
            "{what} has a `{}` as configuration",
            config.media_type
        )));
    }
    let what = format!("the configuration for `{platform}`");
    let settings: ImageConfiguration =
        document::parse(&store.read_verified(&config, MAX_DOCUMENT)?, &what)?;
    if settings.os().to_string() != platform.os()
        || settings.architecture().to_string() != platform.architecture()
    {
        return Err(wrong(format!(
            "{what} is for `{}/{}`",
            settings.os(),
            settings.architecture()
        )));
    }
    let layers = layers(&document, &settings)?;
    let run = settings.config().clone().unwrap_or_default();
    Ok(Rootfs {
        platform,
        manifest,
        config,
        labels: run
            .labels()
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        env: environment(run.env().as_deref().unwrap_or_default())?,
        layers,
    })
}

fn layers(manifest: &ImageManifest, settings: &ImageConfiguration) -> Result<Vec<Layer>> {
    let diff_ids = settings.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers().len() {
        return Err(wrong(format!(
            "there are {} layers and {} diff ids",
            manifest.layers().len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
        let blob = document::blob(descriptor)?;
        if blob.media_type != media::LAYER_ZSTD {
            return Err(wrong(format!(
                "the layer {} is a `{}`",
                blob.digest, blob.media_type
            )));
        }
        let kind = annotation(descriptor.annotations(), annotation::LAYER_KIND)
            .ok_or_else(|| wrong(format!("the layer {} has no kind", blob.digest)))?
            .parse()
            .map_err(|cause: Error| {
                wrong(format!("the layer {} has no valid kind", blob.digest)).because(cause)
            })?;
        let diff_id: Digest = diff_id.parse().map_err(|cause: Error| {
            wrong(format!("the layer {} has no valid diff id", blob.digest)).because(cause)
        })?;
        layers.push(Layer {
            blob,
            diff_id,
            kind,
        });
    }
    Ok(layers)
}

fn annotation<'a>(annotations: &'a Option<HashMap<String, String>>, name: &str) -> Option<&'a str> {
    annotations.as_ref()?.get(name).map(String::as_str)
}

fn environment(variables: &[String]) -> Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for variable in variables {
        let (name, value) = variable
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !variable.contains('\0'))
            .ok_or_else(|| {
                wrong(format!(
                    "`{}` is not an environment variable",
                    variable.escape_debug()
                ))
            })?;
        if environment
            .insert(name.to_owned(), value.to_owned())
            .is_some()
        {
            return Err(wrong(format!(
                "the environment variable `{name}` is set twice"
            )));
        }
    }
    Ok(environment)
}

fn container_image(store: &Store, name: &str, manifest: Blob) -> Result<ContainerImage> {
    let reference: Reference = name.parse()?;
    if reference.to_string() != name {
        return Err(wrong(format!(
            "the reference `{name}` is not fully qualified"
        )));
    }
    let what = format!("the manifest that carries `{reference}`");
    let document = document::parse_manifest(&store.read_verified(&manifest, MAX_DOCUMENT)?, &what)?;
    if document.artifact_type().as_ref().map(AsRef::as_ref) != Some(media::CONTAINER_IMAGE) {
        return Err(wrong(format!("{what} has another artifact type")));
    }
    if annotation(document.annotations(), annotation::IMAGE_REFERENCE) != Some(name) {
        return Err(wrong(format!("{what} names another reference")));
    }
    if document::blob(document.config())? != Blob::of(media::EMPTY, b"{}") {
        return Err(wrong(format!("{what} has a configuration")));
    }
    let blobs = document
        .layers()
        .iter()
        .map(document::blob)
        .collect::<Result<Vec<_>>>()?;
    let root = blobs
        .first()
        .cloned()
        .ok_or_else(|| wrong(format!("{what} is empty")))?;
    if reference
        .digest()
        .is_some_and(|digest| digest != root.digest)
    {
        return Err(wrong(format!("{what} carries {}", root.digest)));
    }
    check_closed(store, &reference, &blobs)?;
    Ok(ContainerImage {
        reference,
        manifest,
        root,
        blobs,
    })
}

/// The blobs are exactly what the root leads to, so that a host can serve the
/// image. An index may lack whole manifests, but not all of them.
fn check_closed(store: &Store, reference: &Reference, blobs: &[Blob]) -> Result<()> {
    let listed: HashMap<Digest, &Blob> = blobs.iter().map(|blob| (blob.digest, blob)).collect();
    let what = format!("the container image `{reference}`");
    if listed.len() != blobs.len() {
        return Err(wrong(format!("{what} lists a blob twice")));
    }
    let mut open: Vec<_> = blobs
        .first()
        .map(|root| (root.clone(), 0))
        .into_iter()
        .collect();
    let mut needed: HashSet<_> = open.iter().map(|(root, _)| root.digest).collect();
    let mut opened = needed.clone();
    while let Some((document, depth)) = open.pop() {
        if depth > MAX_DEPTH || !document.is_document() {
            let found = &document.media_type;
            return Err(wrong(format!(
                "{what} has a `{found}` where a manifest is expected"
            )));
        }
        let children = store.children(&document)?;
        let is_here = |child: &&Blob| listed.contains_key(&child.digest);
        let here: Vec<_> = children.documents.iter().filter(is_here).collect();
        let nothing_here = here
            .is_empty()
            .then(|| children.documents.first())
            .flatten();
        let lacking = children.contents.iter().find(|child| !is_here(child));
        if let Some(missing) = lacking.or(nothing_here) {
            let (missing, digest) = (&missing.media_type, missing.digest);
            return Err(wrong(format!("{what} lacks the {missing} {digest}")));
        }
        for child in children.contents.iter().chain(here.iter().copied()) {
            if listed
                .get(&child.digest)
                .is_some_and(|listed| !listed.agrees(child))
            {
                return Err(wrong(format!(
                    "{what} describes {} in two ways",
                    child.digest
                )));
            }
            needed.insert(child.digest);
        }
        let unopened = here.into_iter().filter(|child| opened.insert(child.digest));
        open.extend(unopened.map(|child| (child.clone(), depth + 1)));
    }
    match blobs.iter().find(|blob| !needed.contains(&blob.digest)) {
        Some(extra) => Err(wrong(format!(
            "{what} carries {}, which nothing in it refers to",
            extra.digest
        ))),
        None => Ok(()),
    }
}
