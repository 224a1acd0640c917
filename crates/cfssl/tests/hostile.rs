//! Every hostile answer is refused with its name, and the next URL is used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ca::{Asker, Ca, DAY, Reply, Root, client, printable, settings};
use pki::Role;
use rcgen::{BasicConstraints, DnType, IsCa, SanType};
use serde_json::Value;
use swarmpki_cfssl::{Hostile, Reason, Settings, Signed, UrlFailure, UrlState};

const HOST: &str = "127.0.32.2";
const NODE: &str = "pffsvkyjmbor73mxcfb8s5edu";

/// Asks a CA that answers so, with a good one behind it; gives what the first one was refused for.
async fn refused_with(
    settings: Settings,
    root: &Arc<Root>,
    act: impl Fn(&Value) -> Reply + Send + Sync + 'static,
) -> (UrlFailure, Ca) {
    let bad = Ca::start(HOST, root, act).await;
    let good = Ca::good(HOST, root.clone()).await;
    let client = client(settings, None, vec![bad.target(root), good.target(root)]);
    let asker = Asker::new(Role::Worker, NODE);
    let check = |pem: &[u8]| asker.check(&root.certificate, pem);
    let granted = client.sign(&asker.request, check).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed.len()), (good.url.as_str(), 1));
    assert_eq!(granted.value.leaf.public_key().unwrap().spki_der(), asker.spki());

    // Its breaker is open: it is not asked again, and the next request is none the worse.
    let again = client.sign(&asker.request, check).await.unwrap();
    assert!(again.failed.is_empty());
    assert_eq!((bad.requests(), good.requests()), (1, 2));
    let health = client.health();
    assert!(matches!(health[0].state, UrlState::Open { .. }) && health[1].state == UrlState::Up, "{health:?}");
    let failure = granted.failed.into_iter().next().unwrap();
    assert_eq!(health[0].hostile, u64::from(failure.reason.hostile().is_some()));
    assert_eq!(health[0].last_error.as_ref().unwrap().1, failure.reason.to_string());
    (failure, bad)
}

#[tokio::test]
async fn certificates_that_must_not_be_believed() {
    let root = Arc::new(Root::new("external-root"));
    let twin = Arc::new(Root::new("external-root"));
    type Alter = fn(&mut rcgen::CertificateParams);
    let altered: [(&str, Alter); 6] = [
        ("is-ca", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("wrong-subject", |p| p.distinguished_name.push(DnType::CommonName, printable("other"))),
        ("wrong-subject", |p| {
            p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), printable("swarm-manager"));
        }),
        ("wrong-names", |p| p.subject_alt_names.push(SanType::DnsName("swarm-ca".try_into().unwrap()))),
        ("lifetime", |p| p.not_after = (SystemTime::now() + 3_650 * DAY).into()),
        ("lifetime", |p| p.not_after = (SystemTime::now() + Duration::from_secs(60)).into()),
    ];
    for (name, alter) in altered {
        let maker = root.clone();
        let act = move |request: &Value| Reply::certificate(&maker.certify(request, alter));
        let (failure, _ca) = refused_with(settings(), &root, act).await;
        assert_eq!(failure.reason.name(), name, "{failure}");
        assert!(failure.reason.hostile().is_some());
    }

    let maker = root.clone();
    let wrong_key = move |request: &Value| {
        let key = rcgen::KeyPair::generate().unwrap();
        Reply::certificate(&maker.certify_key(request, &rcgen::PublicKeyData::subject_public_key_info(&key), |_| {}))
    };
    assert_eq!(refused_with(settings(), &root, wrong_key).await.0.reason, Reason::Hostile(Hostile::WrongKey));

    let other_root = move |request: &Value| Reply::certificate(&twin.certify(request, |_| {}));
    assert_eq!(refused_with(settings(), &root, other_root).await.0.reason.name(), "chain");

    let (maker, second) = (root.clone(), Root::new("second-root").pem());
    let second_root = move |request: &Value| Reply::certificate(&format!("{}{second}", maker.certify(request, |_| {})));
    assert_eq!(refused_with(settings(), &root, second_root).await.0.reason.name(), "extra-certificate");

    // What it answered to somebody else.
    let maker = root.clone();
    let others = Asker::new(Role::Worker, NODE).json();
    let for_another = move |_: &Value| Reply::certificate(&maker.certify(&others, |_| {}));
    assert_eq!(refused_with(settings(), &root, for_another).await.0.reason, Reason::Hostile(Hostile::WrongKey));
}

#[tokio::test]
async fn a_serial_number_given_twice() {
    let root = Arc::new(Root::new("external-root"));
    let maker = root.clone();
    let bad = Ca::start(HOST, &root, move |request| {
        Reply::certificate(&maker.certify(request, |p| p.serial_number = Some(vec![0x17; 16].into())))
    })
    .await;
    let good = Ca::good(HOST, root.clone()).await;
    let client = client(settings(), None, vec![bad.target(&root), good.target(&root)]);
    let met = Mutex::new(HashSet::new());
    let asker = Asker::new(Role::Worker, NODE);
    let check = |pem: &[u8]| -> Result<Signed, Hostile> {
        asker.check_with(&root.certificate, &[], pem, |serial| !met.lock().unwrap().insert(*serial))
    };
    let first = client.sign(&asker.request, check).await.unwrap();
    assert_eq!((first.url, first.failed.len()), (bad.url.clone(), 0));
    let second = client.sign(&asker.request, check).await.unwrap();
    assert_eq!((second.url, second.failed[0].reason.name()), (good.url.clone(), "serial-reused"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let root = Arc::new(Root::new("external-root"));
    let elsewhere = Ca::good(HOST, root.clone()).await;
    let headers = format!("Location: {}\r\n", elsewhere.url);
    for status in [301, 302, 307, 308] {
        let headers = headers.clone();
        let act = move |_: &Value| Reply::Http { status, headers: headers.clone(), body: Vec::new() };
        let (failure, _ca) = refused_with(settings(), &root, act).await;
        assert_eq!(failure.reason, Reason::Redirect { status, location: elsewhere.url.clone() });
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_gzip_bomb_is_not_decoded() {
    let root = Arc::new(Root::new("external-root"));
    // The magic of gzip and then what would be gibibytes of it.
    let body = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 200_000]].concat();
    let act = move |_: &Value| Reply::Http {
        status: 200,
        headers: "Content-Encoding: gzip\r\n".to_owned(),
        body: body.clone(),
    };
    let (failure, ca) = refused_with(settings(), &root, act).await;
    assert_eq!(failure.reason, Reason::Encoded("gzip".to_owned()));
    let heads = ca.seen.heads.lock().unwrap();
    assert!(!heads[0].to_ascii_lowercase().contains("accept-encoding"), "{}", heads[0]);
}

#[tokio::test]
async fn c319_an_endless_body_is_cut_and_its_connection_dropped() {
    let root = Arc::new(Root::new("external-root"));
    let (failure, ca) = refused_with(settings(), &root, |_| Reply::Endless).await;
    assert_eq!(failure.reason, Reason::TooLong(262_144));
    assert!(failure.reason.to_string().starts_with("unable to parse JSON response"));
    ca.seen.dropped.one().await;
}

#[tokio::test]
async fn c319_what_is_longer_than_the_bound_is_refused_and_what_is_as_long_is_read() {
    let root = Arc::new(Root::new("external-root"));
    for (length, name) in [(262_144, "not-json"), (262_145, "too-long")] {
        let act = move |_: &Value| Reply::Http { status: 200, headers: String::new(), body: vec![b'x'; length] };
        assert_eq!(refused_with(settings(), &root, act).await.0.reason.name(), name);
    }
}

#[tokio::test]
async fn c318_a_slow_body_and_a_server_that_hangs_have_one_time_limit() {
    let root = Arc::new(Root::new("external-root"));
    let acts: [fn() -> Reply; 2] = [|| Reply::Stuck, || Reply::Silence];
    for act in acts {
        let settings = Settings { timeout: Duration::from_secs(2), ..settings() };
        let (failure, ca) = refused_with(settings, &root, move |_| act()).await;
        assert_eq!(failure.reason.name(), "timeout");
        let text = failure.reason.to_string();
        assert!(
            text.starts_with("unable to perform certificate signing request: Post \"https://127.0.32.2:"),
            "{text}"
        );
        assert!(text.contains("context deadline exceeded"), "{text}");
        ca.seen.dropped.one().await;
    }
}

#[tokio::test]
async fn answers_that_are_none() {
    let root = Arc::new(Root::new("external-root"));
    let rows: [(&str, u16, &str); 6] = [
        ("status", 500, "oops\u{1b}[31m"),
        ("status", 404, ""),
        ("not-json", 200, "<html></html>"),
        ("not-json", 200, ""),
        ("unreadable", 200, r#"{"success":true,"result":{"certificate":"none"}}"#),
        ("unreadable", 200, r#"{"success":true,"result":{"certificate":""}}"#),
    ];
    for (name, status, body) in rows {
        let act = move |_: &Value| Reply::Http { status, headers: String::new(), body: body.into() };
        let (failure, _ca) = refused_with(settings(), &root, act).await;
        assert_eq!(failure.reason.name(), name);
        assert!(failure.reason.is_recoverable());
        if status != 200 {
            let text = failure.reason.to_string();
            assert!(text.starts_with(&format!("unexpected status code in CSR response: {status} - ")), "{text}");
            assert!(!text.contains('\u{1b}'));
        }
    }
}

#[tokio::test]
async fn a_server_of_another_root_or_for_another_name_gets_no_request() {
    let (root, twin) = (Arc::new(Root::new("external-root")), Arc::new(Root::new("external-root")));
    let stranger = Ca::good(HOST, twin).await;
    let good = Ca::good(HOST, root.clone()).await;
    let asker = Asker::new(Role::Worker, NODE);
    let check = |pem: &[u8]| asker.check(&root.certificate, pem);
    let client_of = |first| client(settings(), None, vec![first, good.target(&root)]);
    let granted = client_of(stranger.target(&root)).sign(&asker.request, check).await.unwrap();
    let text = granted.failed[0].reason.to_string();
    assert!(text.ends_with("certificate signed by unknown authority"), "{text}");

    let elsewhere = Ca::start("127.0.0.1", &root, |_| panic!("asked")).await;
    let mut renamed = elsewhere.target(&root);
    renamed.url = renamed.url.replace("127.0.0.1", "localhost");
    let granted = client_of(renamed).sign(&asker.request, check).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed[0].reason.name()), (good.url.as_str(), "unreachable"));
    assert!(granted.failed[0].reason.to_string().contains("not valid for name"), "{}", granted.failed[0]);
    assert_eq!((stranger.requests(), elsewhere.requests()), (0, 0));
}
