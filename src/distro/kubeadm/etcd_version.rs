//! etcd's own version, which never goes back over a minor one: etcd 3.5 does not start
//! on the data of 3.6 (etcd.io/docs/v3.6/downgrades). API servers of either side read
//! and write what the other one did, so a control plane can go back without it.
//!
//! A member that has to stay keeps the manifest that it runs by, to the letter: the
//! control-plane switch does not restart it.

/// Which etcd stays where an image brings an older one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stays {
    /// The version that runs, such as `3.6.5`.
    pub runs: String,
    /// The version of the image.
    pub image: String,
}

/// Whether the etcd of a manifest has to stay where an image has these container
/// images.
pub fn stays<'a>(manifest: &str, mut images: impl Iterator<Item = &'a str>) -> Option<Stays> {
    let runs = manifest
        .lines()
        .find_map(|line| version(line.trim().strip_prefix("image: ")?))?;
    let image = images.find_map(version)?;
    let minor = |version: &semver::Version| (version.major, version.minor);
    (minor(&runs) > minor(&image)).then(|| Stays {
        runs: runs.to_string(),
        image: image.to_string(),
    })
}

/// The version of etcd in its image's reference: `3.6.5` of
/// `registry.k8s.io/etcd:3.6.5-0`.
fn version(reference: &str) -> Option<semver::Version> {
    let (_, tag) = reference.trim_matches('"').split_once("/etcd:")?;
    let tag = tag.split(['-', '@']).next()?;
    semver::Version::parse(tag.trim_start_matches('v')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_stays_where_the_image_brings_an_older_minor_version() {
        let manifest = |tag: &str| {
            format!("spec:\n  containers:\n  - command:\n    image: registry.k8s.io/etcd:{tag}\n")
        };
        for (runs, image, expected) in [
            ("3.6.5-0", "3.5.24-0", Some(("3.6.5", "3.5.24"))),
            ("3.6.5-0", "v3.5.24", Some(("3.6.5", "3.5.24"))),
            ("3.6.5-0", "3.6.4-0", None),
            ("3.5.24-0", "3.6.5-0", None),
            ("4.0.0", "3.6.5-0@sha256:00", Some(("4.0.0", "3.6.5"))),
            ("latest", "3.5.24-0", None),
        ] {
            let references = [
                "registry.k8s.io/pause:3.10".to_owned(),
                format!("mirror.example/k8s/etcd:{image}"),
            ];
            let found = stays(&manifest(runs), references.iter().map(String::as_str));
            let found = found.map(|one| (one.runs, one.image));
            let expected = expected.map(|(runs, image)| (runs.to_owned(), image.to_owned()));
            assert_eq!(found, expected, "{runs} {image}");
        }
        assert_eq!(stays(&manifest("3.6.5-0"), std::iter::empty()), None);
    }
}
