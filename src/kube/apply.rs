//! Server-side apply of objects of any kind.

use std::collections::BTreeMap;
use std::fmt;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiResource, Scope};

use super::{Connection, FIELD_MANAGER};
use crate::error::{Error, Kind, Result, ResultExt};

/// Most objects in one set of manifests. The largest charts in use have a few
/// hundred; more than this is a mistake or an attack.
const MOST_OBJECTS: usize = 5_000;

/// What names an object: kind, namespace and name.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, serde::Serialize, serde::Deserialize)]
pub struct ObjectName {
    /// The API version, such as `apps/v1`.
    pub api_version: String,
    /// The kind, such as `Deployment`.
    pub kind: String,
    /// The namespace; `None` for cluster-wide objects.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// The name of an object as its manifest says it.
    pub fn of(object: &DynamicObject) -> Self {
        let types = object.types.clone().unwrap_or_default();
        ObjectName {
            api_version: types.api_version,
            kind: types.kind,
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }
    }

    fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// Whether both mean one object, in whichever version of its API. A manifest may
    /// leave out the namespace `default`.
    fn is(&self, other: &ObjectName) -> bool {
        let namespace = |one: &ObjectName| {
            let named = one.namespace.clone();
            named.filter(|namespace| namespace != "default")
        };
        self.group() == other.group()
            && self.kind == other.kind
            && self.name == other.name
            && namespace(self) == namespace(other)
    }

    /// Whether other objects, or data, go with it.
    fn holds_more(&self) -> bool {
        const HOLDING: [&str; 4] = [
            "CustomResourceDefinition",
            "Namespace",
            "PersistentVolume",
            "PersistentVolumeClaim",
        ];
        HOLDING.contains(&self.kind.as_str())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Reads YAML documents as Kubernetes objects. Lists are taken apart, empty
/// documents are left out. `source` names the text in errors.
pub fn parse_objects(source: &str, text: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<Option<serde_json::Value>> = serde_saphyr::from_multiple(text)
        .or_err(Kind::Input, || format!("`{source}` is not valid YAML"))?;
    let mut objects = Vec::new();
    let mut queue: Vec<serde_json::Value> = documents.into_iter().flatten().rev().collect();
    while let Some(value) = queue.pop() {
        let is_list = value["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
        if let Some(items) = value["items"].as_array().filter(|_| is_list) {
            queue.extend(items.iter().rev().cloned());
            continue;
        }
        let object: DynamicObject = serde_json::from_value(value).or_err(Kind::Input, || {
            format!("`{source}` holds something that is not a Kubernetes object")
        })?;
        if object.types.is_none() || object.metadata.name.as_deref().is_none_or(str::is_empty) {
            return Err(Error::new(
                Kind::Input,
                format!("an object in `{source}` lacks apiVersion, kind or metadata.name"),
            ));
        }
        objects.push(object);
        if objects.len() > MOST_OBJECTS {
            return Err(Error::new(
                Kind::Input,
                format!("`{source}` holds more than {MOST_OBJECTS} objects"),
            ));
        }
    }
    Ok(objects)
}

/// Applies the objects, those first that others need: custom resource
/// definitions and namespaces. Returns the names of all, in the order applied.
pub async fn apply(
    connection: &Connection,
    objects: Vec<DynamicObject>,
) -> Result<Vec<ObjectName>> {
    let mut objects = objects;
    objects.sort_by_key(rank);
    let mut resources = BTreeMap::new();
    let mut applied = Vec::with_capacity(objects.len());
    for object in objects {
        applied.push(apply_one(connection, object, &mut resources).await?);
    }
    Ok(applied)
}

fn rank(object: &DynamicObject) -> u8 {
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("CustomResourceDefinition") => 0,
        Some("Namespace") => 1,
        Some("ServiceAccount" | "ConfigMap" | "Secret") => 2,
        Some("ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding") => 3,
        _ => 4,
    }
}

async fn apply_one(
    connection: &Connection,
    mut object: DynamicObject,
    resources: &mut BTreeMap<(String, String), (ApiResource, Scope)>,
) -> Result<ObjectName> {
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut named = ObjectName {
        api_version: types.api_version.clone(),
        kind: types.kind.clone(),
        namespace: None,
        name: name.clone(),
    };
    let key = (types.api_version.clone(), types.kind.clone());
    let (resource, scope) = match resources.get(&key) {
        Some(known) => known.clone(),
        None => {
            let found = discover(connection, &types.api_version, &types.kind).await?;
            resources.insert(key, found.clone());
            found
        }
    };
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(connection.client().clone(), &resource),
        Scope::Namespaced => {
            let namespace = object
                .metadata
                .namespace
                .get_or_insert_with(|| "default".to_owned());
            named.namespace = Some(namespace.clone());
            Api::namespaced_with(connection.client().clone(), namespace, &resource)
        }
    };
    // Status belongs to controllers; manifests often carry an empty one.
    if let Some(data) = object.data.as_object_mut() {
        data.remove("status");
    }
    object.metadata.managed_fields = None;
    object.metadata.creation_timestamp = None;
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&object))
        .await
        .or_err(Kind::Failed, || format!("cannot apply {named}"))?;
    Ok(named)
}

/// Deletes those of `before` that are not among `applied`, and tells which. Objects that
/// hold others or data stay, and so does what the API no longer knows.
pub async fn delete_surplus(
    connection: &Connection,
    before: &[ObjectName],
    applied: &[ObjectName],
) -> Result<Vec<ObjectName>> {
    let mut deleted = Vec::new();
    for name in surplus(before, applied) {
        let (group, version) = name
            .api_version
            .split_once('/')
            .unwrap_or(("", &name.api_version));
        let wanted = GroupVersionKind::gvk(group, version, &name.kind);
        // A kind that is gone has no objects.
        let Ok((resource, capabilities)) =
            discovery::pinned_kind(connection.client(), &wanted).await
        else {
            continue;
        };
        let client = connection.client().clone();
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client, &resource),
            Scope::Namespaced => {
                let namespace = name.namespace.as_deref().unwrap_or("default");
                Api::namespaced_with(client, namespace, &resource)
            }
        };
        match api.delete(&name.name, &DeleteParams::background()).await {
            Ok(_) => deleted.push(name.clone()),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                return Err(error).or_err(Kind::Failed, || format!("cannot delete {name}"));
            }
        }
    }
    Ok(deleted)
}

/// What is to be deleted, what others need last.
fn surplus<'a>(before: &'a [ObjectName], applied: &[ObjectName]) -> Vec<&'a ObjectName> {
    let stays = |name: &ObjectName| name.holds_more() || applied.iter().any(|one| one.is(name));
    let mut surplus: Vec<&ObjectName> = before.iter().filter(|name| !stays(name)).collect();
    surplus.reverse();
    surplus
}

async fn discover(
    connection: &Connection,
    api_version: &str,
    kind: &str,
) -> Result<(ApiResource, Scope)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let (resource, capabilities) = discovery::pinned_kind(connection.client(), &wanted)
        .await
        .or_err(Kind::Failed, || {
            format!("the cluster does not know the kind `{kind}` of `{api_version}`")
        })?;
    Ok((resource, capabilities.scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_and_empty_documents_left_out() {
        let text = "---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n";
        let objects = parse_objects("x.yaml", text).unwrap();
        let names: Vec<_> = objects
            .iter()
            .filter_map(|o| o.metadata.name.clone())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn what_came_later_goes_and_what_holds_others_or_data_stays() {
        let name =
            |api_version: &str, kind: &str, namespace: Option<&str>, name: &str| ObjectName {
                api_version: api_version.into(),
                kind: kind.into(),
                namespace: namespace.map(str::to_owned),
                name: name.into(),
            };
        let before = [
            name("v1", "Namespace", None, "new"),
            name(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                None,
                "x",
            ),
            name("v1", "PersistentVolumeClaim", Some("new"), "data"),
            name("v1", "ServiceAccount", Some("new"), "later"),
            name("policy/v1beta1", "PodDisruptionBudget", Some("a"), "kept"),
            name("v1", "ConfigMap", None, "kept"),
            name("apps/v1", "Deployment", Some("new"), "later"),
        ];
        let applied = [
            name("policy/v1", "PodDisruptionBudget", Some("a"), "kept"),
            name("v1", "ConfigMap", Some("default"), "kept"),
        ];
        let gone: Vec<String> = surplus(&before, &applied)
            .into_iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(gone, ["Deployment new/later", "ServiceAccount new/later"]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in [
            "a: b\n",
            "[1, 2]\n",
            "{apiVersion: v1, kind: Pod, metadata: {}}\n",
            "a: [\n",
        ] {
            assert_eq!(
                parse_objects("x.yaml", text).unwrap_err().kind(),
                Kind::Input,
                "{text}"
            );
        }
    }
}
