//! The container images that the cluster runs: who names them, what they resolve
//! to, and their blobs.

use std::collections::{BTreeMap, BTreeSet};

use super::manifests::{Report, Unseen};
use super::summary::Image;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Snippet};
use crate::oci::image::Builder;
use crate::oci::{Blob, ContainerImage, Reference};

/// A container image that somebody names.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub reference: Reference,
    /// Who names it, for the report.
    pub by: String,
    /// Where, for errors.
    pub place: Option<Snippet>,
}

/// The images of a build.
#[derive(Debug, Default)]
pub struct Images {
    images: BTreeMap<Reference, Content>,
    named: BTreeMap<Reference, BTreeSet<String>>,
    unseen: Vec<Unseen>,
}

#[derive(Debug)]
struct Content {
    root: Blob,
    blobs: BTreeMap<Digest, Blob>,
    from: String,
}

/// What is to be told of them.
#[derive(Debug)]
pub struct Told {
    /// The images, by reference.
    pub images: Vec<Image>,
    /// What could not be seen.
    pub unseen: Vec<Unseen>,
}

impl Images {
    /// Notes who names an image.
    pub fn name(&mut self, reference: &Reference, by: &str) {
        self.named
            .entry(reference.clone())
            .or_default()
            .insert(by.to_owned());
    }

    /// Notes what could not be seen.
    pub fn unseen(&mut self, unseen: Vec<Unseen>) {
        for unseen in unseen {
            if !self.unseen.contains(&unseen) {
                self.unseen.push(unseen);
            }
        }
    }

    /// Takes the images of a cluster image over. `from` is its name.
    pub fn include(&mut self, images: &[ContainerImage], from: &str) -> Result<()> {
        for image in images {
            self.name(&image.reference, &format!("included from {from}"));
            self.add(
                &image.reference,
                image.root.clone(),
                image.blobs.clone(),
                from,
            )?;
        }
        Ok(())
    }

    /// Adds the content of an image; more of one that is there already, for
    /// another platform, is added to it.
    pub fn add(
        &mut self,
        reference: &Reference,
        root: Blob,
        blobs: Vec<Blob>,
        from: &str,
    ) -> Result<()> {
        let content = self
            .images
            .entry(reference.clone())
            .or_insert_with(|| Content {
                root: root.clone(),
                blobs: BTreeMap::new(),
                from: from.to_owned(),
            });
        if content.root.digest != root.digest {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "`{reference}` is {} in {} and {} in {from}",
                    content.root.digest, content.from, root.digest
                ),
            )
            .hint("the tag was moved in between: build the older of the images again, or name the image by its digest"));
        }
        content
            .blobs
            .extend(blobs.into_iter().map(|blob| (blob.digest, blob)));
        Ok(())
    }

    /// Gives all images to the builder.
    pub fn finish(self, builder: &mut Builder) -> Result<Told> {
        let mut images = Vec::new();
        for (reference, content) in self.images {
            images.push(Image {
                digest: content.root.digest,
                size: content.blobs.values().map(|blob| blob.size).sum(),
                named_by: self
                    .named
                    .get(&reference)
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect(),
                reference: reference.clone(),
            });
            builder.image(reference, content.root, content.blobs.into_values())?;
        }
        Ok(Told {
            images,
            unseen: self.unseen,
        })
    }
}

/// The images that manifests name.
pub fn named_in(report: &Report) -> Result<Vec<Wanted>> {
    let wanted = report.images.iter().map(|named| {
        let by = format!("{}: {}", named.file, named.object);
        let reference = named.image.parse().map_err(|error: Error| {
            Error::new(
                Kind::Input,
                format!(
                    "`{}` of {} in `{}` is not an image reference",
                    named.field, named.object, named.file
                ),
            )
            .because(error)
        })?;
        Ok(Wanted {
            reference,
            by,
            place: None,
        })
    });
    wanted.collect()
}
