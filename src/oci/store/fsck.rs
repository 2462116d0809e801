//! Looking for damage: a list of small named checks.
//!
//! A check returns what it found; not being able to look is an error, not a
//! finding.

use std::collections::HashSet;
use std::io::Read;

use rayon::prelude::*;

use super::{BLOBS, Store, prune};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::{Reference, document};

/// Damage in a store.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Finding {
    /// The name of the check that found it.
    pub check: &'static str,
    /// What is damaged: a path, a name, a digest.
    pub subject: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// One check.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it looks at.
    pub about: &'static str,
    run: fn(&Store, &Context) -> Result<Vec<Finding>>,
}

/// All checks, in the order in which they run.
pub const CHECKS: &[Check] = &[
    Check {
        name: "layout",
        about: "`oci-layout` and `index.json` can be read",
        run: layout,
    },
    Check {
        name: "names",
        about: "every name in `index.json` is a reference and stands there once",
        run: names,
    },
    Check {
        name: "files",
        about: "`blobs/sha256` holds nothing but blobs",
        run: files,
    },
    Check {
        name: "content",
        about: "every blob's content matches its name",
        run: content,
    },
    Check {
        name: "references",
        about: "everything that a name leads to is there",
        run: references,
    },
];

impl Store {
    /// Runs all checks. Reads every byte of the store. While it runs, others may
    /// read and write, but not prune.
    pub fn fsck(&self, ctx: &Context) -> Result<Vec<Finding>> {
        let _hold = self.hold()?;
        let mut findings = Vec::new();
        for check in CHECKS {
            let found = (check.run)(self, ctx).map_err(|cause| {
                if cause.kind() == Kind::Interrupted {
                    return cause;
                }
                Error::new(
                    cause.kind(),
                    format!("the check `{}` could not look", check.name),
                )
                .because(cause)
            })?;
            // Without the two documents, the other checks have nothing to look at.
            let stop = check.name == "layout" && !found.is_empty();
            findings.extend(found);
            if stop {
                break;
            }
        }
        Ok(findings)
    }
}

/// Damage becomes a finding, and every other error stays one.
fn damage<T>(
    check: &'static str,
    subject: &str,
    remedy: &str,
    result: Result<T>,
) -> Result<Result<T, Finding>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if matches!(error.kind(), Kind::Integrity | Kind::NotFound) => {
            let problem = std::iter::once(error.message().to_owned())
                .chain(error.causes().map(ToString::to_string))
                .collect::<Vec<_>>()
                .join(": ");
            Ok(Err(Finding {
                check,
                subject: subject.to_owned(),
                problem,
                remedy: remedy.to_owned(),
            }))
        }
        Err(error) => Err(error),
    }
}

fn layout(store: &Store, _: &Context) -> Result<Vec<Finding>> {
    let looked = store.check_layout().and_then(|()| store.read_index());
    let subject = store.root.display().to_string();
    let remedy = "move the store away and load or pull its images again";
    Ok(damage("layout", &subject, remedy, looked)?
        .err()
        .into_iter()
        .collect())
}

fn names(store: &Store, _: &Context) -> Result<Vec<Finding>> {
    let index = store.read_index()?;
    let mut seen = HashSet::new();
    let mut findings = Vec::new();
    for (name, descriptor) in index.entries() {
        let problem = match name {
            None => Some("has no name"),
            Some(name) if name.parse::<Reference>().is_err() => Some("is not a reference"),
            Some(name) if !seen.insert(name) => Some("stands there twice"),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            findings.push(Finding {
                check: "names",
                subject: name.map_or_else(|| descriptor.digest().to_string(), str::to_owned),
                problem: problem.to_owned(),
                remedy: "remove the entry from `index.json`".into(),
            });
        }
    }
    Ok(findings)
}

fn files(store: &Store, _: &Context) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in prune::list(&store.root.join(BLOBS))? {
        if digest_of(&path).is_none() {
            findings.push(Finding {
                check: "files",
                subject: path.display().to_string(),
                problem: "is not a blob".into(),
                remedy: "remove it".into(),
            });
        }
    }
    Ok(findings)
}

/// The digest that a blob's file is named by; `None` for what is not a blob.
fn digest_of(path: &std::path::Path) -> Option<Digest> {
    if !path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file())
    {
        return None;
    }
    format!("sha256:{}", path.file_name()?.to_str()?)
        .parse()
        .ok()
}

fn content(store: &Store, ctx: &Context) -> Result<Vec<Finding>> {
    let blobs: Vec<_> = prune::list(&store.root.join(BLOBS))?
        .into_iter()
        .filter_map(|path| Some((digest_of(&path)?, path)))
        .collect();
    let done = std::sync::atomic::AtomicU64::new(0);
    let findings: Vec<Option<Finding>> = blobs
        .par_iter()
        .map(|(digest, path)| {
            ctx.check_cancelled()?;
            let unreadable = || format!("cannot read `{}`", path.display());
            let mut file = Hashing::new(store.open_file(&format!("{BLOBS}/{}", digest.hex()))?);
            let mut buffer = vec![0; 1 << 20];
            while file.read(&mut buffer).or_err(Kind::System, unreadable)? > 0 {
                ctx.check_cancelled()?;
            }
            let (_, found, length) = file.finish();
            let done = done.fetch_add(length, std::sync::atomic::Ordering::Relaxed) + length;
            ctx.emit(Event::Progress {
                host: None,
                item: "blobs".into(),
                done,
                total: None,
            });
            Ok((found != *digest).then(|| Finding {
                check: "content",
                subject: path.display().to_string(),
                problem: format!("its content has the digest {found}"),
                remedy: "remove the file and load or pull the images that need it again".into(),
            }))
        })
        .collect::<Result<_>>()?;
    Ok(findings.into_iter().flatten().collect())
}

fn references(store: &Store, _: &Context) -> Result<Vec<Finding>> {
    let index = store.read_index()?;
    let mut findings = Vec::new();
    for (name, descriptor) in index.entries() {
        let subject = name.map_or_else(|| descriptor.digest().to_string(), str::to_owned);
        let remedy = "load or pull the image again";
        let looked = document::blob(descriptor).and_then(|root| store.reachable(&root));
        match damage("references", &subject, remedy, looked)? {
            Err(finding) => findings.push(finding),
            Ok(reachable) => findings.extend(reachable.missing.iter().map(|blob| Finding {
                check: "references",
                subject: subject.clone(),
                problem: format!(
                    "the {} {} with {} bytes is missing",
                    blob.media_type, blob.digest, blob.size
                ),
                remedy: remedy.into(),
            })),
        }
    }
    Ok(findings)
}
