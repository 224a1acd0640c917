//! How our own nodes tell themselves from engines: a gRPC metadata key at join, a label in the description later.
//! An engine that presents a manager token is refused before it gets a manager's certificate (wire.md 10).

use tonic::metadata::MetadataMap;
use tonic::metadata::MetadataValue;

/// The metadata key that our nodes send with every call.
pub const METADATA_KEY: &str = "swarmpki-node";
/// Its value: the generation of our own extensions that the node knows.
pub const METADATA_VALUE: &str = "1";
/// The label in `description.engine.labels` that our nodes carry; its value is their version.
pub const VERSION_LABEL: &str = "swarmpki.version";

/// The metadata key in which our nodes send their clock with sessions and heartbeats: milliseconds since the Unix epoch.
pub const CLOCK_KEY: &str = "swarmpki-clock";
/// The metadata key in which our nodes send, beside their clock, the time before which they judge no certificate, whatever
/// their clock says: milliseconds since the Unix epoch.
pub const FLOOR_KEY: &str = "swarmpki-floor";

/// Marks a request as one of ours.
pub fn mark(metadata: &mut MetadataMap) {
    metadata.insert(METADATA_KEY, MetadataValue::from_static(METADATA_VALUE));
}

/// Whether a request says that it comes from one of our nodes.
#[must_use]
pub fn is_marked(metadata: &MetadataMap) -> bool {
    metadata.get(METADATA_KEY).is_some()
}
