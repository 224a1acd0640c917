//! What an identity-only manager answers to a node that asks for work (wire.md 6.7).

use crate::proto::AssignmentsMessage;
use crate::proto::assignments_message::Type;

/// The complete, empty set. It must be the only message of its stream, and the stream must stay open.
#[must_use]
pub fn none() -> AssignmentsMessage {
    AssignmentsMessage {
        r#type: Type::Complete.into(),
        applies_to: String::new(),
        results_in: "1".to_owned(),
        changes: Vec::new(),
    }
}
