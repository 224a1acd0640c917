//! What may be asked for. A request names a node of the caller's cluster and carries its key; nothing else in it is obeyed.

use cfssl::message::{BASIC_CONSTRAINTS_OID, CA_PROFILE, NameParts, SignRequest, SubjectName, ZERO_TIME};
use pki::csr::Csr;
use pki::identity::{CA_NAME, ClusterId, NodeId, Role, Subject};

use crate::refusal::Refusal;

/// Characters of a node's id: always so many, of `0-9a-z`. Source: pki.md 1.
pub const NODE_ID_CHARS: usize = 25;

/// What is asked for. The signature of the PKCS #10 request is not checked yet.
pub enum Wanted {
    /// A node's certificate.
    Leaf {
        /// Whose.
        subject: Subject,
        /// The key.
        csr: Csr,
    },
    /// A certificate for another CA, the root that a swarm is to be rotated to.
    CrossSigned {
        /// Its name and key.
        csr: Csr,
        /// Its CN as the request names it.
        common_name: String,
    },
}

/// Reads what a manager of `cluster` asks for.
///
/// # Errors
/// What is wrong with it, the field by its name.
pub fn check(request: &SignRequest, cluster: &ClusterId) -> Result<Wanted, Refusal> {
    let is_ca = match request.profile.as_str() {
        "" => false,
        CA_PROFILE => true,
        _ => return Err(Refusal::Field("profile")),
    };
    let set = [
        ("crl_override", !request.crl_override.is_empty()),
        ("label", !request.label.is_empty()),
        ("serial", request.serial.is_some()),
        ("extensions", !request.extensions.is_empty() && !is_ca),
        ("NotBefore", request.not_before != ZERO_TIME),
        ("NotAfter", request.not_after != ZERO_TIME),
        ("ReturnPrecert", request.return_precert),
        ("metadata", request.metadata.is_some()),
    ];
    if let Some((field, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
        return Err(Refusal::Field(field));
    }
    let name = request.subject.as_ref().ok_or_else(|| Refusal::Subject("there must be one".to_owned()))?;
    if !name.serial_number.is_empty() {
        return Err(Refusal::Field("subject.SerialNumber"));
    }
    let hosts = request.hosts.as_deref().unwrap_or_default();
    if is_ca {
        check_ca(request, hosts)?;
        let csr = Csr::parse(request.certificate_request.as_bytes())?;
        return Ok(Wanted::CrossSigned { csr, common_name: name.common_name.clone() });
    }
    let subject = node(name, cluster)?;
    let mut expected = vec![subject.role.ou(), subject.node.as_str()];
    if subject.role == Role::Manager {
        expected.push(CA_NAME);
    }
    if hosts != expected {
        return Err(Refusal::Hosts { expected: expected.join(", ") });
    }
    let csr = Csr::parse(request.certificate_request.as_bytes())?;
    Ok(Wanted::Leaf { subject, csr })
}

/// The subject of a node: O, OU and CN, each once, and nothing else.
fn node(name: &SubjectName, cluster: &ClusterId) -> Result<Subject, Refusal> {
    let wrong = |text: String| Err(Refusal::Subject(text));
    let [parts] = name.names.as_slice() else {
        return wrong("names must be one object with O and OU".to_owned());
    };
    let NameParts { country, province, locality, organization, organizational_unit, serial_number } = parts;
    let more = [
        ("subject.names.C", country),
        ("subject.names.ST", province),
        ("subject.names.L", locality),
        ("subject.names.SerialNumber", serial_number),
    ];
    if let Some((field, _)) = more.into_iter().find(|(_, value)| !value.is_empty()) {
        return Err(Refusal::Field(field));
    }
    if organization != cluster.as_str() {
        return wrong(format!("O must be {cluster}, the caller's own cluster"));
    }
    let Some(role) = Role::from_ou(organizational_unit) else {
        return wrong("OU must be swarm-worker or swarm-manager".to_owned());
    };
    let common_name = &name.common_name;
    let is_id = common_name.len() == NODE_ID_CHARS
        && common_name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    match common_name.parse::<NodeId>() {
        Ok(node) if is_id => Ok(Subject { cluster: cluster.clone(), role, node }),
        _ => wrong(format!("CN must be a node's id, {NODE_ID_CHARS} characters of 0-9 and a-z")),
    }
}

/// What an engine sends beside name and key when a root is to be cross-signed: no hosts, and the basic constraints of a CA.
fn check_ca(request: &SignRequest, hosts: &[String]) -> Result<(), Refusal> {
    if !hosts.is_empty() {
        return Err(Refusal::Field("hosts"));
    }
    match request.extensions.as_slice() {
        [] => Ok(()),
        [one] if one.id == BASIC_CONSTRAINTS_OID && is_ca(&one.value) => Ok(()),
        _ => Err(Refusal::Field("extensions")),
    }
}

/// The basic constraints of a CA, with a path length or without: hex of its DER.
fn is_ca(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value == "30030101ff" || (value.len() == 16 && value.starts_with("30060101ff0201"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use cfssl::message::Extension;
    use pki::key::PrivateKey;

    const NODE: &str = "sfz7edm9lr90ix600wnc8op63";
    const CLUSTER: &str = "r62qla19jtyxgvvgsddkfb8ym";

    fn good(role: Role) -> SignRequest {
        let subject = Subject { cluster: CLUSTER.parse().unwrap(), role, node: NODE.parse().unwrap() };
        let key = PrivateKey::generate_p256(&[3; 32]).unwrap();
        SignRequest::for_node(&subject, &pki::csr::request(&key).unwrap())
    }

    fn cross() -> SignRequest {
        let key = PrivateKey::generate_p256(&[3; 32]).unwrap();
        let name = SubjectName { common_name: "swarm-ca".into(), ..SubjectName::default() };
        let mut request = SignRequest::new(pki::csr::request(&key).unwrap(), name);
        request.profile = CA_PROFILE.into();
        request.extensions =
            vec![Extension { id: BASIC_CONSTRAINTS_OID.into(), critical: true, value: "30030101ff".into() }];
        request
    }

    fn verdict(request: &SignRequest) -> String {
        match check(request, &CLUSTER.parse().unwrap()) {
            Ok(Wanted::Leaf { subject, .. }) => format!("{} {}", subject.role, subject.node),
            Ok(Wanted::CrossSigned { common_name, .. }) => format!("cross {common_name}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn what_engines_send_is_taken() {
        assert_eq!(verdict(&good(Role::Worker)), format!("worker {NODE}"));
        assert_eq!(verdict(&good(Role::Manager)), format!("manager {NODE}"));
        assert_eq!(verdict(&cross()), "cross swarm-ca");
        let mut more = cross();
        more.extensions[0].value = "30060101FF020100".into();
        assert_eq!(verdict(&more), "cross swarm-ca");
    }

    #[test]
    fn every_optional_field_is_refused_by_its_name() {
        type Set = fn(&mut SignRequest);
        let rows: [(&str, Set); 14] = [
            ("profile", |r| r.profile = "server".into()),
            ("crl_override", |r| r.crl_override = "http://x".into()),
            ("label", |r| r.label = "other".into()),
            ("serial", |r| r.serial = Some(7.into())),
            ("extensions", |r| r.extensions = vec![Extension::default()]),
            ("NotBefore", |r| r.not_before = "2020-01-01T00:00:00Z".into()),
            ("NotAfter", |r| r.not_after = "2099-01-01T00:00:00Z".into()),
            ("ReturnPrecert", |r| r.return_precert = true),
            ("metadata", |r| r.metadata = Some(true.into())),
            ("subject.SerialNumber", |r| r.subject.as_mut().unwrap().serial_number = "1".into()),
            ("subject.names.C", |r| r.subject.as_mut().unwrap().names[0].country = "CH".into()),
            ("subject.names.ST", |r| r.subject.as_mut().unwrap().names[0].province = "ZH".into()),
            ("subject.names.L", |r| r.subject.as_mut().unwrap().names[0].locality = "Z".into()),
            ("subject.names.SerialNumber", |r| r.subject.as_mut().unwrap().names[0].serial_number = "1".into()),
        ];
        for (field, set) in rows {
            let mut request = good(Role::Worker);
            set(&mut request);
            assert_eq!(verdict(&request), Refusal::Field(field).to_string());
        }
        for (field, set) in [rows[1], rows[2], rows[3], rows[5], rows[6], rows[7], rows[8], rows[9]] {
            let mut request = cross();
            set(&mut request);
            assert_eq!(verdict(&request), Refusal::Field(field).to_string(), "also with the CA profile");
        }
    }

    #[test]
    fn subject_and_hosts_are_exact() {
        type Set = fn(&mut SignRequest);
        fn name(r: &mut SignRequest) -> &mut SubjectName {
            r.subject.as_mut().unwrap()
        }
        let rows: [(&str, Set); 14] = [
            ("subject: there must be one", |r| r.subject = None),
            ("subject: names must", |r| name(r).names.clear()),
            ("subject: names must", |r| {
                let one = name(r).names[0].clone();
                name(r).names.push(one);
            }),
            ("subject: O must be r62", |r| name(r).names[0].organization = "other".into()),
            ("subject: OU must be", |r| name(r).names[0].organizational_unit = "swarm-admin".into()),
            ("subject: OU must be", |r| name(r).names[0].organizational_unit.clear()),
            ("subject: CN must be", |r| name(r).common_name = "swarm-ca".into()),
            ("subject: CN must be", |r| name(r).common_name = NODE.to_uppercase()),
            ("subject: CN must be", |r| name(r).common_name.push('x')),
            ("hosts must be swarm-worker, sfz", |r| r.hosts = None),
            ("hosts must be", |r| r.hosts.as_mut().unwrap().push("swarm-ca".into())),
            ("hosts must be", |r| r.hosts.as_mut().unwrap()[0] = "swarm-manager".into()),
            ("hosts must be", |r| r.hosts.as_mut().unwrap().swap(0, 1)),
            ("certificate_request: CSR Decode failed", |r| r.certificate_request.clear()),
        ];
        for (text, set) in rows {
            let mut request = good(Role::Worker);
            set(&mut request);
            let said = verdict(&request);
            assert!(said.starts_with(text), "{said}");
        }
        let mut manager = good(Role::Manager);
        manager.hosts.as_mut().unwrap().pop();
        assert!(verdict(&manager).ends_with("swarm-ca"), "{}", verdict(&manager));
    }

    #[test]
    fn a_ca_is_asked_for_without_names_and_with_a_cas_constraints() {
        type Set = fn(&mut SignRequest);
        let rows: [(&str, Set); 4] = [
            ("hosts", |r| r.hosts = Some(vec!["swarm-ca".into()])),
            ("extensions", |r| r.extensions[0].value = "3000".into()),
            ("extensions", |r| r.extensions[0].id = "2.5.29.17".into()),
            ("extensions", |r| r.extensions.push(Extension::default())),
        ];
        for (field, set) in rows {
            let mut request = cross();
            set(&mut request);
            assert_eq!(verdict(&request), Refusal::Field(field).to_string());
        }
    }
}
