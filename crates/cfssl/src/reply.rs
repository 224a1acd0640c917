//! From the body of an answer to the certificate in it.

use serde_json::Value;

use crate::failure::Reason;
use crate::foreign::shown;
use crate::message::Answer;

/// The certificate text in the body of an answer with status 200 (pki.md 11.3).
pub(crate) fn certificate(body: &[u8]) -> Result<String, Reason> {
    // An object: serde would read an array's elements as the fields in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Reason::Json("not an object".to_owned()));
    }
    let answer: Answer<Value> =
        serde_json::from_slice(body).map_err(|error| Reason::Json(shown(error.to_string().as_bytes())))?;
    let result = match (answer.success, answer.result) {
        (true, Some(result)) => result,
        _ if answer.errors.is_empty() => return Err(Reason::RefusedWithoutReason),
        _ => {
            let errors: Vec<String> =
                answer.errors.iter().map(|error| format!("{{{} {}}}", error.code, error.message)).collect();
            return Err(Reason::Refused(shown(format!("[{}]", errors.join(" ")).as_bytes())));
        }
    };
    let Value::Object(mut fields) = result else { return Err(Reason::ResultType(kind(&result))) };
    match fields.remove("certificate") {
        Some(Value::String(pem)) => Ok(pem),
        Some(other) => Err(Reason::CertificateType(kind(&other))),
        None => Err(Reason::CertificateType("missing")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn answers_and_their_texts() {
        let good = r#"{"success":true,"result":{"certificate":"PEM","more":1},"errors":[],"messages":[]}"#;
        assert_eq!(certificate(good.as_bytes()).unwrap(), "PEM");
        let rows = [
            (
                r#"{"success":false,"result":null,"errors":[{"code":1,"message":"a"},{"code":2,"message":"b"}]}"#,
                "response errors: [{1 a} {2 b}]",
            ),
            (
                r#"{"success":false,"result":{"certificate":"PEM"},"errors":[{"code":1,"message":"a\nb"}]}"#,
                "response errors: [{1 a b}]",
            ),
            (r#"{"success":true,"result":null,"errors":[{"code":1,"message":"a"}]}"#, "response errors: [{1 a}]"),
            (r#"{"success":false}"#, "certificate signing request failed"),
            (r#"{"success":true,"errors":[]}"#, "certificate signing request failed"),
            (r#"{"success":true,"result":[1]}"#, "invalid result type: array"),
            (r#"{"success":true,"result":"PEM"}"#, "invalid result type: string"),
            (r#"{"success":true,"result":{"certificate":7}}"#, "invalid result certificate field type: number"),
            (r#"{"success":true,"result":{}}"#, "invalid result certificate field type: missing"),
        ];
        for (body, text) in rows {
            let reason = certificate(body.as_bytes()).unwrap_err();
            assert_eq!((reason.to_string().as_str(), reason.is_recoverable()), (text, false), "{body}");
        }
        for body in ["", "null", "[]", "<html>", "{\"success\":", "{\"success\":1}", "\u{1f8b}"] {
            let reason = certificate(body.as_bytes()).unwrap_err();
            assert!(reason.to_string().starts_with("unable to parse JSON response: "), "{body}: {reason}");
            assert!(reason.is_recoverable());
        }
        let deep = "[".repeat(100_000);
        assert_eq!(certificate(deep.as_bytes()).unwrap_err().name(), "not-json");
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(bytes: Vec<u8>, text in r#"[\\{\\}\\[\\]",:a-z0-9]{0,64}"#) {
            let _ = certificate(&bytes);
            let _ = certificate(format!("{{\"success\":true,\"result\":{text}").as_bytes());
            let _ = certificate(format!("{{\"errors\":[{text}]}}").as_bytes());
        }
    }
}
