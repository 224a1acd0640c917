//! The `filters` parameter: JSON in the newer map form or the older list form (engine-api.md 4).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::error::ApiError;

/// Names with their alternatives. Values of one name are alternatives, names combine with and.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Parses the parameter and refuses names not among `known`.
    pub fn parse(raw: &str, known: &[&str]) -> Result<Self, ApiError> {
        if raw.is_empty() {
            return Ok(Self::default());
        }
        let invalid = || ApiError::bad_request("invalid filter");
        let Ok(Value::Object(names)) = serde_json::from_str(raw) else { return Err(invalid()) };
        let mut filters = BTreeMap::new();
        for (name, values) in names {
            let values: Option<BTreeSet<String>> = match values {
                Value::Object(map) => map.into_iter().map(|(value, on)| on.is_boolean().then_some(value)).collect(),
                Value::Array(list) => list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect(),
                Value::Null => Some(BTreeSet::new()),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            };
            filters.insert(name, values.ok_or_else(invalid)?);
        }
        match filters.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => Err(ApiError::bad_request(format!("invalid filter '{unknown}'"))),
            None => Ok(Self(filters)),
        }
    }

    /// The alternatives given for `name`, if any.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// True if `name` was not asked for or one of its alternatives fits.
    pub fn admits(&self, name: &str, mut fits: impl FnMut(&str) -> bool) -> bool {
        match self.0.get(name) {
            None => true,
            Some(values) if values.is_empty() => true,
            Some(values) => values.iter().any(|value| fits(value)),
        }
    }

    /// Like [`Filters::admits`] for labels: a value is `key` or `key=value`.
    pub fn admits_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.admits(name, |wanted| match wanted.split_once('=') {
            None => labels.contains_key(wanted),
            Some((key, value)) => labels.get(key).is_some_and(|held| held == value),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn both_forms_and_refusals() {
        let map = Filters::parse(r#"{"role":{"worker":true,"manager":true}}"#, &["role"]).unwrap();
        let list = Filters::parse(r#"{"role":["worker","manager"]}"#, &["role"]).unwrap();
        assert_eq!(map, list);
        assert!(map.admits("role", |role| role == "manager") && !map.admits("role", |role| role == "x"));
        assert!(map.admits("id", |_| false), "not asked for");
        for raw in ["garbage", "[]", r#"{"role":"worker"}"#, r#"{"role":[1]}"#, r#"{"role":{"a":"b"}}"#] {
            assert_eq!(Filters::parse(raw, &["role"]).unwrap_err().message, "invalid filter", "{raw}");
        }
        assert_eq!(Filters::parse(r#"{"colour":["red"]}"#, &["role"]).unwrap_err().message, "invalid filter 'colour'");
    }

    #[test]
    fn labels() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for (wanted, expected) in [("a", true), ("a=1", true), ("a=2", false), ("b", false), ("a=", false)] {
            let filters = Filters::parse(&format!(r#"{{"label":["{wanted}"]}}"#), &["label"]).unwrap();
            assert_eq!(filters.admits_labels("label", &labels), expected, "{wanted}");
        }
    }
}
