//! Messages to domain types and back, one message a file.
