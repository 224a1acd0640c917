//! Outcomes as they travel between managers: the answer to commands that went through another one. Never stored.

use std::sync::Arc;

use super::record::{self, Letter, required};
use super::{DecodeError, FORMAT};
use crate::outcome as domain;
use crate::outcome::Rejection;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Outcome {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7, 8")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "2")]
    Issued(Box<Issued>),
    #[prost(string, tag = "3")]
    Pending(String),
    #[prost(uint64, tag = "4")]
    Done(u64),
    #[prost(message, tag = "5")]
    Unchanged(()),
    #[prost(message, tag = "6")]
    Collected(Collected),
    #[prost(uint32, tag = "7")]
    Rejected(u32),
    #[prost(uint64, tag = "8")]
    Enlisted(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Issued {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, optional, tag = "2")]
    letter: Option<Letter>,
    #[prost(bool, tag = "3")]
    fresh: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Collected {
    #[prost(string, repeated, tag = "1")]
    nodes: Vec<String>,
}

impl From<&domain::Outcome> for Outcome {
    fn from(outcome: &domain::Outcome) -> Self {
        let kind = match outcome {
            domain::Outcome::Issued { node, letter, fresh } => Kind::Issued(Box::new(Issued {
                node: node.to_string(),
                letter: Some(letter.as_ref().into()),
                fresh: *fresh,
            })),
            domain::Outcome::Pending { node } => Kind::Pending(node.to_string()),
            domain::Outcome::Done { version } => Kind::Done(*version),
            domain::Outcome::Unchanged => Kind::Unchanged(()),
            domain::Outcome::Collected(nodes) => {
                Kind::Collected(Collected { nodes: nodes.iter().map(ToString::to_string).collect() })
            }
            domain::Outcome::Rejected(why) => {
                let place = (1u32..).zip(&Rejection::ALL).find(|(_, known)| *known == why);
                Kind::Rejected(place.map(|(number, _)| number).unwrap_or_default())
            }
            domain::Outcome::Enlisted { raft_id } => Kind::Enlisted(*raft_id),
        };
        Self { format: FORMAT, kind: Some(kind) }
    }
}

impl TryFrom<Outcome> for domain::Outcome {
    type Error = DecodeError;

    fn try_from(outcome: Outcome) -> Result<Self, DecodeError> {
        if outcome.format > FORMAT {
            return Err(DecodeError::Later(outcome.format));
        }
        Ok(match required("outcome", outcome.kind)? {
            Kind::Issued(issued) => Self::Issued {
                node: record::node_id(&issued.node)?,
                letter: Arc::new(required("letter", issued.letter)?.try_into()?),
                fresh: issued.fresh,
            },
            Kind::Pending(node) => Self::Pending { node: record::node_id(&node)? },
            Kind::Done(version) => Self::Done { version },
            Kind::Unchanged(()) => Self::Unchanged,
            Kind::Collected(collected) => {
                Self::Collected(collected.nodes.iter().map(|node| record::node_id(node)).collect::<Result<_, _>>()?)
            }
            Kind::Rejected(number) => {
                let known = (1u32..).zip(&Rejection::ALL).find(|(place, _)| *place == number);
                Self::Rejected(known.map(|(_, why)| why.clone()).ok_or(DecodeError::Field("rejection"))?)
            }
            Kind::Enlisted(raft_id) => Self::Enlisted { raft_id },
        })
    }
}
