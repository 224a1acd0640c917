//! What goes over the wire: requests and answers of the CFSSL endpoints `sign` and `info`.
//!
//! Field order and values are those that a Docker Engine sends (pki.md 11.2 and 11.4). Reading is lenient: unknown keys
//! are ignored, missing ones and `null` stand for the empty value. Reading bounds no size: the caller bounds the body.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The path that a sign URL normally ends with. Source: pki.md 11.2.
pub const SIGN_PATH: &str = "/api/v1/cfssl/sign";
/// The path of the endpoint that tells the CA's certificate.
pub const INFO_PATH: &str = "/api/v1/cfssl/info";
/// The media type of requests and answers.
pub const MEDIA_TYPE: &str = "application/json";
/// The profile that is asked for by name when a root is to be cross-signed. Source: pki.md 11.4.
pub const CA_PROFILE: &str = "CA";
/// Go's zero time: "not given".
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// Object identifier of the basic constraints.
pub const BASIC_CONSTRAINTS_OID: &str = "2.5.29.19";

/// A request for a certificate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SignRequest {
    /// Names for the subject alternative name; `null` when a root is to be cross-signed.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    /// The PKCS #10 request, PEM.
    #[serde(default, deserialize_with = "null_is_default")]
    pub certificate_request: String,
    /// The subject that is to replace the one in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectName>,
    /// Name of the profile to sign by; empty for the default one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub profile: String,
    /// A CRL distribution point instead of the profile's. Engines leave it empty.
    #[serde(default, deserialize_with = "null_is_default")]
    pub crl_override: String,
    /// The signer to use, for servers with several. Engines leave it empty.
    #[serde(default, deserialize_with = "null_is_default")]
    pub label: String,
    /// A serial number wished for. Engines leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Value>,
    /// Extensions wished for. Engines send them with the CA profile only.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
    /// Start of the validity wished for (RFC 3339); [`ZERO_TIME`] for the profile's.
    #[serde(rename = "NotBefore", default = "zero_time", deserialize_with = "null_is_zero_time")]
    pub not_before: String,
    /// End of the validity wished for (RFC 3339); [`ZERO_TIME`] for the profile's.
    #[serde(rename = "NotAfter", default = "zero_time", deserialize_with = "null_is_zero_time")]
    pub not_after: String,
    /// Whether a pre-certificate (RFC 6962) is wished for.
    #[serde(rename = "ReturnPrecert", default, deserialize_with = "null_is_default")]
    pub return_precert: bool,
    /// Anything else, for the server's records. Engines send `null`.
    #[serde(default)]
    pub metadata: Option<Value>,
}

/// The subject asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SubjectName {
    /// Common name.
    #[serde(rename = "CN", default, deserialize_with = "null_is_default")]
    pub common_name: String,
    /// The other parts.
    #[serde(default, deserialize_with = "null_is_default")]
    pub names: Vec<NameParts>,
    /// The attribute `serialNumber` of the name, not the certificate's number. Engines leave it empty.
    #[serde(rename = "SerialNumber", default, deserialize_with = "null_is_default")]
    pub serial_number: String,
}

/// Parts of a name, each at most once; empty ones are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NameParts {
    /// Country.
    #[serde(rename = "C", default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// State or province.
    #[serde(rename = "ST", default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub province: String,
    /// Locality.
    #[serde(rename = "L", default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Organization: a node's cluster.
    #[serde(rename = "O", default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub organization: String,
    /// Organizational unit: a node's role.
    #[serde(rename = "OU", default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub organizational_unit: String,
    /// The attribute `serialNumber` of a name. Engines leave it out.
    #[serde(
        rename = "SerialNumber",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub serial_number: String,
}

/// An extension asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Extension {
    /// Object identifier, dotted.
    #[serde(default, deserialize_with = "null_is_default")]
    pub id: String,
    /// Whether it is critical.
    #[serde(default, deserialize_with = "null_is_default")]
    pub critical: bool,
    /// The DER of its value, in hex.
    #[serde(default, deserialize_with = "null_is_default")]
    pub value: String,
}

impl SignRequest {
    /// The request for a node's certificate (pki.md 11.2): names and subject from who it is for.
    #[must_use]
    pub fn for_node(subject: &pki::Subject, csr_pem: &str) -> SignRequest {
        let mut hosts = vec![subject.role.ou().to_owned(), subject.node.as_str().to_owned()];
        if subject.role == pki::Role::Manager {
            hosts.push(pki::CA_NAME.to_owned());
        }
        let parts = NameParts {
            organization: subject.cluster.as_str().to_owned(),
            organizational_unit: subject.role.ou().to_owned(),
            ..NameParts::default()
        };
        let name = SubjectName {
            common_name: subject.node.as_str().to_owned(),
            names: vec![parts],
            serial_number: String::new(),
        };
        SignRequest { hosts: Some(hosts), ..SignRequest::new(csr_pem.to_owned(), name) }
    }

    /// A request with nothing in it but a PKCS #10 request and a subject.
    #[must_use]
    pub fn new(certificate_request: String, subject: SubjectName) -> SignRequest {
        SignRequest {
            hosts: None,
            certificate_request,
            subject: Some(subject),
            profile: String::new(),
            crl_override: String::new(),
            label: String::new(),
            serial: None,
            extensions: Vec::new(),
            not_before: zero_time(),
            not_after: zero_time(),
            return_precert: false,
            metadata: None,
        }
    }
}

/// The answer of any endpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer<R> {
    /// Whether the request was carried out.
    #[serde(default, deserialize_with = "null_is_default")]
    pub success: bool,
    /// What was asked for; none on failure.
    #[serde(default = "no_result")]
    pub result: Option<R>,
    /// Why not.
    #[serde(default, deserialize_with = "null_is_default")]
    pub errors: Vec<Message>,
    /// Remarks.
    #[serde(default, deserialize_with = "null_is_default")]
    pub messages: Vec<Message>,
}

impl<R> Answer<R> {
    /// An answer that carries what was asked for.
    #[must_use]
    pub fn success(result: R) -> Answer<R> {
        Answer { success: true, result: Some(result), errors: Vec::new(), messages: Vec::new() }
    }

    /// An answer that says why the request was not carried out.
    #[must_use]
    pub fn failure(code: i64, message: impl Into<String>) -> Answer<R> {
        let error = Message { code, message: message.into() };
        Answer { success: false, result: None, errors: vec![error], messages: Vec::new() }
    }
}

/// An error or a remark.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Message {
    /// CFSSL's number for it; 0 if there is none.
    pub code: i64,
    /// The text.
    pub message: String,
}

impl<'de> Deserialize<'de> for Message {
    /// Anything that is not CFSSL's object becomes the text, so that no server's explanation is lost.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let code = value.get("code").and_then(Value::as_i64).unwrap_or(0);
        let message = match (value.get("message"), &value) {
            (Some(Value::String(text)), _) | (None, Value::String(text)) => text.clone(),
            _ => value.to_string(),
        };
        Ok(Message { code, message })
    }
}

/// What `sign` answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SignResult {
    /// The certificate, PEM.
    pub certificate: String,
}

/// What is asked of `info`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InfoRequest {
    /// The signer asked about; empty for the only one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub label: String,
    /// The profile asked about; empty for the default one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub profile: String,
}

/// What `info` answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InfoResult {
    /// The CA's certificate, PEM.
    #[serde(default, deserialize_with = "null_is_default")]
    pub certificate: String,
    /// Usages that the profile gives, in CFSSL's words.
    #[serde(default, deserialize_with = "null_is_default")]
    pub usages: Vec<String>,
    /// How long the profile's certificates last, as a Go duration such as `2160h0m0s`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub expiry: String,
}

/// As Go reads: `null` leaves a field as it was, which is empty.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn null_is_zero_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(zero_time))
}

fn zero_time() -> String {
    ZERO_TIME.to_owned()
}

fn no_result<R>() -> Option<R> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CSR: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIG5\n-----END CERTIFICATE REQUEST-----\n";

    fn subject(role: pki::Role) -> pki::Subject {
        pki::Subject {
            cluster: "r62qla19jtyxgvvgsddkfb8ym".parse().unwrap(),
            role,
            node: "sfz7edm9lr90ix600wnc8op63".parse().unwrap(),
        }
    }

    #[test]
    fn c324_a_nodes_request_is_the_engines_byte_for_byte() {
        let rows = [
            (pki::Role::Worker, r#""swarm-worker","sfz7edm9lr90ix600wnc8op63""#),
            (pki::Role::Manager, r#""swarm-manager","sfz7edm9lr90ix600wnc8op63","swarm-ca""#),
        ];
        for (role, hosts) in rows {
            let json = serde_json::to_string(&SignRequest::for_node(&subject(role), CSR)).unwrap();
            let expected = [
                r#"{"hosts":["#,
                hosts,
                r#"],"certificate_request":"-----BEGIN CERTIFICATE REQUEST-----\nMIG5\n-----END CERTIFICATE REQUEST-----\n","#,
                r#""subject":{"CN":"sfz7edm9lr90ix600wnc8op63","names":[{"O":"r62qla19jtyxgvvgsddkfb8ym","OU":""#,
                role.ou(),
                r#""}],"SerialNumber":""},"profile":"","crl_override":"","label":"","#,
                r#""NotBefore":"0001-01-01T00:00:00Z","NotAfter":"0001-01-01T00:00:00Z","ReturnPrecert":false,"metadata":null}"#,
            ];
            assert_eq!(json, expected.concat());
            assert_eq!(serde_json::from_str::<SignRequest>(&json).unwrap(), SignRequest::for_node(&subject(role), CSR));
        }
    }

    #[test]
    fn c324_a_cross_signing_request_is_the_engines_byte_for_byte() {
        let name = SubjectName { common_name: "swarm-ca".to_owned(), ..SubjectName::default() };
        let mut request = SignRequest::new(CSR.to_owned(), name);
        request.profile = CA_PROFILE.to_owned();
        request.extensions =
            vec![Extension { id: BASIC_CONSTRAINTS_OID.to_owned(), critical: true, value: "30030101ff".to_owned() }];
        let expected = [
            r#"{"hosts":null,"certificate_request":"-----BEGIN CERTIFICATE REQUEST-----\nMIG5\n-----END CERTIFICATE REQUEST-----\n","#,
            r#""subject":{"CN":"swarm-ca","names":[],"SerialNumber":""},"profile":"CA","crl_override":"","label":"","#,
            r#""extensions":[{"id":"2.5.29.19","critical":true,"value":"30030101ff"}],"#,
            r#""NotBefore":"0001-01-01T00:00:00Z","NotAfter":"0001-01-01T00:00:00Z","ReturnPrecert":false,"metadata":null}"#,
        ];
        assert_eq!(serde_json::to_string(&request).unwrap(), expected.concat());
    }

    #[test]
    fn a_request_of_an_old_engine_and_one_with_more_keys_are_read() {
        let old = r#"{"hosts":["a"],"certificate_request":"x","subject":{"CN":"n","names":null},"profile":null,"crl_override":"","label":""}"#;
        let read: SignRequest = serde_json::from_str(old).unwrap();
        assert_eq!((read.not_before.as_str(), read.return_precert, read.profile.as_str()), (ZERO_TIME, false, ""));
        let more = r#"{"hosts":null,"certificate_request":"x","serial":7,"NotAfter":"2030-01-01T00:00:00Z","bundle":true,"metadata":{"a":[1]}}"#;
        let read: SignRequest = serde_json::from_str(more).unwrap();
        assert_eq!((read.serial, read.not_after.as_str()), (Some(Value::from(7)), "2030-01-01T00:00:00Z"));
        assert!(read.subject.is_none() && read.metadata.is_some());
    }

    #[test]
    fn answers_are_written_and_read() {
        let good = Answer::success(SignResult { certificate: "PEM".to_owned() });
        assert_eq!(
            serde_json::to_string(&good).unwrap(),
            r#"{"success":true,"result":{"certificate":"PEM"},"errors":[],"messages":[]}"#
        );
        let bad = Answer::<SignResult>::failure(1000, "no");
        let json = serde_json::to_string(&bad).unwrap();
        assert_eq!(json, r#"{"success":false,"result":null,"errors":[{"code":1000,"message":"no"}],"messages":[]}"#);
        assert_eq!(serde_json::from_str::<Answer<SignResult>>(&json).unwrap(), bad);
        let odd: Answer<Value> = serde_json::from_str(r#"{"errors":["text",{"why":1},null],"messages":null}"#).unwrap();
        let texts: Vec<&str> = odd.errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(texts, ["text", r#"{"why":1}"#, "null"]);
        assert!(!odd.success && odd.result.is_none());
    }
}
