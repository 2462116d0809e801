//! The JSON documents of the OCI image specification, read within bounds and
//! written canonically: keys sorted, no white space, no time stamps.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Blob, media};
use crate::error::{Error, Kind, Result, ResultExt};

/// The largest document that is read, in bytes. The distribution specification
/// asks registries to accept manifests of at least 4 MiB; none needs more.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The largest number of descriptors in one document.
pub const MAX_DESCRIPTORS: usize = 4096;

/// Parses a document. `what` names it in the error.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).or_err(Kind::Integrity, || format!("{what} is not valid"))
}

/// Parses an index or Docker list and checks what every reader relies on.
pub(super) fn parse_index(bytes: &[u8], what: &str) -> Result<ImageIndex> {
    let index: ImageIndex = parse(bytes, what)?;
    check_version(index.schema_version(), what)?;
    check_own_type(index.media_type().as_ref(), media::is_index, what)?;
    check_count(index.manifests().len(), what)?;
    Ok(index)
}

/// Parses an image manifest, OCI or Docker, and checks what every reader relies
/// on.
pub(super) fn parse_manifest(bytes: &[u8], what: &str) -> Result<ImageManifest> {
    let manifest: ImageManifest = parse(bytes, what)?;
    check_version(manifest.schema_version(), what)?;
    check_own_type(manifest.media_type().as_ref(), media::is_manifest, what)?;
    check_count(manifest.layers().len(), what)?;
    Ok(manifest)
}

fn check_version(version: u32, what: &str) -> Result<()> {
    if version != 2 {
        return Err(Error::new(
            Kind::Integrity,
            format!("{what} has schema version {version}, expected 2"),
        ));
    }
    Ok(())
}

/// A document that names another type than the one it is read as could be
/// understood in two ways (CVE-2021-41190), so it is refused.
fn check_own_type(own: Option<&MediaType>, expected: fn(&str) -> bool, what: &str) -> Result<()> {
    match own {
        Some(own) if !expected(own.as_ref()) => Err(Error::new(
            Kind::Integrity,
            format!("{what} says of itself that it is a `{own}`"),
        )),
        _ => Ok(()),
    }
}

fn check_count(count: usize, what: &str) -> Result<()> {
    if count > MAX_DESCRIPTORS {
        return Err(Error::new(
            Kind::Integrity,
            format!("{what} lists {count} descriptors, more than {MAX_DESCRIPTORS}"),
        ));
    }
    Ok(())
}

/// What an index or a manifest says that it is, or, when it says nothing, what it
/// must be by what it lists. `None` for other content.
pub(super) fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    match shape.media_type {
        Some(own) if media::is_index(&own) || media::is_manifest(&own) => Some(own),
        Some(_) => None,
        None if shape.schema_version == 1 => Some(media::DOCKER_SCHEMA_1.into()),
        None if shape.manifests.is_some() && shape.layers.is_none() => Some(media::INDEX.into()),
        None if shape.layers.is_some() && shape.manifests.is_none() => Some(media::MANIFEST.into()),
        None => None,
    }
}

/// The canonical bytes of a document.
pub(super) fn canonical(document: &impl Serialize) -> Result<Vec<u8>> {
    let write = || {
        let mut value = serde_json::to_value(document)?;
        value.sort_all_objects();
        serde_json::to_vec(&value)
    };
    write().or_err(Kind::Failed, || "cannot write a document as JSON")
}

/// A descriptor as a blob; only SHA-256 is accepted.
pub(super) fn blob(descriptor: &Descriptor) -> Result<Blob> {
    let digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|cause: Error| {
            Error::new(
                Kind::Integrity,
                format!(
                    "the digest `{}` of a descriptor is not understood",
                    descriptor.digest()
                ),
            )
            .because(cause)
        })?;
    Ok(Blob {
        media_type: descriptor.media_type().to_string(),
        digest,
        size: descriptor.size(),
    })
}

/// A blob as a descriptor.
pub(super) fn descriptor(blob: &Blob) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = blob
        .digest
        .to_string()
        .parse()
        .or_err(Kind::Failed, || format!("cannot describe {}", blob.digest))?;
    Ok(Descriptor::new(
        MediaType::from(blob.media_type.as_str()),
        blob.size,
        digest,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index() -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{DIGEST}","size":0,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
            media::INDEX,
            media::MANIFEST
        )
    }

    #[test]
    fn a_document_without_a_type_is_known_by_what_it_lists() {
        for (text, expected) in [
            (index(), Some(media::INDEX)),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#.into(),
                Some(media::INDEX),
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#.into(),
                Some(media::MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.into(),
                None,
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.into(),
                Some(media::DOCKER_SCHEMA_1),
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"x/y","layers":[]}"#.into(),
                None,
            ),
            ("{}".into(), None),
            ("".into(), None),
        ] {
            assert_eq!(
                media_type_of(text.as_bytes()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_the_order_of_keys() {
        let one: serde_json::Value =
            serde_json::from_str(r#"{"b":[{"d":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(canonical(&one).unwrap(), br#"{"a":3,"b":[{"c":2,"d":1}]}"#);
    }

    #[test]
    fn a_nest_of_brackets_does_not_exhaust_the_stack() {
        let nest = format!(r#"{{"schemaVersion":2,"manifests":{}"#, "[".repeat(1 << 20));
        assert!(parse_index(nest.as_bytes(), "x").is_err());
        assert_eq!(media_type_of(nest.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn mutated_documents_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut: prop::sample::Index,
        ) {
            let mut text = index().into_bytes();
            for (at, value) in changes {
                let at = at.index(text.len());
                text[at] = value;
            }
            for text in [&text[..], &text[..cut.index(text.len())]] {
                let _ = media_type_of(text);
                let _ = parse_manifest(text, "x");
                if let Ok(index) = parse_index(text, "x") {
                    for descriptor in index.manifests() {
                        let _ = blob(descriptor);
                    }
                }
            }
        }
    }
}
