//! Names in a Clusterfile: of clusters, hosts, labels, variables, kernel things.
//! The rules are Kubernetes' own where it has any
//! (`k8s.io/apimachinery/pkg/util/validation`).

use super::text::{Invalid, checked_text};

checked_text!(
    /// The name of a cluster: a DNS label of at most 40 characters, so that
    /// `api.<cluster>.chasi.internal` and names made from it stay short.
    ClusterName,
    cluster_name,
    "Lower-case letters, digits and `-`, at most 40 characters."
);
checked_text!(
    /// The name of a host and of its Kubernetes node: a DNS name of at most 63
    /// characters, the limit of the `kubernetes.io/hostname` label and one less
    /// than Linux' limit for a host name.
    HostName,
    host_name,
    "Lower-case letters, digits, `-` and `.`, at most 63 characters."
);
checked_text!(
    /// The key of a Kubernetes label or taint: `name` or `prefix/name`.
    LabelKey,
    label_key,
    "A Kubernetes label key: `name` or `dns.prefix/name`."
);
checked_text!(
    /// The value of a Kubernetes label or taint; may be empty.
    LabelValue,
    label_value,
    "A Kubernetes label value: at most 63 letters, digits, `-`, `_` and `.`."
);
checked_text!(
    /// The name of an environment variable, as a shell takes it. `-` is allowed
    /// after the first character because sealer's examples have it.
    EnvironmentName,
    environment_name,
    "Letters, digits, `_` and `-`, not starting with a digit."
);
checked_text!(
    /// A reference to a cluster image, as typed. Its parts are parsed by whoever
    /// looks the image up.
    ImageName,
    image_name,
    "A cluster image: `[registry/]name[:tag][@digest]`."
);
checked_text!(
    /// The name of a user to log in as.
    UserName,
    user_name,
    "The name of a user on the host."
);
checked_text!(
    /// A kernel parameter, in the notation with dots.
    SysctlName,
    sysctl_name,
    "A kernel parameter such as `net.ipv4.ip_forward`."
);
checked_text!(
    /// The name of a kernel module.
    ModuleName,
    module_name,
    "A kernel module such as `br_netfilter`."
);
checked_text!(
    /// The name of a Kubernetes feature gate.
    FeatureGate,
    feature_gate,
    "A Kubernetes feature gate such as `InPlacePodVerticalScaling`."
);
pub(super) fn label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

pub(super) fn subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(label)
}

fn cluster_name(text: &str) -> Result<(), Invalid> {
    if label(text) && text.len() <= 40 {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a cluster name: at most 40 lower-case letters, digits and `-`, \
         with a letter or digit at both ends"
    )))
}

fn host_name(text: &str) -> Result<(), Invalid> {
    if subdomain(text) && text.len() <= 63 {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a host name: at most 63 lower-case letters, digits, `-` and `.`, \
         with a letter or digit at both ends"
    )))
}

/// What Kubernetes calls a qualified name, without its prefix.
fn qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn label_key(text: &str) -> Result<(), Invalid> {
    let right = match text.split_once('/') {
        Some((prefix, name)) => subdomain(prefix) && qualified(name),
        None => qualified(text),
    };
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a label key: at most 63 letters, digits, `-`, `_` and `.`, \
         with a letter or digit at both ends, after an optional DNS name and `/`"
    )))
}

fn label_value(text: &str) -> Result<(), Invalid> {
    if text.is_empty() || qualified(text) {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a label value: at most 63 letters, digits, `-`, `_` and `.`, \
         with a letter or digit at both ends"
    )))
}

#[expect(clippy::derivable_impls, reason = "a macro makes the type")]
impl Default for LabelValue {
    fn default() -> Self {
        LabelValue(String::new())
    }
}

fn environment_name(text: &str) -> Result<(), Invalid> {
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if first && rest && text.len() <= 256 {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a variable name: letters, digits and `_`, not starting with a digit"
    )))
}

fn image_name(text: &str) -> Result<(), Invalid> {
    if text.contains("://") {
        return Err(Invalid::new(format!(
            "`{text}` is a URL, not an image: leave out `{}://`",
            text.split("://").next().unwrap_or_default()
        )));
    }
    let right = !text.is_empty()
        && text.len() <= 512
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte));
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not an image: `[registry/]name[:tag][@digest]`"
    )))
}

fn user_name(text: &str) -> Result<(), Invalid> {
    // What useradd's default allows, and `.` and upper case for names that come
    // from a directory service.
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-.@\\$".contains(&byte));
    if first && rest && text.len() <= 256 {
        return Ok(());
    }
    Err(Invalid::new(format!("`{text}` is not a user name")))
}

fn sysctl_name(text: &str) -> Result<(), Invalid> {
    let right = text.contains('.')
        && text.len() <= 256
        && text.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte))
        })
        && !text.contains("//");
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a kernel parameter: names with dots, such as `net.ipv4.ip_forward`"
    )))
}

fn module_name(text: &str) -> Result<(), Invalid> {
    let right = !text.is_empty()
        && text.len() <= 55
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a kernel module: letters, digits, `-` and `_`"
    )))
}

fn feature_gate(text: &str) -> Result<(), Invalid> {
    let right = text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a feature gate: letters and digits, beginning with a capital letter"
    )))
}
