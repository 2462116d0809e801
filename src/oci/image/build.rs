//! Writing a cluster image.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
};

use super::{ClusterImage, Layer, Platform};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::store::Hold;
use crate::oci::{Blob, Reference, annotation, document, media};

/// Collects the parts of a cluster image and writes its documents. The same parts
/// give the same bytes, in whatever order they came.
#[derive(Debug, Default)]
pub struct Builder {
    rootfs: BTreeMap<Platform, NewRootfs>,
    images: BTreeMap<Reference, Vec<Blob>>,
}

#[derive(Debug)]
struct NewRootfs {
    labels: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    layers: Vec<Layer>,
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Sets what goes onto hosts of a platform; `layers` from the lowest up.
    pub fn rootfs(
        &mut self,
        platform: Platform,
        labels: BTreeMap<String, String>,
        env: BTreeMap<String, String>,
        layers: Vec<Layer>,
    ) -> &mut Self {
        self.rootfs.insert(
            platform,
            NewRootfs {
                labels,
                env,
                layers,
            },
        );
        self
    }

    /// Adds a container image: `root` and all that it leads to, in any order.
    /// Fails when the reference is there already with another root.
    pub fn image(
        &mut self,
        reference: Reference,
        root: Blob,
        blobs: impl IntoIterator<Item = Blob>,
    ) -> Result<&mut Self> {
        let others: BTreeMap<Digest, Blob> = blobs
            .into_iter()
            .filter(|blob| blob.digest != root.digest)
            .map(|blob| (blob.digest, blob))
            .collect();
        let mut all = vec![root];
        all.extend(others.into_values());
        match self.images.get(&reference) {
            Some(earlier) if *earlier != all => Err(Error::new(
                Kind::Input,
                format!("the container image `{reference}` is named twice with different content"),
            )
            .hint("pin it by a digest, or build the included image again with the same one")),
            _ => {
                self.images.insert(reference, all);
                Ok(self)
            }
        }
    }

    /// Writes the documents, reads the image back and checks it. The blobs named
    /// by it must be in the store.
    pub fn write(&self, hold: &Hold) -> Result<ClusterImage> {
        let mut manifests = Vec::new();
        for (platform, rootfs) in &self.rootfs {
            manifests.push(self.write_rootfs(hold, platform, rootfs)?);
        }
        for (reference, blobs) in &self.images {
            manifests.push(write_image(hold, reference, blobs)?);
        }
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .artifact_type(MediaType::from(media::CLUSTER))
            .manifests(manifests)
            .build()
            .or_err(Kind::Failed, || "cannot make the index")?;
        let index = hold.put(media::INDEX, &document::canonical(&index)?)?;
        ClusterImage::open(hold, &index)
    }

    fn write_rootfs(
        &self,
        hold: &Hold,
        platform: &Platform,
        rootfs: &NewRootfs,
    ) -> Result<Descriptor> {
        let failed = || "cannot make the rootfs manifest";
        let mut settings = ConfigBuilder::default();
        if !rootfs.env.is_empty() {
            let env: Vec<_> = rootfs
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            settings = settings.env(env);
        }
        if !rootfs.labels.is_empty() {
            let labels: HashMap<_, _> = rootfs.labels.clone().into_iter().collect();
            settings = settings.labels(labels);
        }
        let diff_ids: Vec<_> = rootfs
            .layers
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect();
        let mut config = ImageConfigurationBuilder::default()
            .architecture(Arch::from(platform.architecture()))
            .os(Os::from(platform.os()))
            .config(settings.build().or_err(Kind::Failed, failed)?)
            .rootfs(
                RootFsBuilder::default()
                    .typ("layers")
                    .diff_ids(diff_ids)
                    .build()
                    .or_err(Kind::Failed, failed)?,
            );
        if let Some(variant) = platform.variant() {
            config = config.variant(variant);
        }
        let config = config.build().or_err(Kind::Failed, failed)?;
        let config = hold.put(media::CONFIG, &document::canonical(&config)?)?;
        let layers = rootfs
            .layers
            .iter()
            .map(layer_descriptor)
            .collect::<Result<Vec<_>>>()?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(document::descriptor(&config)?)
            .layers(layers)
            .build()
            .or_err(Kind::Failed, failed)?;
        let manifest = hold.put(media::MANIFEST, &document::canonical(&manifest)?)?;
        let mut descriptor = document::descriptor(&manifest)?;
        let mut described = PlatformBuilder::default()
            .os(Os::from(platform.os()))
            .architecture(Arch::from(platform.architecture()));
        if let Some(variant) = platform.variant() {
            described = described.variant(variant);
        }
        descriptor.set_platform(Some(described.build().or_err(Kind::Failed, failed)?));
        Ok(descriptor)
    }
}

fn layer_descriptor(layer: &Layer) -> Result<Descriptor> {
    let mut descriptor = document::descriptor(&layer.blob)?;
    let kind = layer.kind.name().to_owned();
    descriptor.set_annotations(Some(HashMap::from([(
        annotation::LAYER_KIND.to_owned(),
        kind,
    )])));
    Ok(descriptor)
}

fn write_image(hold: &Hold, reference: &Reference, blobs: &[Blob]) -> Result<Descriptor> {
    let name = HashMap::from([(
        annotation::IMAGE_REFERENCE.to_owned(),
        reference.to_string(),
    )]);
    let empty = hold.put(media::EMPTY, b"{}")?;
    let layers = blobs
        .iter()
        .map(document::descriptor)
        .collect::<Result<Vec<_>>>()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .artifact_type(MediaType::from(media::CONTAINER_IMAGE))
        .config(document::descriptor(&empty)?)
        .layers(layers)
        .annotations(name.clone())
        .build()
        .or_err(Kind::Failed, || {
            format!("cannot make the manifest that carries `{reference}`")
        })?;
    let manifest = hold.put(media::MANIFEST, &document::canonical(&manifest)?)?;
    // No artifact type in the descriptor: skopeo loses it, and with it the digest.
    let mut descriptor = document::descriptor(&manifest)?;
    descriptor.set_annotations(Some(name));
    Ok(descriptor)
}
