//! `Clusterfile.example`: it is right, and it shows every field.

use std::collections::BTreeSet;

use super::*;

const EXAMPLE: &str = include_str!("../../../../Clusterfile.example");

#[test]
fn the_example_is_right() {
    let file = read(EXAMPLE).unwrap_or_else(|error| panic!("{error}: {}", complaints(EXAMPLE)));
    assert_eq!(file.warnings, []);
    assert_eq!(file.cluster.hosts.control_planes().count(), 3);
}

#[test]
fn the_example_shows_every_field_of_the_schema() {
    let schema = Clusterfile::schema();
    let mut fields = BTreeSet::new();
    let mut seen = BTreeSet::new();
    collect(&schema, &schema, &mut String::new(), &mut seen, &mut fields);
    assert!(fields.len() > 50, "{fields:?}");
    let problems = Problems::new("Clusterfile.example", EXAMPLE);
    let mut shown = BTreeSet::new();
    for document in tree::documents(&problems) {
        if document.get("kind").and_then(Node::as_text) == Some("Cluster") {
            paths(&document, &mut String::new(), &mut shown);
        }
    }
    // Alternatives of one another cannot stand in one file; comments show them.
    let commented = |path: &str| {
        let name = path.rsplit('.').next().unwrap();
        EXAMPLE
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("# {name}: ")))
    };
    let missing: Vec<_> = fields
        .iter()
        .filter(|field| !shown.contains(*field) && !commented(field))
        .collect();
    assert!(missing.is_empty(), "Clusterfile.example lacks {missing:?}");
}

#[test]
fn the_schema_is_pinned() {
    let schema = serde_json::to_string_pretty(&Clusterfile::schema()).unwrap();
    insta::assert_snapshot!(schema);
}

#[test]
fn every_field_of_the_schema_is_described() {
    fn check(value: &serde_json::Value, path: &str, lacking: &mut Vec<String>) {
        for (name, field) in value["properties"].as_object().into_iter().flatten() {
            if field["description"].as_str().is_none_or(str::is_empty) {
                lacking.push(format!("{path}.{name}"));
            }
        }
        for (name, definition) in value["$defs"].as_object().into_iter().flatten() {
            check(definition, name, lacking);
        }
    }
    let mut lacking = Vec::new();
    check(&Clusterfile::schema(), "", &mut lacking);
    assert!(lacking.is_empty(), "{lacking:?}");
}

/// The paths of all fields of a schema, such as `spec.hosts[].name`. What has the
/// same type as a field before it has its fields explained there.
fn collect(
    root: &serde_json::Value,
    schema: &serde_json::Value,
    path: &mut String,
    seen: &mut BTreeSet<String>,
    fields: &mut BTreeSet<String>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        if seen.insert(name.to_owned()) {
            collect(root, &root["$defs"][name], path, seen, fields);
        }
        return;
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        collect(root, alternative, path, seen, fields);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        fields.insert(path.clone());
        collect(root, field, path, seen, fields);
        path.truncate(length);
    }
    if schema["items"].is_object() {
        let length = path.len();
        path.push_str("[]");
        collect(root, &schema["items"], path, seen, fields);
        path.truncate(length);
    }
}

/// The paths of all entries of a document, in the same notation.
fn paths(node: &Node, path: &mut String, shown: &mut BTreeSet<String>) {
    let length = path.len();
    for (key, value) in node.entries() {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&key.name);
        shown.insert(path.clone());
        paths(value, path, shown);
        path.truncate(length);
    }
    if let Value::List(items) = &node.value {
        path.push_str("[]");
        for item in items {
            paths(item, path, shown);
        }
        path.truncate(length);
    }
}
