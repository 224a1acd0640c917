//! Reading a request's JSON object as Go does: names match in any case, `null` and absence leave the zero value, unknown
//! names are ignored, and a wrong kind is named with its path (engine-api.md 1.5).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::ApiError;

/// An object of a request, or the zero value in its place.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
}

impl<'a> Object<'a> {
    /// The document as a whole; `name` is the type's name in error texts.
    pub fn document(value: Option<&'a Value>, name: &str) -> Result<Self, ApiError> {
        match value {
            None | Some(Value::Null) => Ok(Self { map: None, path: name.to_owned() }),
            Some(Value::Object(map)) => Ok(Self { map: Some(map), path: name.to_owned() }),
            Some(other) => Err(ApiError::bad_request(format!(
                "invalid JSON: json: cannot unmarshal {} into Go value of type {name}",
                kind(other)
            ))),
        }
    }

    fn field(&self, name: &str) -> Option<&'a Value> {
        let map = self.map?;
        let found = map
            .get(name)
            .or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
        found.filter(|value| !value.is_null())
    }

    fn mismatch(&self, name: &str, value: &Value, go_type: &str) -> ApiError {
        let shown = match value {
            Value::Number(number) => format!("number {number}"),
            other => kind(other).to_owned(),
        };
        ApiError::bad_request(format!(
            "invalid JSON: json: cannot unmarshal {shown} into Go struct field {}.{name} of type {go_type}",
            self.path
        ))
    }

    /// A string; empty if absent.
    pub fn string(&self, name: &str) -> Result<String, ApiError> {
        match self.field(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.mismatch(name, other, "string")),
        }
    }

    /// A boolean; false if absent.
    pub fn boolean(&self, name: &str) -> Result<bool, ApiError> {
        match self.field(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.mismatch(name, other, "bool")),
        }
    }

    /// A signed whole number; `None` if absent.
    pub fn signed(&self, name: &str, go_type: &str) -> Result<Option<i64>, ApiError> {
        self.field(name).map(|value| value.as_i64().ok_or_else(|| self.mismatch(name, value, go_type))).transpose()
    }

    /// An unsigned whole number; `None` if absent.
    pub fn unsigned(&self, name: &str, go_type: &str) -> Result<Option<u64>, ApiError> {
        self.field(name).map(|value| value.as_u64().ok_or_else(|| self.mismatch(name, value, go_type))).transpose()
    }

    /// A 32-bit unsigned whole number; zero if absent.
    pub fn unsigned32(&self, name: &str) -> Result<u32, ApiError> {
        match self.field(name) {
            None => Ok(0),
            Some(value) => value
                .as_u64()
                .and_then(|wide| u32::try_from(wide).ok())
                .ok_or_else(|| self.mismatch(name, value, "uint32")),
        }
    }

    /// An object inside; its zero value if absent.
    pub fn object(&self, name: &str, go_type: &str) -> Result<Self, ApiError> {
        let path = format!("{}.{name}", self.path);
        match self.field(name) {
            None => Ok(Self { map: None, path }),
            Some(Value::Object(map)) => Ok(Self { map: Some(map), path }),
            Some(other) => Err(self.mismatch(name, other, go_type)),
        }
    }

    /// A map from string to string; empty if absent.
    pub fn labels(&self, name: &str) -> Result<BTreeMap<String, String>, ApiError> {
        match self.field(name) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key.clone(), text.clone())),
                    Value::Null => Ok((key.clone(), String::new())),
                    other => Err(self.mismatch(name, other, "string")),
                })
                .collect(),
            Some(other) => Err(self.mismatch(name, other, "map[string]string")),
        }
    }

    /// A list of strings; empty if absent.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|value| value.as_str().map(str::to_owned).ok_or_else(|| self.mismatch(name, value, "string")))
                .collect(),
            Some(other) => Err(self.mismatch(name, other, "[]string")),
        }
    }

    /// A list of objects; empty if absent.
    pub fn objects(&self, name: &str, go_type: &str) -> Result<Vec<Self>, ApiError> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|value| match value {
                    Value::Object(map) => Ok(Self { map: Some(map), path: format!("{}.{name}", self.path) }),
                    Value::Null => Ok(Self { map: None, path: format!("{}.{name}", self.path) }),
                    other => Err(self.mismatch(name, other, go_type)),
                })
                .collect(),
            Some(other) => Err(self.mismatch(name, other, go_type)),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn names_in_any_case_null_and_absence() {
        let value = json!({"listenaddr": "a", "LISTENADDR": "b", "Force": null, "Other": 1, "Labels": {"K": "v"}});
        let object = Object::document(Some(&value), "X").unwrap();
        assert!(["a", "b"].contains(&object.string("ListenAddr").unwrap().as_str()));
        assert!(!object.boolean("Force").unwrap());
        assert_eq!(object.string("Missing").unwrap(), "");
        assert_eq!(object.labels("Labels").unwrap().get("K").unwrap(), "v");
        assert!(Object::document(None, "X").unwrap().strings("A").unwrap().is_empty());
    }

    #[test]
    fn wrong_kinds_are_named_with_their_path() {
        let value = json!({"CAConfig": {"NodeCertExpiry": "90d"}});
        let spec = Object::document(Some(&value), "Spec").unwrap();
        let ca = spec.object("CAConfig", "CAConfig").unwrap();
        assert_eq!(
            ca.signed("NodeCertExpiry", "time.Duration").unwrap_err().message,
            "invalid JSON: json: cannot unmarshal string into Go struct field Spec.CAConfig.NodeCertExpiry of type time.Duration"
        );
        assert!(Object::document(Some(&json!([])), "Spec").unwrap_err().message.contains("cannot unmarshal array"));
        let float = json!({"A": 1.5, "B": -1});
        let object = Object::document(Some(&float), "Spec").unwrap();
        assert!(object.signed("A", "int64").is_err() && object.unsigned32("B").is_err());
    }
}
