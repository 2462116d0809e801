//! What the registry has: the container images of every cluster image in the
//! host's store, under the references and digests that they had in the registry
//! they came from.
//!
//! A catalogue is a value, made from the store's index and kept until that
//! changes. It holds names and digests only; content is read when it is asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::{Blob, ClusterImage, ContainerImage, Reference, Store, media};

/// The container images that can be served.
#[derive(Debug, Default)]
pub struct Catalog {
    repositories: BTreeMap<String, Repository>,
    references: BTreeSet<Reference>,
    conflicts: Vec<Conflict>,
}

#[derive(Debug, Default)]
struct Repository {
    tags: BTreeMap<String, Blob>,
    blobs: BTreeMap<Digest, Blob>,
}

/// A tag that is something else in another cluster image of the same store.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// The reference, with its tag.
    pub reference: Reference,
    /// What is served.
    pub served: Digest,
    /// What is only served by its digest.
    pub hidden: Digest,
}

impl Catalog {
    /// Reads the store; where cluster images do not agree, `first` is right. A
    /// cluster image that cannot be read is left out and returned as an error, so
    /// that one damaged image does not hide the others.
    pub fn load(store: &Store, first: Option<Digest>) -> Result<(Self, Vec<Error>)> {
        let mut catalog = Catalog::default();
        let mut failures = Vec::new();
        let mut seen = BTreeSet::new();
        let mut tags = store.tags()?;
        tags.sort_by_key(|(_, root)| Some(root.digest) != first);
        for (_, root) in tags {
            // One image may have several names.
            if !seen.insert(root.digest) {
                continue;
            }
            match ClusterImage::open(store, &root) {
                Ok(image) => image.images.iter().for_each(|image| catalog.add(image)),
                // A layout may also hold images that are no cluster images.
                Err(error) if error.kind() == Kind::Input => {}
                Err(error) => failures.push(error),
            }
        }
        Ok((catalog, failures))
    }

    /// Adds an image. What was added first keeps its tag.
    pub fn add(&mut self, image: &ContainerImage) {
        let repository = self.repositories.entry(image.reference.name()).or_default();
        for blob in &image.blobs {
            repository.blobs.insert(blob.digest, blob.clone());
        }
        self.references.insert(image.reference.clone());
        let Some(tag) = image.reference.tag() else {
            return;
        };
        let served = repository
            .tags
            .entry(tag.to_owned())
            .or_insert_with(|| image.root.clone());
        if served.digest != image.root.digest {
            self.conflicts.push(Conflict {
                reference: image.reference.clone(),
                served: served.digest,
                hidden: image.root.digest,
            });
        }
    }

    /// What a tag stands for: a manifest or an index.
    pub fn tagged(&self, reference: &Reference) -> Option<&Blob> {
        self.repository(reference)?.tags.get(reference.tag()?)
    }

    /// Content by its digest, if an image of the repository has it.
    pub fn blob(&self, repository: &Reference, digest: &Digest) -> Option<&Blob> {
        self.repository(repository)?.blobs.get(digest)
    }

    /// A manifest or an index by its digest, if an image of the repository has it.
    pub fn manifest(&self, repository: &Reference, digest: &Digest) -> Option<&Blob> {
        self.blob(repository, digest).filter(|blob| {
            media::is_index(&blob.media_type) || media::is_manifest(&blob.media_type)
        })
    }

    /// The tags of a repository, sorted, or `None` when nothing of it is here.
    pub fn tags(&self, repository: &Reference) -> Option<impl Iterator<Item = &str>> {
        Some(self.repository(repository)?.tags.keys().map(String::as_str))
    }

    /// Whether any image of the repository is here.
    pub fn has(&self, repository: &Reference) -> bool {
        self.repository(repository).is_some()
    }

    /// The references of all images, sorted.
    pub fn references(&self) -> impl ExactSizeIterator<Item = &Reference> {
        self.references.iter()
    }

    /// The tags on which cluster images do not agree.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    fn repository(&self, reference: &Reference) -> Option<&Repository> {
        self.repositories.get(&reference.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, root: &str) -> ContainerImage {
        let root = Blob::of(media::DOCKER_LIST, root.as_bytes());
        let layer = Blob::of("application/vnd.oci.image.layer.v1.tar+gzip", b"layer");
        ContainerImage {
            reference: reference.parse().unwrap(),
            manifest: Blob::of(media::MANIFEST, reference.as_bytes()),
            root: root.clone(),
            blobs: vec![root, layer],
        }
    }

    #[test]
    fn an_image_is_found_by_its_tag_and_by_every_digest() {
        let mut catalog = Catalog::default();
        let pause = image("registry.k8s.io/pause:3.10", "pause");
        catalog.add(&pause);
        assert_eq!(catalog.tagged(&pause.reference), Some(&pause.root));
        assert_eq!(
            catalog.manifest(&pause.reference, &pause.root.digest),
            Some(&pause.root)
        );
        let layer = Digest::of("layer");
        assert_eq!(catalog.blob(&pause.reference, &layer).unwrap().size, 5);
        assert_eq!(
            catalog.manifest(&pause.reference, &layer),
            None,
            "a layer is no manifest"
        );
        for other in [
            "registry.k8s.io/pause:3.9",
            "registry.k8s.io/other:3.10",
            "docker.io/pause:3.10",
        ] {
            assert_eq!(catalog.tagged(&other.parse().unwrap()), None, "{other}");
        }
        let elsewhere: Reference = "quay.io/pause:3.10".parse().unwrap();
        assert_eq!(catalog.blob(&elsewhere, &layer), None);
    }

    #[test]
    fn an_image_that_is_pinned_has_no_tag() {
        let mut catalog = Catalog::default();
        let pinned = image(&format!("a.b/c@{}", Digest::of("pinned")), "pinned");
        catalog.add(&pinned);
        assert!(
            catalog
                .manifest(&pinned.reference, &pinned.root.digest)
                .is_some()
        );
        assert_eq!(catalog.tags(&pinned.reference).unwrap().count(), 0);
        let both = image(&format!("a.b/c:1@{}", Digest::of("pinned")), "pinned");
        catalog.add(&both);
        assert_eq!(
            catalog.tags(&pinned.reference).unwrap().collect::<Vec<_>>(),
            ["1"]
        );
    }

    #[test]
    fn a_tag_of_two_meanings_keeps_the_first_and_is_reported() {
        let mut catalog = Catalog::default();
        let (old, new) = (image("a.b/c:1", "old"), image("a.b/c:1", "new"));
        catalog.add(&old);
        catalog.add(&old);
        assert!(catalog.conflicts().is_empty());
        catalog.add(&new);
        assert_eq!(catalog.tagged(&new.reference), Some(&old.root));
        assert_eq!(
            catalog.manifest(&new.reference, &new.root.digest),
            Some(&new.root)
        );
        assert_eq!(catalog.conflicts()[0].hidden, new.root.digest);
        assert_eq!(catalog.references().len(), 1);
    }
}
