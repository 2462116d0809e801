//! Container images named by Kubernetes objects.
//!
//! Files below `chasi/manifests/` are parsed as Kubernetes objects; every PodSpec
//! of the workload kinds that Kubernetes has is read: containers, init
//! containers, ephemeral containers and image volumes, also inside a `List`, and
//! inside the values of a `ConfigMap` that are themselves such objects.
//!
//! A template (`*.j2`) cannot be rendered at build time: what it is rendered with
//! is known only when the cluster runs. It is read with its `{% … %}` statements
//! and `{# … #}` comments taken out and a placeholder for each `{{ … }}`, so both
//! sides of a condition count. An image name that has a placeholder in it cannot
//! be seen, and neither can a template that is not YAML without its statements.
//!
//! What cannot be seen is never guessed: it is listed, so that the user can name
//! it with `IMAGE`.

use serde_json::Value;

use crate::error::{Error, Kind, Result, Snippet};

/// Where the objects lie in an image.
pub const DIRECTORY: &str = "chasi/manifests/";

/// The largest manifest, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// How deep a `List` in a `List` or an object in a `ConfigMap` is followed.
const DEPTH: usize = 4;

/// What stands for an expression of a template. No reference can hold it.
const PLACEHOLDER: &str = "__EXPRESSION__";

/// What was found in manifests.
#[derive(Debug, Default)]
pub struct Report {
    /// Image names as they are written, in the order of the files.
    pub images: Vec<Named>,
    /// Places where an image may be named that could not be read.
    pub unseen: Vec<Unseen>,
}

/// An image name and where it stands.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Named {
    /// The name, as written.
    pub image: String,
    /// The file, as its path in the image.
    pub file: String,
    /// Kind, namespace and name of the object: `Deployment kube-system/coredns`.
    pub object: String,
    /// The field: `spec.template.spec.containers[0].image`.
    pub field: String,
}

/// Something that could not be read.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Unseen {
    /// The file, as its path in the image.
    pub file: String,
    /// What is there, and why it could not be read.
    pub what: String,
}

/// Whether a path in an image is a manifest.
pub fn is_manifest(path: &str) -> bool {
    let Some(name) = path.strip_prefix(DIRECTORY) else {
        return false;
    };
    !name.contains('/') && (name.ends_with(".yaml") || name.ends_with(".yaml.j2"))
}

impl Report {
    /// Reads one manifest. `path` is its path in the image, `shown` what messages
    /// call it.
    pub fn read(&mut self, path: &str, shown: &str, text: &str) -> Result<()> {
        let mut reader = Reader {
            report: self,
            file: path,
        };
        if !path.ends_with(".j2") {
            let documents = parse(text, false).map_err(|(line, column, cause)| {
                Error::new(Kind::Input, format!("`{shown}` is not YAML"))
                    .because(cause)
                    .at(place(shown, text, line, column))
                    .hint("what lies in `chasi/manifests/` is applied when the cluster runs, so it must be Kubernetes objects")
            })?;
            documents
                .iter()
                .for_each(|document| reader.object(document, 0));
            return Ok(());
        }
        match parse(&blank(text), true) {
            Ok(documents) => documents
                .iter()
                .for_each(|document| reader.object(document, 0)),
            Err((line, _, _)) => reader.unseen(format!(
                "the whole template: without its statements it is not YAML (line {line})"
            )),
        }
        Ok(())
    }
}

type Flaw = (u64, u64, String);

fn parse(text: &str, template: bool) -> Result<Vec<Value>, Flaw> {
    use serde_saphyr::options::DuplicateKeyPolicy;
    // Both sides of a condition may set a key.
    let duplicate_keys = match template {
        true => DuplicateKeyPolicy::LastWins,
        false => DuplicateKeyPolicy::Error,
    };
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |location| (location.line(), location.column()));
        (line, column, error.to_string())
    })
}

fn place(shown: &str, text: &str, line: u64, column: u64) -> Snippet {
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let start: usize = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(str::len)
        .sum();
    let rest = text.get(start..).unwrap_or_default();
    let at = rest
        .char_indices()
        .map(|(at, _)| at)
        .nth(column - 1)
        .unwrap_or(rest.len());
    let length = rest[at..].chars().next().map_or(0, char::len_utf8);
    Snippet {
        path: shown.to_owned(),
        text: text.to_owned(),
        span: start + at..start + at + length,
        label: String::new(),
    }
}

/// A template without what is minijinja's. Lines keep their numbers; a line that
/// held nothing but statements, comments and expressions becomes empty.
fn blank(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    // Whether the current line had something of minijinja's, and where it began in `plain`.
    let (mut had_statement, mut line) = (false, 0);
    let mut rest = text;
    loop {
        let next = ["{{", "{%", "{#", "\n"]
            .iter()
            .filter_map(|mark| rest.find(mark).map(|at| (at, *mark)))
            .min();
        let Some((at, mark)) = next else {
            plain.push_str(rest);
            end_line(&mut plain, line, had_statement);
            return plain;
        };
        plain.push_str(&rest[..at]);
        rest = &rest[at + mark.len()..];
        if mark == "\n" {
            end_line(&mut plain, line, had_statement);
            plain.push('\n');
            (had_statement, line) = (false, plain.len());
            continue;
        }
        had_statement = true;
        let (end, stands_for) = match mark {
            "{{" => ("}}", PLACEHOLDER),
            "{%" => ("%}", ""),
            _ => ("#}", ""),
        };
        let (inside, after) = rest.split_once(end).unwrap_or((rest, ""));
        plain.push_str(stands_for);
        let breaks = inside.matches('\n').count();
        if breaks > 0 {
            end_line(&mut plain, line, true);
            plain.extend(std::iter::repeat_n('\n', breaks));
            line = plain.len();
        }
        rest = after;
    }
}

/// Empties a line of a template that has nothing of its own.
fn end_line(plain: &mut String, line: usize, had_statement: bool) {
    let own = plain[line..].replace(PLACEHOLDER, "");
    if had_statement && own.trim().is_empty() {
        plain.truncate(line);
    }
}

struct Reader<'a> {
    report: &'a mut Report,
    file: &'a str,
}

impl Reader<'_> {
    fn unseen(&mut self, what: String) {
        self.report.unseen.push(Unseen {
            file: self.file.to_owned(),
            what,
        });
    }

    fn object(&mut self, object: &Value, depth: usize) {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if depth > DEPTH {
            return self.unseen(format!("{}: nested too deep", title(object)));
        }
        if kind.ends_with("List")
            && let Some(items) = object.get("items").and_then(Value::as_array)
        {
            items.iter().for_each(|item| self.object(item, depth + 1));
        } else if let Some(path) = pod_spec(version, kind) {
            self.pod(object, &path);
        } else if (version, kind) == ("v1", "ConfigMap") {
            self.config_map(object, depth);
        } else if !is_builtin(version) {
            self.custom(object);
        }
    }

    fn pod(&mut self, object: &Value, path: &[&str]) {
        let Some(spec) = path.iter().try_fold(object, |value, name| value.get(name)) else {
            return;
        };
        let path = path.join(".");
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for (index, container) in elements(spec, list) {
                let image = container.get("image");
                self.image(object, image, format!("{path}.{list}[{index}].image"));
            }
        }
        for (index, volume) in elements(spec, "volumes") {
            let image = volume.get("image").and_then(|image| image.get("reference"));
            self.image(
                object,
                image,
                format!("{path}.volumes[{index}].image.reference"),
            );
        }
    }

    fn image(&mut self, object: &Value, image: Option<&Value>, field: String) {
        let Some(image) = image.and_then(Value::as_str) else {
            return;
        };
        if image.contains(PLACEHOLDER) {
            return self.unseen(format!("{}: `{field}` is an expression", title(object)));
        }
        self.report.images.push(Named {
            image: image.to_owned(),
            file: self.file.to_owned(),
            object: title(object),
            field,
        });
    }

    /// Controllers keep the pods that they will make in ConfigMaps.
    fn config_map(&mut self, object: &Value, depth: usize) {
        let Some(data) = object.get("data").and_then(Value::as_object) else {
            return;
        };
        for (key, value) in data {
            let text = value.as_str().unwrap_or_default();
            if !text.contains("image") {
                continue;
            }
            let documents = parse(text, false).unwrap_or_default();
            let is_object = |document: &Value| {
                let has = |name| document.get(name).is_some_and(Value::is_string);
                has("apiVersion") && has("kind")
            };
            if !documents.is_empty() && documents.iter().all(is_object) {
                documents
                    .iter()
                    .for_each(|document| self.object(document, depth + 1));
            } else if documents.iter().any(names_image) {
                self.unseen(format!("{}: `data.{key}` may name an image", title(object)));
            }
        }
    }

    fn custom(&mut self, object: &Value) {
        let mut fields = Vec::new();
        image_fields(object, String::new(), &mut fields);
        for field in fields {
            self.unseen(format!(
                "{}: `{field}` may name an image; the kind is not Kubernetes' own",
                title(object)
            ));
        }
    }
}

/// The way to the PodSpec in an object of a workload kind.
fn pod_spec(version: &str, kind: &str) -> Option<Vec<&'static str>> {
    let (group, _) = version.split_once('/').unwrap_or(("", version));
    Some(match (group, kind) {
        ("", "Pod") => vec!["spec"],
        ("", "PodTemplate") => vec!["template", "spec"],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => vec!["spec", "template", "spec"],
        ("batch", "CronJob") => vec!["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return None,
    })
}

/// Whether the API group is one of Kubernetes itself.
fn is_builtin(version: &str) -> bool {
    match version.split_once('/') {
        None => true,
        Some((group, _)) => {
            matches!(group, "apps" | "batch" | "autoscaling" | "policy")
                || group.ends_with(".k8s.io")
        }
    }
}

fn elements<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten().enumerate()
}

fn names_image(value: &Value) -> bool {
    let mut fields = Vec::new();
    image_fields(value, String::new(), &mut fields);
    !fields.is_empty()
}

/// Fields named `image` that hold a text. The parser bounds the depth.
fn image_fields(value: &Value, path: String, fields: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match member {
                    Value::String(_) if name == "image" => fields.push(path),
                    _ => image_fields(member, path, fields),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                image_fields(item, format!("{path}[{index}]"), fields);
            }
        }
        _ => {}
    }
}

/// Kind, namespace and name of an object.
fn title(object: &Value) -> String {
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("object");
    let metadata = object.get("metadata");
    let of = |name| {
        metadata
            .and_then(|metadata| metadata.get(name))
            .and_then(Value::as_str)
    };
    match (of("namespace"), of("name").or(of("generateName"))) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        _ => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str, text: &str) -> Report {
        let mut report = Report::default();
        report.read(path, path, text).unwrap();
        report
    }

    fn images(report: &Report) -> Vec<(&str, &str, &str)> {
        report
            .images
            .iter()
            .map(|named| {
                (
                    named.image.as_str(),
                    named.object.as_str(),
                    named.field.as_str(),
                )
            })
            .collect()
    }

    #[test]
    fn every_place_of_a_pod_is_read_in_every_workload_kind() {
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: n}
spec:
  # image: not-this
  initContainers: [{name: a, image: 'i:1'}]
  containers: [{name: b, image: c:1, env: [{name: image, value: 'image: no'}]}, {name: c}]
  ephemeralContainers: [{name: d, image: e:1}]
  volumes: [{name: v, image: {reference: v:1}}, {name: w, emptyDir: {}}]
---
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: j}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: k:1}]}}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}, spec: {template: {spec: {containers: [{image: l:1}]}}}}
- {apiVersion: v1, kind: PodTemplate, metadata: {name: t}, template: {spec: {containers: [{image: m:1}]}}}
";
        let report = read("chasi/manifests/a.yaml", text);
        assert_eq!(
            images(&report),
            [
                ("i:1", "Pod n/p", "spec.initContainers[0].image"),
                ("c:1", "Pod n/p", "spec.containers[0].image"),
                ("e:1", "Pod n/p", "spec.ephemeralContainers[0].image"),
                ("v:1", "Pod n/p", "spec.volumes[0].image.reference"),
                (
                    "k:1",
                    "CronJob j",
                    "spec.jobTemplate.spec.template.spec.containers[0].image"
                ),
                (
                    "l:1",
                    "DaemonSet d",
                    "spec.template.spec.containers[0].image"
                ),
                ("m:1", "PodTemplate t", "template.spec.containers[0].image"),
            ]
        );
        assert!(report.unseen.is_empty());
    }

    #[test]
    fn objects_in_config_maps_count_and_other_hints_are_listed() {
        let text = "
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  helper.yaml: |
    apiVersion: v1
    kind: Pod
    metadata: {name: helper}
    spec: {containers: [{image: busybox:1}]}
  values.yaml: |
    proxy: {image: nginx}
  prose: an image is worth a thousand words
---
apiVersion: example.com/v1
kind: Database
metadata: {name: d}
spec: {image: postgres:17, replicas: [{image: {repository: x}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, annotations: {image: x}}
";
        let report = read("chasi/manifests/a.yaml", text);
        assert_eq!(
            images(&report),
            [("busybox:1", "Pod helper", "spec.containers[0].image")]
        );
        let unseen: Vec<_> = report
            .unseen
            .iter()
            .map(|unseen| unseen.what.as_str())
            .collect();
        assert_eq!(
            unseen,
            [
                "ConfigMap c: `data.values.yaml` may name an image",
                "Database d: `spec.image` may name an image; the kind is not Kubernetes' own",
            ]
        );
    }

    #[test]
    fn templates_show_what_is_literal() {
        let text = "
{# a comment
   of two lines #}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ name }}
{% if big %}
  namespace: big
{% else %}
  namespace: small
{% endif %}
spec:
  replicas: {{ replicas | default(1) }}
  template:
    spec:
{{ extra | indent(6) }}
      containers:
      {%- for side in sides %}
      - image: quay.io/side:1
      {%- endfor %}
      - image: \"{{ registry }}/main:1\"
";
        let report = read("chasi/manifests/a.yaml.j2", text);
        let found: Vec<_> = report
            .images
            .iter()
            .map(|named| named.image.as_str())
            .collect();
        assert_eq!(found, ["quay.io/side:1"]);
        assert_eq!(report.unseen.len(), 1);
        assert!(
            report.unseen[0]
                .what
                .ends_with("`spec.template.spec.containers[1].image` is an expression")
        );
        let report = read("chasi/manifests/b.yaml.j2", "a: b\n{% raw %}\n}: {\n");
        assert!(
            report.unseen[0].what.starts_with("the whole template"),
            "{report:?}"
        );
    }

    #[test]
    fn what_is_not_yaml_is_pointed_at() {
        let mut report = Report::default();
        let error = report
            .read("chasi/manifests/a.yaml", "m/a.yaml", "a: b\nc: [\n")
            .unwrap_err();
        let snippet = error.snippet().unwrap();
        assert_eq!(snippet.path, "m/a.yaml");
        assert!(snippet.line_column().0 >= 2, "{error:?}");
        let error = report
            .read("chasi/manifests/a.yaml", "a", "a: 1\na: 2\n")
            .unwrap_err();
        assert!(
            error
                .causes()
                .next()
                .unwrap()
                .to_string()
                .contains("duplicate"),
            "{error:?}"
        );
    }

    #[test]
    fn only_files_that_are_applied_are_manifests() {
        for (path, expected) in [
            ("chasi/manifests/a.yaml", true),
            ("chasi/manifests/a.yaml.j2", true),
            ("chasi/manifests/a.yml", false),
            ("chasi/manifests/a.json", false),
            ("chasi/manifests/a.txt", false),
            ("chasi/manifests/deep/a.yaml", false),
            ("etc/chasi/manifests/a.yaml", false),
        ] {
            assert_eq!(is_manifest(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(text in "([{}%#\n :a-]|\\{\\{|\\{%|%\\}|- image: )*") {
            let plain = blank(&text);
            let mut report = Report::default();
            let _ = report.read("chasi/manifests/a.yaml.j2", "a", &text);
            let _ = report.read("chasi/manifests/a.yaml", "a", &plain);
        }
    }
}
