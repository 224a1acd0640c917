//! `/nodes`: list, inspect, update, remove (engine-api.md 6.10 to 6.13).

use std::collections::BTreeMap;

use http::StatusCode;
use manager::view::{NodeSpec, NodeView};

use super::body::Document;
use super::decode::Object;
use super::error::ApiError;
use super::filter::Filters;
use super::query::Query;
use super::{Answer, convert, empty, json, reference};
use crate::backend::{Backend, refusal};

/// Filters of `docker node ls`.
const FILTERS: [&str; 6] = ["id", "name", "label", "node.label", "role", "membership"];

/// `GET /nodes`.
pub(super) fn list(backend: &Backend, query: &Query) -> Answer {
    let filters = Filters::parse(query.value("filters"), &FILTERS)?;
    check_words(&filters)?;
    let control = backend.control()?;
    let nodes: Vec<_> =
        control.nodes().iter().filter(|node| !node.unfinished && admits(&filters, node)).map(convert::node).collect();
    json(&nodes)
}

fn check_words(filters: &Filters) -> Result<(), ApiError> {
    if let Some(role) = filters.values("role").find(|role| convert::role_of_word(role).is_none()) {
        return Err(ApiError::internal(format!("Invalid role filter: '{role}'")));
    }
    let known = ["accepted", "pending"];
    match filters.values("membership").find(|word| !known.iter().any(|known| known.eq_ignore_ascii_case(word))) {
        Some(word) => Err(ApiError::internal(format!("Invalid membership filter: '{word}'"))),
        None => Ok(()),
    }
}

/// Whether a listed node passes; `role` is the role it has, not the one wished for.
pub fn admits(filters: &Filters, node: &NodeView) -> bool {
    let engine_labels: BTreeMap<String, String> = node
        .description
        .as_ref()
        .and_then(|told| told.engine.as_ref())
        .map(|engine| engine.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
        .unwrap_or_default();
    filters.admits("id", |prefix| node.id.as_str().starts_with(prefix))
        && filters.admits("name", |prefix| convert::hostname(node).starts_with(prefix))
        && filters.admits_labels("label", &engine_labels)
        && filters.admits_labels("node.label", &node.spec.labels)
        && filters.admits("role", |word| convert::role_of_word(word) == Some(node.role))
        && filters.admits("membership", |word| word.eq_ignore_ascii_case("accepted"))
}

/// `GET /nodes/{ref}`.
pub(super) fn inspect(backend: &Backend, wanted: &str) -> Answer {
    let nodes = backend.control()?.nodes();
    json(&convert::node(reference::resolve(&nodes, wanted)?))
}

/// `POST /nodes/{ref}/update`.
pub(super) async fn update(backend: &Backend, wanted: &str, query: &Query, body: Option<Document>) -> Answer {
    let object = Object::document(body.as_ref().map(Document::value), "NodeSpec")?;
    let (name, labels) = (object.string("Name")?, object.labels("Labels")?);
    let (role, availability) = (object.string("Role")?, object.string("Availability")?);
    let version = query.object_version("node")?;
    let control = backend.control()?;
    let role = convert::role_of_word(&role).ok_or_else(|| ApiError::bad_request(format!("invalid Role: {role:?}")))?;
    let availability = convert::availability_of_word(&availability)
        .ok_or_else(|| ApiError::bad_request(format!("invalid Availability: {availability:?}")))?;
    let nodes = control.nodes();
    let node = reference::resolve(&nodes, wanted)?;
    let spec = NodeSpec { name, labels, role, availability };
    control.update_node(&node.id, version, spec).await.map_err(refusal)?;
    Ok(empty(StatusCode::OK))
}

/// `DELETE /nodes/{ref}`.
pub(super) async fn remove(backend: &Backend, wanted: &str, query: &Query) -> Answer {
    let control = backend.control()?;
    let nodes = control.nodes();
    let node = reference::resolve(&nodes, wanted)?;
    control.remove_node(&node.id, query.lenient_bool("force")).await.map_err(refusal)?;
    Ok(empty(StatusCode::OK))
}

/// `POST /swarmpki/v1/nodes/{ref}/renew`: the node is told in its session to renew now. Answers at once.
pub(super) async fn order_renewal(backend: &Backend, wanted: &str) -> Answer {
    let control = backend.control()?;
    let nodes = control.nodes();
    let node = reference::resolve(&nodes, wanted)?;
    control.order_renewal(&node.id).await.map_err(refusal)?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fixture;
    use super::*;
    use pki::identity::Role;

    #[test]
    fn filters_of_node_ls() {
        let mut labelled = fixture::node("bbb2", "worker1", Role::Worker);
        labelled.spec.labels.insert("zone".into(), "a".into());
        if let Some(engine) = labelled.description.as_mut().and_then(|told| told.engine.as_mut()) {
            engine.labels.insert("disk".into(), "ssd".into());
        }
        // Wished to be a manager, still a worker: the filter looks at what it is.
        let mut wished = fixture::node("ccc3", "worker2", Role::Worker);
        wished.spec.role = Role::Manager;
        let nodes = [fixture::node("aaa1", "manager1", Role::Manager), labelled, wished];
        let rows: [(&str, &[&str]); 13] = [
            ("", &["aaa1", "bbb2", "ccc3"]),
            (r#"{"role":{"worker":true}}"#, &["bbb2", "ccc3"]),
            (r#"{"role":["MANAGER"]}"#, &["aaa1"]),
            (r#"{"role":["manager","worker"]}"#, &["aaa1", "bbb2", "ccc3"]),
            (r#"{"name":["worker"]}"#, &["bbb2", "ccc3"]),
            (r#"{"name":["orker"]}"#, &[]),
            (r#"{"id":["a","c"]}"#, &["aaa1", "ccc3"]),
            (r#"{"node.label":["zone=a"]}"#, &["bbb2"]),
            (r#"{"node.label":["zone=b"]}"#, &[]),
            (r#"{"label":["disk"]}"#, &["bbb2"]),
            (r#"{"membership":["accepted"]}"#, &["aaa1", "bbb2", "ccc3"]),
            (r#"{"membership":["pending"]}"#, &[]),
            (r#"{"role":["worker"],"name":["worker2"]}"#, &["ccc3"]),
        ];
        for (raw, expected) in rows {
            let filters = Filters::parse(raw, &FILTERS).unwrap();
            let found: Vec<&str> =
                nodes.iter().filter(|node| admits(&filters, node)).map(|node| node.id.as_str()).collect();
            assert_eq!(found, expected, "{raw}");
        }
    }

    #[test]
    fn words_that_are_none() {
        let check = |raw: &str| {
            check_words(&Filters::parse(raw, &FILTERS).unwrap()).map_err(|error| (error.status.as_u16(), error.message))
        };
        assert_eq!(check(r#"{"role":["boss"]}"#), Err((500, "Invalid role filter: 'boss'".into())));
        assert_eq!(check(r#"{"membership":["x"]}"#), Err((500, "Invalid membership filter: 'x'".into())));
        assert_eq!(check(r#"{"role":["Worker"],"membership":["Pending"]}"#), Ok(()));
    }
}
