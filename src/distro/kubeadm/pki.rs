//! The cluster's keys and certificates on a control-plane host.
//!
//! `/etc/kubernetes/pki` belongs to no generation. It is made whole in a
//! directory beside it and renamed into place, so a crash leaves either nothing
//! or all of it. The certificate authorities are made once, on the first control
//! plane, and travel through the agents to the others; every other key is made
//! where it is used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

/// What every control plane has the same: the certificate authorities and the
/// key that signs service-account tokens.
const SHARED: [&str; 8] = [
    "ca.crt",
    "ca.key",
    "sa.key",
    "sa.pub",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "etcd/ca.crt",
    "etcd/ca.key",
];

/// The kubeconfigs of a control-plane host. kubelet's own is a
/// [`credential`](super::credential).
const KUBECONFIGS: [&str; 4] = [
    "admin.conf",
    "super-admin.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

/// The shared part of the PKI, as it travels between control planes. Never
/// written anywhere but to `/etc/kubernetes/pki`, never shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authorities {
    files: Vec<(String, String)>,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorities(secret)")
    }
}

impl Authorities {
    /// The files: names below `/etc/kubernetes/pki`, and what is in them.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter();
        files.map(|(name, content)| (name.as_str(), content.as_str()))
    }

    /// From such files, which must be exactly those that every control plane has the
    /// same.
    ///
    /// # Errors
    /// [`Kind::Integrity`] when one is missing, or there is another one.
    pub fn from_files(files: Vec<(String, String)>) -> Result<Self> {
        let has = |name: &&str| files.iter().any(|(other, _)| other == name);
        let missing = SHARED.iter().find(|name| !has(name));
        let strange = files
            .iter()
            .map(|(name, _)| name.as_str())
            .find(|name| !SHARED.contains(name));
        if let Some(name) = missing.copied().or(strange) {
            let message = format!("the keys of a control plane are not as expected: `{name}`");
            return Err(Error::new(Kind::Integrity, message));
        }
        Ok(Authorities { files })
    }
}

/// Where a host's PKI lies.
pub struct Pki {
    kubernetes: PathBuf,
}

impl Pki {
    /// The PKI below `root`, which is `/` in life.
    pub fn at(root: &Path) -> Self {
        Pki {
            kubernetes: root.join("etc/kubernetes"),
        }
    }

    fn directory(&self) -> PathBuf {
        self.kubernetes.join("pki")
    }

    /// The digest of the cluster's CA certificate, once the PKI is whole; `None`
    /// before. Tells two clusters apart.
    pub fn identity(&self) -> Option<Digest> {
        let whole = KUBECONFIGS
            .iter()
            .all(|name| self.kubernetes.join(name).is_file())
            && self.directory().join("apiserver.crt").is_file();
        let certificate = fs::read(self.directory().join("ca.crt")).ok()?;
        whole.then(|| Digest::of(certificate))
    }

    /// The shared part, to be given to another control plane.
    pub fn authorities(&self) -> Result<Authorities> {
        let files = SHARED
            .iter()
            .map(|name| {
                let path = self.directory().join(name);
                let content = fs::read_to_string(&path)
                    .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
                Ok(((*name).to_owned(), content))
            })
            .collect::<Result<_>>()?;
        Ok(Authorities { files })
    }

    /// Makes the PKI with the kubeadm at `program` and its configuration: new
    /// authorities, or leaf certificates under the given ones. What is there and
    /// whole is kept; authorities that differ from the given ones are an error.
    pub fn make(
        &self,
        context: &Context,
        program: &Path,
        config: &str,
        given: Option<&Authorities>,
    ) -> Result<()> {
        file::create_directories(&self.kubernetes)?;
        let directory = self.directory();
        if directory.exists() {
            if let Some(given) = given {
                self.same(given)?;
            }
        } else {
            let staged = self.staging("pki")?;
            if let Some(given) = given {
                write_authorities(&staged, given)?;
            }
            self.kubeadm(
                context,
                program,
                &with_directory(config, &staged)?,
                &["certs", "all"],
                &[],
            )?;
            sync_tree(&staged)?;
            rename(&staged, &directory)?;
        }
        self.make_kubeconfigs(context, program, config)
    }

    fn make_kubeconfigs(&self, context: &Context, program: &Path, config: &str) -> Result<()> {
        let staged = self.staging("conf")?;
        for name in KUBECONFIGS {
            let target = self.kubernetes.join(name);
            if target.exists() {
                continue;
            }
            let phase = name.trim_end_matches(".conf");
            let phase = if phase == "super-admin" {
                "super-admin"
            } else {
                phase
            };
            let output = staged.to_string_lossy().into_owned();
            self.kubeadm(
                context,
                program,
                config,
                &["kubeconfig", phase],
                &["--kubeconfig-dir", &output],
            )?;
            let made = staged.join(name);
            fs::File::open(&made)
                .and_then(|file| file.sync_all())
                .or_err(Kind::Failed, || format!("kubeadm made no `{name}`"))?;
            rename(&made, &target)?;
        }
        fs::remove_dir_all(&staged).or_err(Kind::System, || {
            format!("cannot remove `{}`", staged.display())
        })
    }

    /// An empty directory beside the PKI; what a crash left in it is removed.
    fn staging(&self, name: &str) -> Result<PathBuf> {
        let path = self.kubernetes.join(format!(".chasi-{name}"));
        let problem = || format!("cannot make the directory `{}`", path.display());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).or_err(Kind::System, problem);
            }
            _ => {}
        }
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
            .or_err(Kind::System, problem)?;
        Ok(path)
    }

    fn kubeadm(
        &self,
        context: &Context,
        program: &Path,
        config: &str,
        phase: &[&str],
        more: &[&str],
    ) -> Result<()> {
        let scratch = tempfile::NamedTempFile::new()
            .and_then(|mut scratch| {
                std::io::Write::write_all(&mut scratch, config.as_bytes())?;
                Ok(scratch)
            })
            .or_err(Kind::System, || "cannot write a temporary file")?;
        Command::new(program)
            .args(["init", "phase"])
            .args(phase)
            .arg("--config")
            .arg(scratch.path())
            .args(more)
            .told(context)
            .run()
            .map(|_| ())
    }

    fn same(&self, given: &Authorities) -> Result<()> {
        for (name, content) in &given.files {
            let path = self.directory().join(name);
            let here = fs::read(&path).unwrap_or_default();
            if Digest::of(&here) != Digest::of(content) {
                return Err(Error::new(
                    Kind::Check,
                    format!("`{}` belongs to another cluster", path.display()),
                )
                .hint("remove what is left of the other cluster: `chasi delete` with its Clusterfile, or `kubeadm reset` where chasi did not install it"));
            }
        }
        Ok(())
    }
}

fn write_authorities(directory: &Path, authorities: &Authorities) -> Result<()> {
    file::create_directories(&directory.join("etcd"))?;
    for (name, content) in &authorities.files {
        // What comes over the wire names only files that we know.
        if !SHARED.contains(&name.as_str()) {
            return Err(Error::new(
                Kind::Integrity,
                format!("`{name}` is no part of a PKI"),
            ));
        }
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        file::write(&directory.join(name), content.as_bytes(), mode)?;
    }
    Ok(())
}

/// kubeadm refuses `--cert-dir` beside `--config`, so the configuration itself
/// names the directory.
fn with_directory(config: &str, directory: &Path) -> Result<String> {
    const FIELD: &str = "certificatesDir:";
    let mut found = 0;
    let lines: Vec<String> = config
        .lines()
        .map(|line| {
            if line.starts_with(FIELD) {
                found += 1;
                format!("{FIELD} {}", directory.display())
            } else {
                line.to_owned()
            }
        })
        .collect();
    if found != 1 {
        return Err(Error::new(
            Kind::Failed,
            "kubeadm's configuration names no certificatesDir",
        ));
    }
    Ok(lines.join("\n") + "\n")
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .and_then(|()| to.parent().map_or(Ok(()), file::sync_directory))
        .or_err(Kind::System, || {
            format!("cannot put `{}` in its place", to.display())
        })
}

/// Makes everything below a directory durable.
fn sync_tree(directory: &Path) -> Result<()> {
    fn sync(path: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                sync(&entry.path())?;
            } else {
                fs::File::open(entry.path())?.sync_all()?;
            }
        }
        file::sync_directory(path)
    }
    sync(directory).or_err(Kind::System, || {
        format!("cannot sync `{}`", directory.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificates_directory_is_replaced_where_it_stands() {
        let config = "---\nkind: ClusterConfiguration\ncertificatesDir: /etc/kubernetes/pki\n";
        let other = with_directory(config, Path::new("/tmp/x")).unwrap();
        assert!(other.contains("\ncertificatesDir: /tmp/x\n"), "{other}");
        assert!(with_directory("kind: x\n", Path::new("/tmp/x")).is_err());
    }

    #[test]
    fn authorities_with_a_strange_name_write_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let hostile = Authorities {
            files: vec![("../../x".into(), "y".into())],
        };
        assert_eq!(
            write_authorities(directory.path(), &hostile)
                .unwrap_err()
                .kind(),
            Kind::Integrity
        );
        assert!(!format!("{hostile:?}").contains('y') || !format!("{hostile:?}").contains("../"));
    }
}
