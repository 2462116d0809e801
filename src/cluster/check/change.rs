//! What would be in the way of a change: versions that do not go together, and drains
//! that cannot end.

use super::outcome::{Outcome, Place, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::running::of_api;
use super::site::{Site, Subject};
use crate::host::facts::Known;
use crate::kube::drain::{Obstacle, Simulation};
use crate::oci::image::LABEL_KUBERNETES;
use crate::oci::{ClusterImage, Platform};

const UPGRADE: &[Phase] = &[Phase::Upgrade];
const DRAINS: &[Need] = &[Need::Running, Need::Drains];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "versions.architecture",
        "the image has a part for the host's architecture",
        "the image's platforms, against the host's",
        architecture,
    )
    .at(&[Phase::Pre, Phase::Upgrade])
    .needing(&[Need::Image]),
    Check::of_site(
        "versions.signature",
        "the image is signed by somebody who is trusted",
        "nothing yet: cluster images have no signatures, only digests, which are always compared",
        signature,
    )
    .warning()
    .at(&[Phase::Pre, Phase::Upgrade]),
    Check::of_site(
        "versions.skew",
        "the image's Kubernetes can follow the one that runs",
        "the versions of the image, the API server and the kubelets; one minor version at a time, none back, kubelets at most three behind",
        skew,
    )
    .at(UPGRADE)
    .needing(&[Need::Image, Need::Running])
    .never_ignored("data that a newer API server wrote cannot be read by an older one"),
    Check::of_site(
        "versions.deprecated-apis",
        "nobody uses an API that the image's Kubernetes does not have",
        "the API server's metric `apiserver_requested_deprecated_apis`",
        deprecated,
    )
    .at(UPGRADE)
    .needing(&[Need::Image, Need::Running]),
    Check::of_host(
        "drain.budgets",
        "the PodDisruptionBudgets allow draining each node",
        "a simulated drain of each node by itself",
        budgets,
    )
    .at(UPGRADE)
    .needing(DRAINS),
    Check::of_host(
        "drain.unmanaged",
        "something makes every pod anew",
        "a simulated drain of each node by itself",
        |subject| obstacle(subject, Obstacle::Unmanaged, "give each a controller, such as a Deployment; `--force` deletes them"),
    )
    .warning()
    .at(UPGRADE)
    .needing(DRAINS),
    Check::of_host(
        "drain.local-data",
        "no pod keeps data in an `emptyDir`",
        "a simulated drain of each node by itself",
        |subject| obstacle(subject, Obstacle::LocalData, "see that the data may be lost; `--delete-emptydir-data` moves the pods"),
    )
    .warning()
    .at(UPGRADE)
    .needing(DRAINS),
    Check::of_host(
        "drain.room",
        "the other nodes have room for what a drain moves",
        "a simulated drain of each node by itself: what its pods ask for, against what is free",
        room,
    )
    .warning()
    .at(UPGRADE)
    .needing(DRAINS),
    Check::of_site(
        "drain.local-volumes",
        "no volume is bound to one node",
        "PersistentVolumes of types `local` and `hostPath`",
        volumes,
    )
    .warning()
    .at(UPGRADE)
    .needing(&[Need::Running]),
];

fn of_cluster(outcome: Outcome) -> Vec<(Place, Outcome)> {
    vec![(Place::Cluster {}, outcome)]
}

fn architecture(subject: &Subject) -> Outcome {
    let image = match &subject.site.image {
        Known::Is(image) => image,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    let architecture = &subject.facts().architecture;
    let platform = match Platform::linux(architecture) {
        Ok(platform) => platform,
        Err(error) => return unknown(error.to_string()),
    };
    if image.rootfs(&platform).is_some() {
        return passed(platform.to_string());
    }
    let has: Vec<String> = image
        .rootfs
        .iter()
        .map(|rootfs| rootfs.platform.to_string())
        .collect();
    wrong(
        format!("the image has no part for {platform}"),
        format!("one of {}", has.join(", ")),
        format!("build it with `--platform {platform}` as well"),
    )
}

fn signature(_: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(not_applicable(
        "unsigned images: this version of chasi makes and checks no signatures",
    ))
}

/// The image's Kubernetes version: major, minor, patch.
fn version_of(image: &ClusterImage) -> Option<(u64, u64, u64)> {
    let label = image.rootfs.first()?.labels.get(LABEL_KUBERNETES)?;
    parsed(label)
}

fn parsed(text: &str) -> Option<(u64, u64, u64)> {
    let version = semver::Version::parse(text.trim_start_matches('v')).ok()?;
    Some((version.major, version.minor, version.patch))
}

/// Judges with the image's version; blind without one.
fn with_version(site: &Site, judge: impl FnOnce((u64, u64, u64)) -> Outcome) -> Outcome {
    match &site.image {
        Known::Unknown(why) => unknown(why.as_str()),
        Known::Is(image) => match version_of(image) {
            Some(version) => judge(version),
            None => unknown("the image does not say which Kubernetes it installs"),
        },
    }
}

fn skew(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(with_version(site, |to| {
        of_api(
            site,
            |found| &found.version,
            |running| {
                let Some(from) = parsed(running) else {
                    return unknown(format!("the API server calls its version `{running}`"));
                };
                let seen = format!(
                    "{}.{}.{} runs, and the image brings {}.{}.{}",
                    from.0, from.1, from.2, to.0, to.1, to.2
                );
                let expected = "the same minor version or the next one, and nothing older";
                if to < from {
                    return wrong(
                        seen,
                        expected,
                        "choose an image that is not older than the cluster",
                    );
                }
                if to.0 != from.0 || to.1 > from.1 + 1 {
                    return wrong(
                        seen,
                        expected,
                        format!(
                            "go by an image of Kubernetes {}.{} first",
                            from.0,
                            from.1 + 1
                        ),
                    );
                }
                of_api(
                    site,
                    |found| &found.nodes,
                    |nodes| {
                        // kubernetes.io/releases/version-skew-policy: three minor versions.
                        let old = nodes.iter().find(|node| {
                            parsed(&node.version).is_some_and(|kubelet| kubelet.1 + 3 < to.1)
                        });
                        match old {
                            None => passed(seen.as_str()),
                            Some(node) => wrong(
                                format!(
                                    "kubelet of {} is {}, and the image brings {}.{}",
                                    node.name, node.version, to.0, to.1
                                ),
                                "kubelets at most three minor versions behind",
                                format!(
                                    "bring {} to the cluster's version first: `chasi run`",
                                    node.name
                                ),
                            ),
                        }
                    },
                )
            },
        )
    }))
}

fn deprecated(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(with_version(site, |to| {
        of_api(
            site,
            |found| &found.deprecated,
            |apis| {
                let gone: Vec<String> = apis
                    .iter()
                    .filter(|api| {
                        let removed = parsed(&format!("{}.0", api.removed_in));
                        removed.is_some_and(|removed| (removed.0, removed.1) <= (to.0, to.1))
                    })
                    .map(|api| format!("{} (until {})", api.name, api.removed_in))
                    .collect();
                match gone.is_empty() {
                    true => passed(format!(
                        "{} deprecated APIs in use, none of them goes",
                        apis.len()
                    )),
                    false => wrong(
                        format!("in use since the API server started: {}", gone.join(", ")),
                        format!(
                            "nobody who uses what Kubernetes {}.{} does not have",
                            to.0, to.1
                        ),
                        "the API server's audit log says who asks; bring these clients and manifests to the newer version of the API",
                    ),
                }
            },
        )
    }))
}

/// What draining the host's node would do.
fn drained(subject: &Subject, judge: impl FnOnce(&Simulation) -> Outcome) -> Outcome {
    of_api(
        subject.site,
        |found| &found.drains,
        |drains| match drains.get(subject.name()) {
            Some(simulation) => judge(simulation),
            None => not_applicable("the API knows no node of this name"),
        },
    )
}

fn budgets(subject: &Subject) -> Outcome {
    drained(subject, |simulation| {
        let problems: Vec<String> = simulation.budgets.iter().map(ToString::to_string).collect();
        match problems.is_empty() {
            true => passed("they allow it"),
            false => wrong(
                problems.join("; "),
                "budgets that let one pod go at a time",
                "more replicas, or a smaller `minAvailable` in the budget",
            ),
        }
    })
}

fn obstacle(subject: &Subject, wanted: Obstacle, hint: &str) -> Outcome {
    drained(subject, |simulation| {
        let pods: Vec<String> = simulation
            .blocked
            .iter()
            .filter(|one| one.obstacle == wanted)
            .map(|one| one.pod.to_string())
            .collect();
        match pods.is_empty() {
            true => passed("none"),
            false => wrong(
                format!("{wanted}: {}", pods.join(", ")),
                "pods that can move",
                hint,
            ),
        }
    })
}

fn room(subject: &Subject) -> Outcome {
    drained(subject, |simulation| {
        let homeless: Vec<String> = simulation
            .homeless
            .iter()
            .map(|one| format!("{}: {}", one.pod, one.why))
            .collect();
        match homeless.is_empty() {
            true => passed("there is room"),
            false => wrong(
                homeless.join("; "),
                "another node for every pod",
                "`chasi node add` another node first, or make the pods ask for less",
            ),
        }
    })
}

fn volumes(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(of_api(
        site,
        |found| &found.volumes,
        |volumes| {
            let names: Vec<String> = volumes
                .iter()
                .map(|volume| match &volume.claim {
                    Some(claim) => format!("`{}` of {claim}", volume.name),
                    None => format!("`{}`", volume.name),
                })
                .collect();
            match names.is_empty() {
                true => passed("none"),
                false => wrong(
                    names.join(", "),
                    "volumes that pods can reach from any node",
                    "pods that use them stay down while their node is drained; move the data first where that must not be",
                ),
            }
        },
    ))
}
