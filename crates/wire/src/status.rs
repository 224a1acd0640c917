//! Refusals as typed values, to gRPC statuses and back.
