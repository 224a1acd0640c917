//! The replicated state machine of a cluster CA: pure, the same bytes on every replica
