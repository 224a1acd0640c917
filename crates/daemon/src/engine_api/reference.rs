//! Which node a user means: full id, else exact host name, else id prefix (engine-api.md 6.11).

use cluster::node::Node;
use manager::view::NodeView;
use std::sync::Arc;

use super::convert;
use super::error::ApiError;

/// A node that somebody may mean.
pub(crate) trait Meant {
    /// Its id.
    fn id(&self) -> &str;
    /// Its host name; empty if it has told none.
    fn hostname(&self) -> &str;
    /// Whether it is found by more than its full id.
    fn is_finished(&self) -> bool;
}

impl Meant for NodeView {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn hostname(&self) -> &str {
        convert::hostname(self)
    }

    fn is_finished(&self) -> bool {
        !self.unfinished
    }
}

impl Meant for Arc<Node> {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn hostname(&self) -> &str {
        self.report.as_ref().map_or("", |report| &report.hostname)
    }

    fn is_finished(&self) -> bool {
        self.unfinished.is_none()
    }
}

/// Finds the node that `reference` names. Unfinished joins are found by their full id only.
pub(crate) fn resolve<'a, N: Meant>(nodes: &'a [N], reference: &str) -> Result<&'a N, ApiError> {
    if let Some(exact) = nodes.iter().find(|node| node.id() == reference) {
        return Ok(exact);
    }
    let finished = || nodes.iter().filter(|node| node.is_finished());
    let by_name: Vec<&N> = finished().filter(|node| !reference.is_empty() && node.hostname() == reference).collect();
    let found =
        if by_name.is_empty() { finished().filter(|node| node.id().starts_with(reference)).collect() } else { by_name };
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("node {reference} not found"))),
        [one] => Ok(one),
        many => Err(ApiError::bad_request(format!("node {reference} is ambiguous ({} matches found)", many.len()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fixture;
    use super::*;
    use pki::identity::Role;

    #[test]
    fn full_id_then_host_name_then_prefix() {
        let nodes = [
            fixture::node("abc1", "manager1", Role::Manager),
            fixture::node("abd2", "worker", Role::Worker),
            fixture::node("xyz3", "worker", Role::Worker),
            // A host name that is another node's id: ids win.
            fixture::node("qqq4", "abc1", Role::Worker),
            // A host name that is a prefix of ids: names win over prefixes.
            fixture::node("rrr5", "ab", Role::Worker),
            fixture::unfinished("uuu6"),
        ];
        let rows = [
            ("abc1", Ok("abc1")),
            ("manager1", Ok("abc1")),
            ("ab", Ok("rrr5")),
            ("abd", Ok("abd2")),
            ("x", Ok("xyz3")),
            ("uuu6", Ok("uuu6")),
            ("uuu", Err((404, "node uuu not found"))),
            ("nosuch", Err((404, "node nosuch not found"))),
            ("worker", Err((400, "node worker is ambiguous (2 matches found)"))),
            ("a", Err((400, "node a is ambiguous (2 matches found)"))),
        ];
        for (reference, expected) in rows {
            let found = resolve(&nodes, reference).map(|node| node.id.as_str().to_owned());
            let found = found.map_err(|error| (error.status.as_u16(), error.message));
            let expected = expected.map(str::to_owned).map_err(|(status, text): (u16, &str)| (status, text.to_owned()));
            assert_eq!(found, expected, "{reference}");
        }
    }
}
