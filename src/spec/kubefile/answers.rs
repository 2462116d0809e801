//! What to say about instructions that are not chasi's: those of sealer's
//! Kubefile and of a Dockerfile are known and answered with what chasi has
//! instead; for others the nearest name is suggested.

use super::words::Flaw;
use std::ops::Range;

/// The instructions, by name.
pub const INSTRUCTIONS: [&str; 10] = [
    "FROM", "ARG", "ENV", "LABEL", "LAYER", "COPY", "ADD", "IMAGE", "IMAGES", "INCLUDE",
];

/// What to say about an instruction named `name` (in capitals), which is none of
/// [`INSTRUCTIONS`].
pub fn unknown(name: &str, span: Range<usize>) -> Flaw {
    if let Some(instead) = sealer(name) {
        return Flaw::new(
            format!("chasi has no `{name}`, which is sealer's"),
            span,
            instead,
        );
    }
    if let Some(instead) = docker(name) {
        return Flaw::new(
            format!("chasi has no `{name}`, which is a Dockerfile's"),
            span,
            instead,
        );
    }
    let hint = match nearest(name, INSTRUCTIONS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the instructions are {}", list(INSTRUCTIONS)),
    };
    Flaw::new(format!("`{name}` is not an instruction"), span, hint)
}

fn sealer(name: &str) -> Option<&'static str> {
    Some(match name {
        "RUN" => {
            "a build runs nothing, so that it works for every platform and without root: \
             bring files with `COPY`, archives with `ADD --unpack URL DST`"
        }
        "MAINTAINER" => "write `LABEL org.opencontainers.image.authors=NAME`",
        "APP" => {
            "write `LAYER app`, then `COPY app.yaml chasi/manifests/`: \
             what lies there is applied when the cluster runs"
        }
        "CNI" => "write `LAYER cni`, then `COPY` its files, its objects into `chasi/manifests/`",
        "CSI" => "write `LAYER csi`, then `COPY` its files, its objects into `chasi/manifests/`",
        "APPCMDS" | "LAUNCH" | "CMDS" | "CMD" => {
            "an image does not run commands: Kubernetes objects in `chasi/manifests/` are applied \
             in the order of their names"
        }
        "APPENV" => "write `ENV NAME=VALUE`; templates (`*.j2`) see it",
        "KUBEVERSION" => "write `LABEL dev.chasi.kubernetes.version=VERSION`",
        _ => return None,
    })
}

fn docker(name: &str) -> Option<&'static str> {
    Some(match name {
        "WORKDIR" => "write whole paths: `COPY x usr/bin/x`",
        "USER" | "SHELL" | "ENTRYPOINT" | "HEALTHCHECK" | "STOPSIGNAL" | "EXPOSE" | "VOLUME" => {
            "a cluster image is not a container: take the line out"
        }
        "ONBUILD" => "write the instruction into the Kubefile that begins with `FROM` this image",
        _ => return None,
    })
}

/// The one of `known` that `typed` was probably meant to be.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    known
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&typed, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names for a sentence: `A`, `B` and `C`.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
