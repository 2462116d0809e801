//! One build, from the Kubefile to the name in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use super::assemble::Assembly;
use super::clusters::Assembled;
use super::download::{Download, Downloads};
use super::images::{self, Images, Wanted};
use super::layers::{Done, Layers};
use super::lock::{self, Lock, Resolved};
use super::manifests::Report;
use super::pieces;
use super::plan::{Part, Plan, blocking};
use super::stamps::Stamps;
use super::summary::{Layer, Origin, Rootfs, Summary};
use super::tree::Tree;
use super::{Request, Tools};
use crate::error::{Error, Kind, Result};
use crate::event;
use crate::oci::image::{self, Builder, LayerKind};
use crate::oci::store::Hold;
use crate::oci::{ClusterImage, Platform, Reference};
use crate::spec::kubefile::{self, Checksum, Kubefile, Source, Spanned, Step};

/// How many downloads, and how many pulls, are under way at once. The registry
/// client bounds its own transfers as well.
const AT_ONCE: usize = 4;

/// Builds an image and gives it its name.
pub async fn build(events: &event::Context, request: &Request, tools: &Tools) -> Result<Summary> {
    let begin = Instant::now();
    let build = Build::begin(events, request, tools).await?;
    let mut work = Work {
        lock: build.old.clone().unwrap_or_default(),
        images: Images::default(),
        builder: Builder::new(),
        rootfs: Vec::new(),
    };
    let platforms: BTreeSet<&Platform> = request.platforms.iter().collect();
    for platform in platforms {
        build.platform(platform, &mut work).await?;
    }
    build.finish(work, begin).await
}

/// Reads a Kubefile.
fn read_kubefile(path: &Path) -> Result<Kubefile> {
    use std::io::Read;
    let shown = path.display().to_string();
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| {
        file.take(kubefile::LIMIT as u64 + 1)
            .read_to_string(&mut text)
    });
    match read {
        Ok(_) => Kubefile::parse(shown, text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            Kind::NotFound,
            format!("there is no Kubefile `{shown}`"),
        )
        .hint("it lies in the context and is called `Kubefile`, or `-f` names it")),
        Err(cause) => Err(Error::new(Kind::Input, format!("cannot read `{shown}`")).because(cause)),
    }
}

struct Build<'a> {
    events: &'a event::Context,
    request: &'a Request,
    tools: &'a Tools,
    downloads: Downloads,
    kubefile: Arc<Kubefile>,
    hold: Hold,
    /// What earlier builds resolved.
    old: Option<Lock>,
}

/// What is there of the image.
struct Work {
    lock: Lock,
    images: Images,
    builder: Builder,
    rootfs: Vec<Rootfs>,
}

/// What was collected for the layers of a Kubefile.
struct Collected {
    trees: Vec<Tree>,
    /// What their manifests name.
    report: Report,
    /// The labels that their plugins make.
    plugins: BTreeMap<String, String>,
}

/// What a layer of the Kubefile became.
struct Written {
    kind: LayerKind,
    pieces: Vec<Done>,
}

impl<'a> Build<'a> {
    /// Reads Kubefile and lock file, and keeps the store from being pruned.
    async fn begin(
        events: &'a event::Context,
        request: &'a Request,
        tools: &'a Tools,
    ) -> Result<Self> {
        let (paths, store) = (request.clone(), tools.store.clone());
        let (kubefile, old, hold) = blocking(events, move |_| {
            let kubefile = read_kubefile(&paths.kubefile)?;
            let old = Lock::read(&paths.lock_file)?;
            Ok((kubefile, old, store.hold()?))
        })
        .await?;
        if request.locked && old.is_none() {
            return Err(Error::new(
                Kind::Check,
                format!("there is no lock file `{}`", request.lock_file.display()),
            )
            .hint("build without `--locked` once to write it"));
        }
        Ok(Build {
            events,
            request,
            tools,
            downloads: Downloads::new(tools),
            kubefile: Arc::new(kubefile),
            hold,
            old,
        })
    }

    /// Builds what goes onto hosts of one platform.
    async fn platform(&self, platform: &Platform, work: &mut Work) -> Result<()> {
        let (request, kubefile) = (self.request.clone(), self.kubefile.clone());
        let for_platform = platform.clone();
        let plan = blocking(self.events, move |_| {
            Plan::make(&request, &kubefile, &for_platform)
        })
        .await?;
        let locked = self.old.as_ref().filter(|_| self.request.locked);
        let locked = locked.map(|lock| lock.get(platform));
        let mut resolved = Resolved::default();
        let clusters = self.clusters(&plan, locked.as_ref(), &mut resolved).await?;
        let downloads = self.download(&plan, locked.as_ref(), &mut resolved).await?;
        let plan = Arc::new(plan);
        let Collected {
            trees,
            report,
            plugins,
        } = self.assemble(&plan, downloads).await?;
        let wanted = [plan.images.clone(), images::named_in(&report)?].concat();
        work.images.unseen(report.unseen);
        let (written, ()) = tokio::try_join!(
            self.write(&plan, trees),
            self.pull(
                wanted,
                platform,
                locked.as_ref(),
                &mut resolved,
                &mut work.images
            ),
        )?;
        let assembled = self.put_together(&plan, platform, &clusters, written, &mut work.images)?;
        let mut own = plan.recipe.labels.clone();
        own.extend(plugins);
        let labels = assembled.labels(&own)?;
        work.lock.set(platform, resolved);
        work.builder
            .rootfs(platform.clone(), labels, assembled.env, assembled.layers);
        work.rootfs.push(Rootfs {
            platform: platform.clone(),
            layers: assembled.told,
        });
        Ok(())
    }

    /// Writes the image's documents and the lock file, and gives the image its name.
    async fn finish(&self, work: Work, begin: Instant) -> Result<Summary> {
        let Work {
            lock,
            images,
            mut builder,
            rootfs,
        } = work;
        let told = images.finish(&mut builder)?;
        let (hold, request, cache) = (
            self.hold.clone(),
            self.request.clone(),
            self.tools.cache.clone(),
        );
        let image = blocking(self.events, move |events| {
            events.check_cancelled()?;
            let image = builder.write(&hold)?;
            hold.tag(&request.reference, &image.index)?;
            if !request.locked {
                lock.write(&request.lock_file).map_err(|error| {
                    error.hint(
                        "the image is there all the same; name another place with `--lock-file`",
                    )
                })?;
            }
            cache.sweep();
            Ok(image)
        })
        .await?;
        Ok(Summary {
            reference: self.request.reference.clone(),
            digest: image.digest,
            size: image.size(),
            rootfs,
            images: told.images,
            unseen: told.unseen,
            lock_file: self.request.lock_file.clone(),
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Finds base and included images, in the store or in their registries.
    async fn clusters(
        &self,
        plan: &Plan,
        locked: Option<&Resolved>,
        resolved: &mut Resolved,
    ) -> Result<BTreeMap<Reference, ClusterImage>> {
        let included = plan.parts.iter().filter_map(|part| match part {
            Part::Include(reference) => Some(reference),
            Part::Layer(..) => None,
        });
        let mut clusters = BTreeMap::new();
        for reference in plan.base.iter().chain(included) {
            let image = self
                .cluster(reference)
                .await
                .map_err(|error| self.at(error, reference))?;
            let name = reference.value.to_string();
            if let Some(locked) = locked {
                lock::check(
                    &self.request.lock_file,
                    &locked.clusters,
                    &name,
                    &image.digest,
                )
                .map_err(|error| self.at(error, reference))?;
            }
            resolved.clusters.insert(name, image.digest);
            clusters.insert(reference.value.clone(), image);
        }
        Ok(clusters)
    }

    async fn cluster(&self, reference: &Spanned<Reference>) -> Result<ClusterImage> {
        let name = &reference.value;
        match self.hold.resolve(name) {
            Ok(index) => ClusterImage::open(&self.hold, &index),
            Err(error) if error.kind() == Kind::NotFound => {
                let pull = self.tools.registry.pull(self.events, &self.hold, name);
                let pulled = self
                    .events
                    .step(None, format!("pull {}", name.familiar()), pull)
                    .await;
                pulled.map_err(|error| {
                    error.hint(format!(
                        "`{}` is not in the store either; build or load it first, or check its name",
                        name.familiar()
                    ))
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Downloads what the layers' steps name: for each layer and each step of it
    /// what was downloaded.
    async fn download(
        &self,
        plan: &Plan,
        locked: Option<&Resolved>,
        resolved: &mut Resolved,
    ) -> Result<Vec<Vec<Option<Download>>>> {
        let steps = layers(plan).flat_map(|(_, layer)| &layer.steps);
        let mut done: Vec<Option<Download>> = stream::iter(steps)
            .map(|step| self.download_step(step, locked))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut downloads = Vec::new();
        for (_, layer) in layers(plan) {
            let rest = done.split_off(layer.steps.len());
            for (step, download) in layer.steps.iter().zip(&done) {
                if let (Source::Url { url, .. }, Some(download)) = (&step.source.value, download) {
                    resolved.urls.insert(url.clone(), download.digest);
                }
            }
            downloads.push(std::mem::replace(&mut done, rest));
        }
        Ok(downloads)
    }

    async fn download_step(
        &self,
        step: &Step,
        locked: Option<&Resolved>,
    ) -> Result<Option<Download>> {
        let Source::Url { url, checksum } = &step.source.value else {
            return Ok(None);
        };
        let work = async {
            let digest = match checksum {
                Some(Checksum::Digest(digest)) => Some(*digest),
                Some(Checksum::Url(file)) => {
                    Some(self.downloads.checksum(self.events, file, url).await?)
                }
                None => None,
            };
            // What is known to differ need not be downloaded.
            if let (Some(locked), Some(digest)) = (locked, digest) {
                lock::check(&self.request.lock_file, &locked.urls, url, &digest)?;
            }
            let download = self.downloads.fetch(self.events, url, digest).await?;
            if let Some(locked) = locked {
                lock::check(&self.request.lock_file, &locked.urls, url, &download.digest)?;
            }
            Ok(Some(download))
        };
        work.await.map_err(|error| self.at(error, &step.source))
    }

    /// Makes the trees of the layers, and reads the manifests and plugins in them.
    async fn assemble(
        &self,
        plan: &Arc<Plan>,
        downloads: Vec<Vec<Option<Download>>>,
    ) -> Result<Collected> {
        let (plan, kubefile) = (plan.clone(), self.kubefile.clone());
        let cache = self.tools.cache.clone();
        let work = blocking(self.events, move |events| {
            let stamps = Stamps::load(&cache, &plan.context)?;
            let layers: Vec<_> = layers(&plan).map(|(_, layer)| layer).collect();
            let assembly = Assembly {
                events,
                kubefile: &kubefile,
                context: &plan.context,
                stamps: &stamps,
                cache: &cache,
            };
            let trees = assembly.trees(&layers, &downloads)?;
            stamps.save()?;
            let mut report = Report::default();
            let mut plugins = BTreeMap::new();
            for tree in &trees {
                assembly.read_texts(tree, &mut report)?;
                plugins.extend(assembly.plugins(tree)?);
            }
            Ok(Collected {
                trees,
                report,
                plugins,
            })
        });
        self.events.step(None, "collect files", work).await
    }

    /// Writes the layers.
    async fn write(&self, plan: &Arc<Plan>, trees: Vec<Tree>) -> Result<Vec<Written>> {
        if layers(plan).next().is_none() {
            return Ok(Vec::new());
        }
        let (plan, hold) = (plan.clone(), self.hold.clone());
        let (cache, reuse) = (self.tools.cache.clone(), self.request.reuse);
        let work = blocking(self.events, move |events| {
            let split: Vec<_> = trees.iter().map(pieces::split).collect();
            let all: Vec<_> = split.iter().flatten().collect();
            let layers_of = Layers {
                events,
                context: &plan.context,
                cache: &cache,
                reuse,
                hold: &hold,
            };
            let mut done = layers_of.write(&all)?.into_iter();
            let kinds = layers(&plan).map(|(kind, _)| kind);
            let written = kinds.zip(&split).map(|(kind, pieces)| Written {
                kind,
                pieces: done.by_ref().take(pieces.len()).collect(),
            });
            Ok(written.collect())
        });
        self.events.step(None, "write layers", work).await
    }

    /// Pulls container images.
    async fn pull(
        &self,
        wanted: Vec<Wanted>,
        platform: &Platform,
        locked: Option<&Resolved>,
        resolved: &mut Resolved,
        images: &mut Images,
    ) -> Result<()> {
        let mut by_reference: BTreeMap<Reference, Vec<Wanted>> = BTreeMap::new();
        for wanted in wanted {
            images.name(&wanted.reference, &wanted.by);
            by_reference
                .entry(wanted.reference.clone())
                .or_default()
                .push(wanted);
        }
        let mut pulled = stream::iter(by_reference)
            .map(|(reference, wanted)| self.pull_one(reference, wanted, platform, locked))
            .buffered(AT_ONCE);
        while let Some((reference, image)) = pulled.try_next().await? {
            resolved
                .images
                .insert(reference.to_string(), image.root.digest);
            images.add(&reference, image.root, image.blobs, "this build")?;
        }
        Ok(())
    }

    async fn pull_one(
        &self,
        reference: Reference,
        wanted: Vec<Wanted>,
        platform: &Platform,
        locked: Option<&Resolved>,
    ) -> Result<(Reference, crate::oci::registry::PulledImage)> {
        let platforms = std::slice::from_ref(platform);
        let registry = &self.tools.registry;
        let work = async {
            let Some(locked) = locked else {
                return registry
                    .pull_container_image(self.events, &self.hold, &reference, platforms)
                    .await;
            };
            let root = registry
                .resolve(self.events, &self.hold, &reference)
                .await?;
            lock::check(
                &self.request.lock_file,
                &locked.images,
                &reference.to_string(),
                &root.digest,
            )?;
            // By digest: the tag may move at any time.
            let exact = reference.with_digest(root.digest);
            registry
                .pull_container_image(self.events, &self.hold, &exact, platforms)
                .await
        };
        let image = self
            .events
            .step(None, format!("pull {}", reference.familiar()), work)
            .await;
        let image =
            image.map_err(
                |error| match wanted.iter().find_map(|wanted| wanted.place.clone()) {
                    Some(place) if error.snippet().is_none() => error.at(place),
                    _ => match wanted.first() {
                        Some(wanted) => error.hint(format!("the image is named by {}", wanted.by)),
                        None => error,
                    },
                },
            )?;
        Ok((reference, image))
    }

    /// Puts layers of this build and of other images in order.
    fn put_together(
        &self,
        plan: &Plan,
        platform: &Platform,
        clusters: &BTreeMap<Reference, ClusterImage>,
        written: Vec<Written>,
        images: &mut Images,
    ) -> Result<Assembled> {
        let mut assembled = Assembled::default();
        let find = |reference: &Reference| {
            let missing = || Error::new(Kind::Failed, format!("`{reference}` was not found"));
            clusters.get(reference).ok_or_else(missing)
        };
        if let Some(base) = &plan.base {
            assembled
                .base(find(&base.value)?, &base.value, platform, images)
                .map_err(|error| self.at(error, base))?;
        }
        let mut written = written.into_iter();
        for part in &plan.parts {
            match part {
                Part::Include(name) => assembled
                    .include(find(&name.value)?, &name.value, platform, images)
                    .map_err(|error| self.at(error, name))?,
                Part::Layer(..) => written
                    .next()
                    .into_iter()
                    .for_each(|written| add(&mut assembled, written)),
            }
        }
        assembled.env.extend(plan.recipe.environment.clone());
        Ok(assembled)
    }

    /// Points an error at a place of the Kubefile, unless it points somewhere.
    fn at<T>(&self, error: Error, place: &Spanned<T>) -> Error {
        match error.snippet() {
            Some(_) => error,
            None => error.at(self.kubefile.place(place.span.clone(), "")),
        }
    }
}

/// The layers of a plan, in order.
fn layers(plan: &Plan) -> impl Iterator<Item = (LayerKind, &kubefile::Layer)> {
    plan.parts.iter().filter_map(|part| match part {
        Part::Layer(kind, layer) => Some((*kind, layer)),
        Part::Include(_) => None,
    })
}

fn add(assembled: &mut Assembled, written: Written) {
    for done in written.pieces {
        assembled.layers.push(image::Layer {
            blob: done.written.blob.clone(),
            diff_id: done.written.diff_id,
            kind: written.kind,
        });
        assembled.told.push(Layer {
            kind: written.kind,
            digest: done.written.blob.digest,
            diff_id: done.written.diff_id,
            size: done.written.blob.size,
            unpacked: Some(done.written.size),
            origin: if done.cached {
                Origin::Cached
            } else {
                Origin::Built
            },
        });
    }
}
