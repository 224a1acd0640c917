//! The CFSSL protocol: messages, and a client that checks what an external CA answers.

pub mod message;
