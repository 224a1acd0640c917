//! `POST /swarmpki/v1/backup` and `POST /swarmpki/v1/restore`: a cluster in one file, encrypted here, and such a file made a cluster again.

use bytes::{Buf, Bytes};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use pki::secret::SecretString;
use serde::Serialize;
use swarmpki::{KeptHead, Statement};
use zeroize::Zeroizing;

use super::body::Document;
use super::decode::Object;
use super::error::ApiError;
use super::{Answer, AnswerBody, json};
use crate::age::{self, By, To};
use crate::backend::Backend;
use crate::backup;
use crate::lifecycle::RestoreRequest;

/// A backup's file, at most, in bytes: far above that of a cluster of 100,000 nodes.
const FILE_BYTES_MAX: usize = 1 << 30;
/// What is said beside a file that is restored, at most.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// `POST /swarmpki/v1/backup`: `{"Recipients": ["age1…"]}` or `{"Passphrase": "…"}`; the answer is the file.
pub(super) async fn backup(backend: &Backend, body: Option<Document>) -> Answer {
    let document = Object::document(body.as_ref().map(Document::value), "swarmpki.BackupRequest")?;
    let (recipients, passphrase) = (document.strings("Recipients")?, document.string("Passphrase")?);
    let to = match (recipients.is_empty(), passphrase.is_empty()) {
        (false, true) => To::Recipients(recipients),
        (true, false) => To::Passphrase(SecretString::from(passphrase)),
        _ => return Err(ApiError::bad_request("a backup is encrypted either to recipients or by a passphrase")),
    };
    let replica = backend.replica()?;
    let content = replica.backup().await.map_err(|error| ApiError::unavailable(error.to_string()))?;
    // Whoever restores it, or keeps it, is a witness of the log.
    let signed = backend.control()?.log_head_of(&content.state);
    let head = signed.and_then(|signed| KeptHead::new(Statement::clone(&signed.statement))).map(|kept| kept.bytes());
    let seal = move || age::encrypt(&to, &backup::encode(&content, head.as_deref()));
    let sealed = tokio::task::spawn_blocking(seal).await;
    let sealed = sealed.map_err(|error| ApiError::internal(error.to_string()))?;
    let sealed = sealed.map_err(|error| ApiError::bad_request(error.to_string()))?;
    tracing::info!(bytes = sealed.len(), "a backup was made");
    let body: AnswerBody = Full::new(Bytes::from(sealed)).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(answer)
}

/// What came of a restore.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Restored {
    #[serde(rename = "NodeID")]
    node_id: String,
}

/// `POST /swarmpki/v1/restore`: four bytes of length, the highest first, a JSON document of that length, and the file.
pub(super) async fn restore<B>(backend: &Backend, body: B) -> Answer
where
    B: Body,
    B::Error: std::fmt::Display,
{
    let body = body.map_err(|error| error.to_string());
    let read = Limited::new(body, FILE_BYTES_MAX + HEAD_BYTES_MAX).collect().await;
    let mut read = read.map_err(|error| ApiError::bad_request(error.to_string()))?.aggregate();
    let mut bytes = Zeroizing::new(vec![0; read.remaining()]);
    read.copy_to_slice(&mut bytes);
    let cut = || ApiError::bad_request("the request is cut short");
    let (length, rest) = bytes.split_at_checked(4).ok_or_else(cut)?;
    let length = length.try_into().map(u32::from_be_bytes).map_err(|_| cut())?;
    let (head, file) = rest.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX)).ok_or_else(cut)?;
    let document = Document::new(super::body::parse(head)?);
    let told = Object::document(Some(document.value()), "swarmpki.RestoreRequest")?;
    let (identity, passphrase) = (told.string("Identity")?, told.string("Passphrase")?);
    let by = match (identity.is_empty(), passphrase.is_empty()) {
        (false, true) => By::Identities(SecretString::from(identity)),
        (true, false) => By::Passphrase(SecretString::from(passphrase)),
        _ => return Err(ApiError::bad_request("a backup is opened either by an identity or by a passphrase")),
    };
    let request = RestoreRequest {
        file: file.to_vec(),
        by,
        listen: told.string("ListenAddr")?,
        advertise: told.string("AdvertiseAddr")?,
        removed: told.strings("Removed")?,
    };
    let node_id = backend.lifecycle().restore(request).await?;
    json(&Restored { node_id: node_id.to_string() })
}
