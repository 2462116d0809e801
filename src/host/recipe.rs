//! What a generation is made from: a pure value.
//!
//! Its identity is the digest of its JSON with all objects' keys sorted. Staging
//! is a deterministic function of it, so who compares identities compares
//! generations without making them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Kind, Result, ResultExt};
use crate::oci::Platform;
use crate::oci::image::Layer;
use crate::oci::layer::EntryPath;

/// What a generation is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The cluster image.
    pub image: Digest,
    /// The host's platform.
    pub platform: Platform,
    /// The Kubernetes version that the image installs, without `v`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// The image's layers for this platform, the lowest first.
    pub layers: Vec<Layer>,
    /// What templates can refer to.
    pub context: Value,
    /// Files beyond those of the image, and in place of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ExtraFile>,
    /// Blocks in files that others own too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<Block>,
    /// Directories beyond those that files need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<ExtraDirectory>,
    /// What the producer of further files is given, see
    /// [`stage`](super::generation::stage).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub source: Value,
}

/// A file that is not of the image. Owned by root.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraFile {
    /// Where it goes on the host: below `etc/`, `usr/` or `opt/`.
    pub path: EntryPath,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: String,
}

/// A marked block in a file that others own too, such as `/etc/hosts`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The file, in which `#` begins a comment.
    pub path: EntryPath,
    /// The lines between the marks.
    pub content: String,
}

/// A directory that is made if it is not there. Owned by root.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraDirectory {
    /// Where it is on the host.
    pub path: EntryPath,
    /// Permission bits, for one that is made.
    pub mode: u32,
}

impl Recipe {
    /// The identity of the generation that is made from this.
    pub fn identity(&self) -> Result<Digest> {
        let canonical = || {
            let mut value = serde_json::to_value(self)?;
            value.sort_all_objects();
            serde_json::to_vec(&value)
        };
        Ok(Digest::of(canonical().or_err(
            Kind::Failed,
            || "cannot write a recipe as JSON",
        )?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recipe(context: Value) -> Recipe {
        Recipe {
            image: Digest::of("image"),
            platform: "linux/amd64".parse().unwrap(),
            kubernetes: Some("1.34.4".into()),
            layers: Vec::new(),
            context,
            files: Vec::new(),
            blocks: Vec::new(),
            directories: Vec::new(),
            source: Value::Null,
        }
    }

    #[test]
    fn the_order_of_keys_means_nothing_and_everything_else_does() {
        let one = recipe(json!({"a": 1, "b": {"c": 2, "d": 3}}))
            .identity()
            .unwrap();
        let two = recipe(json!({"b": {"d": 3, "c": 2}, "a": 1}))
            .identity()
            .unwrap();
        let three = recipe(json!({"b": {"d": 3, "c": 2}, "a": 2}))
            .identity()
            .unwrap();
        assert_eq!(one, two);
        assert_ne!(one, three);
    }

    #[test]
    fn the_identity_of_a_recipe_never_changes() {
        let mut recipe = recipe(json!({"host": {"name": "a"}}));
        recipe.blocks.push(Block {
            path: "etc/hosts".parse().unwrap(),
            content: "127.0.0.1 x\n".into(),
        });
        assert_eq!(
            recipe.identity().unwrap().to_string(),
            "sha256:77227bc743aae1b81a2a5752f90bc0cb88eb641d337356c718ed0fb807b7437e"
        );
    }
}
