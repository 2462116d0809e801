//! `index.json`: the names in the store.

use std::collections::HashMap;
use std::io::Read;

use oci_spec::image::{Descriptor, ImageIndex};

use super::{BLOBS, OWN, Store, prune};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::{Blob, Reference, annotation, media};

pub(crate) const INDEX_FILE: &str = "index.json";

/// The parsed `index.json`.
pub(crate) struct Index {
    document: ImageIndex,
}

impl Index {
    /// Parses the file; `what` names it in errors.
    pub(crate) fn parse(text: &[u8], what: &str) -> Result<Self> {
        Ok(Index {
            document: document::parse_index(text, what)?,
        })
    }

    /// All entries: the name as it stands there, if any, and the content.
    pub(crate) fn entries(&self) -> Vec<(Option<&str>, &Descriptor)> {
        self.document
            .manifests()
            .iter()
            .map(|descriptor| (name(descriptor), descriptor))
            .collect()
    }

    /// The entries whose name is a reference. Layouts of other programs may hold
    /// others; those are kept, but cannot be asked for.
    pub(super) fn tags(&self) -> Vec<(Reference, Blob)> {
        let mut tags: Vec<_> = self
            .document
            .manifests()
            .iter()
            .filter_map(|descriptor| {
                let reference = name(descriptor)?.parse().ok()?;
                Some((reference, document::blob(descriptor).ok()?))
            })
            .collect();
        tags.sort();
        tags
    }

    fn set(&mut self, reference: &Reference, blob: &Blob) -> Result<()> {
        let mut descriptor = document::descriptor(blob)?;
        let name_of = HashMap::from([(annotation::REF_NAME.to_owned(), reference.to_string())]);
        descriptor.set_annotations(Some(name_of));
        let mut manifests = self.without(reference);
        manifests.push(descriptor);
        manifests.sort_by(|a, b| name(a).cmp(&name(b)));
        self.document.set_manifests(manifests);
        Ok(())
    }

    /// Whether the name was there.
    fn unset(&mut self, reference: &Reference) -> bool {
        let manifests = self.without(reference);
        let removed = manifests.len() < self.document.manifests().len();
        self.document.set_manifests(manifests);
        removed
    }

    fn without(&self, reference: &Reference) -> Vec<Descriptor> {
        let is_other = |descriptor: &&Descriptor| {
            name(descriptor).and_then(|name| name.parse().ok()).as_ref() != Some(reference)
        };
        self.document
            .manifests()
            .iter()
            .filter(is_other)
            .cloned()
            .collect()
    }
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    descriptor
        .annotations()
        .as_ref()?
        .get(annotation::REF_NAME)
        .map(String::as_str)
}

impl Store {
    pub(crate) fn read_index(&self) -> Result<Index> {
        let path = self.root.join(INDEX_FILE);
        let what = format!("`{}`", path.display());
        let mut text = Vec::new();
        self.open_file(INDEX_FILE)?
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut text)
            .or_err(Kind::System, || format!("cannot read {what}"))?;
        if text.len() as u64 > MAX_DOCUMENT {
            return Err(Error::new(
                Kind::Integrity,
                format!("{what} is larger than {MAX_DOCUMENT} bytes"),
            ));
        }
        Index::parse(&text, &what)
    }

    /// Writes an index without names, if there is none. A store that has blobs has
    /// lost its index, and with an empty one it would lose the blobs as well.
    pub(super) fn create_index(&self) -> Result<()> {
        let _lock = self.lock_index()?;
        let path = self.root.join(INDEX_FILE);
        if path.exists() {
            return Ok(());
        }
        if !prune::list(&self.root.join(BLOBS))?.is_empty() {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the store has blobs, but its index `{}` is missing",
                    path.display()
                ),
            )
            .hint("move the store away and load or pull its images again"));
        }
        self.write_index(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::INDEX,
            "manifests": [],
        }))
    }

    pub(super) fn set_tag(&self, reference: &Reference, blob: &Blob) -> Result<()> {
        let _lock = self.lock_index()?;
        let mut index = self.read_index()?;
        index.set(reference, blob)?;
        self.write_index(&index.document)
    }

    /// Removes a name and returns what it stood for. The content stays until
    /// [`Store::prune`].
    pub fn untag(&self, reference: &Reference) -> Result<Blob> {
        let _lock = self.lock_index()?;
        let blob = self.resolve(reference)?;
        let mut index = self.read_index()?;
        // A name with a digest can be resolved without being a name that is there.
        if !index.unset(reference) {
            return Err(Error::new(
                Kind::NotFound,
                format!("`{}` is not a name in the store", reference.familiar()),
            )
            .hint("`chasi images` lists the names"));
        }
        self.write_index(&index.document)?;
        Ok(blob)
    }

    fn write_index(&self, index: &impl serde::Serialize) -> Result<()> {
        let text = document::canonical(index)?;
        if text.len() as u64 > MAX_DOCUMENT {
            return Err(
                Error::new(Kind::Failed, "there are too many names in the store")
                    .hint("remove some with `chasi rmi`"),
            );
        }
        file::write(&self.root.join(INDEX_FILE), &text, 0o644)
    }

    /// Held for the moment of a replacement only, so it is simply waited for.
    pub(super) fn lock_index(&self) -> Result<std::fs::File> {
        let path = self.root.join(OWN).join("index.lock");
        let attempt = || {
            let file = std::fs::File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.lock()?;
            Ok::<_, std::io::Error>(file)
        };
        attempt().or_err(Kind::System, || format!("cannot lock `{}`", path.display()))
    }
}
