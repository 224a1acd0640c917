//! Whether the issuance log of a stopped manager is whole, and the first entry that is not. A damaged disk may make the database
//! fail in any way: what is read is a copy, and nothing that it does ends the check.

use std::path::Path;
use std::sync::Arc;

use pki::time::Time;
use replica::Handle;
use swarmpki::KeptHead;
use swarmpki::keystore::Keystore;

use super::{CheckError, Copy, SCRATCH, STORE, locked};
use crate::data_key;
use crate::engine_api::heads;
use crate::engine_api::log::{LogProblem, VerifyReport};
use crate::lock::StateLock;
use crate::unlock_source::UnlockSource;

/// Checks the log in a state directory, also against the head that the node keeps in it, and against those that are given; that of a locked
/// manager with the unlock key from `unlock_from`.
///
/// # Errors
/// If nothing could be checked; what is wrong with the log itself is in the report.
pub async fn verify_log(
    dir: &Path,
    given: &[KeptHead],
    unlock_from: Option<&UnlockSource>,
    now: Time,
) -> Result<VerifyReport, CheckError> {
    let unusable = |source| CheckError::StateDir { dir: dir.to_path_buf(), source };
    std::fs::metadata(dir).map_err(unusable)?;
    let _lock = StateLock::take(dir)?;
    if !dir.join(STORE).exists() {
        return Err(unusable(std::io::Error::other("there is no store of a manager in it")));
    }
    let copy = Copy::of(dir)?;
    let keystore = Keystore::new(copy.dir.clone());
    locked::open(&keystore, unlock_from).await?;
    let kept = Keystore::new(dir.to_path_buf()).load_log_head().ok().flatten().and_then(|bytes| KeptHead::read(&bytes));
    let kept = kept.into_iter().map(|kept| (true, kept));
    let all: Vec<_> = kept.chain(given.iter().map(|given| (false, given.clone()))).collect();
    let checked = tokio::spawn(async move { look(&keystore, &all, now).await }).await;
    let scratch = dir.join(SCRATCH).display().to_string();
    let told = |text: String| text.replace(&scratch, &dir.display().to_string());
    let broken = |text: String| VerifyReport {
        problem: Some(LogProblem { first: 0, last: 0, text: told(text) }),
        ..VerifyReport::default()
    };
    Ok(match checked {
        Ok(Ok(report)) => report,
        Ok(Err(text)) => broken(text),
        Err(error) => broken(format!("the store is damaged: reading it failed ({error})")),
    })
}

async fn look(keystore: &Keystore, all: &[(bool, KeptHead)], now: Time) -> Result<VerifyReport, String> {
    let keys = data_key::load(keystore).map_err(|error| error.to_string())?;
    let clock: replica::Clock = Arc::new(move || now);
    let store = keystore.state_dir().join(STORE);
    let config = |dek| {
        let (carrier, limits) = (Arc::new(replica::carrier::Alone), replica::Limits::default());
        replica::Config { dir: store.clone(), dek, clock: clock.clone(), carrier, limits }
    };
    let opened = data_key::open(keys, config).await.map_err(|error| format!("the store cannot be opened: {error}"))?;
    let (replica, _) = opened.ok_or("the node's key file holds no data key: nothing in the store can be read")?;
    let found = replica.verify_log().await;
    let state = replica.state();
    // Where the log itself is damaged, nothing can be said beyond that.
    let heads = match found {
        Ok(Ok(_)) => heads::judge(&replica, all, now).await,
        _ => Ok(Vec::new()),
    };
    replica.shutdown().await;
    let found = found.map_err(|error| format!("the issuance log cannot be read: {error}"))?;
    Ok(VerifyReport { heads: heads?, ..VerifyReport::of(&state, &found) })
}
