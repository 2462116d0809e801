//! `chasi build`: a cluster image from a Kubefile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::images::human_size;
use super::table::Table;
use super::{Format, Shell, config, store};
use crate::build::{self, Cache, KUBEFILE, Layer, Origin, Request, Summary, Tools};
use crate::error::{Error, Kind, Result};
use crate::oci::http::Transport;
use crate::oci::{Platform, Reference, registry};

/// Build a cluster image from a Kubefile.
#[derive(clap::Args)]
pub struct Args {
    /// The directory that `COPY` takes files from.
    #[arg(value_name = "CONTEXT")]
    context: PathBuf,
    /// The image's name, such as `registry.example.com/site/cluster:1.0`.
    #[arg(short, long, value_name = "REFERENCE")]
    tag: Reference,
    /// The Kubefile [default: `Kubefile` in the context].
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A value for an `ARG`; can be repeated.
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
    /// What hosts the image is for, separated by commas [default: linux on this machine's architecture].
    #[arg(long, value_name = "OS/ARCHITECTURE", value_delimiter = ',')]
    platform: Vec<Platform>,
    /// Fetch from elsewhere: URLs or references that begin with `FROM` are asked for at `TO`; can be
    /// repeated.
    #[arg(long, value_name = "FROM=TO")]
    mirror: Vec<String>,
    /// Write every layer anew.
    #[arg(long)]
    no_cache: bool,
    /// Refuse whatever resolves to something else than the lock file says.
    #[arg(long)]
    locked: bool,
    /// The lock file [default: the Kubefile's name with `.lock` behind it].
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,
    /// How to show the result.
    #[arg(long, value_enum, default_value = "table", value_name = "HOW")]
    format: Format,
}

impl Args {
    /// Builds and tells what was built.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let settings = config::network(&self.mirror)?;
        let tools = Tools {
            store: store::open()?,
            cache: Cache::open(&config::build_cache()?)?,
            transport: Arc::new(Transport::new(settings.trust.clone())),
            registry: registry::Client::new(settings),
            netrc: config::netrc()?,
        };
        let format = self.format;
        let request = self.request()?;
        let summary = shell.block_on(build::build(shell.context(), &request, &tools))?;
        for unseen in &summary.unseen {
            shell.context().warn(format!(
                "`{}`: {}; if the cluster needs an image for it, name it with `IMAGE`",
                unseen.file, unseen.what
            ));
        }
        match format {
            Format::Json => shell.json(&summary),
            Format::Table => shell.result(&text(&summary)),
        }
    }

    fn request(self) -> Result<Request> {
        if self.tag.digest().is_some() {
            return Err(
                Error::new(Kind::Usage, "a name for a new image cannot have a digest")
                    .hint("write `--tag REPOSITORY:TAG`"),
            );
        }
        let kubefile = self.file.unwrap_or_else(|| self.context.join(KUBEFILE));
        let lock_file = self.lock_file.unwrap_or_else(|| {
            let mut name = kubefile.clone().into_os_string();
            name.push(".lock");
            name.into()
        });
        let mut platforms = self.platform;
        if platforms.is_empty() {
            platforms.push(Platform::linux(architecture())?);
        }
        Ok(Request {
            context: self.context,
            kubefile,
            lock_file,
            locked: self.locked,
            reference: self.tag,
            platforms,
            arguments: arguments(&self.build_args)?,
            reuse: !self.no_cache,
        })
    }
}

fn arguments(words: &[String]) -> Result<BTreeMap<String, String>> {
    let pairs = words.iter().map(|word| {
        let (name, value) = word.split_once('=').ok_or_else(|| {
            Error::new(Kind::Usage, format!("`--build-arg {word}` has no value"))
                .hint(format!("write `--build-arg {word}=VALUE`"))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// This machine's architecture, in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The summary for people: a line for each layer of the Kubefile or of another
/// image, then one for each container image.
fn text(summary: &Summary) -> String {
    let mut layers = Table::new(["LAYER", "PLATFORM", "SIZE", "FROM"]);
    for rootfs in &summary.rootfs {
        for group in rootfs.layers.chunk_by(is_one_layer) {
            let size = group.iter().map(|layer| layer.size).sum();
            let size = human_size(size);
            layers.row([
                group[0].kind.name(),
                &rootfs.platform.to_string(),
                &size,
                &origin(group),
            ]);
        }
    }
    let mut text = String::new();
    if summary
        .rootfs
        .iter()
        .any(|rootfs| !rootfs.layers.is_empty())
    {
        text.push_str(&format!("{layers}\n"));
    }
    if !summary.images.is_empty() {
        let mut images = Table::new(["CONTAINER IMAGE", "DIGEST", "SIZE", "NAMED BY"]);
        for image in &summary.images {
            images.row([
                image.reference.familiar(),
                image.digest.short(),
                human_size(image.size),
                image.named_by.join(", "),
            ]);
        }
        text.push_str(&format!("{images}\n"));
    }
    text.push_str(&format!(
        "{}@{}\n{} in {:.1} s\n",
        summary.reference,
        summary.digest,
        human_size(summary.size),
        summary.seconds
    ));
    text
}

/// Whether two neighbours are parts of the same layer, for people.
fn is_one_layer(one: &Layer, other: &Layer) -> bool {
    let included = |layer: &Layer| match &layer.origin {
        Origin::Included(name) => Some(name.clone()),
        Origin::Built | Origin::Cached => None,
    };
    one.kind == other.kind && included(one) == included(other)
}

fn origin(group: &[Layer]) -> String {
    if let Origin::Included(name) = &group[0].origin {
        return name.clone();
    }
    let built = group
        .iter()
        .filter(|layer| layer.origin == Origin::Built)
        .count();
    match group.len() - built {
        0 => "this build".to_owned(),
        _ if built == 0 => "the cache".to_owned(),
        cached => format!(
            "this build, {cached} of {} parts from the cache",
            group.len()
        ),
    }
}
